"""The two sides: this server and llama.cpp's own, started with the same arguments."""

import json
import os
import re
import time
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.server.process import ServerProcess, free_port

from .load import call, together
from .prompts import words

IDLE_DEADLINE = 120.0  # seconds
OURS, PEER = "ours", "peer"


@dataclass(frozen=True, slots=True)
class Shape:
    """What both sides are started with; `ctx` in tokens, for all slots together."""

    model: Path
    slots: int
    ctx: int
    threads: int
    gpu_layers: str = "0"

    def arguments(self) -> tuple[str, ...]:
        """Options that both programs spell the same."""
        return (
            *("--model", str(self.model)),
            *("--parallel", str(self.slots)),
            *("--ctx-size", str(self.ctx)),
            *("--threads", str(self.threads), "--threads-batch", str(self.threads)),
            *("--batch-size", "2048", "--ubatch-size", "512"),
            *("--cache-type-k", "f16", "--cache-type-v", "f16"),
            *("--flash-attn", "auto", "--no-kv-unified", "--cont-batching", "--cache-ram", "0"),
            *("--n-gpu-layers", self.gpu_layers, "--no-webui"),
        )


@dataclass(frozen=True, slots=True)
class Side:
    """One running server."""

    name: str
    server: ServerProcess
    management: int = 0  # port; ours only

    @property
    def port(self) -> int:
        """Where clients connect."""
        return self.server.port

    def wait_idle(self) -> None:
        """Poll /slots until no slot works, so that nothing of the measurement before is left."""
        end = time.monotonic() + IDLE_DEADLINE
        while any(slot["is_processing"] for slot in _get(f"{self.server.url}/slots")):
            if time.monotonic() > end:
                raise RuntimeError(f"{self.name} is still at work after {IDLE_DEADLINE:.0f} s")
            time.sleep(0.05)

    def status(self) -> dict[str, Any]:
        """The management port's /status."""
        found: dict[str, Any] = _get(f"http://127.0.0.1:{self.management}/status")
        return found

    def counters(self) -> dict[str, float]:
        """The management port's unlabelled metrics."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.management}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        return {name: float(value) for name, value in re.findall(r"^([\w:]+) (\S+)$", text, re.MULTILINE)}


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=IDLE_DEADLINE) as answer:
        return json.load(answer)


@contextmanager
def ours(
    shape: Shape, name: str = OURS, env: Mapping[str, str] | None = None, options: Sequence[str] = ()
) -> Iterator[Side]:
    """This server, as `python -m llamaserver`; `options` come last."""
    management = free_port()
    more = ("--management-port", str(management), "--management-host", "127.0.0.1", "--log-disable", *options)
    with ServerProcess(*shape.arguments(), *more, env=env) as server:
        yield Side(name, server, management)


@contextmanager
def peer(shape: Shape, program: Path, env: Mapping[str, str] | None = None) -> Iterator[Side]:
    """llama-server."""
    with ServerProcess(*shape.arguments(), "--fit", "off", command=[str(program)], env=env) as server:
        yield Side(PEER, server)


@contextmanager
def pair(shape: Shape, program: Path, env: Mapping[str, Mapping[str, str]]) -> Iterator[dict[str, Side]]:
    """Both, `env` by side; the one that is not measured sleeps."""
    with ExitStack() as stack:
        first = stack.enter_context(ours(shape, env=env[OURS]))
        second = stack.enter_context(peer(shape, program, env[PEER]))
        yield {OURS: first, PEER: second}


def clean_environment() -> list[str]:
    """Forget settings of the shell that one of the programs would read; returns their names."""
    prefixes = ("OMP_", "GOMP_", "KMP_", "GGML_", "LLAMA_")
    names = [name for name in os.environ if name.startswith(prefixes) and name != "LLAMA_SERVER_BIN"]
    for name in names:
        del os.environ[name]
    return names


def warm_up(sides: Iterable[Side]) -> None:
    """One short answer from each, unmeasured: pages, branches and buffers."""
    for side in sides:
        together([call(side.port, words("warm up", 16), 16)])
