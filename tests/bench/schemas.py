"""Answers that fit a JSON schema: tokens/s as they stream, what a neighbour feels, and the masks of tokens alone."""

import itertools
import random
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib
from llamaserver.grammar.compiler import Compiler
from llamaserver.grammar.json_schema import json_value
from llamaserver.llama import devices
from llamaserver.llama.vocab import LlamaVocab

from tests.support.engine.vocab import ListVocab

from .load import chat, together
from .prompts import words
from .rounds import Bench, Figures, Row, Samples, alternate, pids
from .sides import Shape, Side, ours, pair, warm_up
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
AS_FAST, NO_WORSE, SHORT = Target(">=", 1.0), Target("<=", 1.2), Target("<=", 1.0)
LARGE = 152_000  # tokens, as many as Qwen's vocabularies have
MASKS = 400  # of each round


def json_schema(bench: Bench) -> tuple[list[Row], Samples]:
    """One answer, from its first token to its last."""
    count = bench.sizes.tools

    def measure(side: Side, number: int) -> Figures:
        message = words(f"json_schema {number}", PROMPT)
        wanted = {"type": "json_schema", "json_schema": {"name": "list", "schema": SCHEMA}}
        (answer,) = together([chat(side.port, message, count, response_format=wanted)])
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
        wanted = {"type": "json_schema", "json_schema": {"name": "list", "schema": SCHEMA}}
        more = {"response_format": wanted} if side.name == "schema" else {}
        beside = chat(side.port, words(f"beside {side.name} {number}", PROMPT), count, **more)
        answer, _ = together([stream, beside])
        gaps = [after - before for before, after in itertools.pairwise(answer.times)]
        return {"gap": 1000 * statistics.quantiles(gaps, n=20)[-1]}

    with ours(Shape(bench.model, 2, 4096, bench.threads)) as side:
        sides = {name: replace(side, name=name) for name in ("schema", "plain")}
        warm_up([side])
        for each in sides.values():
            measure(each, -1)
        samples = alternate("schema_neighbour", bench.sizes.rounds, sides, measure, pids(sides))
    return [samples.ratio_row("schema_neighbour", "gap", "ms", NO_WORSE, ("schema", "plain"))], samples


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
            samples.add(name, {"mask": 1000 * _ninth_tenth(start, number)})
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
