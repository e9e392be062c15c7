"""The work that the largest schemas of many kinds take, counted in calls: none grows with the square of its size."""

import contextlib
import sys
from collections.abc import Iterator
from concurrent.futures import CancelledError
from types import FrameType

import pytest
from llamaserver.errors import InvalidRequest
from llamaserver.grammar.compiler import Compiler
from llamaserver.grammar.json_schema import json_value
from llamaserver.grammar.rules import GrammarError

from tests.support.engine.vocab import ListVocab

MOST_CALLS = 1_000_000

LARGE: dict[str, object] = {
    "enums": {"allOf": [{"enum": [str(i) for i in range(3_000)]}, {"enum": [str(-i) for i in range(3_000)]}]},
    "enums of arrays": {"allOf": [{"enum": [[i] for i in range(3_000)]}, {"enum": [[-i] for i in range(3_000)]}]},
    "one enum of a long array": {"enum": [[1] * 10_000], "anyOf": [{"enum": [[i]]} for i in range(1_500)]},
    "enums of variants": {"oneOf": [{"enum": list(range(i, 3_000, 10))} for i in range(10)]},
    "required": {"allOf": [{"required": [f"{side}{i}" for i in range(2_500)]} for side in "ab"]},
    "references to a name": {
        "properties": {f"p{i}": {"$ref": "#far"} for i in range(1_500)},
        "default": [0] * 20_000,
        "$defs": {"far": {"$anchor": "far"}},
    },
    "references to many types": {
        "properties": {f"p{i}": {"$ref": "#/$defs/a", "minLength": 1} for i in range(500)},
        "$defs": {"a": {"type": ["string"] * 4_000}},
    },
    "patterns of names": {"patternProperties": {f"^{i:05d}": {} for i in range(3_000)}},
    "names that are listed": {
        "properties": {f"a{i}": {} for i in range(2_000)},
        "propertyNames": {"enum": [f"b{i}" for i in range(2_000)]},
    },
    "look-ahead": {"properties": {f"p{i}": {"pattern": f"{i}" + "(?=a)" * 790} for i in range(15)}},
    "look-ahead at the begin": {"properties": {f"p{i}": {"pattern": "(?=a)" * 790 + f"{i}"} for i in range(3)}},
    "begins": {"properties": {f"p{i}": {"pattern": "^" * 3_900 + f"{i}"} for i in range(4)}},
    "ends": {"properties": {f"p{i}": {"pattern": f"{i}" + "$" * 3_900} for i in range(4)}},
}


@contextlib.contextmanager
def few_calls() -> Iterator[None]:
    """Fail at the call that is one too many."""
    left = MOST_CALLS

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal left
        left -= event in ("call", "c_call")
        if left < 0:
            sys.setprofile(None)
            raise AssertionError("too many calls")

    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(None)


@pytest.mark.parametrize("name", LARGE)
def test_the_work_is_bounded(name: str) -> None:
    with few_calls(), contextlib.suppress(InvalidRequest):
        json_value(LARGE[name])


def test_work_that_nobody_waits_for_ends() -> None:
    asked = iter(range(100))
    with pytest.raises(CancelledError):
        json_value(LARGE["references to a name"], cancelled=lambda: next(asked) == 50)


def test_schemas_that_are_costly_to_compile_end() -> None:
    compiler = Compiler(ListVocab([*(bytes([c]) for c in range(256)), b"<end>"], eog=[256]))
    for schema in (
        LARGE["patterns of names"],
        {"patternProperties": {f"^{i:02d}": {} for i in range(32)}},
        {"properties": {f"p{i}": {"multipleOf": 9_000 + i} for i in range(200)}},
        {"type": "integer", "multipleOf": 4_294_967_291},
    ):
        with contextlib.suppress(GrammarError):
            compiler(f"start: {json_value(schema).lark}")
