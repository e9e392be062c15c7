"""The fields of a completion request, as the April 2024 document has them and today's clients send them.

Runs in an executor thread: strings in logit_bias and penalty_prompt are tokenized here.
"""

import logging
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ..errors import InvalidRequest
from ..interfaces.backend import Vocab
from ..interfaces.declare import Parameter
from ..interfaces.params import (
    DEFAULT_SAMPLERS,
    GENERATION_PARAMETERS,
    KNOWN_SAMPLERS,
    SAMPLING_PARAMETERS,
    GenerationParams,
    SamplingParams,
)
from .constraint import schema_constraint
from .fields import Fields, token_id, token_ids
from .lanes import cancelled

_log = logging.getLogger(__name__)

RANDOM_SEED = 2**32 - 1  # the value of -1 in llama.cpp's unsigned field
_ANY = 2**1024  # larger than every number of the JSON parser
MAX_BIASES = 10_000
MAX_STOPS = 256
MAX_STOP = 4096  # characters
MAX_BREAKERS = 64
MAX_SAMPLERS = 64
MAX_SALT = 256  # characters
_SPELLINGS = {
    **{name: name for name in KNOWN_SAMPLERS},
    "typ_p": "typical_p",
    "typ": "typical_p",
    "typical": "typical_p",
    "temp": "temperature",
    "tfs": "tfs_z",
    "nucleus": "top_p",
    "penalties": "",  # always applied first, as in the document
}
_SAMPLER_NAMES = {spelling.replace("_", dash): name for spelling, name in _SPELLINGS.items() for dash in ("_", "-", "")}
_ID = re.compile(r"-?[0-9]{1,10}")
_LETTERS = {
    "k": "top_k",
    "f": "tfs_z",
    "y": "typical_p",
    "p": "top_p",
    "m": "min_p",
    "t": "temperature",
    "d": "dry",
    "x": "xtc",
    "s": "top_n_sigma",
    "i": "infill",
    "a": "adaptive_p",
    "e": "",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """The model's and the server's limits for the fields of a request."""

    vocab: Vocab
    n_slots: int
    n_lora: int


def parse_generation(fields: Fields, limits: Limits) -> GenerationParams:
    """Read and check the options of one request. Raises InvalidRequest."""
    constraint = schema_constraint(fields)
    sampling = SamplingParams(**_SAMPLING.values(fields, limits), constraint=constraint)
    if constraint is not None:
        sampling = replace(sampling, grammar=constraint.lark)
    return GenerationParams(**_GENERATION.values(fields, limits), sampling=sampling)


class _Table:
    """The fields of one dataclass. Numbers and truth values are read if a request has them, others always."""

    def __init__(self, declared: tuple[Parameter, ...]) -> None:
        self._numbers = {name: item for item in declared if item.attribute not in _READERS for name in item.names}
        self._others = [(item, _READERS[item.attribute]) for item in declared if item.attribute in _READERS]

    def values(self, fields: Fields, limits: Limits) -> dict[str, Any]:
        """The values of a request. Numbers that are absent keep the defaults of the dataclass."""
        values = {item.attribute: read(item, fields, limits) for item, read in self._others}
        for name in fields:
            if item := self._numbers.get(name):
                values[item.attribute] = _number(item, fields)
        return values


def _number(item: Parameter, fields: Fields) -> bool | float:
    """One number within its bounds, or one truth value."""
    if item.kind is bool:
        return fields.boolean(*item.names, default=item.default)
    read = fields.integer if item.kind is int else fields.number
    return read(*item.names, default=item.default, **item.bounds)


def _seed(fields: Fields) -> int:
    """The seed in 32 bits. -1 and 2^32-1 draw one. Other 32-bit numbers are used as they are.

    Clients also send 63-bit and negative numbers. The upper and the lower half of their 64 bits are XORed, so that
    seeds which differ in one half only stay different. The result is never 2^32-1.
    """
    seed = fields.integer("seed", default=-1, low=-_ANY, high=_ANY)
    if seed in (-1, RANDOM_SEED):
        return secrets.randbelow(RANDOM_SEED)
    return ((seed >> 32 & 0xFFFFFFFF) ^ (seed & 0xFFFFFFFF)) % RANDOM_SEED


def _id_slot(item: Parameter, fields: Fields, limits: Limits) -> int:
    """The slot, -1 for any. Larger numbers begin anew at slot 0: llama.vim counts its requests with them."""
    number = fields.integer(*item.names, default=item.default, low=-1)
    return number % limits.n_slots if number >= 0 else number


def _stop(fields: Fields) -> tuple[str, ...]:
    stops = fields.strings("stop", limit=MAX_STOPS)
    if any(len(stop) > MAX_STOP for stop in stops):
        raise InvalidRequest(f"Field 'stop': a string is longer than {MAX_STOP} characters", field="stop")
    return tuple(stop for stop in stops if stop)


def _salt(item: Parameter, fields: Fields) -> str:
    salt = fields.string(*item.names)
    if len(salt) > MAX_SALT:
        raise InvalidRequest(f"Field 'cache_salt': longer than {MAX_SALT} characters", field="cache_salt")
    return salt


def _samplers(fields: Fields) -> tuple[str, ...]:
    name, value = fields.get("samplers")
    if value is None:
        return _enabled_samplers(fields)
    if isinstance(value, str):
        wanted, table = list(value), _LETTERS
    else:
        wanted, table = [item.lower() for item in fields.strings(name, limit=MAX_SAMPLERS)], _SAMPLER_NAMES
    unknown = [item for item in wanted if item not in table]
    if unknown:  # a client may know a newer server
        others = len(unknown) - 1
        _log.warning("Field 'samplers': the unknown sampler %.40r is left out, and %d others", unknown[0], others)
    return tuple(table[item] for item in wanted if table.get(item))


def _enabled_samplers(fields: Fields) -> tuple[str, ...]:
    """The order of the document. Newer samplers are added at llama-server's places, if their fields enable them."""
    chain = list(DEFAULT_SAMPLERS)
    if fields.number("xtc_probability", default=0.0) > 0:
        chain.insert(chain.index("temperature"), "xtc")
    if fields.number("top_n_sigma", default=-1.0) > 0:
        chain.insert(0, "top_n_sigma")
    if fields.number("dry_multiplier", default=0.0) > 0:
        chain.insert(0, "dry")
    return tuple(chain)


def _penalty_prompt(fields: Fields, limits: Limits) -> tuple[int, ...] | None:
    name, value = fields.get("penalty_prompt")
    if value is None:
        return None
    if isinstance(value, str):
        return tuple(limits.vocab.tokenize(value, add_special=False, parse_special=True, cancelled=cancelled))
    return tuple(token_ids(fields.array(name), limits.vocab.n_vocab, lambda _: name))


def _logit_bias(fields: Fields, vocab: Vocab) -> tuple[tuple[int, float], ...]:
    name, value = fields.get("logit_bias")
    if value is None:
        return ()
    if isinstance(value, dict):
        pairs = [(int(key) if _ID.fullmatch(key) else key, bias) for key, bias in value.items()]
    elif isinstance(value, list) and all(isinstance(item, list) and len(item) == 2 for item in value):
        pairs = [tuple(item) for item in value]
    else:
        raise InvalidRequest(f"Field '{name}': must be an array of [token, bias] pairs or an object", field=name)
    if len(pairs) > MAX_BIASES or sum(len(token) for token, _ in pairs if isinstance(token, str)) > MAX_BIASES:
        raise InvalidRequest(f"Field '{name}': has more than {MAX_BIASES} entries or characters", field=name)
    biases: list[tuple[int, float]] = []
    for token, bias in pairs:
        biases.extend((i, _bias(bias, name)) for i in _bias_tokens(token, vocab, name))
    return tuple(biases)


def _bias(value: Any, name: str) -> float:
    if value is False:
        return float("-inf")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidRequest(f"Field '{name}': a bias must be a number or false", field=name)
    return float(value)


def _bias_tokens(token: Any, vocab: Vocab, name: str) -> list[int]:
    if isinstance(token, str):
        return vocab.tokenize(token, add_special=False, parse_special=False)
    return [token_id(token, vocab.n_vocab, name)]


def _lora(fields: Fields, limits: Limits) -> tuple[float, ...] | None:
    items = fields.array("lora")
    if not items:
        return None
    scales = [0.0] * limits.n_lora  # adapters that are not named are off, as in llama-server
    for item in items:
        if not isinstance(item, dict):
            raise InvalidRequest("Field 'lora': must be an array of {id, scale}", field="lora")
        number = item.get("id")
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < limits.n_lora:
            raise InvalidRequest(f"Field 'lora': id must be that of one of {limits.n_lora} adapters", field="lora")
        scales[number] = Fields(item).number("scale", default=1.0)
    return tuple(scales)


# Fields that are more than one number within fixed bounds, or one truth value.
_READERS: dict[str, Callable[[Parameter, Fields, Limits], Any]] = {
    "cache_salt": lambda item, fields, _: _salt(item, fields),
    "dry_sequence_breakers": lambda item, fields, _: fields.strings(
        *item.names, default=item.default, limit=MAX_BREAKERS
    ),
    "grammar": lambda item, fields, _: fields.string(*item.names),
    "id_slot": _id_slot,
    "logit_bias": lambda _, fields, limits: _logit_bias(fields, limits.vocab),
    "lora": lambda _, fields, limits: _lora(fields, limits),
    "max_predict_ms": lambda item, fields, _: max(0, fields.integer(*item.names, default=item.default, **item.bounds)),
    "penalty_prompt": lambda _, fields, limits: _penalty_prompt(fields, limits),
    "samplers": lambda _, fields, limits: _samplers(fields),
    "seed": lambda _, fields, limits: _seed(fields),
    "stop": lambda _, fields, limits: _stop(fields),
}
_SAMPLING = _Table(SAMPLING_PARAMETERS)
_GENERATION = _Table(GENERATION_PARAMETERS)
