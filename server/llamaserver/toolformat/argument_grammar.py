"""The grammars of arguments that are not written as JSON."""

from collections.abc import Callable
from typing import Any

from .form import Format
from .parameters import Schema, Text, is_never_text, restricting, text_of
from .rules import Rules, one_of, quoted
from .values import as_json

_QUOTE = '<|"|>'  # Gemma's quotation mark
_DEEPEST = 16  # objects in objects that have a grammar of their own. Deeper ones can have any members
_PYTHON_TEXT = """(/'([^'\\\\\\n]|\\\\.)*'/ | /"([^"\\\\\\n]|\\\\.)*"/)"""
_NUMBER = "/-?(0|[1-9][0-9]{0,17})(\\.[0-9]{1,17})?([eE][+-]?[0-9]{1,3})?/"
_SIMPLE: dict[Any, str] = {  # values in Gemma's form
    "integer": "/-?(0|[1-9][0-9]{0,17})/",
    "number": _NUMBER,
    "boolean": '("true" | "false")',
    "null": '"null"',
}
_BOOLEANS = ('"true"', '"false"', '"True"', '"False"')
_TYPES = ("string", "number", "boolean", "object", "array", "null")
_WORDS = ("true", "false", "null", "None")


def tagged_arguments(rules: Rules, form: Format, schema: Schema, value: Callable[[Schema], str]) -> str:
    """Arguments in tags: in the order of the schema, and all that are required."""
    definitions = _definitions(schema)

    def argument(key: str, each: Any) -> str:
        text = text_of(each)
        begin = rules.mark(form.argument[0]) + f" {key} " + rules.mark(form.key_end)
        if form.attributes_end:
            ways = map(quoted, _attributes(form, each, string=text is not None))
            begin += f" {one_of(*ways)} {rules.mark(form.attributes_end)}"
        if text and text.choices:
            choices = one_of(*map(quoted, _with_null(text, "null")))
            rules.weakened |= text.left_out
            return f"{begin} {choices} {rules.mark(form.argument[1])} SPACE?"
        if not text and is_never_text(each, definitions):
            kind = _boolean(rules, each) if each.get("type") == "boolean" else value(each | definitions)
            return f"{begin} {kind} {rules.mark(form.argument[1])} SPACE?"
        rules.weakened |= text.left_out if text else restricting(each)
        return f"{begin} {rules.free_until(form.argument[1])} SPACE?"

    properties = _members(rules, schema)
    if not properties:
        return f"({argument('ID', schema['additionalProperties'])})*" if schema.get("additionalProperties") else ""
    required = _required(schema)
    parts = [(key, rules.named(argument(quoted(key), each))) for key, each in properties.items()]
    return " ".join(part if key in required else part + "?" for key, part in parts)


def _attributes(form: Format, schema: Any, *, string: bool) -> list[str]:
    """What can tell the type of a value: the name of its type, or whether it is a string."""
    if string or form.attributes[1] != "number":
        return [form.attributes[0 if string else 1]]
    kind = schema.get("type") if isinstance(schema, dict) else None
    return [{"integer": "number"}.get(kind, kind)] if isinstance(kind, str) else [*_TYPES]


def nested_arguments(rules: Rules, form: Format, schema: Schema, value: Callable[[Schema], str], depth: int = 0) -> str:
    """Arguments, or members of a value, whose names are tags: in the order of the schema, and all that are required."""
    definitions = _definitions(schema)

    def tag(key: str, each: Any) -> str:
        begin = f"{rules.mark(form.argument[0])} {quoted(key + form.key_end)}"
        end = form.argument[1] + key + form.key_end
        text = text_of(each)
        kind = each.get("type") if isinstance(each, dict) else None
        if text and text.choices:
            rules.weakened |= text.left_out
            return f"{begin} {one_of(*map(quoted, _with_null(text, 'null')))} {rules.mark(end)} SPACE?"
        if kind == "object" and each.get("properties") and depth < _DEEPEST:
            return f"{begin} SPACE? {nested_arguments(rules, form, each, value, depth + 1)} {rules.mark(end)} SPACE?"
        if kind == "array" and isinstance(each.get("items"), dict) and depth < _DEEPEST:
            rules.weakened |= restricting(each) - {"type", "items"}
            one = {"properties": {"item": each["items"]}, "required": ["item"]}
            item = rules.named(nested_arguments(rules, form, one, value, depth + 1))
            return f"{begin} SPACE? {item}* {rules.mark(end)} SPACE?"
        if isinstance(kind, str) and kind in _SIMPLE:
            return f"{begin} {value(each | definitions)} {rules.mark(end)} SPACE?"
        rules.weakened |= text.left_out if text else restricting(each)
        return f"{begin} {rules.free_until(end)} SPACE?"

    required = _required(schema)
    parts = [(key, rules.named(tag(key, each))) for key, each in _members(rules, schema).items()]
    return " ".join(part if key in required else part + "?" for key, part in parts)


