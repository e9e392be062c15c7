"""A real server from its start until it serves, or until it says why it cannot."""

import hashlib
import json
import os
import shlex
import signal
import stat
import sys

import httpx2
import pytest
from llamaserver.models import origin

from tests.support.models import Models
from tests.support.paths import model_path
from tests.support.polling import until
from tests.support.server.client import Client
from tests.support.server.mirror import Mirror
from tests.support.server.process import ServerProcess, free_port

pytestmark = pytest.mark.model


def answer(url, path="/health"):
    """(status, body) of a GET, None while nobody listens."""
    try:
        response = httpx2.get(url + path, timeout=10, trust_env=False)
    except httpx2.TransportError:
        return None
    return response.status_code, response.text


def records(text):
    """The JSON lines of a log."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def errors_in(log):
    return [record["msg"] for record in records(log) if record["level"] == "ERROR"]


def ended(server, deadline=60):
    """The exit code of a server that ends by itself."""
    until(lambda: server.process.poll() is not None, "the server ends", deadline)
    return server.process.returncode


@pytest.fixture
def mirror():
    with Mirror(model_path()) as mirror:
        yield mirror


@pytest.fixture
def held():
    """A mirror that holds the model back until it is released."""
    with Mirror(model_path(), gated=True) as mirror:
        yield mirror


def test_the_ports_answer_before_the_model_is_there(held, tmp_path):
    port = free_port()
    args = ("--model-url", f"{held.url}/model.gguf", "--models-dir", str(tmp_path), "-c", "512", "--metrics")
    manage = f"http://127.0.0.1:{port}"
    with ServerProcess(*args, "--management-port", str(port), "--management-host", "127.0.0.1", wait=False) as server:
        until(lambda: answer(server.url), "the port is bound")
        until(lambda: json.loads(answer(server.url)[1]).get("progress"), "the download makes progress")
        status, text = answer(server.url)
        body = json.loads(text)
        assert (status, body["status"]) == (503, "loading model")
        assert body["error"] == {"code": 503, "message": "Loading model", "type": "unavailable_error"}
        assert 0 < body["progress"] < 1

        client = Client(server.url)
        refused = client.http.post("/completion", json={"prompt": "x"})
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        assert client.http.get("/").status_code == 200
        assert client.http.get("/metrics").status_code == 200

        assert answer(manage, "/livez") == (200, "ok\n")
        assert answer(manage, "/readyz") == (503, "loading\n")
        state = json.loads(answer(manage, "/status")[1])
        assert (state["state"], state["ready"]) == ("loading", False)
        assert 0 < state["load_progress"] < 1
        assert state["download"]["file"] == "model.gguf"
        assert 0 < state["download"]["bytes"] < state["download"]["total_bytes"] == len(held.data)

        held.release()
        server.wait_healthy()
        assert answer(manage, "/readyz") == (200, "ok\n")
        until(lambda: json.loads(answer(manage, "/status")[1])["model"]["sha256"], "the digest is known")
        state = json.loads(answer(manage, "/status")[1])
        assert "download" not in state
        assert (state["model"]["sha256"], state["model"]["quantization"]) == (held.sha256, "Q4_1")
        assert client.get("/health") == {"status": "ok", "slots_idle": 1, "slots_processing": 0}
        assert client.complete("The capital of France is")["content"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.gguf", "model.gguf.origin", "model.gguf.sha256"]
    assert hashlib.sha256((tmp_path / "model.gguf").read_bytes()).hexdigest() == held.sha256

    before = len(held.requests)
    with ServerProcess(*args) as server:
        assert Client(server.url).complete("x")["content"]
    assert len(held.requests) == before


def test_a_download_that_was_interrupted_goes_on(held, tmp_path):
    args = ("--model-url", f"{held.url}/model.gguf", "--models-dir", str(tmp_path))
    part = tmp_path / "model.gguf.part"
    with ServerProcess(*args, wait=False) as server:
        until(lambda: part.exists() and part.stat().st_size, "the first bytes")
        server.stop(signal.SIGKILL)
    have = part.stat().st_size
    held.release()
    with ServerProcess(*args) as server:
        assert Client(server.url).complete("x")["content"]
    assert held.requests[-1][:2] == ("/model.gguf", f"bytes={have}-")


def test_a_hugging_face_file_from_a_mirror(mirror, tmp_path):
    target = tmp_path / "chosen.gguf"  # with -m, the download lands there
    with ServerProcess(
        "--hf-repo", "who/what", "--hf-file", "model-Q8_0.gguf", "-m", str(target),
        env={"HF_ENDPOINT": mirror.url, "HF_TOKEN": "hf_abc"},
    ) as server:  # fmt: skip
        client = Client(server.url)
        assert client.complete("x")["content"]
        assert client.get("/props")["model_path"] == str(target)
    assert mirror.requests == [
        ("/who/what/resolve/main/model-Q8_0.gguf", "", "Bearer hf_abc"),
        ("/blob", "", "Bearer hf_abc"),  # the same origin
    ]


def test_a_hugging_face_repository_with_a_quantization(mirror, tmp_path):
    env = {"HF_ENDPOINT": mirror.url, "LLAMA_CACHE": str(tmp_path)}
    with ServerProcess("-hf", "who/what:q4_1", "--hf-token", "hf_line", env=env) as server:
        assert Client(server.url).complete("x")["content"]
    assert mirror.requests[0] == ("/api/models/who/what/revision/main", "", "Bearer hf_line")
    assert list(tmp_path.rglob("*.gguf")) == [tmp_path / "who/what/main/model-Q4_1.gguf"]


def test_a_cached_model_that_does_not_load_is_asked_for_again(tmp_path):
    models = Models(tmp_path)
    with Mirror(models.unknown()) as mirror:
        args = ("--model-url", f"{mirror.url}/model.gguf", "--models-dir", str(tmp_path / "cache"))
        for begins in (1, 2):
            with ServerProcess(*args, wait=False) as server:
                assert ended(server) == 1
                error = errors_in(server.log)[-1]
                assert "unknown model architecture: 'no-such-architecture'; the file is from the cache" in error
                assert ", downloaded at 2" in error and f" from {mirror.url}/model.gguf; the next start" in error
            assert len(mirror.requests) == begins  # the second time it asks, and hears that nothing has changed
        mirror.repair(models.llama())
        with ServerProcess(*args) as server:
            assert Client(server.url).complete("x")["content"]
        asked = len(mirror.requests)
        with ServerProcess(*args) as server:
            assert "could not be loaded" not in server.log
        assert len(mirror.requests) == asked
    assert not list((tmp_path / "cache").glob("*.suspect"))


def test_a_success_takes_the_suspicion_back(tmp_path):
    """As when memory was short the first time."""
    with Mirror(Models(tmp_path).llama()) as mirror:
        args = ("--model-url", f"{mirror.url}/model.gguf", "--models-dir", str(tmp_path / "cache"))
        with ServerProcess(*args):
            pass
        origin.suspect(tmp_path / "cache/model.gguf")
        for _ in range(2):
            with ServerProcess(*args):
                pass
        assert len(mirror.requests) == 2


@pytest.mark.parametrize(("option", "other"), [("--lora", "lora_other_arch"), ("--mmproj", "projector_other_width")])
def test_an_adapter_or_projector_that_does_not_load_is_the_suspect(tmp_path, option, other):
    models = Models(tmp_path)
    model, file = models.llama(), getattr(models, other)()
    for path in (model, file):
        origin.record(path, path.stat(), origin.Origin("http://h/file.gguf", at="2026-01-02T03:04:05Z"))
    with ServerProcess("-m", str(model), option, str(file), wait=False) as server:
        assert ended(server) == 1
        assert "from the cache, downloaded at 2026-01-02T03:04:05Z" in errors_in(server.log)[-1]
    assert (origin.is_suspect(file), origin.is_suspect(model)) == (True, False)


@pytest.mark.parametrize("file", ["unknown", "llama"])
def test_a_read_only_cache_does_no_harm(tmp_path, file):
    """As pods have it whose models lie on a scratch volume: the server cannot mark what does not load."""
    cache = tmp_path / "cache"
    cache.mkdir()
    model = cache / "model.gguf"
    model.write_bytes(getattr(Models(tmp_path), file)().read_bytes())
    origin.record(model, model.stat(), origin.Origin("http://h/m.gguf", at="2026-01-02T03:04:05Z"))
    mount = f"mount --bind {shlex.quote(str(cache))} {shlex.quote(str(cache))} && mount -o remount,ro,bind {cache}"
    private = ("unshare", "--mount", *(("--map-root-user",) if os.geteuid() else ()))
    command = (*private, "sh", "-c", f'{mount} && exec "$@"', "sh", sys.executable, "-m", "llamaserver")
    with ServerProcess("-m", str(model), command=command, wait=file == "llama") as server:
        if file == "llama":
            assert Client(server.url).complete("x")["content"]
        else:
            assert ended(server) == 1
            assert (
                "from the cache, downloaded at 2026-01-02T03:04:05Z from http://h/m.gguf" in errors_in(server.log)[-1]
            )
        assert "Traceback" not in server.log
    assert sorted(path.name for path in cache.iterdir()) == ["model.gguf", "model.gguf.origin"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--hf-repo", "who/what:Q2_K"), "has no GGUF file for 'Q2_K'; it has model-Q4_1.gguf, model-Q8_0.gguf"),
        (("--hf-repo", "no/body"), "answered 404"),
        (("--model-url", "{url}/nothing.gguf"), "nothing.gguf answered 404 Not Found"),
        (("--model-url", "{url}/model.gguf", "--model-sha256", "0" * 64), "expected " + "0" * 64),
    ],
    ids=["no such quantization", "no such repository", "no such file", "wrong hash"],
)
def test_a_download_that_fails_ends_the_server(mirror, tmp_path, args, message):
    args = [arg.format(url=mirror.url) for arg in args]
    env = {"HF_ENDPOINT": mirror.url}
    with ServerProcess(*args, "--models-dir", str(tmp_path), env=env, wait=False) as server:
        assert ended(server) == 1
        assert any(message in error for error in errors_in(server.log)), server.log
        assert "Traceback" not in server.log
    assert not list(tmp_path.glob("*.gguf"))


def test_a_hub_whose_hash_is_not_the_files(tmp_path):
    with Mirror(model_path(), sha256="f" * 64) as mirror:
        args = ("--hf-repo", "who/what", "--hf-file", "model-Q4_1.gguf", "--models-dir", str(tmp_path))
        with ServerProcess(*args, env={"HF_ENDPOINT": mirror.url}, wait=False) as server:
            assert ended(server) == 1
            assert "expected " + "f" * 64 in errors_in(server.log)[0]


# ---- loads that fail


@pytest.fixture(params=["missing", "garbage", "empty", "truncated", "a folder"])
def unloadable(request, tmp_path):
    """Paths of models that cannot be loaded."""
    path = tmp_path / "bad.gguf"
    if request.param == "garbage":
        path.write_bytes(b"no model at all" * 100)
    elif request.param == "empty":
        path.write_bytes(b"")
    elif request.param == "truncated":
        path.write_bytes(model_path().read_bytes()[:2_000_000])
    elif request.param == "a folder":
        path.mkdir()
    return path


def test_a_model_that_cannot_be_loaded_ends_the_server(unloadable):
    with ServerProcess("-m", str(unloadable), wait=False) as server:
        assert ended(server) == 1
        (error,) = errors_in(server.log)[-1:]
        assert error.startswith(f"cannot load model {unloadable}: ")
        assert len(error) > len(f"cannot load model {unloadable}: ") + 10
        assert "Traceback" not in server.log


def test_a_backend_that_fails_is_not_why_a_model_cannot_be_loaded(tmp_path):
    """As on a node without a GPU: the library complains of it first, and then of the model."""
    (tmp_path / "bad.gguf").write_bytes(b"no model at all" * 100)
    env = {"GGML_BACKEND_PATH": str(tmp_path / "libggml-none.so")}
    with ServerProcess("-m", "bad.gguf", "-v", cwd=tmp_path, env=env, wait=False) as server:
        assert ended(server) == 1
        assert any("libggml-none.so" in error for error in errors_in(server.log)), "the library has not complained"
        (why,) = [error for error in errors_in(server.log) if error.startswith("cannot load model bad.gguf: ")]
    assert "libggml-none.so" not in why


def test_a_server_that_stays_says_so_with_500(tmp_path):
    port = free_port()
    manage = f"http://127.0.0.1:{port}"
    args = ("-m", str(tmp_path / "no.gguf"), "--stay-on-load-error")
    with ServerProcess(*args, "--management-port", str(port), wait=False) as server:
        until(lambda: (answer(server.url) or (0,))[0] == 500, "/health says 500")
        body = json.loads(answer(server.url)[1])
        assert body["status"] == "error"
        assert "cannot load model" in body["error"]["message"]
        assert answer(manage, "/livez")[0] == 500
        assert answer(manage, "/readyz")[0] == 503
        assert "cannot load model" in json.loads(answer(manage, "/status")[1])["reason"]
        refused = Client(server.url).http.post("/completion", json={"prompt": "x"})
        assert refused.status_code == 503
        assert server.stop(signal.SIGTERM) == 0


@pytest.mark.parametrize(
    ("option", "message"),
    [("--system-prompt-file", "No such file"), ("--chat-template-file", "No such file")],
)
def test_a_file_of_the_command_line_that_is_missing(option, message):
    with ServerProcess("-m", str(model_path()), option, "/no/such/file", wait=False) as server:
        assert ended(server) == 2
        assert option in errors_in(server.log)[0]
        assert message in errors_in(server.log)[0]


def test_the_folder_for_slots_is_made_for_nobody_else_to_read(tmp_path):
    folder = tmp_path / "slots"
    args = ("-m", str(tmp_path / "no.gguf"), "--stay-on-load-error", "--slot-save-path", str(folder))
    with ServerProcess(*args, wait=False) as server:
        until(lambda: answer(server.url), "the port is bound")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_file_in_place_of_the_folder_for_slots_is_refused(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with ServerProcess("-m", "m", "--slot-save-path", str(file), wait=False) as server:
        assert ended(server) == 2
        assert f"--slot-save-path {file}: File exists" in server.log


def test_a_port_that_is_taken_ends_the_server(tmp_path):
    with ServerProcess("-m", str(tmp_path / "no.gguf"), "--stay-on-load-error", wait=False) as first:
        until(lambda: answer(first.url), "the port is bound")
        with ServerProcess("-m", "x", "--management-port", str(first.port), wait=False) as second:
            assert ended(second) == 2
            assert f"cannot listen on 0.0.0.0:{first.port}" in second.log
            assert "Traceback" not in second.log


# ---- signals while loading


@pytest.fixture
def endless(tmp_path):
    """A model file whose reading never ends: the library is stuck inside a call."""
    path = tmp_path / "endless.gguf"
    os.mkfifo(path)
    return path


@pytest.mark.parametrize(("sig", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_a_server_whose_library_is_stuck(endless, sig, code):
    with ServerProcess("-m", str(endless), wait=False) as server:
        until(lambda: answer(server.url), "the port is bound")
        assert answer(server.url)[0] == 503
        assert server.stop(sig, timeout=10) == code


@pytest.mark.parametrize(("sig", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_a_server_that_downloads(held, tmp_path, sig, code):
    args = ("--model-url", f"{held.url}/model.gguf", "--models-dir", str(tmp_path))
    with ServerProcess(*args, wait=False) as server:
        until((tmp_path / "model.gguf.part").exists, "the download begins")
        assert server.stop(sig, timeout=10) == code
        assert "Traceback" not in server.log
    assert (tmp_path / "model.gguf.part").exists()
