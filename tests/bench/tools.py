"""Chats with tools that the model need not call: tokens/s, and what their grammar costs before the first token."""

from typing import Any

from .load import chat, together
from .prompts import words
from .rounds import Bench, Figures, Row, Samples, alternate, pids, two_ways
from .sides import Shape, Side, pair, warm_up
from .stats import Target

PROMPT = 32  # tokens, and the tools
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"{name} of a place",
            "parameters": {
                "type": "object",
                "properties": {"place": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
                "required": ["place"],
            },
        },
    }
    for name in ("weather", "population", "timetable")
]
AS_FAST, AS_SOON = Target(">=", 1.0), Target("<=", 1.02)


def tools(bench: Bench) -> tuple[list[Row], Samples]:
    """One answer as it streams, from its first token to its last."""
    count = bench.sizes.tools

    def measure(side: Side, number: int) -> Figures:
        message = words(f"tools {number}", PROMPT)
        (answer,) = together([chat(side.port, message, count, tools=TOOLS, tool_choice="auto")])
        return {"tokens_per_second": answer.rate}

    with pair(Shape(bench.model, 1, 2048, bench.threads), bench.program, bench.env) as sides:
        warm_up(sides.values())
        samples = alternate("tools", bench.sizes.rounds, sides, measure, pids(sides))
    return [samples.versus_peer("tools", "tokens_per_second", "tokens/s", AS_FAST)], samples


def tools_first_token(bench: Bench) -> tuple[list[Row], Samples]:
    """The time to the first token with `tool_choice` auto, and with none. The prompts are the same."""

    def measure(side: Side, number: int) -> Figures:
        message = words(f"{side.name} {number}", PROMPT)
        (answer,) = together([chat(side.port, message, 8, tools=TOOLS, tool_choice=side.name)])
        return {"first_token": answer.first}

    ways, shape = ("auto", "none"), Shape(bench.model, 1, 2048, bench.threads)
    samples = two_ways("tools_first_token", bench.sizes.rounds, shape, ways, measure)
    return [samples.ratio_row("tools_first_token", "first_token", "s to first token", AS_SOON, ways)], samples
