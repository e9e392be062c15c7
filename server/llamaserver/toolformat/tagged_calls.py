"""Calls whose name is in a tag. The arguments are a JSON object, or have a tag each."""

from typing import Any

from .form import NAME_HERE, Format, Mode
from .nested_calls import read_nested_arguments
from .output import Output
from .schemas import Schemas, kinds, member
from .stream import Mismatch, Reading, Stream
from .values import CDATA, as_json, json_of


def read_tagged_calls(stream: Stream, output: Output, form: Format, mark: str, schemas: Schemas) -> Reading[None]:
    """All calls of a section, whose first mark has been read."""
    begin, end = form.call
    if mark == form.section[0] and mark != begin and not (yield from _begins(stream, form)):
        raise Mismatch
    while True:
        yield from _call(stream, output, form, schemas)
        yield from stream.at(end)
        output.end()
        if not (yield from _begins(stream, form)):
            break
    if form.section[1]:
        yield from stream.at(form.section[1])


def _begins(stream: Stream, form: Format) -> Reading[bool]:
    for mark in form.openings:
        if mark != form.section[0] and (yield from stream.at(mark)):
            return True
    return False


def _call(stream: Stream, output: Output, form: Format, schemas: Schemas) -> Reading[None]:
    call_id = ""
    if form.id_before:
        call_id = yield from stream.name_before(form.id_before)
    if form.mode is Mode.TAGGED and not form.name_end.strip():
        name = yield from stream.name_before(form.argument[0], form.call[1], keep=True)
    else:
        end, *again = form.name_end.strip().split(NAME_HERE)
        name = yield from stream.name_before(end or "\n")
        for mark in again:
            if not (yield from stream.at(name + mark)):
                raise Mismatch
    if form.id_end:
        number = yield from stream.name_before(form.id_end)
        call_id = "" if form.numbered else number
    output.call(name, call_id)
    if form.mode is Mode.TAG_JSON:
        yield from stream.json_value(output.arguments)
    elif form.mode is Mode.NESTED:
        yield from read_nested_arguments(stream, output, form, schemas[name])
    else:
        yield from _arguments(stream, output, form, schemas[name])


def _arguments(stream: Stream, output: Output, form: Format, schema: Any) -> Reading[None]:
    begin, end = form.argument
    before = "{"
    while (yield from stream.at(begin)):
        yield from stream.skip_space()
        first, *others = form.key_end.split() or [form.key_end]
        key = yield from stream.name_before(first)
        for mark in others:
            if not (yield from stream.at(mark)):
                raise Mismatch
        attributes = (yield from stream.name_before(form.attributes_end)) if form.attributes_end else ""
        value = yield from stream.text_before(end.strip())
        if value.lstrip().startswith(CDATA[0]):
            parts = [value]
            while CDATA[1] not in parts[-1]:  # the mark is a part of the value
                parts += [end.strip(), (yield from stream.text_before(end.strip()))]
            value = "".join(parts)
        if form.key_end.endswith("\n"):
            value = value.removeprefix("\n")
        if end.startswith("\n"):
            value = value.removesuffix("\n")
        string = attributes.startswith(("true", "string"))
        allowed = frozenset({"string"}) if string else kinds(member(schema, key))
        output.arguments(f"{before}{as_json(key)}: {json_of(value, allowed)}")
        before = ", "
    output.arguments("}" if before == ", " else "{}")
