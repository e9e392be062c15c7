"""What a process leaves in its termination log when a signal kills it, in each phase: real processes, real signals."""

import http.server
import json
import platform
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from llamaserver import startup

from tests.support.engine import native_faults
from tests.support.models import Models
from tests.support.polling import until
from tests.support.server.client import Client
from tests.support.server.process import ServerProcess

# faulthandler's words, which the operator looks for
SIGNALS = {
    signal.SIGSEGV: "Segmentation fault",
    signal.SIGABRT: "Aborted",
    signal.SIGBUS: "Bus error",
    signal.SIGFPE: "Floating point exception",
    signal.SIGILL: "Illegal instruction",
}
SMALL = ("-t", "1", "-c", "1024", "-np", "2", "--warmup")
KUBELET_READS = 4096  # bytes, the last ones


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return Models(tmp_path_factory.mktemp("models")).llama()


@pytest.fixture
def log(tmp_path):
    return tmp_path / "termination-log"


@contextmanager
def started(model, log, *args, **options):
    arguments = ("-m", str(model), *SMALL, "--termination-log", str(log), *args)
    with ServerProcess(*arguments, **options) as server:
        yield server


def phase(log):
    """What the log's first line tells, which the kubelet reads."""
    assert log.stat().st_size < KUBELET_READS
    lines = log.read_text().splitlines()
    told = json.loads(lines[0]) if lines else {}
    assert not told or set(told) - {"model_bytes"} == {"phase", "cpu"}
    return told


def crash(log):
    """What follows it: the first line of faulthandler's text."""
    first, _, rest = log.read_text().partition("\n")
    assert first.startswith("{")
    return rest.partition("\n")[0]


def ended(server):
    return server.process.wait(60)


@pytest.mark.parametrize("sig", SIGNALS, ids=lambda sig: sig.name)
def test_a_crash_while_serving(model, log, sig):
    with started(model, log) as server:
        assert phase(log)["phase"] == "serving"
        assert phase(log)["model_bytes"] == model.stat().st_size
        Client(server.url).complete("Hello", n_predict=2)
        server.process.send_signal(sig)
        assert ended(server) == -sig
    assert phase(log)["phase"] == "serving"
    assert crash(log) == f"Fatal Python error: {SIGNALS[sig]}"


def test_the_cpu_and_the_module_that_computes_on_it(model, log):
    with started(model, log) as server:
        name, _, module = phase(log)["cpu"].rpartition(", ")
        assert f"libggml-cpu-{module}.so" in Path(f"/proc/{server.pid}/maps").read_text()
    known = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in known if line.startswith("model name")]
    assert name == (models[0] if models else platform.machine())


def test_the_size_of_a_model_is_that_of_all_its_parts(tmp_path):
    """The operator tells it of a server that was killed for want of memory."""
    for number in (1, 2, 3):
        (tmp_path / f"m-0000{number}-of-00003.gguf").write_bytes(b"x" * number)
    (tmp_path / "whole.gguf").write_bytes(b"x" * 10)
    sizes = {name: startup.bytes_of(tmp_path / name) for name in ("m-00001-of-00003.gguf", "whole.gguf", "none.gguf")}
    assert list(sizes.values()) == [6, 10, 0]


@pytest.mark.parametrize("rows", [1, 2, 300], ids=["a single row", "several rows", "a prompt"])
def test_a_crash_of_the_kernels_is_met_in_the_warm_up(model, log, tmp_path, rows):
    env = {"LD_PRELOAD": str(native_faults.compiled(tmp_path)), "CRASH_FROM_ROWS": str(rows)}
    with started(model, log, env=env, wait=False) as server:
        assert ended(server) == -signal.SIGSEGV
        assert "is ready: " not in server.log
    assert phase(log)["phase"] == "warm-up"
    assert ", " in phase(log)["cpu"]
    assert crash(log) == f"Fatal Python error: {SIGNALS[signal.SIGSEGV]}"
    assert "in warm_up" in log.read_text()


def test_without_a_warm_up_it_is_met_by_the_first_user(model, log, tmp_path):
    env = {"LD_PRELOAD": str(native_faults.compiled(tmp_path)), "CRASH_FROM_ROWS": "2"}
    with started(model, log, "--no-warmup", env=env) as server:
        with pytest.raises(Exception, match="disconnected"):
            Client(server.url).complete("Hello there", n_predict=2)
        assert ended(server) == -signal.SIGSEGV
    assert phase(log)["phase"] == "serving"
    assert crash(log) == f"Fatal Python error: {SIGNALS[signal.SIGSEGV]}"


