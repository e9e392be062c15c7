"""Runs each CPU module in a process of its own, and compares it with the simplest one that this machine can run."""

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..llama import cpu_modules, devices
from .compare import Difference, compare, finite

AS_IT_IS = "as it is"
_BUILT_IN = "built in"  # the only module, in a build that has none to choose from
Verdict = Literal["reference", "ok", "FAILED", "not run"]


class StepError(Exception):
    """A step failed. The text is the cause."""


@dataclass(slots=True)
class Result:
    """One module with one type of model. `why` explains the verdicts FAILED and not run."""

    module: str
    type: str
    verdict: Verdict
    why: str = ""
    difference: Difference | None = None
    weights_in: Sequence[str] = ()
    description: str = ""
    system_info: str = ""
    seconds: float = 0.0


@dataclass(slots=True)
class Modules:
    """The modules of this build. `runnable` has those that this CPU can run, with their paths, the simplest first."""

    runnable: dict[str, Path | None]
    others: dict[str, tuple[Verdict, str]] = field(default_factory=dict)  # verdict and why

    @property
    def choice(self) -> str:
        """The module that the server uses on this machine."""
        return list(self.runnable)[-1] if self.runnable else ""

    def only(self, names: Sequence[str]) -> "Modules":
        """The modules of these names, or all of them if no name is given."""
        return Modules(
            {name: path for name, path in self.runnable.items() if name in names or not names},
            {name: told for name, told in self.others.items() if name in names or not names},
        )


def look(timeout: float) -> Modules:
    """Ask each module whether this CPU can run it."""
    found = cpu_modules.modules(devices.folder())
    if not found:
        return Modules({_BUILT_IN: None})
    scores: dict[str, int] = {}
    features: dict[str, set[str]] = {}
    others: dict[str, tuple[Verdict, str]] = {}
    for name, path in found.items():
        try:
            told = step(timeout, "inspect", path)
            scores[name], features[name] = told["score"], set(told["features"])
        except StepError as error:
            others[name] = "FAILED", str(error)
    runnable = sorted((name for name in scores if scores[name]), key=lambda name: (scores[name], name))
    there = set[str]().union(*(features[name] for name in runnable))
    for name in scores.keys() - set(runnable):
        lacking = ", ".join(sorted(features[name] - there)) or "a feature that this module was compiled for"
        others[name] = "not run", f"this CPU lacks {lacking}"
    return Modules({name: found[name] for name in runnable}, dict(sorted(others.items())))


def run(model: str, kinds: Sequence[str], modules: Modules, threads: int, timeout: float) -> Iterator[Result]:
    """The results as they come, for the model quantized to each type, or as it is without types."""
    for kind in kinds or (AS_IT_IS,):
        with tempfile.TemporaryDirectory(prefix="selftest-") as folder:
            yield from _Type(model, kind, Path(folder), threads, timeout).run(modules.runnable)
        for name, (verdict, why) in modules.others.items():
            yield Result(name, kind, verdict, why)


class _Type:
    """The model in one type, in a folder of its own."""

    def __init__(self, model: str, kind: str, folder: Path, threads: int, timeout: float) -> None:
        self._model, self._kind, self._folder = model, kind, folder
        self._threads, self._timeout = threads, timeout
        self._made = kind == AS_IT_IS
        self._reference: Any = None
        self._follow: list[int] = []

    def run(self, modules: Mapping[str, Path | None]) -> Iterator[Result]:
        """Test one module. The first module with finite numbers is the reference."""
        for name, path in modules.items():
            try:
                yield self._judged(name, path)
            except StepError as error:
                yield Result(name, self._kind, "FAILED", str(error))

    def _judged(self, name: str, path: Path | None) -> Result:
        if not self._made:
            target = self._folder / f"{self._kind}.gguf"
            step(self._timeout, "quantize", path or "", self._model, self._kind, target, self._threads)
            self._model, self._made = str(target), True
        out = self._folder / "rows.npy"
        told = step(self._timeout, "evaluate", path or "", self._model, out, self._threads, *self._follow)
        rows = np.load(out)
        about = {name: told[name] for name in ("weights_in", "description", "system_info", "seconds")}
        if not finite(rows):
            return Result(name, self._kind, "FAILED", "numbers that are not finite", **about)
        if self._reference is None:
            self._reference, self._follow = rows, told["followed"]
            return Result(name, self._kind, "reference", **about)
        difference = compare(self._reference, rows)
        verdict: Verdict = "ok" if difference.sound else "FAILED"
        why = "" if difference.sound else "its results are wrong"
        return Result(name, self._kind, verdict, why, difference, **about)


def step(timeout: float, *words: object) -> dict[str, Any]:
    """Run one step in its own process. Raises StepError if it fails, crashes or takes more than `timeout` seconds."""
    argv = [sys.executable, "-m", f"{__package__}.child", *map(str, words)]
    try:
        done = subprocess.run(  # noqa: S603  our own words
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=timeout,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise StepError(f"did not end within {timeout:g} s") from None
    if done.returncode < 0:
        raise StepError(f"crashed with {signal.Signals(-done.returncode).name}")
    try:
        told = dict(json.loads(done.stdout.splitlines()[-1]))
    except (ValueError, IndexError):
        last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "no output")
        raise StepError(f"ended with exit code {done.returncode}: {last}") from None
    if "error" in told:
        raise StepError(told["error"])
    return told
