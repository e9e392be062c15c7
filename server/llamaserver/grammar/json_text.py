"""JSON text of parsed values, and GBNF literals of any text: what a schema's constants become.

Written by hand because values are bounded here, and because the engine reads and writes no JSON.
"""

from collections.abc import Mapping

from .rules import GrammarError

DEEPEST = 64  # values and schemas inside each other

_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}


def json_text(value: object, depth: int) -> str:
    """JSON text of a parsed value, as a model would write it."""
    if depth > DEEPEST:
        raise GrammarError("a value is nested too deeply")
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return '"' + "".join(_character(character) for character in value) + '"'
    if isinstance(value, list):
        return "[" + ", ".join(json_text(one, depth + 1) for one in value) + "]"
    if isinstance(value, Mapping):
        pairs = (f"{json_text(str(key), depth)}: {json_text(one, depth + 1)}" for key, one in value.items())
        return "{" + ", ".join(pairs) + "}"
    raise GrammarError("a value that is not JSON")


def _character(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    return character if character >= " " and not "\ud800" <= character <= "\udfff" else f"\\u{ord(character):04x}"


def quote(text: str) -> str:
    """A GBNF literal."""
    escapes = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\0": "\\x00"}
    return '"' + "".join(escapes.get(character, character) for character in text) + '"'
