"""All tests in two lanes at the same time: those on a cluster, which mostly wait, beside all others.

`python -m tests.lanes [ARGUMENTS]`, with further arguments for both pytest runs. The output of the others is
shown as it comes. That of the cluster's tests follows when both lanes have ended.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

PYTEST = (sys.executable, "-m", "pytest", "--durations=10")
NO_TESTS = 5  # pytest's exit status


def main(arguments: list[str]) -> int:
    """Run both; 0 when both passed."""
    with tempfile.TemporaryDirectory(prefix="lanes.") as folder:
        output, began = Path(folder, "cluster"), time.monotonic()
        with output.open("wb") as out:
            beside = subprocess.Popen(
                [*PYTEST, "-m", "cluster", *arguments], stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
            )
            try:
                others = subprocess.run([*PYTEST, "-m", "not cluster", *arguments], check=False).returncode
                print(
                    f"=== all others ended after {time.monotonic() - began:.0f} s; the cluster's go on",
                    flush=True,
                )
                on_cluster = beside.wait()
            finally:
                if beside.poll() is None:
                    beside.terminate()
                    beside.wait()
        print(output.read_text(errors="replace"), end="")
        print(f"=== the cluster's ended after {time.monotonic() - began:.0f} s", flush=True)
    return next((status for status in (others, on_cluster) if status not in (0, NO_TESTS)), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
