"""Whether the engine still works: counts decodes that fail, and steps that end in a defect.

A batch can fail because of its request, or because the library does not work any more, as after an error of a GPU
driver. A test of one row tells the two apart, so that a bad request does not end the server.
"""

from ..interfaces.backend import Status

MOST = 3  # failures in a row that end the engine
DEFECT = "defect"  # the status under which steps that raised are counted
_FAILURES = {Status.INVALID: "invalid", Status.FATAL: "fatal"}


class Failures:
    """The failures since the start, and those in a row. Used on the engine thread only."""

    def __init__(self) -> None:
        self.totals = {**dict.fromkeys(_FAILURES.values(), 0), DEFECT: 0}
        self.untested = False  # the last decode failed, and no test has run since
        self._decodes = 0  # failed decodes in a row
        self._defects = 0  # defects without a request's decode between them
        self._last = ""

    def decoded(self, status: Status) -> None:
        """A decode of requests has ended."""
        self._count(status)
        if status is Status.OK:
            self._defects = 0
        self.untested = status in _FAILURES

    def tested(self, status: Status) -> None:
        """A test has ended."""
        self._count(status)
        self.untested = False

    def defect(self, error: Exception) -> None:
        """A step has raised. A test cannot tell whether the next one raises too."""
        self.totals[DEFECT] += 1
        self._defects += 1
        self._last = f"{type(error).__name__}: {error}"

    def _count(self, status: Status) -> None:
        if status is Status.OK:
            self._decodes = 0
        elif status in _FAILURES:
            self.totals[_FAILURES[status]] += 1
            self._decodes += 1
            self._last = f"llama_decode returned status {status.name}"

    @property
    def failing(self) -> bool:
        """Whether the last decode failed."""
        return self._decodes > 0

    @property
    def verdict(self) -> str:
        """Why the engine cannot go on, "" while it can."""
        if self._decodes >= MOST:
            return f"{self._decodes} decodes in a row have failed: {self._last}"
        if self._defects >= MOST:
            return f"{self._defects} steps in a row have failed: {self._last}"
        return ""
