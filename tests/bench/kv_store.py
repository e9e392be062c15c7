"""The KV store: a conversation after a restart or out of memory, MB/s, and what saving costs a stream beside it."""

import ctypes
import signal
import tempfile
import time
from array import array
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
from llamaserver.config import Config
from llamaserver.engine_options import load_options
from llamaserver.interfaces.backend import Batch
from llamaserver.kvstore.messages import Lookup, StoreOptions
from llamaserver.kvstore.messages import Shape as StoreShape
from llamaserver.kvstore.store import KVStore
from llamaserver.llama.backend import LlamaBackend

from tools.cache import say

from . import machine
from .load import call, metronome, together
from .prompts import words
from .rounds import Bench, Figures, Row, Samples, alternate, pids, turns
from .sides import OURS, PEER, Shape, Side, ours, peer, warm_up
from .stats import Target

OWN = 16  # tokens of a turn
ANSWER = 8
PACE = 120  # tokens of the stream for each conversation that ends beside it
RESTART, RAM, KEPT = Target("<=", 1 / 10), Target("<=", 1 / 10), Target(">=", 0.97)
_WITH, _WITHOUT = "saving", "not_saving"


def _first(side: Side, prompt: str) -> float:
    (answer,) = together([call(side.port, prompt, ANSWER)])
    return answer.first


def kv_restart(bench: Bench) -> tuple[list[Row], Samples]:
    """One turn, the server ends and starts again, the next turn: its time to first token."""
    shape = Shape(bench.model, 2, 4096, bench.threads)
    samples = Samples()
    with tempfile.TemporaryDirectory(prefix="kv-store-") as folder:

        @contextmanager
        def start(name: str) -> Iterator[Side]:
            kept = ("--kv-store", folder, "--drain-delay", "0")
            context = (
                ours(shape, env=bench.env[OURS], options=kept)
                if name == OURS
                else peer(shape, bench.program, bench.env[PEER])
            )
            with context as side:
                yield side
                side.wait_idle()
                side.server.stop(signal.SIGTERM)

        for number, name in turns(bench.sizes.rounds, (OURS, PEER)):
            prompt = words(f"restart {number}", bench.sizes.prefix)
            with start(name) as side:
                _first(side, prompt)
            with start(name) as side:
                warm_up([side])
                with machine.watching((side.server.pid,)) as others:
                    figures = {"first": _first(side, prompt + words(f"turn {number}", OWN))}
            samples.add(name, figures)
            samples.others.append(others.cores)
            say(f"kv_restart {number + 1}/{bench.sizes.rounds} {name}: {figures['first']:.4g} s")
    return [samples.versus_peer("kv_restart", "first", "s to first token", RESTART)], samples


def kv_ram(bench: Bench) -> tuple[list[Row], Samples]:
    """One slot: a conversation that another one has pushed out comes back, against evaluating as long a prompt."""
    shape = Shape(bench.model, 1, 2048, bench.threads)
    with ours(shape, env=bench.env[OURS], options=("--cache-ram", "512")) as side:
        warm_up([side])

        def measure(side: Side, number: int) -> Figures:
            first, second = (words(f"{name} {number}", bench.sizes.prefix) for name in ("stays", "pushes"))
            _first(side, first)
            prefill = _first(side, second)
            hit = _first(side, first + words(f"turn {number}", OWN))
            return {"hit": hit, "prefill": prefill, "ratio": hit / prefill}

        samples = alternate("kv_ram", bench.sizes.rounds, {OURS: side}, measure, (side.server.pid,))
    row = samples.plain_row("kv_ram", "ratio", "hit / prefill, s to first token", RAM)
    row.notes["seconds"] = {name: samples.medians(name)[OURS] for name in ("hit", "prefill")}
    return [row], samples


