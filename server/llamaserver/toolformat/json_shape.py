"""Where the name and the arguments are in the JSON object of a call."""

import json
import re
from itertools import islice
from typing import Any

from .form import ARGUMENTS_HERE, ID_HERE, NAME_HERE
from .samples import ID, KEY, NAME, VALUE

_MOST_BRACKETS = 64  # that may come before the object


def json_around(text: str, place: int) -> tuple[int, int, Any] | None:
    """Start, end and value of the outermost JSON object or array that has this place in it."""
    for match in islice(re.finditer(r"[{\[]", text[: place + 1]), _MOST_BRACKETS):
        try:
            value, end = json.JSONDecoder().raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        if end > place:
            return match.start(), end, value
    return None


def with_places(text: str) -> str:
    """The text of one call with places for what differs from call to call."""
    text = text.removeprefix("[").removesuffix("]").strip() if text.startswith("[") else text
    start = text.rfind("{", 0, text.find(KEY))
    if text[start - 1] == '"':  # the arguments are a text with JSON
        start -= 1
    try:
        _, end = json.JSONDecoder().raw_decode(text, start)
    except ValueError:
        return ""
    return (
        (text[:start] + ARGUMENTS_HERE + text[end:])
        .replace(NAME, NAME_HERE)
        .replace(ID, ID_HERE)
        .replace('"0"', f'"{ID_HERE}"')
    )


def path_of(value: Any, wanted: str, path: tuple[str, ...] = ()) -> tuple[str, ...] | None:
    """The keys that lead to a text. "*" stands for a key that is the name of the function."""
    if isinstance(value, list):
        return next((found for item in value if (found := path_of(item, wanted, path)) is not None), None)
    if not isinstance(value, dict):
        return path if value == wanted else None
    for key, item in value.items():
        if key == wanted:
            return (*path, "*")
        found = path_of(item, wanted, (*path, "*" if key == NAME else key))
        if found is not None:
            return found
    return None


def path_of_arguments(value: Any) -> tuple[str, ...] | None:
    """The keys that lead to the arguments, which may be a text with JSON."""
    inner = path_of(value, VALUE)
    if inner:
        return inner[:-1]
    text = json.dumps(value)
    return next((path_of(value, each) for each in _texts(value) if KEY in each), None) if KEY in text else None


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for item in items for text in _texts(item)]
