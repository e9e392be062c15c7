"""Downloads from a real HTTP server on this machine that breaks, stalls, redirects and changes its mind."""

import asyncio
import errno
import hashlib
import shutil

import pytest
from aiohttp import web
from llamaserver.errors import DownloadError, ModelLoadError
from llamaserver.models import digest, http_client, lock
from llamaserver.models.download import fetch, fetch_model
from llamaserver.models.source import Source, file_name, shard_urls, shown
from llamaserver.models.transfer import Transfer

from tests.support.gguf_bytes import whole
from tests.support.server.file_server import FileServer

DATA = whole(bytes(range(256)) * 12_000)  # 3 MB: several chunks
OTHER = whole(bytes(reversed(DATA))[: len(DATA) - 64])  # of the same size


@pytest.fixture
async def mirror(monkeypatch):
    monkeypatch.setattr(http_client, "_FIRST_DELAY", 0.0)
    async with FileServer(DATA).running() as mirror:
        yield mirror


@pytest.fixture
def target(tmp_path):
    return tmp_path / "models" / "model.gguf"


def ignore(have, total):
    """Nobody watches the progress."""


def left(target):
    """What lies in the target's folder."""
    return sorted(path.name for path in target.parent.iterdir())


def sha(data):
    return hashlib.sha256(data).hexdigest()


async def test_a_file_is_fetched_with_progress_and_leaves_its_digest_beside_it(mirror, target):
    seen = []
    assert await fetch(Source(mirror.url), target, lambda *step: seen.append(step)) == target
    assert target.read_bytes() == DATA
    assert left(target) == ["model.gguf", "model.gguf.origin", "model.gguf.sha256"]
    assert seen[-1] == (len(DATA), len(DATA))
    assert [have for have, _ in seen] == sorted({have for have, _ in seen})
    assert {total for _, total in seen} == {len(DATA)}
    assert mirror.requests[0].headers["Accept-Encoding"] == "identity"


async def test_a_complete_file_is_not_fetched_again(mirror, target):
    target.parent.mkdir()
    target.write_bytes(whole(b"mine"))
    assert await fetch(Source(mirror.url), target, ignore) == target
    assert mirror.requests == []


async def test_a_broken_transfer_goes_on_where_it_ended(mirror, target):
    mirror.plan = [1_000_000, 500_000]
    seen = []
    await fetch(Source(mirror.url), target, lambda *step: [seen.append(step), mirror.progress(*step)])
    assert target.read_bytes() == DATA
    assert mirror.ranges_asked() == ["", "bytes=1000000-", "bytes=1500000-"]
    assert [request.headers.get("If-Range") for request in mirror.requests] == [None, '"one"', '"one"']
    assert {total for _, total in seen} == {len(DATA)}


async def test_a_later_start_resumes_the_download(mirror, target):
    mirror.plan = [1_000_000, *[web.Response(status=404)]]
    with pytest.raises(ModelLoadError):
        await fetch(Source(mirror.url), target, mirror.progress)
    assert left(target) == ["model.gguf.part", "model.gguf.part.etag"]
    await fetch(Source(mirror.url), target, mirror.progress)
    assert mirror.ranges_asked()[-1] == "bytes=1000000-"
    assert target.read_bytes() == DATA
    assert left(target) == ["model.gguf", "model.gguf.origin", "model.gguf.sha256"]


async def test_a_file_that_changed_in_between_is_fetched_anew(mirror, target):
    def change(mirror):
        mirror.data, mirror.etag = OTHER, '"two"'

    mirror.plan = [1_000_000, change]
    await fetch(Source(mirror.url), target, mirror.progress)
    assert mirror.ranges_asked() == ["", "bytes=1000000-"]
    assert target.read_bytes() == OTHER


async def test_a_file_that_shrank_is_fetched_anew(mirror, target):
    """A server that takes If-Range for granted: 416 for what lies beyond the new end."""

    short = whole(b"x" * 900_000)

    def shrink(mirror):
        mirror.data = short

    mirror.plan = [1_000_000, shrink]
    await fetch(Source(mirror.url), target, mirror.progress)
    assert mirror.ranges_asked() == ["", "bytes=1000000-", ""]
    assert target.read_bytes() == short


