"""Arguments whose names are tags, with tags in them for the members and items of a value.

`<city>Rome</city><tags><item>new</item></tags>` is `{"city": "Rome", "tags": ["new"]}`. The mark before the name of a
tag is `argument[0]`, or `argument[1]` at its end, and `key_end` follows the name.
"""

from collections.abc import Iterator
from typing import Any

from .form import Format
from .output import Output
from .schemas import item, kinds, member
from .stream import Mismatch, Reading, Stream
from .values import as_json, value_of

_ITEM = "item"
_DEEPEST = 32


def read_nested_arguments(stream: Stream, output: Output, form: Format, schema: Any) -> Reading[None]:
    """All arguments of one call, up to the mark that ends it."""
    begin, end = form.argument
    before = "{"
    while not (yield from stream.at(form.call[1])):
        if not (yield from stream.at(begin)):
            break
        key = yield from stream.name_before(form.key_end)
        text = yield from _text(stream, f"{begin}{key}{form.key_end}", f"{end}{key}{form.key_end}")
        output.arguments(f"{before}{as_json(key)}: {_json(text, form, member(schema, key))}")
        before = ", "
    output.arguments("}" if before == ", " else "{}")


def _text(stream: Stream, begin: str, end: str) -> Reading[str]:
    """What is in a tag, which may have tags of the same name in it."""
    parts = [(yield from stream.text_before(end))]
    open_tags = parts[0].count(begin)
    while open_tags:
        parts += [end, (yield from stream.text_before(end))]
        open_tags += parts[-1].count(begin) - 1
    return "".join(parts)


def _json(text: str, form: Format, schema: Any) -> str:
    """JSON of a value."""
    try:
        return as_json(_value(text, form, schema, 0))
    except (Mismatch, ValueError):
        return as_json(text)


def _value(text: str, form: Format, schema: Any, depth: int) -> Any:
    """The value in a tag. Raises Mismatch."""
    allowed = kinds(schema)
    if form.argument[0] not in text or "string" in allowed:
        empty = not text.strip() and "string" not in allowed
        return [] if empty and "array" in allowed else {} if empty and "object" in allowed else value_of(text, allowed)
    if depth > _DEEPEST:
        raise Mismatch
    found = list(_tags(text, form))
    if all(key == _ITEM for key, _ in found) and allowed != {"object"}:
        return [_value(inner, form, item(schema), depth + 1) for _, inner in found]
    return {key: _value(inner, form, member(schema, key), depth + 1) for key, inner in found}


def _tags(text: str, form: Format) -> Iterator[tuple[str, str]]:
    """The names of the tags in a text, and what is in them. Raises Mismatch if there is other text."""
    begin, end = form.argument
    place, length = 0, len(text.rstrip())
    while place < length:
        rest = text.find(begin, place)
        key_end = text.find(form.key_end, rest + len(begin))
        if rest < 0 or key_end < 0 or text[place:rest].strip():
            raise Mismatch
        key = text[rest + len(begin) : key_end]
        first = place = key_end + len(form.key_end)
        opening, closing = f"{begin}{key}{form.key_end}", f"{end}{key}{form.key_end}"
        open_tags = 1
        while open_tags:
            close = text.find(closing, place)
            if close < 0:
                raise Mismatch
            open_tags += text.count(opening, place, close) - 1
            last, place = close, close + len(closing)
        yield key, text[first:last]
