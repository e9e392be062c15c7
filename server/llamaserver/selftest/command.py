"""The command `llamaserver selftest`: arguments, the table, the exit code.

A portable build brings a CPU module for each kind of CPU, and the server takes the best. The command
runs each that this machine can run, and compares logits. Exit codes: 0 all are right, 1 one is
not, 2 usage.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from .. import cpu
from ..llama import cpu_modules, devices, trial
from ..threads import default_threads
from .compare import MEAN_LIMIT, WORST_LIMIT
from .run import Modules, Result, look, run

_HEADER = ("module", "type", "largest", "mean", "relative", "worst row", "same top", "weights in", "verdict")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"llamaserver selftest: {message}\nTry llamaserver selftest --help.", file=sys.stderr)
        sys.exit(2)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line after `selftest`. Exits with 2 if it is wrong."""
    parser = _Parser(
        "llamaserver selftest",
        allow_abbrev=False,
        description="Run a model with each CPU module of this build that this machine can run. For each, compare the "
        "logits of a 64-token prompt and of ten more tokens with those of the simplest module.",
        epilog="Exit codes: 0 all modules are right, 1 a module is wrong, 2 wrong options. The test loads the model "
        "itself, so it needs memory beside a running server.",
    )
    parser.add_argument("-m", "--model", required=True, metavar="FNAME", help="Model file (GGUF)")
    parser.add_argument(
        "--types", default="", metavar="TYPES",
        help="Quantize the model to these types and test those, for example Q4_0,Q4_K,Q8_0,F16 (temporary files)",
    )  # fmt: skip
    parser.add_argument("--modules", default="", metavar="NAMES", help="Test only these modules, comma-separated")
    parser.add_argument(
        "-t", "--threads", type=int, default=0, metavar="N", help="Threads (default: as many as the server uses)"
    )
    parser.add_argument(
        "--timeout", type=float, default=1800.0, metavar="N", help="Most seconds for one module (default: 1800)"
    )
    parser.add_argument("--json", action="store_true", help="Print one JSON object instead of the table")
    args = parser.parse_args(list(argv))
    args.types, args.modules = (tuple(filter(None, text.split(","))) for text in (args.types, args.modules))
    _known(parser, "--types", args.types, sorted(trial.file_types()))
    _known(parser, "--modules", args.modules, list(cpu_modules.modules(devices.folder())))
    if not Path(args.model).is_file():
        parser.error(f"--model: {args.model} is no file")
    return args


def _known(parser: _Parser, option: str, given: Sequence[str], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            parser.error(f"{option}: {name} is none of {', '.join(known) or 'this build, which has none'}")


def main(argv: Sequence[str]) -> NoReturn:
    """Run the command. Does not return."""
    args = parse(argv)
    modules = look(args.timeout)
    results = []
    for result in run(
        args.model, args.types, modules.only(args.modules), args.threads or default_threads(), args.timeout
    ):
        results.append(result)
        print(f"{result.module}, {result.type}: {result.verdict}", file=sys.stderr)
    verdicts = {result.verdict for result in results}
    ok = "FAILED" not in verdicts and "reference" in verdicts
    if args.json:
        print(json.dumps(_body(modules, results, ok=ok)))
    else:
        print("\n".join(report(modules, results, ok=ok)))
    sys.exit(0 if ok else 1)


def _body(modules: Modules, results: Sequence[Result], *, ok: bool) -> dict[str, Any]:
    """The JSON object. An infinite difference is null."""

    def plain(result: Result) -> dict[str, Any]:
        value = asdict(result)
        for name, number in (value["difference"] or {}).items():
            value["difference"][name] = number if math.isfinite(number) else None
        return value

    limits = {"relative": MEAN_LIMIT, "worst": WORST_LIMIT}
    return {
        "cpu": cpu.model(),
        "serving": modules.choice,
        "ok": ok,
        "limits": limits,
        "results": [plain(result) for result in results],
    }


def report(modules: Modules, results: Sequence[Result], *, ok: bool) -> list[str]:
    """The table for a person, and the conclusion."""
    lines = [_HEADER, *map(_cells, results)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return [
        f"CPU: {cpu.model()}",
        f"The server uses the module: {modules.choice or 'none'}",
        "",
        *table,
        "",
        f"Weights in a special layout for the CPU: {_reordered(results) or 'none of this type'}.",
        f"A module is right when its relative difference is at most {MEAN_LIMIT}, and {WORST_LIMIT} in its worst row.",
        _conclusion(results, ok=ok),
    ]


def _reordered(results: Sequence[Result]) -> str:
    """The modules that keep weights in a special memory layout, such as AMX."""
    users: dict[str, list[str]] = {}
    for result in results:
        for kind in set(result.weights_in) - {"CPU", "CPU_Mapped"}:
            users.setdefault(kind, []).append(result.module)
    return "; ".join(f"{kind} by {', '.join(dict.fromkeys(names))}" for kind, names in sorted(users.items()))


def _conclusion(results: Sequence[Result], *, ok: bool) -> str:
    ran = {result.module for result in results if result.verdict != "not run"}
    if ok:
        return f"All {len(ran)} modules that this machine can run are right." if len(ran) > 1 else "It runs."
    if ran and all(result.verdict in ("FAILED", "not run") for result in results):
        return "All modules fail. The model file is at fault, and probably not this machine."
    failed = sorted({result.module for result in results if result.verdict == "FAILED"})
    return f"Wrong on this machine: {', '.join(failed) or 'it can run no module'}."


def _cells(result: Result) -> tuple[str, ...]:
    found = result.difference
    numbers = ("", "", "", "", "")
    if found is not None:
        numbers = (
            f"{found.largest:.3f}", f"{found.mean:.4f}", f"{found.relative:.4f}", f"{found.worst:.4f}",
            f"{found.same_top}/{found.rows}",
        )  # fmt: skip
    verdict = f"{result.verdict}: {result.why}" if result.why else result.verdict
    return (result.module, result.type, *numbers, "+".join(result.weights_in), verdict)