async def test_a_part_that_is_whole_already_is_only_moved(mirror, target):
    target.parent.mkdir()
    (target.parent / "model.gguf.part").write_bytes(DATA)
    (target.parent / "model.gguf.part.etag").write_text('"one"')
    await fetch(Source(mirror.url, sha(DATA)), target, ignore)
    assert mirror.ranges_asked() == [f"bytes={len(DATA)}-"]
    assert left(target) == ["model.gguf", "model.gguf.origin", "model.gguf.sha256"]


async def test_a_part_without_its_tag_is_not_trusted(mirror, target):
    target.parent.mkdir()
    (target.parent / "model.gguf.part").write_bytes(OTHER[:1000])
    await fetch(Source(mirror.url), target, ignore)
    assert mirror.ranges_asked() == [""]
    assert target.read_bytes() == DATA


async def test_a_server_that_sends_another_range_is_not_believed(mirror, target):
    wrong = web.Response(status=206, body=DATA[:50], headers={"Content-Range": f"bytes 0-49/{len(DATA)}"})
    mirror.plan = [1_000_000, wrong]
    await fetch(Source(mirror.url), target, mirror.progress)
    assert target.read_bytes() == DATA


async def test_a_server_without_ranges(mirror, target):
    mirror.ranges, mirror.plan = False, [1_000_000]
    await fetch(Source(mirror.url), target, mirror.progress)
    assert target.read_bytes() == DATA


async def test_a_server_without_etags_but_with_dates(mirror, target):
    date = "Wed, 01 May 2024 10:00:00 GMT"
    mirror.etag, mirror.plan = "", [1_000_000]
    mirror.headers["Last-Modified"] = date
    await fetch(Source(mirror.url), target, mirror.progress)
    assert [request.headers.get("If-Range") for request in mirror.requests] == [None, date]
    assert target.read_bytes() == DATA


async def test_a_server_that_names_no_version_starts_over(mirror, target):
    mirror.etag, mirror.plan = "", [1_000_000]
    await fetch(Source(mirror.url), target, mirror.progress)
    assert mirror.ranges_asked() == ["", ""]
    assert target.read_bytes() == DATA


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_passing_errors_are_tried_again(mirror, target, status):
    mirror.plan = [web.Response(status=status), web.Response(status=status)]
    await fetch(Source(mirror.url), target, ignore)
    assert len(mirror.requests) == 3
    assert target.read_bytes() == DATA


async def test_a_reset_before_the_first_byte_is_tried_again(mirror, target):
    mirror.plan = [0]
    await fetch(Source(mirror.url), target, ignore)
    assert target.read_bytes() == DATA


async def test_a_download_gives_up_after_attempts_without_progress(mirror, target):
    mirror.plan = [web.Response(status=503) for _ in range(20)]
    with pytest.raises(DownloadError, match=r"cannot download http://.*model\.gguf: .*503") as failed:
        await fetch(Source(mirror.url), target, ignore)
    assert failed.value.reason == "DownloadFailed"
    assert len(mirror.requests) == 6
    assert not target.exists()


async def test_a_line_that_breaks_often_but_goes_on_is_not_given_up(mirror, target):
    mirror.plan = [100_000] * 20
    await fetch(Source(mirror.url), target, mirror.progress)
    assert len(mirror.requests) == 21
    assert target.read_bytes() == DATA


@pytest.mark.parametrize(
    ("status", "text", "reason"),
    [
        (404, "Not Found", "ModelNotFound"),
        (403, "Forbidden", "Unauthorized"),
        (401, "Unauthorized", "Unauthorized"),
        (400, "Bad Request", "DownloadFailed"),
    ],
)
async def test_lasting_errors_are_told_at_once(mirror, target, status, text, reason):
    mirror.plan = [web.Response(status=status)]
    with pytest.raises(DownloadError, match=rf"model\.gguf answered {status} {text}") as failed:
        await fetch(Source(mirror.url), target, ignore)
    assert failed.value.reason == reason
    assert len(mirror.requests) == 1
    assert not target.exists()


async def test_the_hash_of_the_redirect_is_checked(mirror, target):
    """As Hugging Face does it: the redirect names the hash, the file comes from elsewhere."""

    def redirect(mirror):
        headers = {"Location": "/elsewhere", "X-Linked-Etag": f'"{sha(DATA)}"'}
        return web.Response(status=302, headers=headers)

    mirror.plan = [redirect]
    await fetch(Source(mirror.url), target, ignore)
    assert target.read_bytes() == DATA


