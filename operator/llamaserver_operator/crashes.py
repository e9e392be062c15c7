"""The ends of containers: their number, phase, cause and text. Pure.

The server keeps one line of JSON with its phase and its CPU in its termination log. faulthandler appends its text.
If the log is empty, the kubelet uses the end of the container's output instead.
"""

import json
import re
import signal
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from . import names
from .manifests import ContainerStatus, Pod

AGAIN = 3  # a container that ended this often, the last time early, crashes again and again
EARLY = timedelta(minutes=10)  # after this time the kubelet also resets its count of crashes

_NATIVE = {"SIGILL", "SIGTRAP", "SIGABRT", "SIGBUS", "SIGFPE", "SIGSEGV", "SIGSYS"}
_DURING = {
    "download": "while it downloaded", "load": "while it loaded the model", "warm-up": "while it warmed up",
    "serving": "while it served", "draining": "while it drained",
}  # fmt: skip
_FRAME = re.compile(r'File "([^"]+)", line (\d+) in (\S+)')
_WORD = re.compile("[A-Za-z][A-Za-z0-9]{0,99}")
_BAD_LEVELS = {"WARNING", "ERROR", "CRITICAL"}
LONGEST = 500  # characters of output that a message contains


@dataclass(frozen=True, slots=True)
class End:
    """The last end of a pod's container."""

    pod: str
    container: str
    times: int  # number of ends, with this one
    code: int
    kind: str  # reason given by the kubelet
    message: str  # the termination log, or the end of the output
    started: datetime | None
    finished: datetime | None
    past: bool  # whether the container has been ready again since

    @property
    def signal(self) -> str:
        """Name of the signal that ended the container. Empty when it exited."""
        return signal.Signals(self.code - 128).name if self.code - 128 in list(signal.Signals) else ""

    @property
    def native(self) -> bool:
        """Whether native code crashed."""
        return self.signal in _NATIVE

    @property
    def stated(self) -> tuple[str, str] | None:
        """Reason and message that the container wrote before it ended. None when it wrote none."""
        for value in _objects(self.message):
            reason, message = value.get("reason"), value.get("message")
            if isinstance(reason, str) and _WORD.fullmatch(reason) and isinstance(message, str):
                return reason, message
        return None

    @property
    def noted(self) -> Mapping[str, Any]:
        """The note that the server keeps while it runs: phase, cpu, model_bytes. Empty without a note."""
        return next((value for value in _objects(self.message) if "phase" in value), {})

    @property
    def during(self) -> str:
        """The phase in which the container ended, in words. Empty when it is unknown."""
        phase = "download" if self.container == names.FETCH_CONTAINER else self.noted.get("phase")
        return _DURING.get(str(phase), "")

    @property
    def reason(self) -> str:
        """The reason, in one word."""
        if self.stated:
            return self.stated[0]
        if self.native:
            return "CrashedNatively"
        if self.kind == "OOMKilled":
            return "OOMKilled"
        return "Crashed" if self.code else "Restarted"

    @property
    def early(self) -> bool:
        """Whether the container ended within EARLY of its start, or before it served."""
        if self.noted.get("phase") in ("download", "load", "warm-up"):
            return True
        return not (self.started and self.finished) or self.finished - self.started < EARLY

    @property
    def again_and_again(self) -> bool:
        """Whether the container crashes again and again, without a reason that it wrote itself."""
        return self.times >= AGAIN and self.early and not self.stated

    def calm_in(self, now: datetime) -> timedelta:
        """The time until a container that runs again no longer counts as crashing."""
        over = self.finished + EARLY if self.again_and_again and self.finished else now
        return max(timedelta(0), over - now)

    @property
    def text(self) -> str:
        """The message about this end."""
        what = " ".join(filter(None, (f"container {self.container}", self._verb, self.during)))
        parts = [what, f"restart {self.times}"]
        if self.started and self.finished:
            parts.append(f"up {_rounded(self.finished - self.started)}")
        text = ", ".join(parts)
        if self.stated:
            return f"{text}: {self.stated[1]}"
        if self.native:
            cpu = f" on {found}" if (found := self.noted.get("cpu")) else ""
            return f"{text}{cpu}{self._place}. This is a bug: kubectl logs --previous {self.pod} -c {self.container}"
        return f"{text}. {words}" if (words := _last_words(self.message)) else text

    @property
    def _verb(self) -> str:
        if self.signal:
            verb = "crashed by" if self.native else "was killed by"
            return f"{verb} signal {self.code - 128} ({self.signal})"
        kind = f" ({self.kind})" if self.kind not in ("", "Error", "Completed") else ""
        return f"ended with exit code {self.code}{kind}"

    @property
    def _place(self) -> str:
        """The place in the Python code from the text of faulthandler, else the last output."""
        if found := _FRAME.search(self.message):
            return f", in {found[3]} ({found[1].rpartition('/')[2]}:{found[2]})"
        words = _last_words(self.message)
        return f". {words}" if words else ""