def python_arguments(rules: Rules, schema: Schema, value: Callable[[Schema], str]) -> str:
    """Arguments of a call in Python, without the brackets."""
    definitions = _definitions(schema)

    def argument(each: Any) -> str:
        text = text_of(each)
        if text:
            rules.weakened |= text.left_out
            null = [quoted("None")] if text.nullable else []
            texts = [quoted(way) for one in text.choices for way in (repr(one), as_json(one))]
            return one_of(*(texts or [_PYTHON_TEXT]), *null)
        if is_never_text(each, definitions):
            return _boolean(rules, each) if each.get("type") == "boolean" else value(each | definitions)
        rules.weakened |= restricting(each)
        return one_of(_PYTHON_TEXT, value({}))

    required = _required(schema)
    properties = _members(rules, schema)
    if any(key in required and not key.isidentifier() for key in properties):
        rules.weakened.add("required")
    members = [
        (f"{quoted(key + '=')} {argument(each)}", key in required)
        for key, each in properties.items()
        if key.isidentifier()
    ]
    return _separated(rules, members, ", ")


def gemma_object(rules: Rules, schema: Schema, depth: int = 0) -> str:
    """An object in Gemma's form."""
    properties = _members(rules, schema)
    if not properties or depth > _DEEPEST:
        if properties:
            rules.weakened |= restricting(schema)
        return '"{" "}"' if _is_closed(schema) else _any_gemma(rules, "object")
    required = _required(schema)
    members = [
        (f"{quoted(key + ':')} {_gemma_value(rules, each, depth)}", key in required) for key, each in properties.items()
    ]
    return '"{" ' + _separated(rules, members, ",") + ' "}"'


def _gemma_value(rules: Rules, schema: Any, depth: int) -> str:
    text = text_of(schema)
    mark = rules.mark(_QUOTE)
    if text:
        rules.weakened |= text.left_out
        texts = [f"{mark} {quoted(one)} {mark}" for one in text.choices] or [_gemma_text(rules)]
        return one_of(*texts, *(['"null"'] if text.nullable else []))
    kind = schema.get("type") if isinstance(schema, dict) else None
    variants = schema.get("anyOf") if isinstance(schema, dict) else None
    if isinstance(variants, list) and variants and restricting(schema) == {"anyOf"} and depth < _DEEPEST:
        return one_of(*(rules.named(_gemma_value(rules, one, depth + 1)) for one in variants))
    if isinstance(kind, list) and kind and depth < _DEEPEST:
        kinds = dict.fromkeys(one for one in kind if isinstance(one, str))
        ways = [_gemma_value(rules, {**schema, "type": one}, depth + 1) for one in kinds or (None,)]
        return one_of(*map(rules.named, ways))
    if kind == "object":
        return rules.named(gemma_object(rules, schema, depth + 1))
    if kind == "array" and depth < _DEEPEST:
        rules.weakened |= restricting(schema) - {"type", "items"}
        item = rules.named(_gemma_value(rules, schema.get("items"), depth + 1))
        return f'"[" ({item} ("," {item})*)? "]"'
    found = _SIMPLE.get(kind) if isinstance(kind, str) else None
    rules.weakened |= restricting(schema) - ({"type"} if found else set())
    return found or _any_gemma(rules)


def _any_gemma(rules: Rules, kind: str = "value") -> str:
    """Any value, or any object, in Gemma's form."""
    member = '/[A-Za-z0-9_-]{1,64}/ ":" gemma_value'
    rules.add("gemma_object", f'"{{" ({member} ("," {member})*)? "}}"')
    array = '"[" (gemma_value ("," gemma_value)*)? "]"'
    rules.add("gemma_value", _gemma_text(rules), _NUMBER, *map(quoted, _WORDS), "gemma_object", array)
    return f"gemma_{kind}"


def _gemma_text(rules: Rules) -> str:
    return f"{rules.mark(_QUOTE)} {rules.free_until(_QUOTE)}"


def _separated(rules: Rules, members: list[tuple[str, bool]], separator: str) -> str:
    """Members with a separator between them. Those that are not required can be left out.

    Each rule is the rest of the list from a member on, if something is before it or not.
    """
    after = first = ""
    for member, required in reversed(members):
        next_after, next_first = after, first
        way = f"{quoted(separator)} {member} {next_after}".strip()
        begin = f"{member} {next_after}".strip()
        if required:
            after, first = rules.named(way), rules.named(begin)
        else:
            after = rules.named(f"({way})?" if not next_after else f"{way} | {next_after}")
            first = rules.named(f"({begin})?" if not next_first else f"{begin} | {next_first}")
    return first


def _members(rules: Rules, schema: Schema) -> dict[str, Any]:
    """The members that a grammar has for an object."""
    found = schema.get("properties")
    properties: dict[str, Any] = found if isinstance(found, dict) else {}
    enforced = {"type", "properties", "required", "unevaluatedProperties"}
    if properties or not schema.get("additionalProperties"):
        enforced.add("additionalProperties")
    rules.weakened |= restricting(schema) - enforced
    if _required(schema) - properties.keys():
        rules.weakened.add("required")
    return properties


def _boolean(rules: Rules, schema: Schema) -> str:
    rules.weakened |= restricting(schema) - {"type"}
    return one_of(*_BOOLEANS)


def _with_null(text: Text, null: str) -> list[str]:
    return [*text.choices, *([null] if text.nullable else [])]


def _definitions(schema: Schema) -> Schema:
    """What a property of the schema may refer to."""
    return {key: schema[key] for key in ("$defs", "definitions") if key in schema}


def _required(schema: Schema) -> set[str]:
    found = schema.get("required")
    return {one for one in found if isinstance(one, str)} if isinstance(found, list) else set()


def _is_closed(schema: Schema) -> bool:
    return not schema.get("additionalProperties") and "properties" in schema