async def test_a_wrong_hash_discards_the_file(mirror, target):
    mirror.headers["X-Linked-Etag"] = f'"{sha(OTHER)}"'
    with pytest.raises(DownloadError, match=f"SHA-256 {sha(DATA)}, expected {sha(OTHER)}") as failed:
        await fetch(Source(mirror.url), target, ignore)
    assert failed.value.reason == "ChecksumMismatch"
    assert "model.gguf" not in left(target)
    assert "model.gguf.part" not in left(target)


async def test_the_hash_that_the_user_gives_is_checked(mirror, target):
    with pytest.raises(ModelLoadError, match=sha(OTHER)):
        await fetch(Source(mirror.url, sha(OTHER)), target, ignore)
    await fetch(Source(mirror.url, sha(DATA).upper()), target, ignore)
    assert target.read_bytes() == DATA


async def test_the_users_hash_is_checked_on_what_is_there_too(mirror, target):
    target.parent.mkdir()
    target.write_bytes(OTHER)
    await fetch(Source(mirror.url, sha(OTHER)), target, ignore)
    with pytest.raises(ModelLoadError, match=f"has SHA-256 {sha(OTHER)}"):
        await fetch(Source(mirror.url, sha(DATA)), target, ignore)
    assert target.read_bytes() == OTHER


async def test_a_hash_that_the_hub_denies_costs_no_download(mirror, target):
    mirror.headers["X-Linked-Etag"] = f'"{sha(DATA)}"'
    seen = []
    with pytest.raises(DownloadError, match=f"has SHA-256 {sha(DATA)}, expected {sha(OTHER)}"):
        await fetch(Source(mirror.url, sha(OTHER)), target, lambda *step: seen.append(step))
    assert seen == []


async def test_a_cached_file_with_another_hash_is_replaced_only_by_the_right_one(mirror, target):
    target.parent.mkdir()
    target.write_bytes(OTHER)
    with pytest.raises(DownloadError, match="discarded"):
        await fetch(Source(mirror.url, "0" * 64), target, ignore, replace=True)
    assert target.read_bytes() == OTHER
    await fetch(Source(mirror.url, sha(DATA)), target, ignore, replace=True)
    assert target.read_bytes() == DATA
    assert digest.recorded(target) == sha(DATA)


async def test_a_pinned_file_is_read_at_each_start_and_tells_how_far_it_is(mirror, target):
    source, seen = Source(mirror.url, sha(DATA)), []
    await fetch(source, target, ignore)
    await fetch(source, target, lambda have, total: seen.append((have, total)))
    await asyncio.sleep(0)
    assert seen[-1] == (len(DATA), len(DATA))
    target.write_bytes(DATA[::-1])
    digest.record(target, target.stat(), sha(DATA))
    with pytest.raises(DownloadError, match="has SHA-256") as refused:
        await fetch(source, target, ignore)
    assert refused.value.reason == "ChecksumMismatch"


async def test_a_file_without_a_digest_is_not_read_again(mirror, target, monkeypatch):
    await fetch(Source(mirror.url), target, ignore)
    monkeypatch.setattr(digest, "compute", lambda path: pytest.fail("read again"))
    await fetch(Source(mirror.url), target, ignore)


async def test_two_writers_of_the_same_part_make_the_right_file(mirror, target):
    """A downloader that was taken for dead goes on writing until it notices."""
    target.parent.mkdir()
    part = target.with_name("model.gguf.part")
    mirror.plan = [1_000_000]

    def disturb(have, total):
        mirror.progress(have, total)
        if have > 1_000_000:
            with part.open("rb+") as file:
                file.write(DATA[:1_500_000])

    await fetch(Source(mirror.url, sha(DATA)), target, disturb)
    assert target.read_bytes() == DATA


async def test_a_lock_that_is_lost_ends_the_attempt_and_the_others_file_is_used(mirror, target):
    other = target.with_name("model.gguf.lock")

    def lose(have, total):
        mirror.progress(have, total)
        other.unlink()
        other.write_text("another's")
        target.write_bytes(OTHER)

    assert await fetch(Source(mirror.url), target, lose) == target
    assert target.read_bytes() == OTHER
    assert len(mirror.requests) == 1