def restarts(pods: Iterable[Pod]) -> int:
    """Number of restarts of the server's container in these pods."""
    return sum(int(_server(pod).get("restartCount", 0)) for pod in pods)


def last_end(pod: Pod) -> End | None:
    """The last end of the server's container. None when it never ended, or when the whole pod ended."""
    whole = pod.get("status", {}).get("phase") in ("Failed", "Succeeded")
    return None if whole else end_of(pod, _server(pod))


def end_of(pod: Pod, container: ContainerStatus) -> End | None:
    """The last end of a container. None when it never ended."""
    state = container.get("state", {})
    ended = state.get("terminated") or container.get("lastState", {}).get("terminated")
    if not ended:
        return None
    return End(
        pod=pod["metadata"]["name"],
        container=container["name"],
        times=int(container.get("restartCount", 0)) + ("running" not in state),
        code=int(ended.get("exitCode", 0)),
        kind=str(ended.get("reason", "")),
        message=str(ended.get("message", "")),
        started=_time(ended.get("startedAt")),
        finished=_time(ended.get("finishedAt")),
        past=bool(container.get("ready")) or _ready_since(pod, _time(state.get("running", {}).get("startedAt"))),
    )


def _ready_since(pod: Pod, started: datetime | None) -> bool:
    """Whether the pod was ready after its container started. Then it lost its readiness later."""
    conditions = pod.get("status", {}).get("conditions", [])
    lost = next((_time(item.get("lastTransitionTime")) for item in conditions if item["type"] == "Ready"), None)
    return bool(started and lost and lost > started)


def _server(pod: Pod) -> ContainerStatus:
    containers = pod.get("status", {}).get("containerStatuses", [])
    return next((item for item in containers if item["name"] == names.SERVER_CONTAINER), ContainerStatus())


def _time(text: str | None) -> datetime | None:
    """The time. None when it is missing. Kubernetes writes year 1 for an unknown time."""
    found = datetime.fromisoformat(text) if text else None
    return found if found and found.year > 1 else None


def _object(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _objects(text: str) -> Iterator[dict[str, Any]]:
    return (value for line in text.splitlines() if (value := _object(line)) is not None)


def _last_words(message: str) -> str:
    """The last warning, if the message has log lines of the server, else the end of the message."""
    warning, plain, logs = "", list[str](), False
    for line in message.splitlines():
        value = _object(line) or {}
        if "msg" in value:
            if not logs:
                plain.clear()  # the first line is often incomplete: the kubelet keeps only the end
            logs = True
            if value.get("level") in _BAD_LEVELS:
                warning = str(value["msg"])
        elif "phase" not in value:
            plain.append(line)
    words = " ".join(" ".join(plain).split())[-LONGEST:]
    if words:
        return f"Its last output: {words}"
    return f"Last warning in its log: {' '.join(warning.split())[:LONGEST]}" if warning else ""


def _rounded(time: timedelta) -> str:
    seconds = int(time.total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{max(0, seconds)} s"
