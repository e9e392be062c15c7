"""What becomes of a file that is there already: who is asked for it, when it is replaced, and when it stays."""

import errno
import json
import shutil

import pytest
from aiohttp import web
from llamaserver.errors import DownloadError, ModelLoadError
from llamaserver.models import digest, download, gguf_check, http_client, lock, origin, sidecar
from llamaserver.models.download import fetch
from llamaserver.models.origin import Origin
from llamaserver.models.source import Source
from llamaserver.models.transfer import Transfer

from tests.support.gguf_bytes import whole
from tests.support.server.file_server import FileServer

DATA = whole(bytes(range(256)) * 4000)
OTHER = whole(bytes(reversed(range(256))) * 4000)  # of the same size
LARGER = whole(b"x" * 2_000_000)
HTML = b"<!DOCTYPE html><title>Sign in</title>"


@pytest.fixture
async def server(monkeypatch):
    monkeypatch.setattr(http_client, "_FIRST_DELAY", 0.0)
    async with FileServer(DATA).running() as server:
        yield server


@pytest.fixture
def target(tmp_path):
    (tmp_path / "models").mkdir()
    return tmp_path / "models" / "model.gguf"


@pytest.fixture
def get(server, target):
    """Fetch as the command does; how many requests it took."""

    async def get(**about):
        before = len(server.requests)
        source = Source(server.url, **about)
        assert await fetch(source, target, server.progress, replace=True) == target
        return len(server.requests) - before

    return get


def left(target):
    return sorted(path.name for path in target.parent.iterdir())


def sha(data):
    return digest.hashlib.sha256(data).hexdigest()


def by_an_older_version(target, data):
    """As it was cached before files were checked."""
    target.write_bytes(data)
    digest.record(target, target.stat(), sha(data))


# ---- files that nobody has checked


@pytest.mark.parametrize("data", [HTML, DATA[:-1], b""], ids=["a page", "cut off", "empty"])
async def test_a_file_that_is_no_model_is_replaced(data, get, target, caplog):
    by_an_older_version(target, data)
    assert await get() == 1
    assert target.read_bytes() == DATA
    assert f"{target} is not a" in caplog.text
    assert "downloading it again" in caplog.text
    assert await get() == 0


async def test_a_file_that_is_no_model_is_removed_before_the_download(server, get, target):
    by_an_older_version(target, HTML)
    server.plan = [lambda _: pytest.fail("it is there still") if target.exists() else None]
    await get()


async def test_a_model_is_checked_once_and_nobody_is_asked(get, target, monkeypatch):
    by_an_older_version(target, OTHER)
    checked = []
    real = gguf_check.check
    monkeypatch.setattr(gguf_check, "check", lambda path: checked.append(path) or real(path))
    assert [await get(), await get()] == [0, 0]
    assert checked == [target]
    assert target.read_bytes() == OTHER
    assert origin.of(target) == Origin()


async def test_a_file_that_was_put_there_by_hand_is_checked_too(get, target):
    target.write_bytes(HTML)
    assert await get() == 1
    target.write_bytes(HTML)  # over the checked one
    assert await get() == 1
    assert target.read_bytes() == DATA


async def test_the_users_own_file_is_never_removed(server, target):
    """`-m FILE --model-url URL`: that the file is no model may be a mistake in its name."""
    target.write_bytes(HTML)
    with pytest.raises(DownloadError, match=r"is not a GGUF file: it begins with .*; remove it$") as failed:
        await fetch(Source(server.url), target, server.progress)
    assert failed.value.reason == "NotGGUF"
    assert target.read_bytes() == HTML
    by_an_older_version(target, HTML)  # but one that we downloaded
    await fetch(Source(server.url), target, server.progress)
    assert target.read_bytes() == DATA