def test_a_crash_while_loading(model, log, tmp_path):
    env = {"LD_PRELOAD": str(native_faults.compiled(tmp_path)), "CRASH_IN_LOAD": "1"}
    with started(model, log, env=env, wait=False) as server:
        assert ended(server) == -signal.SIGSEGV
    assert phase(log)["phase"] == "load"
    assert ", " in phase(log)["cpu"]  # the module is known: it may be what has crashed
    assert crash(log) == f"Fatal Python error: {SIGNALS[signal.SIGSEGV]}"


@pytest.fixture
def stalled():
    """The URL of a file of which nothing comes but the head."""
    asked, release = threading.Event(), threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            asked.set()
            release.wait(60)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/model.gguf", asked
        release.set()
        server.shutdown()


def test_a_crash_while_the_server_downloads(log, tmp_path, stalled):
    url, asked = stalled
    args = ("--model-url", url, "--models-dir", str(tmp_path), "--termination-log", str(log))
    with ServerProcess(*args, wait=False) as server:
        assert asked.wait(60)
        server.process.send_signal(signal.SIGSEGV)
        assert ended(server) == -signal.SIGSEGV
    assert phase(log)["phase"] == "download"
    assert crash(log) == f"Fatal Python error: {SIGNALS[signal.SIGSEGV]}"


@pytest.mark.parametrize("sig", [signal.SIGSEGV, signal.SIGKILL, signal.SIGTERM], ids=lambda sig: sig.name)
def test_fetch_that_ends_by_a_signal(log, tmp_path, stalled, sig):
    url, asked = stalled
    file = json.dumps({"path": "key/model.gguf", "http": {"url": url}})
    argv = [sys.executable, "-m", "llamaserver", "fetch", "--models-dir", str(tmp_path), "--file", file]
    with subprocess.Popen([*argv, "--termination-log", str(log)], stdout=subprocess.DEVNULL) as process:
        assert asked.wait(60)
        process.send_signal(sig)
        code = process.wait(60)
    if sig == signal.SIGTERM:
        assert (code, log.read_text()) == (143, "")
    else:
        assert (code, phase(log)["phase"]) == (-sig, "download")
        assert crash(log) == ("Fatal Python error: Segmentation fault" if sig == signal.SIGSEGV else "")


def test_a_killed_process_leaves_the_phase(model, log):
    with started(model, log) as server:
        server.process.kill()
        ended(server)
    assert phase(log)["phase"] == "serving"
    assert crash(log) == ""


def test_a_crash_while_draining(model, log):
    with started(model, log, "--drain-delay", "60") as server:
        server.process.terminate()
        until(lambda: phase(log).get("phase") == "draining", "the server drains")
        server.process.send_signal(signal.SIGSEGV)
        assert ended(server) == -signal.SIGSEGV
    assert phase(log)["phase"] == "draining"
    assert crash(log) == f"Fatal Python error: {SIGNALS[signal.SIGSEGV]}"


@pytest.mark.parametrize(("sig", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"])
def test_a_clean_end_leaves_it_empty(model, log, sig, code):
    log.write_text("of a process before")
    with started(model, log, "--drain-delay", "0") as server:
        assert server.stop(sig) == code
    assert log.read_bytes() == b""


@pytest.mark.parametrize("place", ["a folder", "a full disk", "no permission to create it"])
def test_a_log_that_cannot_be_written_harms_nothing(model, tmp_path, place):
    log = {"a folder": tmp_path, "a full disk": "/dev/full"}.get(place, "/proc/no-such-file")
    with started(model, log) as server:
        Client(server.url).complete("Hello", n_predict=2)
        server.process.send_signal(signal.SIGSEGV)
        assert ended(server) == -signal.SIGSEGV
        assert ("Fatal Python error: Segmentation fault" in server.log) == (place != "a full disk")


def test_the_log_of_a_process_that_failed_in_order_has_no_phase(tmp_path, log):
    (tmp_path / "bad.gguf").write_bytes(b"no model" * 100)
    with started(tmp_path / "bad.gguf", log, wait=False) as server:
        assert ended(server) == 1
    assert json.loads(log.read_text())["reason"] == "ModelLoadFailed"
