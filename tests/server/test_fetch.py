"""`llamaserver fetch` as real processes: what lands where, who downloads, what a signal leaves, and the reasons."""

import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from llamaserver.errors import DownloadError
from llamaserver.models import cache, digest, fetch, fetch_run, http_client, origin, transfer
from llamaserver.models.spec import wanted
from prometheus_client.parser import text_string_to_metric_families

from tests.support.gguf_bytes import Tensor, header, whole
from tests.support.polling import until
from tests.support.server.mirror import Mirror
from tests.support.server.process import free_port

KEY = "hf-9f2c1a7b3d"
ENDINGS = ("", ".origin", ".sha256")  # of what lies there after a download


@pytest.fixture
def data(tmp_path):
    """3 MB that stand for a model."""
    path = tmp_path / "source.bin"
    path.write_bytes(whole(bytes(range(256)) * 12_000))
    return path


@pytest.fixture
def mirror(data):
    with Mirror(data) as mirror:
        yield mirror


@pytest.fixture
def held(data):
    """A mirror that holds files back after their first MiB until it is released."""
    with Mirror(data, gated=True) as mirror:
        yield mirror


class Fetch:
    """One process."""

    def __init__(self, folder: Path, *files, args=(), env=None, before=()):
        self.folder, self.port = folder, free_port()
        self.log_file = folder.parent / f"log-{self.port}"
        self.reason_file = folder.parent / f"reason-{self.port}"
        argv = [*before, sys.executable, "-m", "llamaserver", "fetch", "--models-dir", str(folder)]
        argv += ["--management-port", str(self.port), "--management-host", "127.0.0.1"]
        argv += ["--termination-log", str(self.reason_file), *args]
        argv += [word for file in files for word in ("--file", file if isinstance(file, str) else json.dumps(file))]
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})}
            )

    @property
    def log(self):
        return self.log_file.read_text()

    def ends(self):
        """The exit code."""
        until(lambda: self.process.poll() is not None, f"the end of fetch: {self.log}", 60)
        return self.process.returncode

    def reason(self):
        """What the termination log holds."""
        value = json.loads(self.reason_file.read_text())
        assert set(value) == {"reason", "message"}
        return value

    def get(self, path):
        try:
            return httpx2.get(f"http://127.0.0.1:{self.port}{path}", timeout=10, trust_env=False)
        except httpx2.TransportError:
            return None

    def status(self):
        answer = self.get("/status")
        return answer.json() if answer else {}


@pytest.fixture
def start(tmp_path):
    """Start processes on one folder; whatever still runs is killed at the end."""
    running = []

    def begin(*files, **options):
        running.append(Fetch(tmp_path / "models", *files, **options))
        return running[-1]

    yield begin
    for fetch_ in running:
        fetch_.process.kill()
        fetch_.process.wait()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "models"


def http(mirror, path="http-1/model.gguf", url="/model.gguf", sha256=""):
    return {"path": path, "http": {"url": mirror.url + url}, "sha256": sha256}


def hub(file="model-Q4_1.gguf", path=f"{KEY}/model-Q4_1.gguf", **more):
    return {"path": path, "huggingFace": {"repo": "who/what", "revision": "main", "file": file}, **more}


