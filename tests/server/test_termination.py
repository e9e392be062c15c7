"""Why a server ended, where Kubernetes looks for it."""

import json
import subprocess
import sys

import pytest
from llamaserver import termination


@pytest.fixture
def log(tmp_path):
    return tmp_path / "termination-log"


def reason(log):
    value = json.loads(log.read_text())
    assert set(value) == {"reason", "message"}
    return value["reason"], value["message"]


def server(tmp_path, *args, env=None):
    """A server that cannot run: exit code and output."""
    argv = [sys.executable, "-m", "llamaserver", "--port", "0", *args]
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=60, cwd=tmp_path, env=env or {}, stdin=subprocess.DEVNULL,
        check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_a_model_that_cannot_be_loaded(tmp_path, log):
    (tmp_path / "bad.gguf").write_bytes(b"no model at all" * 100)
    code, output = server(tmp_path, "-m", "bad.gguf", "--termination-log", str(log))
    assert code == 1
    name, message = reason(log)
    assert name == "ModelLoadFailed"
    assert message.startswith("cannot load model bad.gguf: ")
    assert message in output


def test_a_model_that_is_not_there(tmp_path, log):
    code, _ = server(tmp_path, "-m", "none.gguf", "--termination-log", str(log))
    assert code == 1
    assert reason(log)[0] == "ModelLoadFailed"
    assert "none.gguf" in reason(log)[1]


@pytest.mark.parametrize("form", ["two words", "one word", "variable"])
def test_arguments_that_are_wrong(tmp_path, log, form):
    args = {"two words": (termination.FLAG, str(log)), "one word": (f"{termination.FLAG}={log}",)}.get(form, ())
    env = {} if args else {termination.VARIABLE: str(log)}
    code, _ = server(tmp_path, "-m", "m", "--ctx-size", "many", *args, env=env)
    assert code == 2
    assert reason(log) == ("BadArguments", "--ctx-size: must be an integer, not 'many'")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--ssl-cert-file", "no.crt", "--ssl-key-file", "no.key"), "--ssl-cert-file no.crt"),
        (("--chat-template-file", "no.jinja"), "--chat-template-file no.jinja"),
        (("--api-key-file", "/no/such/secret"), "/no/such/secret is no file or folder that can be read"),
    ],
    ids=["TLS files", "template", "secret"],
)
def test_arguments_that_turn_out_wrong(tmp_path, log, args, message):
    code, _ = server(tmp_path, "-m", "m", *args, "--termination-log", str(log))
    assert code == 2
    assert reason(log)[0] == "BadArguments"
    assert message in reason(log)[1]


def test_a_log_that_cannot_be_written_changes_nothing(tmp_path):
    code, output = server(tmp_path, "-m", "none.gguf", "--termination-log", str(tmp_path))
    assert code == 1
    assert "Traceback" not in output


def test_the_default_path_is_used_only_where_it_exists(tmp_path, monkeypatch):
    path = tmp_path / "default"
    monkeypatch.setattr(termination, "DEFAULT", str(path))
    termination.write(str(path), "R", "m")
    assert not path.exists()
    path.touch()
    termination.write(str(path), "R", "m")
    assert reason(path) == ("R", "m")


@pytest.mark.parametrize("letter", ["x", "ж", "𝄞", '"', "\x01"])
def test_a_long_message_fits(log, letter):
    termination.write(str(log), "R", letter * 10_000)
    assert len(log.read_bytes()) <= 4096
    assert len(reason(log)[1]) == (0 if letter == "\x01" else 1000)


@pytest.mark.parametrize("letter", ["x", "ж", "𝄞", '"', "\x01"])
def test_the_line_of_a_running_process_is_short_whatever_the_cpu_is_called(log, letter, monkeypatch):
    monkeypatch.setattr(termination.cpu, "model", lambda: letter * 10_000)
    running = termination.CrashLog(str(log))
    running.phase("warm-up")
    running.runs_on("zen4")
    assert len(log.read_bytes()) <= 1024
    told = json.loads(log.read_text())
    assert (set(told), told["phase"]) == ({"phase", "cpu"}, "warm-up")


def test_a_phase_takes_the_place_of_the_one_before(log):
    running = termination.CrashLog(str(log))
    running.cpu_module = "zen4"
    for phase in ("download", "load", "warm-up", "serving", "draining"):
        running.phase(phase)
        told = json.loads(log.read_text())
        assert told["phase"] == phase
        assert told["cpu"].endswith(", zen4")
    termination.write(str(log), "R", "m")
    assert reason(log) == ("R", "m")
    running.clear()
    assert log.read_bytes() == b""


def test_a_phase_uses_the_default_path_only_where_it_exists(tmp_path, monkeypatch):
    path = tmp_path / "default"
    monkeypatch.setattr(termination, "DEFAULT", str(path))
    termination.CrashLog(str(path)).phase("load")
    assert not path.exists()
    path.touch()
    termination.CrashLog(str(path)).phase("load")
    assert json.loads(path.read_text())["phase"] == "load"


def test_an_exception_that_nobody_caught_leaves_it_to_the_log(tmp_path, log):
    """An empty termination log is what makes the kubelet take the last lines of the container's log."""
    script = (
        "import sys; from llamaserver import __main__, lifecycle; "
        "lifecycle.Server._make_folders = lambda self: 1 / 0; "
        "sys.argv = ['llamaserver', '-m', 'm', '--port', '0', '--termination-log', sys.argv[1]]; __main__.main()"
    )
    argv = [sys.executable, "-c", script, str(log)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert log.read_bytes() == b""
