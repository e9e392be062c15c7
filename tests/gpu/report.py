"""What one step found, written after each word: a step that is cut off leaves what it knew."""

import json
from pathlib import Path
from typing import Any


class NotRun(Exception):
    """The step cannot be run here; the text says why."""


class Report:
    """One step's findings."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, Any] = {"checks": [], "figures": {}}
        self._write()

    def check(self, what: str, ok: bool, seen: Any = None) -> None:
        """One sentence that has to be true, and what was seen instead or as proof."""
        self._found["checks"].append({"what": what, "ok": bool(ok), "seen": seen})
        self._write()

    def figure(self, name: str, value: Any) -> None:
        """One measured value; the name has the unit."""
        self._found["figures"][name] = value
        self._write()

    def _write(self) -> None:
        scratch = self._path.with_suffix(".part")
        scratch.write_text(json.dumps(self._found))
        scratch.rename(self._path)


def read(path: Path) -> dict[str, Any]:
    """What a report's file says; nothing where there is none."""
    return dict(json.loads(path.read_text())) if path.exists() else {"checks": [], "figures": {}}