def everything(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def transfers(mirror):
    """Ranges of the requests that asked for bytes of the file."""
    return [asked for path, asked, _ in mirror.requests if path in ("/blob", "/model.gguf")]


@pytest.fixture
def no_client(tmp_path):
    """An environment in which whatever may download ends at once: with 1, as its library cannot be imported."""
    (tmp_path / "no" / "aiohttp").mkdir(parents=True)
    (tmp_path / "no" / "aiohttp" / "__init__.py").write_text("import sys\nsys.exit('aiohttp is imported')\n")
    return {"PYTHONPATH": str(tmp_path / "no")}


def test_where_all_is_there_nothing_is_made_ready_for_a_download(start, folder, mirror, no_client):
    """It is what most pods start with: it has to be quick."""
    files = (http(mirror), http(mirror, "http-2/other.gguf"))
    assert start(*files, args=("--owner", "ns/first")).ends() == 0
    quick = start(*files, args=("--owner", "ns/second"), env=no_client)
    assert quick.ends() == 0, quick.log
    assert "all files are there" in quick.log
    owners = {path.name for path in (folder / "http-1" / ".owners").iterdir()}
    assert owners == {cache.escaped("ns/first"), cache.escaped("ns/second")}
    assert any(path.name.startswith(cache.escaped("ns/second")) for path in (folder / ".users").iterdir())


@pytest.mark.parametrize("doubt", ["none of it", "one is missing", "suspect", "changed", "other digest", "unknown"])
def test_any_doubt_is_looked_into(start, folder, mirror, no_client, doubt):
    first, second = http(mirror), http(mirror, "http-2/other.gguf")
    path = folder / first["path"]
    if doubt != "none of it":
        assert start(first, second).ends() == 0
    if doubt == "one is missing":
        (folder / second["path"]).unlink()
    elif doubt == "suspect":
        origin.suspect(path)
    elif doubt == "changed":
        path.write_bytes(path.read_bytes()[::-1])
    elif doubt == "other digest":
        first["sha256"] = "0" * 64
    elif doubt == "unknown":
        path.with_name(f"{path.name}.origin").unlink()
    looked = start(first, second, env=no_client)
    assert looked.ends() == 1
    assert "aiohttp is imported" in looked.log


def test_files_land_where_the_operator_says_with_their_owner(start, folder, mirror):
    env = {"HF_ENDPOINT": mirror.url, "HF_TOKEN": "hf_secret\n", "BEARER_TOKEN": "b-secret"}
    files = (hub(sha256=mirror.sha256), http(mirror))
    assert start(*files, args=("--owner", "team-a/smol.lm"), env=env).ends() == 0
    host = next((folder / ".users").iterdir()).name.partition(".")[2]
    owner = "team-a%2Fsmol%2Elm"
    assert everything(folder) == sorted(
        [
            f".users/{owner}.{host}",
            f"{KEY}/.owners/{owner}", *(f"{KEY}/model-Q4_1.gguf{end}" for end in ENDINGS),
            f"http-1/.owners/{owner}", *(f"http-1/model.gguf{end}" for end in ENDINGS),
        ]
    )  # fmt: skip
    assert json.loads((folder / ".users" / f"{owner}.{host}").read_text()) == [KEY, "http-1"]
    assert (folder / "http-1/model.gguf").read_bytes() == mirror.data
    assert digest.recorded(folder / KEY / "model-Q4_1.gguf") == mirror.sha256
    assert ("/who/what/resolve/main/model-Q4_1.gguf", "", "Bearer hf_secret") in mirror.requests
    assert ("/model.gguf", "", "Bearer b-secret") in mirror.requests


def test_a_second_start_asks_nobody(start, folder, mirror):
    assert start(http(mirror, sha256=mirror.sha256)).ends() == 0
    before = len(mirror.requests)
    again = start(http(mirror, sha256=mirror.sha256))
    assert again.ends() == 0
    assert len(mirror.requests) == before
    assert not again.reason_file.exists() or not again.reason_file.read_text()


def test_a_pinned_file_is_read_whatever_is_written_beside_it(start, folder, mirror):
    """Who can write the claim can write all that stands for the file's soundness, but not its bytes."""
    pinned, path = http(mirror, sha256=mirror.sha256), folder / "http-1/model.gguf"
    assert start(pinned).ends() == 0
    right = path.read_bytes()
    tampered = right[:-1] + bytes([right[-1] ^ 1])
    path.write_bytes(tampered)
    digest.record(path, path.stat(), mirror.sha256)
    origin.record(path, path.stat(), origin.Origin("http://there/model.gguf"))
    again = start(pinned)
    assert again.ends() == 0, again.log
    assert path.read_bytes() == right
    assert "checking the SHA-256" in again.log
    assert f"expected {mirror.sha256}" in again.log


def test_the_management_port_tells_the_progress(start, folder, held):
    running = start(http(held))
    until(lambda: running.status().get("download", {}).get("bytes") == 1 << 20, "the first MiB")
    status = running.status()
    assert (status["state"], status["waiting_for_lock"], status["error"]) == ("downloading", False, "")
    assert status["download"] == {"file": "http-1/model.gguf", "bytes": 1 << 20, "total_bytes": len(held.data)}
    assert running.get("/livez").status_code == 200
    assert running.get("/readyz").status_code == 503
    families = text_string_to_metric_families(running.get("/metrics").text)
    values = {sample.name: sample.value for family in families for sample in family.samples}
    assert values["llamaserver:download_bytes"] == 1 << 20
    assert values["llamaserver:download_total_bytes"] == len(held.data)
    assert values["llamaserver:download_waiting"] == 0
    held.release()
    assert running.ends() == 0
    assert "downloading model.gguf: 100% of 2 MiB" in running.log


def test_the_progress_is_that_of_all_files(start, folder, held):
    (folder / "a").mkdir(parents=True)
    (folder / "a/first.gguf").write_bytes(whole(b"12345"))
    small = len(whole(b"12345"))
    running = start(http(held, "a/first.gguf"), http(held, "b/second.gguf"))
    until(lambda: running.status().get("download", {}).get("bytes") == small + (1 << 20), "a MiB of the second")
    expected = {"file": "b/second.gguf", "bytes": small + (1 << 20), "total_bytes": small + len(held.data)}
    assert running.status()["download"] == expected


# ---- several pods


def test_of_two_that_start_together_one_downloads(start, folder, held):
    both = [start(http(held, sha256=held.sha256)) for _ in range(2)]
    until(lambda: any(one.status().get("waiting_for_lock") for one in both), "one waits")
    until(lambda: any(one.status()["download"]["bytes"] for one in both), "the other downloads")
    assert [one.status()["waiting_for_lock"] for one in both].count(True) == 1
    held.release()
    assert [one.ends() for one in both] == [0, 0]
    assert transfers(held) == [""]
    assert everything(folder) == [f"http-1/model.gguf{end}" for end in ENDINGS]


def test_after_the_holder_is_killed_the_other_goes_on(start, folder, held):
    first = start(http(held, sha256=held.sha256))
    part = folder / "http-1/model.gguf.part"
    until(lambda: first.status().get("download", {}).get("bytes") == 1 << 20, "the first MiB")
    second = start(http(held, sha256=held.sha256))
    until(lambda: second.status().get("waiting_for_lock"), "the second waits")
    first.process.kill()
    first.process.wait()
    have = part.stat().st_size  # the last bytes may have been in the writer's memory
    until(lambda: len(transfers(held)) == 2, "the second downloads")
    held.release()
    assert second.ends() == 0
    assert transfers(held) == ["", f"bytes={have}-"]
    assert (folder / "http-1/model.gguf").read_bytes() == held.data
    assert everything(folder) == [f"http-1/model.gguf{end}" for end in ENDINGS]


@pytest.mark.parametrize(("sig", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_leaves_what_the_next_start_goes_on_with(start, folder, held, sig, code):
    running = start(http(held))
    until(lambda: running.status().get("download", {}).get("bytes") == 1 << 20, "the first MiB")
    running.process.send_signal(sig)
    assert running.ends() == code
    assert "Traceback" not in running.log
    assert everything(folder) == ["http-1/model.gguf.part", "http-1/model.gguf.part.etag"]
    held.release()
    assert start(http(held)).ends() == 0
    assert transfers(held) == ["", f"bytes={1 << 20}-"]


def test_a_signal_ends_one_that_waits(start, folder, held):
    start(http(held))
    until(lambda: transfers(held), "the first downloads")
    second = start(http(held))
    until(lambda: second.status().get("waiting_for_lock"), "the second waits")
    second.process.terminate()
    assert second.ends() == 143


# ---- failures


def test_retries_are_told_until_bytes_come(start, folder, held):
    held.failures = 3
    running = start(http(held))
    until(lambda: running.status().get("error"), "a failure is told")
    assert running.status()["error"].startswith(
        f"{held.url}/model.gguf: the server answered 500 Internal Server Error, attempt "
    )
    until(lambda: running.status()["download"]["bytes"] == 1 << 20, "the first MiB")
    assert running.status()["error"] == ""
    held.release()
    assert running.ends() == 0


def test_a_file_that_could_not_be_loaded_is_asked_for_again(start, folder, mirror, tmp_path):
    assert start(http(mirror)).ends() == 0
    origin.suspect(folder / "http-1/model.gguf")
    again = start(http(mirror))
    assert again.ends() == 0
    assert f"could not be loaded; {mirror.url}/model.gguf still has the same file" in again.log
    assert f"using {folder}/http-1/model.gguf from the cache, downloaded at 2" in again.log
    assert len(mirror.requests) == 2
    other = tmp_path / "other"
    other.write_bytes(whole(b"other"))
    mirror.repair(other)
    assert start(http(mirror)).ends() == 0
    assert (folder / "http-1/model.gguf").read_bytes() == mirror.data
    assert everything(folder) == [f"http-1/model.gguf{end}" for end in ENDINGS]


@pytest.mark.parametrize(
    ("file", "reason", "message"),
    [
        ({"url": "/nothing.gguf"}, "ModelNotFound", "nothing.gguf answered 404"),
        ({"url": "/answers/401"}, "Unauthorized", "answered 401"),
        ({"url": "/answers/403"}, "Unauthorized", "answered 403"),
        ({"url": "/answers/400"}, "DownloadFailed", "answered 400"),
        ({"url": "/api/models/who/what/x"}, "NotGGUF", "is not a GGUF file: it begins with"),
        ({"sha256": "0" * 64}, "ChecksumMismatch", "expected " + "0" * 64),
        ({"url": "/huge.gguf"}, "DiskFull", "MiB free; the file needs 1099511627776 MiB more"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_failure_tells_its_reason(start, folder, mirror, file, reason, message):
    running = start(http(mirror, **file))
    assert running.ends() == 1
    assert running.reason()["reason"] == reason
    assert message in running.reason()["message"]
    assert message in running.log
    assert not list(folder.rglob("*.gguf"))
    assert not list(folder.rglob("*.lock"))
    assert "Traceback" not in running.log


def test_a_disk_that_fills_up_tells_its_reason(start, folder, tmp_path):
    """A file whose size nobody tells, on a disk that has little more free than is kept free."""
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.write(header([Tensor((80 << 20,))]))
        file.truncate(100 << 20)
    folder.mkdir()
    mount = f"mount -t tmpfs -o size=70m none {shlex.quote(str(folder))}"
    private = ("unshare", "--mount", *(("--map-root-user",) if os.geteuid() else ()))
    with Mirror(big) as mirror:
        running = start(http(mirror, url="/untold.gguf"), before=(*private, "sh", "-c", f'{mount} && exec "$@"', "sh"))
        assert running.ends() == 1, running.log
    assert running.reason()["reason"] == "DiskFull"
    assert "64 MiB to spare" in running.reason()["message"]
    assert "Traceback" not in running.log


@pytest.mark.parametrize(("idle", "fits"), [(3600, True), (5, False)], ids=["unused", "in-use"])
async def test_a_full_disk_is_freed_of_what_the_owner_no_longer_uses(folder, mirror, monkeypatch, idle, fits):
    """The server, which does so else, would never start."""
    folder.mkdir()
    former = cache.Claim(folder, "a/b", ("hf-former",))
    former.name()
    (folder / "hf-former" / "model.gguf").write_bytes(b"former")
    past = (folder / "hf-former").stat().st_mtime - idle
    os.utime(folder / "hf-former" / ".owners" / cache.escaped("a/b"), (past, past))
    real = transfer.shutil.disk_usage(folder)
    full = real._replace(free=1 << 20)
    monkeypatch.setattr(
        transfer.shutil, "disk_usage", lambda _: full if (folder / "hf-former" / "model.gguf").exists() else real
    )
    args = fetch.parse(["--models-dir", str(folder), "--owner", "a/b", "--file", json.dumps(http(mirror))], {})
    if fits:
        await fetch_run.run(args, {})
        assert sorted(path.name for path in folder.rglob("*.gguf")) == ["model.gguf"]
    else:
        with pytest.raises(DownloadError) as failed:
            await fetch_run.run(args, {})
        assert failed.value.reason == "DiskFull"
    assert (folder / "hf-former").exists() != fits


def test_the_command_needs_no_model_library(tmp_path):
    code = "import sys, llamaserver.models.fetch; sys.exit('llama_cpp' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_a_folder_that_cannot_be_written_tells_its_reason(start, folder, mirror):
    folder.write_text("no folder")
    running = start(http(mirror), args=("--owner", "a/b"))
    assert running.ends() == 1
    assert running.reason()["reason"] == "DownloadFailed"
    assert "cannot write" in running.reason()["message"]


async def test_a_server_that_stays_unreachable_is_a_failed_download(tmp_path, monkeypatch, unused_tcp_port):
    monkeypatch.setattr(http_client, "_FIRST_DELAY", 0.0)
    files = wanted(json.dumps({"path": "k/m", "http": {"url": f"http://127.0.0.1:{unused_tcp_port}/m"}}), {})
    with pytest.raises(DownloadError) as failed:
        await fetch_run.fetch_all(files, tmp_path, fetch_run.Progress())
    assert failed.value.reason == "DownloadFailed"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "must be a JSON object"),
        ({"path": "k/m"}, "exactly one of huggingFace and http"),
        ({"path": "k/m", "http": {"url": "http://h/m"}, "huggingFace": {}}, "exactly one of"),
        ({"path": "m", "http": {"url": "http://h/m"}}, "path must be KEY/FILE"),
        ({"path": "/k/m", "http": {"url": "http://h/m"}}, "path must be KEY/FILE"),
        ({"path": "k//m", "http": {"url": "http://h/m"}}, "path must be KEY/FILE"),
        ({"path": "k/../m", "http": {"url": "http://h/m"}}, "begin with a dot"),
        ({"path": ".users/m", "http": {"url": "http://h/m"}}, "begin with a dot"),
        ({"http": {"url": "http://h/m"}}, "path must be a string"),
        ({"path": "k/m", "http": {"url": "ftp://h/m"}}, "http.url must begin with"),
        ({"path": "k/m", "http": {"url": "http:///m"}}, "http.url must begin with"),
        ({"path": "k/m", "http": {"url": "http://[::1/m"}}, "http.url must begin with"),
        ({"path": "k/m", "http": {"url": "ftp://user:s3cr3t@h/m?s3cr3t"}}, "not be 'ftp://h/m?…'"),
        ({"path": "k/m", "http": {"url": "http://h/m", "x": 1}}, "http has no field x"),
        ({"path": "k/m", "http": {"url": "http://h/m"}, "sha": ""}, "--file has no field sha"),
        ({"path": "k/m", "http": {"url": "http://h/m"}, "sha256": "abc"}, "sha256 must be 64"),
        ({"path": "k/m", "huggingFace": {"repo": "what", "file": "m"}}, "huggingFace.repo must be OWNER/NAME"),
        ({"path": "k/m", "huggingFace": {"repo": "who/what"}}, "file must be a string"),
        ({"path": "k/m", "http": {"url": "http://h/m-00001-of-00002.gguf"}}, "must be named like"),
        ({"path": "k/m-00001-of-00002.gguf", "http": {"url": "http://h/m"}}, "must be named like"),
    ],
    ids=str,
)
def test_a_bad_spec_is_refused_by_name(spec, message):
    with pytest.raises(DownloadError) as failed:
        wanted(spec if isinstance(spec, str) else json.dumps(spec), {})
    assert failed.value.reason == "BadSpec"
    assert message in str(failed.value)
    assert "s3cr3t" not in str(failed.value)


@pytest.mark.parametrize(
    ("args", "files", "message"),
    [
        (("--management-port", "many"), ({"path": "k/m", "http": {"url": "http://h/m"}},), "--management-port"),
        (("--no-such-option",), ({"path": "k/m", "http": {"url": "http://h/m"}},), "--no-such-option"),
        ((), (), "--file"),
        ((), ("{",), "not valid JSON"),
    ],
    ids=["port", "unknown", "no file", "no JSON"],
)
def test_a_command_line_that_is_wrong_tells_its_reason(start, args, files, message):
    running = start(*files, args=args)
    assert running.ends() == 2
    assert running.reason()["reason"] == "BadSpec"
    assert message in running.reason()["message"]
    assert "Traceback" not in running.log


# ---- split models


def test_a_split_model_is_fetched_whole_and_the_hash_is_the_firsts():
    name = "big-Q6_K-00001-of-00003.gguf"
    spec = hub(name, f"{KEY}/{name}", sha256="A" * 64)
    files = wanted(json.dumps(spec), {"HF_ENDPOINT": "http://mirror"})
    assert [file.path for file in files] == [f"{KEY}/big-Q6_K-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    assert [file.source.url for file in files] == [
        f"http://mirror/who/what/resolve/main/big-Q6_K-0000{n}-of-00003.gguf" for n in (1, 2, 3)
    ]
    assert [file.source.sha256 for file in files] == ["A" * 64, "", ""]
    assert {file.key for file in files} == {KEY}


def test_all_parts_lie_beside_the_first(start, folder, mirror):
    name = "big-Q6_K-00001-of-00002.gguf"
    running = start(hub(name, f"{KEY}/{name}", sha256=mirror.sha256), env={"HF_ENDPOINT": mirror.url})
    assert running.ends() == 0
    assert sorted(path.name for path in folder.rglob("*.gguf")) == [name, name.replace("00001", "00002", 1)]


def test_the_digest_beside_a_file_is_what_it_says(start, folder, mirror):
    assert start(http(mirror)).ends() == 0
    kept = json.loads((folder / "http-1/model.gguf.sha256").read_text())
    status = (folder / "http-1/model.gguf").stat()
    assert kept == {
        "sha256": hashlib.sha256(mirror.data).hexdigest(), "size": status.st_size, "mtime_ns": status.st_mtime_ns
    }  # fmt: skip
