"""Calls whose name and arguments are in one JSON object, or in an array of such objects."""

import json

from .form import Format
from .output import Output
from .stream import Mismatch, Reading, Stream


def read_json_calls(stream: Stream, output: Output, form: Format, *, marked: bool) -> Reading[None]:
    """Objects, one after the other, with or without the marks of a call between them.

    Without a mark before the first, it may be something else, so its first key must be one of a call.
    """
    begin, end = form.call
    while True:
        array = yield from stream.at("[")
        yield from _objects(stream, output, form, marked=marked)
        if array and not (yield from stream.at("]")):
            raise Mismatch
        if not begin:
            return
        yield from stream.at(end)
        if not (yield from stream.at(begin)):
            return


def _objects(stream: Stream, output: Output, form: Format, *, marked: bool) -> Reading[None]:
    """Objects with a comma, a semicolon or only white space between them."""
    while True:
        yield from _object(stream, output, form, marked=marked)
        yield from stream.skip_space()
        if stream.text[:1] in (",", ";"):
            stream.take(1)
            yield from stream.skip_space()
        if stream.text[:1] != "{":
            return


def _object(stream: Stream, output: Output, form: Format, *, marked: bool) -> Reading[None]:
    if not (yield from stream.at("{")):
        raise Mismatch
    call = _Call(stream, output, form, marked=marked)
    yield from call.members(())
    if not output.calling:
        raise Mismatch
    output.end()


class _Call:
    """One object. The arguments wait for the name if they come before it."""

    def __init__(self, stream: Stream, output: Output, form: Format, *, marked: bool) -> None:
        self._stream, self._output, self._form = stream, output, form
        self._sure = marked
        self._id = ""
        self._waiting: list[str] = []

    def members(self, path: tuple[str, ...]) -> Reading[None]:
        """The rest of an object after its first bracket. `path` leads to it."""
        stream = self._stream
        if (yield from stream.at("}")):
            return
        while True:
            key = yield from self._text()
            if not self._sure and not path and not _may_begin(key, self._form):
                raise Mismatch
            self._sure = True
            if not (yield from stream.at(":")):
                raise Mismatch
            yield from stream.skip_space()
            yield from stream.need()
            yield from self._value(path, key)
            if (yield from stream.at("}")):
                return
            if not (yield from stream.at(",")):
                raise Mismatch

    def _value(self, path: tuple[str, ...], key: str) -> Reading[None]:
        stream, form, here = self._stream, self._form, (*path, key)
        if form.name_path == (*path, "*"):
            self._name(key)
            yield from self._argument_value()
        elif here == form.name_path:
            self._name((yield from self._text()))
        elif here == form.id_path:
            self._id = yield from self._text()
        elif here == form.arguments_path:
            yield from self._argument_value()
        elif stream.text[0] == "{" and _leads(here, form):
            stream.take(1)
            yield from self.members(here)
        else:
            yield from stream.json_value(lambda text: None)

    def _name(self, name: str) -> None:
        self._output.call(name, self._id)
        self._output.arguments("".join(self._waiting))
        self._waiting.clear()

    def _argument_value(self) -> Reading[None]:
        """Arguments as an object, or as a string that has its JSON."""
        yield from self._stream.skip_space()
        yield from self._stream.need()
        if self._stream.text[0] == '"':
            self._arguments((yield from self._text()))
        elif self._stream.text[0] == "{":
            yield from self._stream.json_value(self._arguments)
        else:
            raise Mismatch

    def _arguments(self, text: str) -> None:
        if self._output.calling:
            self._output.arguments(text)
        else:
            self._waiting.append(text)

    def _text(self) -> Reading[str]:
        parts: list[str] = []
        yield from self._stream.json_value(parts.append)
        try:
            value = json.loads("".join(parts))
        except (ValueError, RecursionError) as error:
            raise Mismatch from error
        if not isinstance(value, str):
            raise Mismatch
        return value


def _may_begin(key: str, form: Format) -> bool:
    """Whether an object that begins with this key may be a call."""
    return "*" in form.name_path or key == "type" or _leads((key,), form)


def _leads(path: tuple[str, ...], form: Format) -> bool:
    return any(wanted[: len(path)] == path for wanted in (form.name_path, form.arguments_path, form.id_path))
