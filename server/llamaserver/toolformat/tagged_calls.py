"""Calls whose name is in a tag. The arguments are a JSON object, or have a tag each."""

from .form import Format, Mode
from .output import Output
from .parameters import NULLABLE_STRING, STRING
from .stream import Mismatch, Reading, Stream
from .values import CDATA, as_json, json_of

Types = dict[str, dict[str, str]]  # of the parameters of each function


def read_tagged_calls(stream: Stream, output: Output, form: Format, mark: str, types: Types) -> Reading[None]:
    """All calls of a section, whose first mark has been read."""
    begin, end = form.call
    if mark == form.section[0] and mark != begin and not (yield from _begins(stream, form)):
        raise Mismatch
    while True:
        yield from _call(stream, output, form, types)
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


def _call(stream: Stream, output: Output, form: Format, types: Types) -> Reading[None]:
    call_id = ""
    if form.id_before:
        call_id = yield from stream.name_before(form.id_before)
    if form.mode is Mode.TAGGED and not form.name_end.strip():
        name = yield from stream.name_before(form.argument[0], form.call[1], keep=True)
    else:
        name = yield from stream.name_before(form.name_end.strip() or "\n")
    if form.id_end:
        call_id = yield from stream.name_before(form.id_end)
    output.call(name, call_id)
    if form.mode is Mode.TAG_JSON:
        yield from stream.json_value(output.arguments)
    else:
        yield from _arguments(stream, output, form, types[name])


def _arguments(stream: Stream, output: Output, form: Format, types: dict[str, str]) -> Reading[None]:
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
        kind = types.get(key)
        string = kind == STRING or (kind == NULLABLE_STRING and value.strip() != "null")
        string = string or attributes.startswith(("true", "string"))
        output.arguments(f"{before}{as_json(key)}: {json_of(value, string=string)}")
        before = ", "
    output.arguments("}" if before == ", " else "{}")
