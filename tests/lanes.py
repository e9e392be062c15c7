"""Run all tests in three lanes at the same time: two lanes with a cluster each, and one with all other tests.

`python -m tests.lanes [ARGUMENTS]` gives further arguments to each pytest run. Tests on a cluster mostly wait, so two
clusters take half the time of one. The output of the other tests is shown as it comes. The output of the two
cluster lanes follows when all lanes have ended.
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
NO_TESTS = 5  # pytest's exit status


def main(arguments: list[str]) -> int:
    """Run all lanes. The exit status is 0 when all passed."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lanes.") as folder, ExitStack() as stack:
        lanes = [stack.enter_context(_on_cluster(number, arguments, Path(folder))) for number in range(CLUSTERS)]
        try:
            others = subprocess.run([*PYTEST, "-m", "not cluster and not more", *arguments], check=False).returncode
            _say(f"all other tests ended after {time.monotonic() - began:.0f} s, the cluster lanes still run")
            statuses = [lane.wait() for lane in lanes]
        finally:
            for lane in lanes:
                lane.terminate()
        for number in range(CLUSTERS):
            print(_output(number, Path(folder)).read_text(errors="replace"), end="")
        _say(f"the cluster lanes ended after {time.monotonic() - began:.0f} s")
    return next((status for status in (others, *statuses) if status not in (0, NO_TESTS)), 0)


def _on_cluster(number: int, arguments: list[str], folder: Path) -> "subprocess.Popen[bytes]":
    """Start a lane on its own cluster, with every CLUSTERS-th file of tests/cluster."""
    files = sorted(str(path) for path in Path("tests/cluster").glob("test_*.py"))[number::CLUSTERS]
    with _output(number, folder).open("wb") as out:
        return subprocess.Popen(
            [*PYTEST, *files, "-m", "not more", *arguments],
            env=os.environ | {"LLAMASERVER_TEST_LANE": str(number + 1)},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )


def _output(number: int, folder: Path) -> Path:
    return folder / f"cluster-{number + 1}"


def _say(text: str) -> None:
    print(f"=== {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
