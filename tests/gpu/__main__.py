"""`tests/gpu/run`: progress on stderr, one JSON file at the end and after each step. Exit code 1 when a step failed."""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench import machine
from tests.bench.sides import clean_environment
from tools.build import processors
from tools.cache import say

from . import hardware, plan
from .plan import BUILD, NAMES, NOT_RUN, PASSED, STEPS, Running, Step
from .session import FULL, TINY, Session

ROOT = Path(__file__).parents[2]
_THREADS = 8  # more do not help a GPU
_LEAST = 8.0  # seconds that a step needs at least


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="tests/gpu/run", description="Check and measure this server on a GPU.")
    parser.add_argument("--cpu", action="store_true", help="all but CUDA, on the CPU's library; implies --tiny")
    parser.add_argument(
        "--tiny", action="store_true", help="tiny models and few tokens, to try the kit; no figures to quote"
    )
    parser.add_argument("--seconds", type=float, default=420, help="time for everything (default: %(default)g)")
    steps = f"comma-separated, of {', '.join(NAMES)} (default: all that no earlier run in --work has passed)"
    parser.add_argument("--only", default="", help=steps)
    parser.add_argument("--leave-build", action="store_true", help="start compiling, and do not wait for it")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "gpu", help="folder for all that is made")
    parser.add_argument("--out", type=Path, help="the JSON file (default: result.json in that folder)")
    parser.add_argument("--pack", type=Path, help="folder that tests/gpu/pack made, for a machine without a network")
    parser.add_argument("--step", choices=NAMES, help=argparse.SUPPRESS)
    chosen = parser.parse_args(argv)
    chosen.only = [name for name in chosen.only.split(",") if name]
    if unknown := [name for name in chosen.only if name not in NAMES]:
        parser.error(f"unknown step {unknown[0]}; known are {', '.join(NAMES)}")
    chosen.work, chosen.out = chosen.work.absolute(), (chosen.out or chosen.work / "result.json").absolute()
    chosen.pack = chosen.pack.absolute() if chosen.pack else None
    return chosen


def session(chosen: argparse.Namespace) -> Session:
    """What the steps work with; exits where there is no GPU and none was excused."""
    card = None if chosen.cpu else hardware.gpu()
    if card is None and not chosen.cpu:
        sys.exit("nvidia-smi shows no GPU; --cpu runs everything but CUDA")
    sizes = TINY if chosen.cpu or chosen.tiny else FULL
    return Session(chosen.work, chosen.pack, sizes, card, min(_THREADS, processors()))


class Run:
    """All steps, within the time that was given."""

    def __init__(self, chosen: argparse.Namespace, session: Session) -> None:
        self._chosen = chosen
        self._work = session.work
        self._began = time.monotonic()
        mode = {"cuda": session.card is not None, "tiny": chosen.cpu or chosen.tiny}
        self._passed_before = self._earlier(mode)
        self._result: dict[str, Any] = {
            **mode,
            "gpu": _as_json(session.card) if session.card else None,
            "machine": machine.describe(),
            "peer": str(session.cpu_peer() or "not here"),
            "real_model": str(session.real_model or "not here"),
            "steps": dict(self._passed_before),
        }
        self._building: Running | None = None

    def _earlier(self, mode: dict[str, bool]) -> dict[str, Any]:
        file = self._work / "result.json"
        found = json.loads(file.read_text()) if file.exists() else {}
        if {name: found.get(name) for name in mode} != mode:
            return {}
        return {name: step for name, step in found["steps"].items() if step["state"] == PASSED}

    @property
    def left(self) -> float:
        """Seconds."""
        return float(self._chosen.seconds - (time.monotonic() - self._began))

    def run(self) -> int:
        """Every step that was asked for; returns the exit code."""
        only = self._chosen.only or [name for name in NAMES if name not in self._passed_before]
        wanted = [step for step in STEPS if step.name in only]
        self._save()
        if any(step.name == BUILD for step in wanted) and not self._chosen.cpu:
            self._building = self._start(next(step for step in STEPS if step.name == BUILD))
        try:
            for step in wanted:
                if step.name == BUILD and self._chosen.leave_build:
                    self._building = None
                    continue
                self._take(step)
        finally:
            if self._building is not None:
                self._building.kill()
        return self._end()

    def _take(self, step: Step) -> None:
        blocked = self._blocked(step)
        if blocked:
            result: dict[str, Any] = {"state": NOT_RUN, "reason": blocked, "seconds": 0.0, "checks": [], "figures": {}}
        elif step.name == BUILD and self._building is not None:
            result, self._building = self._building.wait(self.left), None
        else:
            result = self._start(step).wait(min(step.limit, self.left))
        self._result["steps"][step.name] = result
        self._save()
        wrong = [check["what"] for check in result["checks"] if not check["ok"]]
        words = "; ".join([*wrong, *([result["reason"]] if result.get("reason") else [])])
        say(f"{step.name}: {result['state']} in {result['seconds']} s{f' ({words})' if words else ''}")

    def _blocked(self, step: Step) -> str:
        if self.left < _LEAST:
            return "no time is left"
        needs = [*step.needs]
        if not self._chosen.cpu and step.name not in {*plan.BEFORE_THE_BUILD, BUILD}:
            needs.append(BUILD)
        missing = [name for name in needs if self._result["steps"].get(name, {}).get("state") != PASSED]
        return f"{missing[0]} has not passed" if missing else ""

    def _start(self, step: Step) -> Running:
        chosen = self._chosen
        flags = [f"--{name}" for name in ("cpu", "tiny") if getattr(chosen, name)]
        passed_on = ["--work", str(chosen.work), *flags]
        return Running(step, self._work, [*passed_on, *(["--pack", str(chosen.pack)] if chosen.pack else [])])

    def _end(self) -> int:
        states = {name: step["state"] for name, step in self._result["steps"].items()}
        failed = [name for name, state in states.items() if state not in (PASSED, NOT_RUN)]
        self._result["failed"] = failed
        self._result["not_run"] = {
            name: step["reason"] for name, step in self._result["steps"].items() if step["state"] == NOT_RUN
        }
        self._save()
        say(f"{self._chosen.out}: {', '.join(failed) or 'nothing'} failed, {self._result['seconds']} s")
        return 1 if failed else 0

    def _save(self) -> None:
        self._result["seconds"] = round(time.monotonic() - self._began, 1)
        text = json.dumps(self._result, indent=1) + "\n"
        for file in {self._work / "result.json", self._chosen.out}:
            file.parent.mkdir(parents=True, exist_ok=True)
            scratch = file.with_suffix(".part")
            scratch.write_text(text)
            scratch.rename(file)


def _as_json(card: hardware.Gpu) -> dict[str, Any]:
    return {name: getattr(card, name) for name in card.__slots__}


def main() -> int:
    """One step in this process, or all of them."""
    chosen = arguments(sys.argv[1:])
    os.chdir(ROOT)  # steps and the load generator are started as modules
    removed = clean_environment()
    for name in ("", "models", "reports", "logs"):
        (chosen.work / name).mkdir(parents=True, exist_ok=True)
    if chosen.step:
        return plan.run_here(next(step for step in STEPS if step.name == chosen.step), session(chosen))
    if removed:
        say(f"not passed on: {', '.join(removed)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that steps are ended
    return Run(chosen, session(chosen)).run()


if __name__ == "__main__":
    sys.exit(main())