async def test_the_name_appears_only_when_the_file_is_whole(mirror, target):
    seen = []
    await fetch(Source(mirror.url), target, lambda have, total: seen.append(target.exists()))
    assert seen
    assert not any(seen)


async def test_no_space_is_told_before_anything_is_written(mirror, target, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(DownloadError, match="has 1 MiB free; the file needs 3 MiB more") as failed:
        await fetch(Source(mirror.url), target, ignore)
    assert failed.value.reason == "DiskFull"
    assert not target.exists()


async def test_a_disk_that_fills_up(mirror, target, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Transfer, "_finish", full)
    with pytest.raises(DownloadError, match=r"cannot write .*model\.gguf: No space left on device") as failed:
        await fetch(Source(mirror.url), target, ignore)
    assert failed.value.reason == "DiskFull"
    assert len(mirror.requests) == 1


async def test_a_folder_that_cannot_be_made(mirror, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelLoadError, match="cannot write"):
        await fetch(Source(mirror.url), tmp_path / "file" / "model.gguf", ignore)
    assert mirror.requests == []


async def test_two_servers_that_share_a_folder_fetch_once(mirror, target, monkeypatch):
    monkeypatch.setattr(lock, "_FIRST_LOOK", 0.01)
    mirror.plan = [1_000_000]
    both = await asyncio.gather(*[fetch(Source(mirror.url), target, mirror.progress) for _ in range(2)])
    assert both == [target, target]
    assert len(mirror.requests) == 2  # the broken one and its continuation
    assert target.read_bytes() == DATA


async def test_all_shards_of_a_split_model(mirror, target):
    url = mirror.url.replace("model.gguf", "big-00002-of-00003.gguf")
    first = await fetch_model(Source(url, headers=(("X-Mine", "1"),)), target, ignore)
    names = [f"big-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    assert first == target.parent / names[0]
    assert left(target) == sorted(f"{name}{end}" for name in names for end in ("", ".origin", ".sha256"))
    assert [request.path.rsplit("/", 1)[1] for request in mirror.requests] == names
    assert {request.headers["X-Mine"] for request in mirror.requests} == {"1"}


async def test_one_hash_for_many_files_is_refused(mirror, target):
    url = mirror.url.replace("model.gguf", "big-00001-of-00002.gguf")
    with pytest.raises(ModelLoadError, match="2 files"):
        await fetch_model(Source(url, sha(DATA)), target, ignore)


def test_shard_urls_keep_the_query():
    assert shard_urls("http://h/m.gguf?x=1") == ["http://h/m.gguf?x=1"]
    assert shard_urls("http://h/m-00001-of-00002.gguf?x=1") == [
        "http://h/m-00001-of-00002.gguf?x=1",
        "http://h/m-00002-of-00002.gguf?x=1",
    ]


@pytest.mark.parametrize(
    ("url", "name"),
    [("http://h/a/b.gguf?download=true", "b.gguf"), ("http://h/a%20b.gguf", "a b.gguf"), ("http://h/x#y", "x")],
)
def test_the_file_name_of_a_url(url, name):
    assert file_name(url) == name


@pytest.mark.parametrize(
    "url", ["http://h", "http://h/", "http://h/..", "http://h/a/%2e%2e%2fpasswd%2f..", "http://h/a%00b"]
)
def test_a_url_without_a_file_name(url):
    with pytest.raises(ModelLoadError, match="names no file"):
        file_name(url)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://h/m.gguf", "http://h/m.gguf"),
        ("https://user:pass@h:8443/a@b/m.gguf?X-Amz-Signature=x#y", "https://h:8443/a@b/m.gguf?…"),
        ("https://token@h/m.gguf", "https://h/m.gguf"),
        ("http://[::1]:80/m.gguf", "http://[::1]:80/m.gguf"),
        ("http://user:pa/ss@h/m.gguf", "http://…"),
        ("http://[::1/m.gguf?sig=x", "http://…"),
        ("/m.gguf?sig=x", "/m.gguf?…"),
        ("", ""),
    ],
)
def test_a_url_is_shown_without_its_secrets(url, told):
    assert shown(url) == told
