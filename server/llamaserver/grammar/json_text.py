"""JSON text for a schema's constants. GBNF literals for any text."""

import json
import re
from collections.abc import Mapping

from .rules import GrammarError

DEEPEST = 64  # values and schemas inside each other
_SURROGATE = re.compile("[\ud800-\udfff]")


def json_text(value: object, depth: int) -> str:
    """JSON text of a parsed value, as a model would write it. `depth` counts the schemas and values around it."""
    _check_depth(value, depth)
    try:
        text = json.dumps(value, ensure_ascii=False)
    except TypeError:
        raise GrammarError("a value that is not JSON") from None
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _check_depth(value: object, depth: int) -> None:
    if depth > DEEPEST:
        raise GrammarError("a value is nested too deeply")
    if isinstance(value, list):
        for one in value:
            _check_depth(one, depth + 1)
    elif isinstance(value, Mapping):
        for one in value.values():
            _check_depth(one, depth + 1)


def quote(text: str) -> str:
    """A GBNF literal."""
    escapes = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\0": "\\x00"}
    return '"' + "".join(escapes.get(character, character) for character in text) + '"'
