"""Answers that fit a JSON schema: tokens/s as they stream."""

from typing import Any

from .load import chat, together
from .prompts import words
from .rounds import Bench, Figures, Row, Samples, alternate, pids
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
AS_FAST = Target(">=", 1.0)


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