async def test_a_folder_that_cannot_be_written_is_no_hindrance(get, target, monkeypatch):
    by_an_older_version(target, DATA)

    def refuse(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(sidecar, "write", refuse)
    assert await get() == 0
    assert left(target) == ["model.gguf", "model.gguf.sha256"]


async def test_a_digest_that_is_right_says_enough(get, target):
    """Whoever gives one wants that file."""
    target.write_bytes(HTML)
    assert await get(sha256=sha(HTML)) == 0


# ---- where a file came from


async def test_a_download_keeps_where_it_came_from_without_secrets(server, target):
    server.headers["Last-Modified"] = "Wed, 01 May 2024 10:00:00 GMT"
    url = server.url.replace("http://", "http://user:pass@") + "?sig=s3cr3t"
    await fetch(Source(url), target, server.progress)
    kept = json.loads((target.parent / "model.gguf.origin").read_text())
    status = target.stat()
    assert {key: value for key, value in kept.items() if key != "at"} == {
        "url": f"{server.url}?…", "etag": '"one"', "last_modified": "Wed, 01 May 2024 10:00:00 GMT",
        "size": status.st_size, "mtime_ns": status.st_mtime_ns,
    }  # fmt: skip
    assert origin.told(target) == f", downloaded at {kept['at']} from {server.url}?…"
    assert kept["at"].endswith("Z")


async def test_the_log_names_the_file_in_use(server, get, target, caplog):
    caplog.set_level("INFO")
    await get()
    assert "from the cache" not in caplog.text
    await get()
    assert f"using {target} from the cache{origin.told(target)}" in caplog.text


@pytest.mark.parametrize("text", ["", "{", "[]", '{"url": "x"}', "\0\xff"])
async def test_a_record_that_is_damaged_counts_for_nothing(text, get, target):
    await get()
    target.with_name("model.gguf.origin").write_text(text)
    assert await get() == 0
    assert origin.of(target) == Origin()


# ---- files that could not be loaded


def fail_to_load(target):
    """What the server does then; what it says."""
    return str(origin.blamed(ModelLoadError(f"cannot load model {target}: bad tensors", str(target))))


async def test_a_failed_load_tells_the_origin(server, get, target):
    await get()
    told = fail_to_load(target)
    assert told == (
        f"cannot load model {target}: bad tensors; the file is from the cache{origin.told(target)}; "
        "the next start checks whether the server has another file"
    )
    assert server.url in told


async def test_a_failed_load_of_what_was_not_downloaded_leaves_no_mark(target):
    target.write_bytes(DATA)
    assert fail_to_load(target) == f"cannot load model {target}: bad tensors"
    assert left(target) == ["model.gguf"]


async def test_a_repaired_server_is_asked_again(server, get, target, caplog):
    await get()
    fail_to_load(target)
    server.data, server.etag = OTHER, '"two"'
    assert await get() == 2  # the question, and the download
    assert server.requests[1].headers["If-None-Match"] == '"one"'
    assert target.read_bytes() == OTHER
    assert "has another file now" in caplog.text
    assert left(target) == ["model.gguf", "model.gguf.origin", "model.gguf.sha256"]
    assert await get() == 0


async def test_a_server_that_has_the_same_is_asked_each_time_and_says_so(server, get, target, caplog):
    await get()
    fail_to_load(target)
    assert [await get(), await get()] == [1, 1]
    assert f"{target}{origin.told(target)} could not be loaded; {server.url} still has the same file" in caplog.text
    assert target.read_bytes() == DATA
    origin.praise([target])  # it loads now
    assert await get() == 0


@pytest.mark.parametrize(
    ("before", "after", "data", "changed"),
    [
        ({"ETag": '"a"'}, {"ETag": '"a"'}, DATA, False),
        ({"ETag": '"a"'}, {"ETag": '"b"'}, OTHER, True),
        ({"Last-Modified": "Wed, 01 May 2024 10:00:00 GMT"}, {"Last-Modified": "Wed, 01 May 2024 10:00:00 GMT"}, DATA,
         False),
        ({"Last-Modified": "Wed, 01 May 2024 10:00:00 GMT"}, {"Last-Modified": "Thu, 02 May 2024 10:00:00 GMT"}, OTHER,
         True),
        ({"ETag": '"a"'}, {}, OTHER, False),  # by the size alone
        ({"ETag": '"a"'}, {}, LARGER, True),
        ({}, {"ETag": '"b"'}, LARGER, True),
        ({}, {}, DATA, False),
        ({"X-Linked-Etag": f'"{sha(DATA)}"'}, {"X-Linked-Etag": f'"{sha(DATA)}"', "ETag": '"new"'}, DATA, False),
        ({"X-Linked-Etag": f'"{sha(DATA)}"', "ETag": '"a"'}, {"X-Linked-Etag": f'"{sha(OTHER)}"', "ETag": '"a"'},
         OTHER, True),
    ],
)  # fmt: skip
async def test_changes_that_make_another_file(before, after, data, changed, server, get, target):
    """Also with a server that knows no conditions: it sends the file, of which nothing is read."""
    server.etag, server.headers = "", dict(before)
    server.plan = [web.Response(body=DATA, headers=before), web.Response(body=data, headers=after)]
    await get()
    fail_to_load(target)
    server.data, server.headers = data, dict(after)
    assert await get() == (2 if changed else 1)
    assert target.read_bytes() == (data if changed else DATA)


@pytest.mark.parametrize(
    "step",
    [
        *(web.Response(status=status) for status in (401, 403, 404, 429, 500, 503)),
        web.Response(body=HTML, content_type="text/html"),
        web.Response(body=LARGER[:-5]),
        web.Response(status=302, headers={"Location": "/loop"}),
    ],
    ids=lambda step: f"{step.status} {len(step.body or b'')}",
)
async def test_a_server_that_has_nothing_better_takes_nothing_away(step, server, get, target, caplog):
    await get()
    fail_to_load(target)
    server.plan = [lambda _: web.Response(status=step.status, body=step.body, headers=step.headers)] * 20
    await get()
    assert target.read_bytes() == DATA
    assert "could not be loaded; " in caplog.text
    assert left(target) == [f"model.gguf{end}" for end in ("", ".origin", ".sha256", ".suspect")]


async def test_a_server_that_is_gone_takes_nothing_away(get, target, server, unused_tcp_port, caplog):
    await get()
    fail_to_load(target)
    gone = Source(f"http://127.0.0.1:{unused_tcp_port}/model.gguf")
    await fetch(gone, target, server.progress, replace=True)
    assert target.read_bytes() == DATA
    assert f"127.0.0.1:{unused_tcp_port} cannot be reached (Connection refused)" in caplog.text


async def test_a_disk_without_room_for_two_gets_the_new_one(server, get, target, monkeypatch):
    await get()
    fail_to_load(target)
    server.data, server.etag = OTHER, '"two"'
    free = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free._replace(free=1 << 20 if target.exists() else 1 << 40))
    await get()
    assert target.read_bytes() == OTHER


