"""`make fuzz`: requests as products of maxima from four clients. Prints a table, and fails when a bound is exceeded.

The model has random weights, so that the time goes into the server, and the vocabulary of the default one.
A request is drawn from its number and the seed. So `--only NUMBER` sends one request of an earlier run again.
"""

import argparse
import math
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench import tiny_model
from tests.fuzz.run import Outcome, fuzz, table
from tests.support.models import Models
from tests.support.paths import model_path

_LAG = 100  # milliseconds
_GROWTH = 300 << 20  # bytes
_PROBE = 1.0  # seconds


def main(arguments: list[str]) -> int:
    """Run, print, compare with the bounds."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=math.inf, help="send no more requests after this time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--real", action="store_true", help="the default model instead of one of random weights")
    parser.add_argument("--ranking", action="store_true", help="send requests to a server that ranks documents")
    parser.add_argument("--only", type=int, action="append", help="the number of one request")
    options = parser.parse_args(arguments)
    with TemporaryDirectory() as folder:
        if options.ranking:
            kind, model = "ranking", Models(Path(folder)).reranker()
        else:
            kind, model = "generating", model_path() if options.real else tiny_model.ensure()
        outcome = fuzz(kind, model, options.only or range(options.requests), options.seed, seconds=options.seconds)
    print(table(outcome))
    return int(bool(exceeded(outcome)))


def exceeded(outcome: Outcome) -> list[str]:
    """The bounds that a run has exceeded."""
    checks = {
        "answers": not outcome.wrong,
        "memory": outcome.grown <= _GROWTH,
        "lag": outcome.lag(0.999) <= _LAG,
        "/livez": max(outcome.probes, default=0.0) <= _PROBE,
    }
    return [name for name, good in checks.items() if not good]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
