"""Values that models write in other forms than JSON."""

import ast
import json
import re

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


def json_of(text: str, *, string: bool = False) -> str:
    """JSON of a value that was written as JSON, as Python, or bare. `string` says that it must be a string."""
    if text.startswith(CDATA[0]) and text.endswith(CDATA[1]):
        text = text[len(CDATA[0]) : -len(CDATA[1])]
    if string:
        return as_json(text)
    try:
        return as_json(json.loads(text))
    except (ValueError, RecursionError):
        pass
    try:
        return as_json(python_value(text))
    except ValueError:
        return as_json(text)
