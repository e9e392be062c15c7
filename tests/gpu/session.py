"""What every step works with: the libraries, the models, the sizes, and servers started on them."""

import importlib.util
import json
import os
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench import sides
from tests.bench.sides import Shape, Side
from tools import model, peer, sdist
from tools.cache import cache_dir

from . import weights
from .hardware import Gpu
from .report import NotRun
from .weights import Dimensions

SOURCE, PEER, VOCABULARY, FAULT = "source.tar.xz", "peer.tar.xz", "vocabulary.gguf", "amx-fault.so"
ALL = "999"  # layers
_ANSWER = 120.0  # seconds


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything, in tokens unless said otherwise."""

    small: Dimensions
    large: Dimensions
    rounds: int
    one: int
    streams: int  # at once
    each: int
    conversation: int
    long_prompt: int
    context: int  # of a slot while the long prompt is measured


FULL = Sizes(
    small=Dimensions("random-1b-q8_0", 16, 2048, 32, 8, 8192, "Q8_0"),
    large=Dimensions("random-8b-q4_0", 32, 4096, 32, 8, 14336, "Q4_0"),
    rounds=3,
    one=384,
    streams=32,
    each=128,
    conversation=4000,
    long_prompt=8000,
    context=12_288,
)
TINY = Sizes(
    small=Dimensions("random-tiny-q8_0", 2, 64, 2, 1, 192, "Q8_0"),
    large=Dimensions("random-tiny-q4_0", 2, 128, 2, 2, 256, "Q4_0"),
    rounds=1,
    one=32,
    streams=8,
    each=16,
    conversation=300,
    long_prompt=700,
    context=2048,
)


@dataclass(frozen=True, slots=True)
class Session:
    """One run of the kit. `card` is None where the run is about the CPU alone."""

    work: Path
    pack: Path | None
    sizes: Sizes
    card: Gpu | None
    threads: int

    # ---- what there is

    @property
    def cpu_libraries(self) -> Path:
        """The folder of llama-cpp-python's own libraries."""
        found = importlib.util.find_spec("llama_cpp")
        if found is None or not found.submodule_search_locations:
            raise NotRun("llama_cpp is not installed")
        return Path(found.submodule_search_locations[0]) / "lib"

    @property
    def libraries(self) -> Path:
        """The libraries under test: with the CUDA module where there is a card."""
        return self.work / "libraries" if self.card else self.cpu_libraries

    @property
    def peer(self) -> Path | None:
        """llama-server with the same module, None where it is not here."""
        folder = self.work / "peer" if self.card else self.cpu_peer()
        return folder / "llama-server" if folder and folder.exists() else None

    def cpu_peer(self) -> Path | None:
        """The folder of llama-server as it was built."""
        if os.environ.get("LLAMA_SERVER_BIN"):
            return peer.ensure().parent  # exits when it is no program
        if self.pack:
            return self._unpacked(PEER)
        return found if (found := peer.folder()).exists() else None

    def source(self) -> Path:
        """llama.cpp's source, patched as everything else is."""
        if self.pack:
            if unpacked := self._unpacked(SOURCE):
                return unpacked
            raise NotRun(f"{SOURCE} is not in {self.pack}")
        folder = self.work / "source"
        if not folder.exists():
            sdist.unpack(folder)
        (top,) = folder.iterdir()
        return top / "vendor" / "llama.cpp"

    @property
    def fault(self) -> Path | None:
        """The AMX module as GCC 12 compiles it without our patch, where the pack has it."""
        found = self.pack / FAULT if self.pack else None
        return found if found and found.exists() else None

    def _unpacked(self, name: str) -> Path | None:
        assert self.pack
        archive, folder = self.pack / name, self.work / "unpacked" / name.partition(".")[0]
        if not folder.exists():
            if not archive.exists():
                return None
            scratch = folder.with_suffix(".part")
            with tarfile.open(archive) as opened:
                opened.extractall(scratch, filter="data")
            scratch.rename(folder)
        return folder

    # ---- models

    @property
    def real_model(self) -> Path | None:
        """The default model, where it is here."""
        places = [cache_dir() / "models" / model.NAME, *([self.pack / model.NAME] if self.pack else [])]
        return next((place for place in places if place.exists()), None)

    def random_model(self, dimensions: Dimensions) -> Path:
        """A random model, written at the first call."""
        folder = self.work / "models"
        folder.mkdir(exist_ok=True)
        return weights.ensure(folder, dimensions, self.vocabulary)

    @property
    def vocabulary(self) -> Path:
        """A file with the default model's tokenizer."""
        packed = self.pack / VOCABULARY if self.pack else None
        if packed and packed.exists():
            return packed
        if found := self.real_model:
            return found
        raise NotRun(f"neither the default model nor {VOCABULARY} is here")

    # ---- servers

    def shape(self, path: Path, slots: int, ctx: int) -> Shape:
        """All layers on the GPU, where there is one; `ctx` tokens for all slots together."""
        return Shape(path, slots, ctx, self.threads, ALL)

    @contextmanager
    def ours(
        self, shape: Shape, *options: str, libraries: Path | None = None, env: Mapping[str, str] | None = None
    ) -> Iterator[Side]:
        """This server on the libraries under test, or on others."""
        chosen = {"LLAMA_CPP_LIB_PATH": str(libraries or self.libraries), **(env or {})}
        with sides.ours(shape, env=chosen, options=options) as side:
            yield side

    @contextmanager
    def both(self, shape: Shape) -> Iterator[dict[str, Side]]:
        """This server and, where it is here, llama-server."""
        with self.ours(shape) as first:
            if self.peer is None:
                yield {sides.OURS: first}
                return
            with sides.peer(shape, self.peer) as second:
                yield {sides.OURS: first, sides.PEER: second}


def post(side: Side, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """POST JSON, get JSON; RuntimeError with the answer's text when it is refused."""
    request = urllib.request.Request(
        f"{side.server.url}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER) as answer:
            return dict(json.load(answer))
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{path}: {error.code} {error.read().decode(errors='replace')[:500]}") from error


def complete(side: Side, prompt: str | Sequence[int], n_predict: int, **more: Any) -> dict[str, Any]:
    """POST /completion at temperature 0, exactly so many tokens."""
    plain = {"temperature": 0, "ignore_eos": True, "return_tokens": True}
    return post(side, "/completion", {"prompt": prompt, "n_predict": n_predict, **plain, **more})


def readyz(side: Side) -> tuple[int, str]:
    """Status and text of the management port's /readyz."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{side.management}/readyz", timeout=30) as answer:
            return answer.status, answer.read().decode().strip()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode().strip()
