"""Draws requests whose fields have the largest values that are allowed, and larger ones, many of them at once.

The fields, their bounds and their budgets are those of the server's own table (interfaces/params.py).
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from llamaserver.api.messages import MAX_MESSAGES
from llamaserver.api.native import MAX_PROMPTS
from llamaserver.api.openai import MAX_CHOICES
from llamaserver.api.pricing import MAX_ECHO
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


@dataclass(frozen=True, slots=True)
class Drawn:
    """One request. `leaves_after` is when its client closes the connection, in seconds; 0: it reads the answer."""

    path: str
    body: Body
    leaves_after: float


def draw(rng: Random) -> Drawn:
    """Draw one request."""
    path, make = rng.choice(_PATHS)
    leaves = rng.uniform(0.05, 1.0) if rng.random() < 0.15 else 0.0
    return Drawn(path, make(rng, bool(leaves)), leaves)


# ---- values of one field


def _split(rng: Random, units: int, most: int, longest: int) -> list[str]:
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
    "stop": lambda rng, units: _split(rng, units, MAX_STOPS, MAX_STOP),
    "dry_sequence_breakers": lambda rng, units: _split(rng, units, MAX_BREAKERS, 1000),
    "grammar": _grammar,
    "logit_bias": lambda rng, units: [[i % 200, rng.choice((1.5, False))] for i in range(min(MAX_BIASES, units // 3))],
    "penalty_prompt": _penalty_prompt,
    "samplers": lambda rng, _: [KNOWN_SAMPLERS[i % len(KNOWN_SAMPLERS)] for i in range(MAX_SAMPLERS)],
    "lora": lambda _, units: [{"id": 0, "scale": 1.0}] * min(units // 4, 1000),
    "cache_salt": lambda _, units: "x" * min(units, MAX_SALT),
    "n_probs": lambda _, units: min(units, 1024),
}


def _value(rng: Random, item: Parameter, answers: int) -> Any:
    """An extreme value of a field: within its bounds, at them, or beyond."""
    if item.budget is not None:
        fair = item.budget.most // answers - 1  # an array counts as one value too
        return _VALUES[item.attribute](rng, rng.choice((fair, fair, fair, fair // 2, fair // 2, fair // 9, 2 * fair)))
    if item.kind is bool:
        return rng.random() < 0.5
    low = -1 if item.low is None else item.low
    high = (_LARGE if item.kind is int else 1e9) if item.high is None else item.high
    value = rng.choice((low, high, item.default, item.default))
    return int(value) if item.kind is int else value


def _options(rng: Random, answers: int) -> Body:
    """Many fields at once. Each is at its maximum as often as not."""
    share = rng.choice((0.1, 0.3, 0.9))
    body = {item.names[-1]: _value(rng, item, answers) for item in PARAMETERS if rng.random() < share}
    if rng.random() < 0.9:  # else nearly all would be refused: there is no adapter, and no slot of that number
        body.pop("lora", None)
        body.pop("slot_id", None)
    if rng.random() < 0.2:
        body.pop("grammar", None)
        body["json_schema"] = _schema(rng)
    if rng.random() < 0.2:
        body["response_fields"] = _split(rng, (1 << 16) // answers - 1, 256, 1 << 16)
    return body


def _schema(rng: Random) -> Any:
    count = rng.choice((10, 100, 1000, 3000))
    parts: list[Any] = [{"properties": {f"p{i}": {"type": "string", "maxLength": 2000}}} for i in range(count)]
    return rng.choice(
        (
            {"allOf": parts},
            {"anyOf": parts, "properties": {f"q{i}": {} for i in range(count)}},
            {"properties": {f"p{i}": {"enum": list(range(9))} for i in range(count)}},
            {"enum": ["x" * 20] * count},
            {"type": "array", "items": {"type": "array", "items": {"$ref": "#"}, "maxItems": count}},
            {"type": "string", "pattern": "^(" + "a?" * count + ")$"},
        )
    )


# ---- requests


def _text(rng: Random, tokens: int) -> str:
    piece = rng.choice(("a ", "<|im_start|>", "é", " ", "word ", "\n", "[img-1]"))
    return (piece * tokens)[: 12 * tokens] or "a"


def _tokens(rng: Random, answers: int, leaves: bool) -> tuple[int, int]:
    """Tokens of each prompt and each answer."""
    if leaves:
        return rng.choice((1, 200, 2_000)), rng.choice((1, 1000, -1))
    each = max(1, MOST_TOKENS // answers)
    return rng.choice((1, each)), rng.choice((0, 1, each))


def _completion(rng: Random, leaves: bool) -> Body:
    prompts = rng.choice((1, 1, 2, 16, MAX_PROMPTS, MAX_PROMPTS + 1))
    size, answer = _tokens(rng, prompts, leaves)
    body = {**_options(rng, prompts), "n_predict": answer, "stream": rng.random() < 0.4, "id_slot": -1}
    return {**body, "prompt": [_text(rng, size) for _ in range(prompts)]}


def _long(rng: Random, leaves: bool) -> Body:
    """A prompt that is longer than any slot."""
    text = rng.choice(("<|im_start|>", "a", "ab ", "\n", "é<|im_end|>")) * rng.choice((10_000, 100_000, 600_000))
    return {**_options(rng, 1), "prompt": text, "n_predict": 1, "stream": rng.random() < 0.5}


def _text_completion(rng: Random, leaves: bool) -> Body:
    prompts = rng.choice((1, 4, 16))
    choices = rng.choice((1, MAX_CHOICES // prompts, MAX_CHOICES))
    size, answer = _tokens(rng, prompts * choices, leaves)
    body = {**_options(rng, prompts * choices), "max_tokens": answer, "n": choices, "stream": rng.random() < 0.4}
    if rng.random() < 0.3:
        body |= {"echo": True, "logprobs": rng.choice((None, 1, 20))}
        size = rng.choice((size, MAX_ECHO // choices // 4))
    return {**body, "prompt": [_text(rng, size) for _ in range(prompts)]}


def _chat(rng: Random, leaves: bool) -> Body:
    choices = rng.choice((1, 16, MAX_CHOICES))
    size, answer = _tokens(rng, choices, leaves)
    messages = rng.choice((1, 1, 16, MAX_MESSAGES, MAX_MESSAGES + 1))
    content: Any = _text(rng, size if messages <= 16 else 1)
    if rng.random() < 0.2:
        content = [{"type": "text", "text": "a"}] * (30_000 // messages)
    body = {**_options(rng, choices), "n": choices, "max_tokens": answer, "stream": rng.random() < 0.4}
    if rng.random() < 0.3:
        body |= {"logprobs": True, "top_logprobs": 20}
    if rng.random() < 0.2:
        schema = {"type": "json_schema", "json_schema": {"schema": _schema(rng)}}
        body |= {"response_format": schema}
        body.pop("grammar", None)
        body.pop("json_schema", None)
    return {**body, "messages": [{"role": "user", "content": content}] * messages}


def _tokenize(rng: Random, leaves: bool) -> Body:
    count, size = rng.choice(((1, 100_000), (1, 10), (1000, 100), (100_000, 1), (400_000, 1)))
    return {"content": [_text(rng, size)] * count, "with_pieces": rng.random() < 0.5, "parse_special": True}


def _detokenize(rng: Random, leaves: bool) -> Body:
    return {"tokens": [number % 200 for number in range(rng.choice((10, 100_000, 2_000_000)))]}


def _template(rng: Random, leaves: bool) -> Body:
    return {"messages": _chat(rng, leaves)["messages"]}


def _odd(rng: Random, leaves: bool) -> Body:
    """Many small or nested values, in fields that are known and in others."""
    nested: Any = 1
    for _ in range(rng.choice((10, 200))):
        nested = [nested]
    name = rng.choice(("prompt", "stop", "logit_bias", "json_schema", "other", "messages", "samplers", "lora"))
    many: tuple[Any, ...] = ([[]] * 500_000, {str(i): 0 for i in range(200_000)}, "x" * 7_000_000, [0] * 2_000_000)
    return {"prompt": "a", "n_predict": 1, name: rng.choice((nested, *many))}


_PATHS: tuple[tuple[str, Callable[[Random, bool], Body]], ...] = (
    ("/completion", _completion),
    ("/completion", _completion),
    ("/completion", _long),
    ("/completion", _odd),
    ("/v1/completions", _text_completion),
    ("/v1/chat/completions", _chat),
    ("/tokenize", _tokenize),
    ("/detokenize", _detokenize),
    ("/apply-template", _template),
)
assert {item.attribute for item in PARAMETERS if item.budget} == set(_VALUES)
assert set(DEFAULT_SAMPLERS) <= set(KNOWN_SAMPLERS)
