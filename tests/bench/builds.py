"""Proof that both sides compute with the same code: the CPU module that each has loaded, and what its library says."""

import hashlib
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.support.server.process import ServerProcess

from .sides import Shape, ours


@dataclass(frozen=True, slots=True)
class Build:
    """One side's library, as a running process has it."""

    module: str  # file name and SHA-256 of the CPU module
    system_info: str


def of_ours(shape: Shape) -> Build:
    """The module that our server has mapped, and system_info from its management port."""
    with ours(shape) as side:
        return Build(_module(side.server.pid), _normal(str(side.status()["system_info"])))


def of_peer(shape: Shape, program: Path) -> Build:
    """The module that the peer has mapped, and the line of its log that only shows when it is talkative."""
    talkative = ("--fit", "off", "--verbosity", "4")
    with ServerProcess(*shape.arguments(), *talkative, command=[str(program)]) as server:
        module = _module(server.pid)
        lines = [line for line in server.log.splitlines() if "system_info:" in line]
    if not lines:
        sys.exit(f"{program} does not print its system_info")
    # system_info: n_threads = 2 (n_threads_batch = 2) / 2 | CPU : SSE3 = 1 | ...
    return Build(module, _normal(lines[0].partition("system_info:")[2].partition(" | ")[2]))


def _module(pid: int) -> str:
    mapped = {line.split()[-1] for line in Path(f"/proc/{pid}/maps").read_text().splitlines()}
    modules = sorted(path for path in mapped if "/libggml-cpu" in path)
    return " ".join(f"{Path(path).name} {hashlib.sha256(Path(path).read_bytes()).hexdigest()}" for path in modules)


def _normal(info: str) -> str:
    return " | ".join(part.strip() for part in info.split("|") if part.strip())


def differences(one: Build, other: Build) -> list[str]:
    """What is not the same; empty when the comparison is fair."""
    found = []
    if "" in (one.module, other.module):
        found.append("the CPU module of one side is unknown")
    elif one.module != other.module:
        found.append(f"the CPU modules differ: {one.module} / {other.module}")
    if one.system_info != other.system_info:
        found.append(f"system_info differs: {one.system_info} / {other.system_info}")
    return found


def as_json(build: Build) -> dict[str, str]:
    """For the report."""
    return asdict(build)
