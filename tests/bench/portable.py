"""The image's portable build of the library against the one made for this machine: tokens/s of one stream."""

import sys
from contextlib import ExitStack
from pathlib import Path

from tools import wheel
from tools.cache import cache_dir, exclusive, replacing
from tools.pip import pip

from .load import call, together
from .prompts import words
from .rounds import Bench, Figures, Row, Samples, alternate, pids
from .sides import OURS, Shape, Side, ours, warm_up
from .stats import Target

PROMPT = 32  # tokens
PORTABLE, NATIVE = "portable", "native"
AS_FAST = Target(">=", 0.9)


def portable(bench: Bench) -> tuple[list[Row], Samples]:
    """Both are our server; only the library differs."""

    def measure(side: Side, number: int) -> Figures:
        (answer,) = together([call(side.port, words(f"portable {number}", PROMPT), bench.sizes.portable)])
        return {"tokens_per_second": answer.rate}

    shape = Shape(bench.model, 1, 1024, bench.threads)
    with ExitStack() as stack:
        sides = {
            PORTABLE: stack.enter_context(ours(shape, PORTABLE, {**bench.env[OURS], "PYTHONPATH": str(_unpacked())})),
            NATIVE: stack.enter_context(ours(shape, NATIVE, bench.env[OURS])),
        }
        info = {name: side.status()["system_info"] for name, side in sides.items()}
        _require_own_library(sides[PORTABLE])
        warm_up(sides.values())
        samples = alternate("portable", bench.sizes.rounds, sides, measure, pids(sides))
    row = samples.ratio_row("portable", "tokens_per_second", "tokens/s", AS_FAST, (PORTABLE, NATIVE))
    row.notes["system_info"] = info
    return [row], samples


def _unpacked() -> Path:
    """A folder with the portable wheel's llama_cpp, to stand before the installed one on the path."""
    built = wheel.ensure(PORTABLE)
    folder = cache_dir() / "bench" / built.parent.name
    if not folder.exists():
        with exclusive(folder), replacing(folder) as scratch:
            pip("install", "--quiet", "--no-index", "--no-deps", "--target", str(scratch), str(built))
    return folder


def _require_own_library(side: Side) -> None:
    """The process must have mapped the portable libraries and no others, or the row would compare like with like."""
    mapped = Path(f"/proc/{side.server.pid}/maps").read_text().splitlines()
    libraries = {line.split()[-1] for line in mapped if "/libllama" in line or "/libggml" in line}
    if not libraries or any(str(cache_dir()) not in library for library in libraries):
        sys.exit(f"the portable side did not load the portable library: {sorted(libraries)}")
