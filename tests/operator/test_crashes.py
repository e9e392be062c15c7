"""Ends of containers in the form of the kubelet, and their texts. tests/contract has real crashes."""

import json
from datetime import timedelta
from typing import Any

import pytest
from llamaserver_operator.crashes import AGAIN, EARLY, End, end_of, last_end, restarts

from tests.support.operator.worlds import NOW, pod

Manifest = dict[str, Any]
CPU = "Intel(R) Xeon(R) Platinum 8488C, sapphirerapids"
PHASE = json.dumps({"phase": "serving", "cpu": CPU})


def end(code: int, message: str = "", *, times: int = 1, life: float = 130, kind: str = "Error", ago: float = 1) -> End:
    at = NOW - timedelta(seconds=ago)
    ended = {"exitCode": code, "reason": kind, "message": message, "finishedAt": at.isoformat()}
    ended["startedAt"] = (at - timedelta(seconds=life)).isoformat()
    status = {"name": "server", "restartCount": times, "state": {"running": {}}, "lastState": {"terminated": ended}}
    found = end_of(pod("web-0"), status)
    assert found
    return found


def log(level: str, text: str) -> str:
    return json.dumps({"timestamp": 1.0, "level": level, "logger": "llamaserver", "msg": text})


LISTENING = log("INFO", "listening on 0.0.0.0:8080")
FULL = log("WARNING", "the queue is full")

