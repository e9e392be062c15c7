"""Messages of the operator about real crashes of processes that have the server's termination log."""

import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from llamaserver.termination import Phase
from llamaserver_operator.crashes import End, end_of

from tests.support.operator.worlds import NOW, pod

CRASHING = """
import signal, sys
from llamaserver.termination import CrashLog

def decode():
    signal.raise_signal(int(sys.argv[3]))

log = CrashLog(sys.argv[1])
log.catch_crashes()
log.phase("load")
log.runs_on("haswell")
log.phase(sys.argv[2])
decode()
"""
DURING: dict[Phase, str] = {
    "download": "while it downloaded", "load": "while it loaded the model", "warm-up": "while it warmed up",
    "serving": "while it served", "draining": "while it drained",
}  # fmt: skip


def crash(folder: Path, phase: Phase, number: signal.Signals) -> End:
    """The status that the kubelet writes for a process that ended by a signal in a phase."""
    log, code = folder / "termination-log", folder / "backend.py"
    code.write_text(CRASHING)
    done = subprocess.run([sys.executable, code, log, phase, str(int(number))], check=False, capture_output=True)
    assert done.returncode == -number, done.stderr
    message = log.read_bytes()[-4096:].decode()
    ended = {"exitCode": 128 + number, "reason": "Error", "message": message, "finishedAt": NOW.isoformat()}
    ended["startedAt"] = (NOW - timedelta(seconds=130)).isoformat()
    status = {"name": "server", "restartCount": 1, "state": {"running": {}}, "lastState": {"terminated": ended}}
    found = end_of(pod("web-0"), status)
    assert found
    return found


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGILL, signal.SIGFPE, signal.SIGBUS])
def test_a_native_crash_is_shown_with_signal_phase_cpu_and_place(number: signal.Signals, tmp_path: Path) -> None:
    found = crash(tmp_path, "serving", number)
    start = f"container server crashed by signal {int(number)} ({number.name}) while it served, restart 1, up 2 min on "
    assert (found.reason, found.text[: len(start)]) == ("CrashedNatively", start)
    assert ", haswell, in decode (backend.py:6). This is a bug: kubectl logs --previous web-0 -c server" in found.text


@pytest.mark.parametrize("phase", DURING)
def test_a_kill_is_shown_with_its_phase(phase: Phase, tmp_path: Path) -> None:
    found = crash(tmp_path, phase, signal.SIGKILL)
    text = f"container server was killed by signal 9 (SIGKILL) {DURING[phase]}, restart 1, up 2 min"
    assert (found.reason, found.text) == ("Crashed", text)
