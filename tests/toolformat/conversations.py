"""The conversations of llama.cpp's tests/test-chat.cpp: what models wrote, and what is to be read of it.

They are read out of the source, because it is fetched for the tests anyhow. Statements with other expressions than
strings, lists and calls of the helpers below are left out.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.support.vendored import vendored_text

JSON = dict[str, Any]
_COMMENT = re.compile(r'//[^\n]*|/\*.*?\*/|(R"(\w*#*)\(.*?\)\2"|"(?:\\.|[^"\\])*")', re.S)
_TOKEN = re.compile(
    r'\s*(?:(?P<raw>R"(?P<mark>[^\s(]*)\((?P<rawtext>.*?)\)(?P=mark)")|(?P<string>"(?:\\.|[^"\\])*")'
    r"|(?P<name>[A-Za-z_][\w:]*)|(?P<number>-?\d+)|(?P<sign>[(){},+.;]))",
    re.S,
)
_TEMPLATE = re.compile(r'auto tst = peg_tester\(\s*(?:"models/templates/([^"]+)\.jinja")?')
_TOOL = re.compile(r"static common_chat_tool (\w+)\s*(?=\{)")
_MESSAGE = re.compile(r"const common_chat_msg (\w+)\s*=\s*")
_TEXT = re.compile(r"(?:static )?const (?:char \*|std::string|auto) ?(\w+)\s*=\s*")
_TEST = re.compile(r"\btst\.test\(")


class _OtherError(Exception):
    """An expression that is not understood."""


@dataclass
class Conversation:
    """One answer of a model, and what the test expects. `calls` are (name, JSON of the arguments)."""

    template: str
    line: int
    text: str
    tools: list[JSON] = field(default_factory=list)
    variables: JSON = field(default_factory=lambda: {"enable_thinking": True})
    reasoning_format: str = "NONE"
    partial: bool = False
    special: bool = False  # with fields that change the prompt
    has_schema: bool = False  # of the content
    content: str = ""
    reasoning: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)


def conversations() -> list[Conversation]:
    """All of the file."""
    source = vendored_text("tests/test-chat.cpp")
    source = _COMMENT.sub(lambda found: found[1] or re.sub(r"[^\n]", " ", found[0]), source)
    known: dict[str, Any] = {"true": True, "false": False, "std::string": lambda text="": text, **_HELPERS}
    for pattern, make in ((_TOOL, _tool), (_MESSAGE, lambda value: value)):
        for found in pattern.finditer(source):
            try:
                known[found[1]] = make(_Reader(source, found.end(), known).expression())
            except _OtherError:
                continue
    return list(_tests(source, known))


def _tests(source: str, known: JSON) -> Iterator[Conversation]:
    template = ""
    marks = sorted(
        (found.start(), pattern, found) for pattern in (_TEMPLATE, _TEXT, _TEST) for found in pattern.finditer(source)
    )
    for place, pattern, found in marks:
        if pattern is _TEMPLATE:
            template = found[1] or ""
            continue
        reader = _Reader(source, found.end(), known)
        try:
            if pattern is _TEXT:
                known[found[1]] = reader.expression()
            elif template:
                made = Conversation(template, source.count("\n", 0, place) + 1, reader.expression())
                reader.take(")")
                _chain(reader, made)
                yield made
        except _OtherError:
            continue


def _chain(reader: "_Reader", made: Conversation) -> None:
    """Read `.name(value)` and so on, up to `.run()`."""
    while reader.has("."):
        name = reader.name()
        reader.take("(")
        values = reader.list(")")
        if name == "run":
            return
        if name in _SETTERS:
            _SETTERS[name](made, values[0] if values else None)
        elif name not in _WITHOUT_EFFECT:
            made.special = True
    raise _OtherError


def _set_expected(made: Conversation, value: tuple[str, str, list[tuple[str, str]]]) -> None:
    made.content, made.reasoning, made.calls = value


_WITHOUT_EFFECT = ("parallel_tool_calls", "expect_reconstruction", "tool_choice")
_SETTERS: dict[str, Callable[[Conversation, Any], object]] = {
    "tools": lambda made, value: setattr(
        made, "tools", [_tool(one) if isinstance(one, list) else one for one in value]
    ),
    "enable_thinking": lambda made, value: made.variables.update(enable_thinking=value),
    "reasoning_format": lambda made, value: setattr(made, "reasoning_format", value.rpartition("_")[2]),
    "json_schema": lambda made, value: setattr(made, "has_schema", bool(value)),
    "is_partial": lambda made, value: setattr(made, "partial", value),
    "expect": _set_expected,
    "expect_content": lambda made, value: setattr(made, "content", value),
    "expect_reasoning": lambda made, value: setattr(made, "reasoning", value),
    "expect_tool_calls": lambda made, value: setattr(made, "calls", [(*call, "")[:2] for call in value]),
}


def _message(
    content: str = "", reasoning: str = "", name: str = "", arguments: str = "", _id: str = ""
) -> tuple[str, str, list[tuple[str, str]]]:
    return content, reasoning, [(name, arguments)] if name else []


_HELPERS = {
    "simple_assist_msg": _message,
    "message_with_tool_calls": lambda name, arguments: _message("", "", name, arguments),
    "message_with_tool_calls_and_reasoning": lambda name, arguments, thought: _message("", thought, name, arguments),
    "message_with_reasoning_content_and_multiple_tool_calls": lambda thought, content, calls: (
        content,
        thought,
        [(call[0], call[1]) for call in calls],
    ),
    "message_with_content_and_tool_call": lambda content, name, arguments: _message(content, "", name, arguments),
    "message_with_reasoning_and_tool_call": lambda thought, name, arguments: _message("", thought, name, arguments),
}


def _tool(values: list[str]) -> JSON:
    name, description, parameters = values
    function = {"name": name, "description": description, "parameters": json.loads(parameters)}
    return {"type": "function", "function": function}


class _Reader:
    """Reads expressions from a place of the source on."""

    def __init__(self, source: str, place: int, known: JSON) -> None:
        self._source, self._place, self._known = source, place, known

    def expression(self) -> Any:
        value = self._term()
        while self._peek()["sign"] == "+":
            self._next()
            value = value + self._term()
        return value

    def list(self, end: str) -> list[Any]:
        values = []
        while not self.has(end):
            values.append(self.expression())
            self.has(",")
        return values

    def has(self, sign: str) -> bool:
        found = self._peek()["sign"] == sign
        if found:
            self._next()
        return found

    def take(self, sign: str) -> None:
        if not self.has(sign):
            raise _OtherError

    def name(self) -> str:
        found = self._next()["name"]
        if found is None:
            raise _OtherError
        return str(found)

    def _term(self) -> Any:
        token = self._next()
        if token["sign"] == "{":
            return self.list("}")
        if token["number"] is not None:
            return int(token["number"])
        if token["name"] is not None:
            return self._named(token["name"])
        text = _text_of(token)
        while (token := self._peek())["string"] is not None or token["raw"] is not None:
            text += _text_of(self._next())
        return text

    def _named(self, name: str) -> Any:
        if name.startswith("COMMON_"):
            return name
        if name not in self._known:
            raise _OtherError
        if self.has("("):
            return self._known[name](*self.list(")"))
        return self._known[name]

    def _peek(self) -> re.Match[str]:
        found = _TOKEN.match(self._source, self._place)
        if found is None:
            raise _OtherError
        return found

    def _next(self) -> re.Match[str]:
        found = self._peek()
        self._place = found.end()
        return found


def _text_of(token: re.Match[str]) -> str:
    if token["raw"] is not None:
        return str(token["rawtext"])
    if token["string"] is None:
        raise _OtherError
    text = token["string"][1:-1].replace("\n", "\\n")
    text = re.sub(r"\\x([0-9a-fA-F]{2})", r"\\u00\1", text).replace("\\'", "'").replace("\\0", "\\u0000")
    try:
        return str(json.loads(f'"{text}"', strict=False))
    except ValueError as error:
        raise _OtherError from error
