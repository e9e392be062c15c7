"""Values of fields for the drawn requests: the largest that are allowed, and larger ones.

The fields of a generation, their bounds and their budgets are those of the server's own table (interfaces/params.py).
"""

from collections.abc import Callable
from random import Random
from typing import Any

from llamaserver.api.schema import MAX_BIASES, MAX_BREAKERS, MAX_SALT, MAX_SAMPLERS, MAX_STOP, MAX_STOPS
from llamaserver.interfaces.declare import Parameter
from llamaserver.interfaces.params import DEFAULT_SAMPLERS, GENERATION_PARAMETERS, KNOWN_SAMPLERS, SAMPLING_PARAMETERS

Body = dict[str, Any]
PARAMETERS = (*GENERATION_PARAMETERS, *SAMPLING_PARAMETERS)
MOST_TOKENS = 64  # of prompts and answers together, unless the client leaves: time is not what is measured
_LARGE = 2**31 - 1
_GRAMMARS = (
    'root ::= [ab]{0,2000} [abc]{0,2000} "x"',
    'root ::= (("a"{0,200}){0,200})',
    "root ::= " + "(" * 200 + "[a-z]" + ")*" * 200,
    "root ::= " + " | ".join(f'"a" r{i}' for i in range(300)) + "".join(f'\nr{i} ::= "a"{{0,9}}' for i in range(300)),
    'root ::= "a" root "b" | "a" root "c" | "a"',
    "root ::= .{0,2000} [^é]*",
)


def split(rng: Random, units: int, most: int, longest: int) -> list[str]:
    """Texts of about this many characters together, few long ones or many short ones."""
    count = rng.choice((1, max(1, most // 16), most))
    length = max(1, min(longest, units // count - 1))
    return [f"{number:x}"[:length].ljust(length, rng.choice("abx")) for number in range(count)]


def _grammar(rng: Random, units: int) -> str:
    text = f"{rng.choice(_GRAMMARS)} # {rng.randrange(1000)}"
    return text.ljust(min(units, 65_536), "#")


def _penalty_prompt(rng: Random, units: int) -> Any:
    return "ab " * (units // 3) if rng.random() < 0.5 else [number % 200 for number in range(units)]


_VALUES: dict[str, Callable[[Random, int], Any]] = {
    "stop": lambda rng, units: split(rng, units, MAX_STOPS, MAX_STOP),
    "dry_sequence_breakers": lambda rng, units: split(rng, units, MAX_BREAKERS, 1000),
    "grammar": _grammar,
    "logit_bias": lambda rng, units: [[i % 200, rng.choice((1.5, -1.5))] for i in range(min(MAX_BIASES, units // 3))],
    "penalty_prompt": _penalty_prompt,
    "samplers": lambda rng, _: [KNOWN_SAMPLERS[i % len(KNOWN_SAMPLERS)] for i in range(MAX_SAMPLERS)],
    "lora": lambda _, units: [{"id": 0, "scale": 1.0}] * min(units // 4, 1000),
    "cache_salt": lambda _, units: "x" * min(units, MAX_SALT),
    "n_probs": lambda _, units: min(units, 1024),
}
assert {item.attribute for item in PARAMETERS if item.budget} == set(_VALUES)
assert set(DEFAULT_SAMPLERS) <= set(KNOWN_SAMPLERS)


def _value(rng: Random, item: Parameter, answers: int) -> Any:
    """An extreme value of a field: within its bounds, at them, or beyond."""
    if item.budget is not None:
        fair = item.budget.most // answers - 1  # an array counts as one value too
        return _VALUES[item.attribute](rng, rng.choice((*[fair] * 8, *[fair // 2] * 6, fair // 9, 2 * fair)))
    if item.kind is bool:
        return rng.random() < 0.5
    low = -1 if item.low is None else item.low
    high = (_LARGE if item.kind is int else 1e9) if item.high is None else item.high
    value = rng.choice((low, high, item.default, item.default))
    return int(value) if item.kind is int else value


def options(rng: Random, answers: int) -> Body:
    """Many fields at once. Each is at its maximum as often as not."""
    share = rng.choice((0.1, 0.3, 0.9))
    body = {item.names[-1]: _value(rng, item, answers) for item in PARAMETERS if rng.random() < share}
    if rng.random() < 0.9:  # else nearly all would be refused: there is no adapter, and no slot of that number
        body.pop("lora", None)
        body.pop("slot_id", None)
    if rng.random() < 0.2:
        body.pop("grammar", None)
        body["json_schema"] = schema(rng)
    if rng.random() < 0.2:
        body["response_fields"] = split(rng, (1 << 16) // answers - 1, 256, 1 << 16)
    return body


def schema(rng: Random) -> Any:
    """A JSON schema with one large part."""
    count = rng.choice((10, 100, 1000, 3000))
    parts: list[Any] = [{"properties": {f"p{i}": {"type": "string", "maxLength": 2000}}} for i in range(count)]
    chain = {f"d{i}": {"properties": {"next": {"$ref": f"#/$defs/d{i + 1}"}}} for i in range(count)}
    return rng.choice(
        (
            {"allOf": parts},
            {"allOf": [{"anyOf": parts[:9]}] * min(count, 100)},
            {"allOf": [{"type": "string", "pattern": f"a.{{0,{i}}}b"} for i in range(min(count, 300))]},
            {"anyOf": parts, "properties": {f"q{i}": {} for i in range(count)}},
            {"oneOf": [{"const": i} for i in range(10 * count)]},
            {"properties": {f"p{i}": {"enum": list(range(9))} for i in range(count)}},
            {"properties": {f"p{i}": {} for i in range(count)}, "additionalProperties": {"$ref": "#"}},
            {"enum": ["x" * 20] * count},
            {"enum": [f"{i:x}" * 9 for i in range(10 * count)]},
            {"$ref": "#/$defs/d0", "$defs": {**chain, f"d{count}": {"type": "null"}}},
            {"$ref": "#/$defs/d0", "$defs": {f"d{i}": {"$ref": f"#/$defs/d{(i + 1) % count}"} for i in range(count)}},
            {"type": "array", "items": {"type": "array", "items": {"$ref": "#"}, "maxItems": count}},
            {"type": "array", "items": {"type": "array", "maxItems": count, "minItems": count // 2}, "maxItems": count},
            {"type": "integer", "minimum": -(10**15) - count, "maximum": 10**15 + count, "multipleOf": count},
            {"type": "string", "pattern": "^(" + "a?" * count + ")$"},
            {"type": "string", "pattern": f"^(a|b|ab){{{count // 2}}}(c+d*)+$"},
            {"type": "string", "minLength": count, "maxLength": 100 * count, "format": "date-time"},
        )
    )


def text(rng: Random, tokens: int) -> str:
    """A text of about this many tokens."""
    piece = rng.choice(("a ", "<|im_start|>", "é", " ", "word ", "\n", "[img-1]", "<tool_call>", "</think>"))
    return (piece * tokens)[: 12 * tokens] or "a"


def long_text(rng: Random) -> str:
    """A text that is longer than any slot."""
    piece = rng.choice(("<|im_start|>", "a", "ab ", "\n", "é<|im_end|>", "<__media__>"))
    return piece * rng.choice((10_000, 100_000, 600_000))


def sizes(rng: Random, answers: int, leaves: bool) -> tuple[int, int]:
    """Tokens of each prompt and each answer."""
    if leaves:
        return rng.choice((1, 200, 2_000)), rng.choice((1, 1000, -1))
    each = max(1, MOST_TOKENS // answers)
    return rng.choice((1, each)), rng.choice((0, 1, each))
