"""Proof that both sides run the same code: compile flags and what the library says of itself."""

import shlex
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.support.server import ServerProcess
from tools import wheel

from .sides import Shape, ours

_UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Build:
    """One side's library."""

    flags: str
    system_info: str


def of_ours(shape: Shape) -> Build:
    """The wheel's flags, and system_info from the running server's management port."""
    with ours(shape) as side:
        info = str(side.status()["system_info"])
    return Build(_flags(wheel.folder()), _normal(info))


def of_peer(shape: Shape, program: Path) -> Build:
    """The flags beside the program, and the line of its log that only shows when it is talkative."""
    talkative = ("--fit", "off", "--verbosity", "4")
    with ServerProcess(*shape.arguments(), *talkative, command=[str(program)]) as server:
        lines = [line for line in server.log.splitlines() if "system_info:" in line]
    if not lines:
        sys.exit(f"{program} does not print its system_info")
    # system_info: n_threads = 2 (n_threads_batch = 2) / 2 | CPU : SSE3 = 1 | ...
    return Build(_flags(program.parent), _normal(lines[0].partition("system_info:")[2].partition(" | ")[2]))


def _flags(folder: Path) -> str:
    file = folder / "flags.txt"
    return file.read_text().strip() if file.exists() else _UNKNOWN


def _normal(info: str) -> str:
    return " | ".join(part.strip() for part in info.split("|") if part.strip())


def differences(one: Build, other: Build) -> list[str]:
    """What is not the same; empty when the comparison is fair. Only GGML's flags decide about speed."""
    found = []
    if _UNKNOWN in (one.flags, other.flags):
        found.append("the flags of one build are unknown")
    elif _compute_flags(one.flags) != _compute_flags(other.flags):
        found.append(f"flags differ: {one.flags} / {other.flags}")
    if one.system_info != other.system_info:
        found.append(f"system_info differs: {one.system_info} / {other.system_info}")
    return found


def _compute_flags(flags: str) -> set[str]:
    return {flag for flag in shlex.split(flags) if flag.startswith("-DGGML_")}


def as_json(build: Build) -> dict[str, str]:
    """For the report."""
    return asdict(build)
