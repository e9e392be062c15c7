"""Run all tests in four lanes at the same time: two with a cluster each, the fast tests, and all others.

`python -m tests.lanes [ARGUMENTS]` gives further arguments to each pytest run. Tests on a cluster mostly wait, so two
clusters take half the time of one. The output of the last lane is shown as it comes. That of the others follows when
all have ended. The test of the compatibility table comes after them, because it looks at their outcomes.
"""

import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

PYTEST = (sys.executable, "-m", "pytest", "--durations=10")
CLUSTERS = 2
HEAVY = "(model or browser or slow) and not cluster and not more"
FAST = "not (model or browser or slow or cluster or more)"
COMPAT = "tests/compat"
NO_TESTS = 5  # pytest's exit status


def main(arguments: list[str]) -> int:
    """Run all lanes. The exit status is 0 when all passed."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lanes.") as path, ExitStack() as stack:
        folder = Path(path)
        outcomes = os.environ | {"LLAMASERVER_TEST_OUTCOMES": path}
        files = sorted(str(file) for file in Path("tests/cluster").glob("test_*.py"))
        lanes = {"fast": _start(folder / "fast", ["-m", FAST, *arguments], outcomes, stack)}
        for number in range(CLUSTERS):
            name, env = f"cluster-{number + 1}", os.environ | {"LLAMASERVER_TEST_LANE": str(number + 1)}
            own = [*files[number::CLUSTERS], "-m", "not more", *arguments]
            lanes[name] = _start(folder / name, own, env, stack)
        try:
            statuses = [_run(["-m", HEAVY, f"--ignore={COMPAT}", *arguments], outcomes)]
            _say(f"the heavy tests ended after {time.monotonic() - began:.0f} s")
            for name, lane in lanes.items():
                statuses.append(lane.wait())
                print((folder / name).read_text(errors="replace"), end="")
                _say(f"the lane {name} has ended, {time.monotonic() - began:.0f} s after the begin")
        finally:
            for lane in lanes.values():
                lane.terminate()
        statuses.append(_run([COMPAT, "-m", HEAVY, *arguments], outcomes))
    return next((status for status in statuses if status not in (0, NO_TESTS)), 0)


def _run(arguments: list[str], env: dict[str, str]) -> int:
    return subprocess.run([*PYTEST, *arguments], env=env, check=False).returncode


def _start(out: Path, arguments: list[str], env: dict[str, str], stack: ExitStack) -> "subprocess.Popen[bytes]":
    """Start a lane whose output goes into a file."""
    with out.open("wb") as file:
        return stack.enter_context(
            subprocess.Popen(
                [*PYTEST, *arguments], env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
            )
        )


def _say(text: str) -> None:
    print(f"=== {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
