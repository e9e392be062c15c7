"""`python -m tests.bench`: progress on stderr, and one line of JSON on stdout at the end.

Needs LLAMA_SERVER_BIN or builds llama-server (tools/peer.py). Exit code 1 when a target was missed.
"""

import argparse
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from llamaserver.threads import default_threads

from tools import model, peer
from tools.cache import say

from . import builds, machine, report
from .cancel import cancel
from .kv_store import kv_overhead, kv_ram, kv_restart, kv_throughput
from .long_prompt import long_prompt
from .prefix import shared_prefix
from .rounds import QUICK, Bench, Row, Samples, Sizes
from .schemas import json_schema, masks, schema_neighbour
from .sides import OURS, PEER, Shape, clean_environment
from .throughput import eight_streams, one_stream
from .tiny import tiny
from .tools import tools, tools_first_token
from .two_servers import two_servers

WORKLOADS: dict[str, Callable[[Bench], tuple[list[Row], Samples]]] = {
    "one_stream": one_stream,
    "eight_streams": eight_streams,
    "shared_prefix": shared_prefix,
    "long_prompt": long_prompt,
    "tiny": tiny,
    "cancel": cancel,
    "two_servers": two_servers,
    "tools": tools,
    "tools_first_token": tools_first_token,
    "json_schema": json_schema,
    "schema_neighbour": schema_neighbour,
    "masks": masks,
    "kv_restart": kv_restart,
    "kv_ram": kv_ram,
    "kv_throughput": kv_throughput,
    "kv_overhead": kv_overhead,
}


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure against llama-server.")
    parser.add_argument("--only", default="", help=f"comma-separated, of {', '.join(WORKLOADS)}")
    parser.add_argument("--rounds", type=int, help="turns of each side (default: 7; with --quick 1)")
    parser.add_argument("--quick", action="store_true", help="small sizes, to try the harness; no figures to quote")
    parser.add_argument("--force", action="store_true", help="measure although the machine is busy or builds differ")
    parser.add_argument("--threads", type=int, default=0, help="of both sides (default: what the server would take)")
    for side in (OURS, PEER):
        text = f"environment of {side}, to see what it changes"
        parser.add_argument(f"--{side}-env", action="append", default=[], metavar="NAME=VALUE", help=text)
    chosen = parser.parse_args(argv)
    chosen.only = [name for name in chosen.only.split(",") if name] or list(WORKLOADS)
    if unknown := [name for name in chosen.only if name not in WORKLOADS]:
        parser.error(f"unknown workload {unknown[0]}; known are {', '.join(WORKLOADS)}")
    if chosen.rounds is not None and chosen.rounds < 1:
        parser.error("--rounds must be at least 1")
    return chosen


def _environment(items: Sequence[str]) -> dict[str, str]:
    return dict(item.split("=", 1) for item in items)


def require_quiet(force: bool) -> float:
    """Cores that others use now; exits when that is too much, unless forced."""
    others = machine.others_now()
    if others > machine.QUIET:
        text = f"other processes use {others:.2f} cores (at most {machine.QUIET:g} would do)"
        if not force:
            sys.exit(f"the machine is busy: {text}; wait, or measure anyway with --force")
        say(f"the machine is busy, measuring anyway: {text}")
    return others


def require_equal_builds(bench: Bench, force: bool) -> dict[str, Any]:
    """Both builds, shown; exits when they are not the same code, unless forced."""
    shape = Shape(bench.model, 1, 512, bench.threads)
    ours, theirs = builds.of_ours(shape), builds.of_peer(shape, bench.program)
    for name, build in (("ours", ours), ("peer", theirs)):
        say(f"{name}: CPU module {build.module}\n{name}: system_info {build.system_info}")
    if found := builds.differences(ours, theirs):
        text = "; ".join(found)
        if not force:
            sys.exit(f"the two sides do not run the same code: {text}; --force compares them anyway")
        say(f"the two sides do not run the same code, measuring anyway: {text}")
    return {"ours": builds.as_json(ours), "peer": builds.as_json(theirs), "differences": found}


def run(chosen: argparse.Namespace) -> dict[str, Any]:
    """Measure everything that was asked for."""
    began = time.monotonic()
    removed = clean_environment()
    sizes = QUICK if chosen.quick else Sizes()
    sizes = replace(sizes, rounds=chosen.rounds or sizes.rounds)
    bench = Bench(
        model=model.ensure(),
        program=peer.ensure(),
        env={OURS: _environment(chosen.ours_env), PEER: _environment(chosen.peer_env)},
        threads=chosen.threads or default_threads(),
        sizes=sizes,
    )
    others = require_quiet(chosen.force)
    result: dict[str, Any] = {
        "model": bench.model.name,
        "rounds": sizes.rounds,
        "quick": chosen.quick,
        "forced": chosen.force,
        "threads": bench.threads,
        "environment": bench.env,
        "environment_removed": removed,
        "machine": machine.describe(),
        "others_cores_before": round(others, 3),
        "builds": require_equal_builds(bench, chosen.force),
    }
    result["rows"] = measure_all(bench, chosen.only)
    rows = result["rows"].values()
    result["all_met"] = all(row["met"] is not False for row in rows)
    result["quiet"] = all(row["others_cores"]["median"] <= machine.QUIET for row in rows if "error" not in row)
    result["seconds"] = round(time.monotonic() - began)
    return result


def measure_all(bench: Bench, names: Sequence[str]) -> dict[str, Any]:
    """One workload after the other."""
    found: dict[str, Any] = {}
    lines = []
    for name in names:
        try:
            rows, samples = WORKLOADS[name](bench)
        except Exception as error:  # the minutes spent on the others shall not be lost
            traceback.print_exc()
            found[name] = {"error": f"{type(error).__name__}: {error}", "met": False}
            lines.append(f"{name:22} FAILED: {error}")
            continue
        for row in rows:
            found[row.name] = report.row_json(row, samples)
            lines.append(report.line(row))
            say(lines[-1])
    say("\n".join(["", *lines]))
    return found


def main() -> int:
    """Exit code 0 when every target was met."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are stopped
    result = run(arguments(sys.argv[1:]))
    print(report.dumps(result))
    return 0 if result["all_met"] else 1


if __name__ == "__main__":
    sys.exit(main())