def kv_throughput(bench: Bench) -> tuple[list[Row], Samples]:
    """MB/s of state through the store, and of the library's own calls on the same state."""
    options = load_options(Config(ctx_size=2048, threads=bench.threads, n_gpu_layers=0), bench.model)
    backend = LlamaBackend(options, lambda _: True)
    samples = Samples()
    try:
        length = bench.sizes.prefix
        for number in range(bench.sizes.rounds):
            with machine.watching(()) as others, tempfile.TemporaryDirectory(prefix="kv-store-") as folder:
                figures = _throughput(backend, length, number, Path(folder))
            samples.add(OURS, figures)
            samples.others.append(others.cores)
            say(f"kv_throughput {number + 1}: " + ", ".join(f"{name} {value:.0f}" for name, value in figures.items()))
    finally:
        backend.close()
    rows = [samples.plain_row(f"kv_{name}", name, "MB/s", None) for name in ("save", "restore")]
    for row in rows:
        row.notes["library"] = samples.medians(f"library_{row.name[3:]}")[OURS]
    return rows, samples


def _throughput(backend: LlamaBackend, length: int, number: int, folder: Path) -> Figures:
    backend.seq_rm(0, 0)
    tokens = np.random.default_rng(number).integers(1000, 20000, length).tolist()
    for at in range(0, length, 512):
        batch = Batch()
        for i, token in enumerate(tokens[at : at + 512]):
            batch.add(token, at + i, 0, at + i == length - 1)
        backend.decode(batch)
    figures: Figures = {}
    state = backend.state_export(0)
    pointer = ctypes.cast(state.ctypes.data, ctypes.POINTER(ctypes.c_uint8))
    megabytes = len(state) / 1e6

    def timed(name: str, call: Any) -> None:
        began = time.monotonic()
        call()
        figures[name] = megabytes / (time.monotonic() - began)

    timed("library_save", lambda: lib.llama_state_seq_get_data(backend._context, pointer, len(state), 0))
    timed("library_restore", lambda: lib.llama_state_seq_set_data(backend._context, pointer, len(state), 0))
    keys = array("q", tokens)
    store = KVStore(StoreOptions(folder=folder), StoreShape(bytes(16), codec=backend.codec))
    store.start(lambda: None)

    def save() -> None:
        store.save(keys, (), backend.state_export(0))
        _wait(lambda: not store.waiting)

    def restore() -> None:
        lookup = Lookup(keys, (), ())
        store.find(lookup)
        _wait(lambda: lookup.done)
        assert lookup.offer is not None
        assert lookup.offer.length == length
        assert backend.state_import(0, lookup.offer.state)

    timed("save", save)
    timed("restore", restore)
    store.stop()
    store.join()
    return figures


def _wait(done: Any) -> None:
    while not done():
        time.sleep(0.0002)


def kv_overhead(bench: Bench) -> tuple[list[Row], Samples]:
    """A stream while each second a conversation ends beside it: its rate with a store, against that without."""
    beats = bench.sizes.beats
    shape = Shape(bench.model, 2, 4096, bench.threads)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="kv-store-"))
        env = bench.env[OURS]
        sides = {
            _WITH: stack.enter_context(ours(shape, _WITH, env, ("--kv-store", folder))),
            _WITHOUT: stack.enter_context(ours(shape, _WITHOUT, env)),
        }
        warm_up(sides.values())

        def measure(side: Side, number: int) -> Figures:
            base = words(f"talk {number}", bench.sizes.prefix)
            together([call(side.port, base, 1, id_slot=1)])
            more = [base + words(f"more {number}", 4 * (i + 1)) for i in range(beats)]
            ends = [call(side.port, text, 1, id_slot=1) for text in more]
            stream = call(side.port, words(f"stream {side.name} {number}", 32), PACE * beats, id_slot=0)
            running, ended = metronome(stream, ends, after=8, seconds=1.0)
            gap = running.longest_gap(ended[0].sent, running.times[-1])
            return {"rate": running.rate, "gap": gap, "ended": float(len(ended))}

        samples = alternate("kv_overhead", bench.sizes.rounds, sides, measure, pids(sides))
        written = sides[_WITH].counters()["llamaserver:kv_saves_total"]
    row = samples.ratio_row("kv_overhead", "rate", "tokens/s", KEPT, (_WITH, _WITHOUT))
    row.notes.update({"longest_gap_s": samples.medians("gap"), "saves": written, "ended": samples.medians("ended")})
    return [row], samples
