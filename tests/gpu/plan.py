"""The order of the steps, and how each is run: a process of its own with a deadline, its findings kept at once.

What is most worth knowing comes first. Whoever needs another step's result names it.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.cache import exclusive

from . import amx, answers, module, shapes, speed, states, trouble
from .hardware import toolkit
from .module import build, laid_beside
from .report import NotRun, Report, read
from .session import Session

PASSED, FAILED, NOT_RUN = "passed", "failed", "not run"
_NOT_RUN_CODE = 77


def models(session: Session, report: Report) -> None:
    """Write the random models."""
    for dimensions in (session.sizes.small, session.sizes.large):
        began = time.monotonic()
        path = session.random_model(dimensions)
        seconds = round(time.monotonic() - began, 1)
        report.figure(path.name, {"bytes": path.stat().st_size, "seconds": seconds})


def cuda_module(session: Session, report: Report) -> None:
    """Compile the module for the card; lay it beside the libraries of ours and of llama-server."""
    if session.card is None:
        raise NotRun("no GPU")
    kit = toolkit()
    report.figure("nvcc", {"path": str(kit.nvcc), "release": kit.release, "cublas": str(kit.blas)})
    report.figure("flags", " ".join([*module.FLAGS, session.card.architecture]))
    folder = session.work / "module"
    with exclusive(folder / "tree"):  # a build that was left by another run may still be at it
        began = time.monotonic()
        made = build(session.source(), folder, session.card, kit)
        report.figure("seconds", round(time.monotonic() - began, 1))
        report.figure("bytes", made.stat().st_size)
        laid_beside(made, session.cpu_libraries, session.work / "libraries")
        if found := session.cpu_peer():
            laid_beside(made, found, session.work / "peer")


@dataclass(frozen=True, slots=True)
class Step:
    """One step; `limit` in seconds, `needs` are steps that must have passed."""

    name: str
    run: Callable[[Session, Report], None]
    limit: float
    needs: tuple[str, ...] = ()


BUILD = "module"
STEPS = (
    Step("amx", amx.amx, 60),
    Step("amx_fault", amx.fault, 30),
    Step("models", models, 90),
    Step("reference", answers.reference, 90, ("models",)),
    Step(BUILD, cuda_module, 600),
    Step("offload", answers.offload, 60, ("models",)),
    Step("exact", answers.exact, 90, ("reference",)),
    Step("speed_small", speed.small, 100, ("models",)),
    Step("speed_large", speed.large, 100, ("models",)),
    Step("slot_files", states.slot_files, 60, ("models",)),
    Step("kv_store", states.kv_store, 60, ("models",)),
    Step("fallback", trouble.fallback, 60, ("reference",)),
    Step("out_of_memory", trouble.out_of_memory, 90, ("models",)),
    Step("long_prompt", speed.long_prompt, 100, ("models",)),
    Step("chat", answers.chat, 40),
    Step("shapes", shapes.shapes, 90),
    Step("selftest", amx.selftest, 150),
    Step("amx_speed", amx.amx_speed, 60, ("models",)),
)
NAMES = tuple(step.name for step in STEPS)
BEFORE_THE_BUILD = frozenset(
    {"models", "amx", "amx_fault", "reference", "selftest", "amx_speed"}
)  # of the CPU's library alone


def run_here(step: Step, session: Session) -> int:
    """Run a step in this process; returns the exit code that tells how it ended."""
    path = report_path(session.work, step)
    try:
        step.run(session, Report(path))
    except NotRun as error:
        print(error, flush=True)
        return _NOT_RUN_CODE
    return 0 if all(check["ok"] for check in read(path)["checks"]) else 1


def report_path(work: Path, step: Step) -> Path:
    """Where its findings are kept."""
    return work / "reports" / f"{step.name}.json"


class Running:
    """A step in a process of its own; a session of its own as well, so that its servers end with it."""

    def __init__(self, step: Step, work: Path, arguments: list[str]) -> None:
        self.step = step
        self._work = work
        self._log = work / "logs" / f"{step.name}.log"
        self._began = time.monotonic()
        report_path(work, step).unlink(missing_ok=True)
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.gpu", *arguments, "--step", step.name],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self, seconds: float) -> dict[str, Any]:
        """Its result, at the latest after that time, when it is ended."""
        cut = False
        try:
            code = self._process.wait(max(0.0, seconds))
        except subprocess.TimeoutExpired:
            cut, code = True, -signal.SIGKILL
        finally:
            self.kill()
        found = read(report_path(self._work, self.step))
        end = self._log.read_text(errors="replace").strip().splitlines()[-25:]
        result: dict[str, Any] = {"state": _state(code), "seconds": round(time.monotonic() - self._began, 1), **found}
        if cut:
            result["reason"] = f"cut off after {seconds:.0f} s"
        elif code == _NOT_RUN_CODE:
            result["reason"] = end[-1] if end else ""
        if result["state"] == FAILED:
            result["log"] = end
        return result

    def kill(self) -> None:
        """End it and all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _state(code: int) -> str:
    return {0: PASSED, _NOT_RUN_CODE: NOT_RUN}.get(code, FAILED)