# name: (the end, reason, text)
ENDS = {
    "killed, and its phase is known": (
        end(137, PHASE), "Crashed",
        "container server was killed by signal 9 (SIGKILL) while it served, restart 1, up 2 min",
    ),
    "killed while it loaded": (
        end(137, json.dumps({"phase": "load", "cpu": CPU}), times=2, life=7), "Crashed",
        "container server was killed by signal 9 (SIGKILL) while it loaded the model, restart 2, up 7 s",
    ),
    "killed, and its log is known": (
        end(137, "\n".join([f'{LISTENING[30:]}', LISTENING, FULL, LISTENING])), "Crashed",
        "container server was killed by signal 9 (SIGKILL), restart 1, up 2 min. "
        "Last warning in its log: the queue is full",
    ),
    "killed, and nothing in its log is a warning": (
        end(137, f"{LISTENING}\n{LISTENING}"), "Crashed",
        "container server was killed by signal 9 (SIGKILL), restart 1, up 2 min",
    ),
    "killed for want of memory": (
        end(137, PHASE, kind="OOMKilled", life=3 * 3600), "OOMKilled",
        "container server was killed by signal 9 (SIGKILL) while it served, restart 1, up 3 h",
    ),
    "Python failed": (
        end(1, f"{LISTENING}\nTraceback (most recent call last):\n  File \"x\"\nValueError: no"), "Crashed",
        "container server ended with exit code 1, restart 1, up 2 min. "
        'Its last output: Traceback (most recent call last): File "x" ValueError: no',
    ),
    "no code of ours": (
        end(255, kind="Unknown"), "Crashed",
        "container server ended with exit code 255 (Unknown), restart 1, up 2 min",
    ),
    "in good order": (
        end(0, kind="Completed"), "Restarted", "container server ended with exit code 0, restart 1, up 2 min",
    ),
    "with a word of its own": (
        end(1, '{"reason": "DiskFull", "message": "1 MiB free"}'), "DiskFull",
        "container server ended with exit code 1, restart 1, up 2 min: 1 MiB free",
    ),
    "illegal instruction, without a trace": (
        end(132, json.dumps({"phase": "warm-up", "cpu": CPU}), life=2), "CrashedNatively",
        f"container server crashed by signal 4 (SIGILL) while it warmed up, restart 1, up 2 s on {CPU}. "
        "This is a bug: kubectl logs --previous web-0 -c server",
    ),
    "an assertion of the library": (
        end(134, "ggml.c:9: GGML_ASSERT(a > 0) failed"), "CrashedNatively",
        "container server crashed by signal 6 (SIGABRT), restart 1, up 2 min. "
        "Its last output: ggml.c:9: GGML_ASSERT(a > 0) failed. This is a bug: kubectl logs --previous web-0 -c server",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDS)
def test_the_text_of_an_end(name: str):
    found, reason, text = ENDS[name]
    assert (found.reason, found.text) == (reason, text)


def test_a_restart_is_counted_alike_before_and_after_it():
    ended = {"terminated": {"exitCode": 137}}
    waits = {"waiting": {"reason": "CrashLoopBackOff"}}
    states = [
        {"restartCount": 2, "state": ended},
        {"restartCount": 2, "state": waits, "lastState": ended},
        {"restartCount": 3, "state": {"running": {}}, "lastState": ended},
    ]
    for state in states:
        found = end_of(pod(), {"name": "server", **state})
        assert found
        assert found.times == 3


@pytest.mark.parametrize(
    "state", [{}, {"state": {"running": {}}}, {"state": {"waiting": {"reason": "x"}}, "lastState": {}}]
)
def test_a_container_that_never_ended_has_no_end(state: Manifest):
    assert end_of(pod(), {"name": "server", "restartCount": 0, **state}) is None


def test_only_the_server_counts_and_only_in_pods_that_did_not_end_themselves():
    fetch = {"name": "fetch", "restartCount": 7, "state": {}, "lastState": {"terminated": {"exitCode": 1}}}
    server = {"name": "server", "restartCount": 2, "state": {}, "lastState": {"terminated": {"exitCode": 1}}}
    other = {**server, "name": "sidecar", "restartCount": 9}
    both = pod("a", initContainerStatuses=[fetch], containerStatuses=[other, server])
    assert restarts([both, pod("b"), {**pod("c"), "status": {}}]) == 2
    found = last_end(both)
    assert found
    assert (found.container, found.times) == ("server", 3)
    assert last_end(pod("a", phase="Failed", containerStatuses=[server])) is None
    assert last_end({**pod("c"), "status": {}}) is None


def test_when_a_loop_begins_and_ends():
    assert not end(137, times=AGAIN - 1).again_and_again
    assert end(137, times=AGAIN).again_and_again
    assert not end(137, times=AGAIN, life=EARLY.total_seconds()).again_and_again
    assert end(137, '{"phase": "warm-up", "cpu": "c"}', times=AGAIN, life=7200).again_and_again
    assert not end(1, '{"reason": "BadArguments", "message": "no"}', times=AGAIN).again_and_again
    assert end(137, times=AGAIN, ago=60).calm_in(NOW) == EARLY - timedelta(seconds=60)
    assert not end(137, times=AGAIN, ago=EARLY.total_seconds()).calm_in(NOW)
    assert not end(137, times=1).calm_in(NOW)


def test_times_that_the_kubelet_does_not_know():
    ended = {"exitCode": 137, "startedAt": None, "finishedAt": "0001-01-01T00:00:00Z"}
    found = end_of(pod(), {"name": "server", "restartCount": 3, "state": {}, "lastState": {"terminated": ended}})
    assert found
    assert (found.started, found.finished) == (None, None)
    assert found.text == "container server was killed by signal 9 (SIGKILL), restart 4"
    assert not found.calm_in(NOW)


@pytest.mark.parametrize("message", ["", "[1]", "null", "{", '{"phase": 3, "cpu": null}', "\x00\ud83d", "{}" * 2000])
def test_any_message_is_read(message: str):
    found = end(139, message)
    assert found.reason == "CrashedNatively"
    assert len(found.text) < 1500
    assert "\n" not in found.text


@pytest.mark.parametrize("reason", ["", "Two words", "a\nb", "\x1b[2K", "x" * 101, "1", "Größe", 7])
def test_a_reason_that_is_no_word_is_not_repeated(reason: Any) -> None:
    found = end(1, json.dumps({"reason": reason, "message": "why"}))
    assert found.stated is None
    assert found.reason == "Crashed"
