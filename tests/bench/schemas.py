"""Answers that fit a JSON schema: tokens/s as they stream, what a neighbour feels, and the masks of tokens alone."""

import itertools
import os
import random
import statistics
import time
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib
from llamaserver.grammar.compiler import Compiler
from llamaserver.grammar.json_schema import json_value
from llamaserver.llama import devices
from llamaserver.llama.vocab import LlamaVocab

from tests.support.engine.vocab import ListVocab

from . import machine
from .load import chat, together
from .prompts import words
from .rounds import Bench, Figures, Row, Samples, alternate, pids, two_ways
from .sides import Shape, Side, pair, warm_up
from .stats import Target

PROMPT = 32  # tokens
# The answer is longer than what is measured, so both sides write as many tokens.
SCHEMA: dict[str, Any] = {
    "type": "array",
    "minItems": 200,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 4, "maxLength": 24},
            "kind": {"enum": ["person", "place", "thing"]},
            "count": {"type": "integer", "minimum": 0},
        },
        "required": ["name", "kind", "count"],
        "additionalProperties": False,
    },
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "list", "schema": SCHEMA}}
AS_FAST, NO_WORSE, SHORT = Target(">=", 1.0), Target("<=", 1.2), Target("<=", 1.0)
LARGE = 152_000  # tokens, as many as Qwen's vocabularies have
MASKS = 400  # of each round


def json_schema(bench: Bench) -> tuple[list[Row], Samples]:
    """One answer, from its first token to its last."""
    count = bench.sizes.tools

    def measure(side: Side, number: int) -> Figures:
        message = words(f"json_schema {number}", PROMPT)
        (answer,) = together([chat(side.port, message, count, response_format=FORMAT)])
        return {"tokens_per_second": answer.rate}

    with pair(Shape(bench.model, 1, 2048, bench.threads), bench.program, bench.env) as sides:
        warm_up(sides.values())
        samples = alternate("json_schema", bench.sizes.rounds, sides, measure, pids(sides))
    return [samples.versus_peer("json_schema", "tokens_per_second", "tokens/s", AS_FAST)], samples


def schema_neighbour(bench: Bench) -> tuple[list[Row], Samples]:
    """Longest of 20 gaps of a stream (the 95th percentile), beside an answer with a schema and beside a plain one."""
    count = bench.sizes.tools

    def measure(side: Side, number: int) -> Figures:
        stream = chat(side.port, words(f"stream {side.name} {number}", PROMPT), count)
        more = {"response_format": FORMAT} if side.name == "schema" else {}
        beside = chat(side.port, words(f"beside {side.name} {number}", PROMPT), count, **more)
        answer, _ = together([stream, beside])
        gaps = [after - before for before, after in itertools.pairwise(answer.times)]
        return {"gap": 1000 * statistics.quantiles(gaps, n=20)[-1]}

    ways, shape = ("schema", "plain"), Shape(bench.model, 2, 4096, bench.threads)
    samples = two_ways("schema_neighbour", bench.sizes.rounds, shape, ways, measure)
    return [samples.ratio_row("schema_neighbour", "gap", "ms", NO_WORSE, ways)], samples


def masks(bench: Bench) -> tuple[list[Row], Samples]:
    """Milliseconds for the mask of a token (the 90th percentile), with the model's vocabulary and with a large one."""
    real = _vocabulary(bench.model)
    pieces = [real.piece(token) for token in range(real.n_vocab)]
    plain = [piece for piece in pieces if piece.isalpha()]
    draw = random.Random(1)
    longer = {draw.choice(plain) + draw.choice(plain) for _ in range(LARGE)} - set(pieces)
    large = ListVocab([*pieces, *sorted(longer)[: LARGE - len(pieces)]], eog=sorted(real.eog))
    samples = Samples()
    for name, vocab in (("model", real), ("large", large)):
        start = Compiler(vocab)("start: " + json_value(SCHEMA).lark)
        for number in range(bench.sizes.rounds):
            with machine.watching((os.getpid(),)) as others:
                samples.add(name, {"mask": 1000 * _ninth_tenth(start, number)})
            samples.others.append(others.cores)
    return [
        samples.plain_row(f"mask_{name}", "mask", "ms", SHORT, side)
        for name, side in ((f"{real.n_vocab // 1000}k", "model"), (f"{LARGE // 1000}k", "large"))
    ], samples


def _vocabulary(model: Path) -> LlamaVocab:
    devices.initialise()
    params = lib.llama_model_default_params()
    params.vocab_only = True
    loaded = lib.llama_model_load_from_file(str(model).encode(), params)
    return LlamaVocab(lib.llama_model_get_vocab(loaded))


def _ninth_tenth(start: Any, seed: int) -> float:
    """Seconds that nine of ten masks do not exceed, on a random answer."""
    draw = random.Random(seed)
    times: list[float] = []
    matcher = start.copy()
    while len(times) < MASKS:
        begun = time.perf_counter()
        allowed = matcher.allowed()
        times.append(time.perf_counter() - begun)
        token = int(draw.choice(allowed))
        matcher.accept(token)
    return statistics.quantiles(times, n=10)[-1]
