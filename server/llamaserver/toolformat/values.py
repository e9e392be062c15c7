"""Values that models write in other forms than JSON."""

import ast
import json
import re

from .schemas import fits

# A string without its end goes up to the end of the text, so that the search does not begin again within it.
_WORD = re.compile(r"""'(?:\\.|[^'\\])*(?:'|\\?\Z)|"(?:\\.|[^"\\])*(?:"|\\?\Z)|\b(null|true|false)\b""", re.DOTALL)
_STRING = 10  # characters that a string counts at most where the cost of parsing is estimated
_PYTHON = {"null": "None", "true": "True", "false": "False"}
_LONGEST_LITERAL = 10_000  # characters that Python's parser is asked to read
CDATA = ("<![CDATA[", "]]>")


def python_source(text: str) -> str:
    """Python with JSON's words for none, true and false replaced by Python's, and line ends in strings escaped.

    LFM2.5's template does not escape them, so the model does not either.
    """
    return _WORD.sub(lambda match: _PYTHON.get(match[1], match[0].replace("\n", "\\n")), text)


def python_cost(text: str) -> int:
    """How many characters Python's parser makes something of. It reads a string at once."""
    return len(text) - sum(max(0, len(match[0]) - _STRING) for match in _WORD.finditer(text))


def python_value(text: str) -> object:
    """The value of a Python literal. Raises ValueError for any other text."""
    if len(text) > _LONGEST_LITERAL:
        raise ValueError("too long")
    try:
        return ast.literal_eval(python_source(text.strip()))
    except (SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(str(error)) from error


def as_json(value: object) -> str:
    """JSON of a value of a call. Half a character becomes a question mark. Raises ValueError if there is none."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace").decode()
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def value_of(text: str, allowed: frozenset[str] = frozenset()) -> object:
    """A value that was written as JSON, as Python, or bare. `allowed` has the types that it may have, none if any."""
    if text.startswith(CDATA[0]) and text.endswith(CDATA[1]):
        text = text[len(CDATA[0]) : -len(CDATA[1])]
    if allowed == {"string"}:
        return text
    try:
        value = json.loads(text)
        as_json(value)
    except (ValueError, RecursionError):
        try:
            value = python_value(text)
            as_json(value)
        except ValueError:
            return text
    return text if "string" in allowed and not fits(value, allowed) else value


def json_of(text: str, allowed: frozenset[str] = frozenset()) -> str:
    """JSON of such a value."""
    return as_json(value_of(text, allowed))