async def test_a_disk_that_fills_up_with_nothing_left_is_told(server, get, target, monkeypatch):
    await get()
    fail_to_load(target)
    server.data, server.etag = OTHER, '"two"'

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Transfer, "_finish", full)
    with pytest.raises(DownloadError, match="No space left on device") as failed:
        await get()
    assert failed.value.reason == "DiskFull"


async def test_a_file_that_was_damaged_on_its_disk_is_downloaded_anew(server, get, target, caplog):
    await get()
    status = target.stat()
    damaged = DATA[:-1] + b"?"
    target.write_bytes(damaged)
    download.os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))  # nobody has written it
    assert await get() == 0  # it is not read for nothing
    fail_to_load(target)
    assert await get() == 1
    assert target.read_bytes() == DATA
    assert "has changed since it was downloaded" in caplog.text


async def test_a_suspect_is_read_once(get, target, monkeypatch):
    await get()
    fail_to_load(target)
    read, real = [], digest.compute
    monkeypatch.setattr(digest, "compute", lambda path: read.append(path) or real(path))
    await get()
    fail_to_load(target)  # once more
    await get()
    assert read == [target]


async def test_with_a_digest_nobody_is_asked(get, target):
    await get(sha256=sha(DATA))
    fail_to_load(target)
    assert await get(sha256=sha(DATA)) == 0


async def test_a_suspect_in_a_folder_that_cannot_be_written_stays(get, target, monkeypatch):
    await get()
    fail_to_load(target)
    monkeypatch.setattr(download.os, "access", lambda *_: False)
    assert await get() == 0


async def test_a_lock_that_cannot_be_had_takes_nothing_away(get, target, monkeypatch, caplog):
    await get()
    fail_to_load(target)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lock, "_create", full)
    assert await get() == 0
    assert "no other file can be downloaded: cannot write" in caplog.text


async def test_a_mark_is_of_one_file_alone(get, target):
    await get()
    fail_to_load(target)
    by_an_older_version(target, OTHER)
    assert not origin.is_suspect(target)
    assert await get() == 0


def test_all_parts_of_a_split_model_are_suspects(tmp_path):
    parts = [tmp_path / f"m-0000{n}-of-00002.gguf" for n in (1, 2)]
    for part in parts:
        part.write_bytes(DATA)
        origin.record(part, part.stat(), Origin("http://h/m", at="now"))
    fail_to_load(parts[0])
    assert all(origin.is_suspect(part) for part in parts)
    origin.praise(parts[:1])
    assert not any(origin.is_suspect(part) for part in parts)
