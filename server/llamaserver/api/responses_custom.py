"""Custom tools of OpenAI's Responses API: their input is a text. A model sees a function with one string."""

import json
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from ..errors import InvalidRequest
from ..grammar.json_text import json_text
from ..grammar.rules import GrammarError
from .fields import Fields

INPUT = "input"  # the name of the string
_SYNTAXES = ("lark", "regex")
_BEFORE = re.compile(r'\s*\{\s*"input"\s*:\s*"')
_LONGEST_BEGIN = 200  # characters
_WHOLE = re.compile(  # characters that are complete, escaped or not
    r'(?:[^"\\]|\\["\\/bfnrt]|\\u(?![dD][89abAB])[0-9a-fA-F]{4}|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[0-9a-fA-F]{4})*+'
)
_LONGEST_ESCAPE = 12


def as_function(tool: dict[str, Any], where: str) -> tuple[dict[str, Any], str | None]:
    """A custom tool as a function, and the Lark expression of its arguments if they have a grammar.

    It is "" for a grammar that cannot be enforced. A regular expression is a part of the schema. Raises InvalidRequest
    that names fields below `where`.
    """
    text: dict[str, Any] = {"type": "string"}
    arguments: str | None = None
    inside = Fields({f"{where}.format.{key}": value for key, value in _format(tool, where).items()})
    kind = inside.string(f"{where}.format.type", default="text")
    if kind == "grammar":
        syntax, definition = (inside.string(f"{where}.format.{name}") for name in ("syntax", "definition"))
        if syntax not in _SYNTAXES or not definition:
            raise InvalidRequest(
                f"Field '{where}.format': a grammar has the syntax lark or regex, and a definition",
                field=f"{where}.format",
            )
        if syntax == "regex":
            text["pattern"] = f"^(?:{definition})$"
        else:
            text["description"] = f"A text that matches this Lark grammar:\n{definition}"
            arguments = _arguments(definition)
    elif kind != "text":
        raise InvalidRequest(f"Field '{where}.format.type': must be text or grammar", field=f"{where}.format.type")
    parameters = {"type": "object", "properties": {INPUT: text}, "required": [INPUT], "additionalProperties": False}
    return {"name": tool.get("name"), "description": tool.get("description"), "parameters": parameters}, arguments


def _format(tool: dict[str, Any], where: str) -> dict[str, Any]:
    return Fields({f"{where}.format": tool.get("format")}).object(f"{where}.format") or {}


@lru_cache(32)  # programs send the same tools with each request
def _arguments(definition: str) -> str:
    """The arguments of a call whose input has a grammar. A grammar that cannot be enforced has none."""
    try:
        return f'"{{" SPACE? "\\"{INPUT}\\"" SPACE? ":" SPACE? {json_text(definition)} SPACE? "}}"'
    except GrammarError:
        return ""


class CustomInput:
    """Reads the text out of the arguments of a call, as they come. What has another form is the text as it is."""

    def __init__(self) -> None:
        self._waiting = ""
        self._reads: Callable[[str], str] = self._begin

    def feed(self, arguments: str) -> str:
        """Take more of the JSON. Returns more of the text."""
        return self._reads(arguments)

    def close(self) -> str:
        """The rest of the text, if the call ends here."""
        return self._waiting if self._reads == self._begin else ""

    def _begin(self, arguments: str) -> str:
        self._waiting += arguments
        if found := _BEFORE.match(self._waiting):
            rest, self._waiting, self._reads = self._waiting[found.end() :], "", self._text
            return self._text(rest)
        if len(self._waiting) <= _LONGEST_BEGIN:
            return ""
        self._reads = str
        return self._waiting

    def _text(self, arguments: str) -> str:
        self._waiting += arguments
        end = _WHOLE.match(self._waiting).end()  # type: ignore[union-attr]  # it can match nothing
        text, self._waiting = self._waiting[:end], self._waiting[end:]
        if self._waiting[:1] == '"' or len(self._waiting) > _LONGEST_ESCAPE:
            self._reads = lambda _: ""
        return str(json.loads(f'"{text}"', strict=False)).encode("utf-8", "replace").decode()
