"""The grammars of arguments that are not written as JSON."""

from collections.abc import Callable
from typing import Any

from .form import Format
from .rules import Rules, one_of, quoted
from .values import as_json

Schema = dict[str, Any]
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
        texts = _texts(each)
        string = texts is not None
        begin = rules.mark(form.argument[0]) + f" {key} " + rules.mark(form.key_end)
        if form.attributes_end:
            begin += (
                f" {one_of(*map(quoted, _attributes(form, each, string=string)))} {rules.mark(form.attributes_end)}"
            )
        if texts:
            return f"{begin} {one_of(*map(quoted, texts))} {rules.mark(form.argument[1])} SPACE?"
        if string or not isinstance(each, dict) or not isinstance(each.get("type"), str):
            return f"{begin} {rules.free_until(form.argument[1])} SPACE?"
        kind = one_of(*_BOOLEANS) if each["type"] == "boolean" else value(each | definitions)
        return f"{begin} {kind} {rules.mark(form.argument[1])} SPACE?"

    if not _properties(schema):
        return f"({argument('ID', {})})*" if schema.get("additionalProperties") else ""
    required = _required(schema)
    parts = [(key, rules.named(argument(quoted(key), each))) for key, each in _properties(schema).items()]
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
        texts = _texts(each)
        kind = each.get("type") if isinstance(each, dict) else None
        if texts:
            return f"{begin} {one_of(*map(quoted, texts))} {rules.mark(end)} SPACE?"
        if kind == "object" and _properties(each) and depth < _DEEPEST:
            return f"{begin} SPACE? {nested_arguments(rules, form, each, value, depth + 1)} {rules.mark(end)} SPACE?"
        if kind == "array" and isinstance(each.get("items"), dict) and depth < _DEEPEST:
            item = rules.named(
                nested_arguments(
                    rules, form, {"properties": {"item": each["items"]}, "required": ["item"]}, value, depth + 1
                )
            )
            return f"{begin} SPACE? {item}* {rules.mark(end)} SPACE?"
        if texts is None and kind in _SIMPLE:
            return f"{begin} {value(each | definitions)} {rules.mark(end)} SPACE?"
        return f"{begin} {rules.free_until(end)} SPACE?"

    required = _required(schema)
    parts = [(key, rules.named(tag(key, each))) for key, each in _properties(schema).items()]
    return " ".join(part if key in required else part + "?" for key, part in parts)


def python_arguments(rules: Rules, schema: Schema, value: Callable[[Schema], str]) -> str:
    """Arguments of a call in Python, without the brackets."""
    definitions = _definitions(schema)

    def argument(each: Any) -> str:
        texts = _texts(each)
        if texts:
            return one_of(*(quoted(way) for text in texts for way in (repr(text), as_json(text))))
        if texts is not None:
            return _PYTHON_TEXT
        kind = each.get("type") if isinstance(each, dict) else None
        if kind == "boolean":
            return one_of(*_BOOLEANS)
        return value(each | definitions) if isinstance(kind, str) else one_of(_PYTHON_TEXT, value({}))

    members = [
        (f"{quoted(key + '=')} {argument(each)}", key in _required(schema))
        for key, each in _properties(schema).items()
        if key.isidentifier()
    ]
    return _separated(rules, members, ", ")


def gemma_object(rules: Rules, schema: Schema, depth: int = 0) -> str:
    """An object in Gemma's form."""
    properties = _properties(schema)
    if not properties or depth > _DEEPEST:
        return '"{" "}"' if _is_closed(schema) else _any_gemma(rules, "object")
    members = [
        (f"{quoted(key + ':')} {_gemma_value(rules, each, depth)}", key in _required(schema))
        for key, each in properties.items()
    ]
    return '"{" ' + _separated(rules, members, ",") + ' "}"'


def _gemma_value(rules: Rules, schema: Any, depth: int) -> str:
    texts = _texts(schema)
    mark = rules.mark(_QUOTE)
    if texts:
        return one_of(*(f"{mark} {quoted(text)} {mark}" for text in texts))
    if texts is not None:
        return _gemma_text(rules)
    kind = schema.get("type") if isinstance(schema, dict) else None
    if kind == "object":
        return rules.named(gemma_object(rules, schema, depth + 1))
    if kind == "array" and depth < _DEEPEST:
        item = rules.named(_gemma_value(rules, schema.get("items"), depth + 1))
        return f'"[" ({item} ("," {item})*)? "]"'
    return _SIMPLE.get(kind) or _any_gemma(rules)


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


def _properties(schema: Schema) -> dict[str, Any]:
    found = schema.get("properties")
    return found if isinstance(found, dict) else {}


def _definitions(schema: Schema) -> Schema:
    """What a property of the schema may refer to."""
    return {key: schema[key] for key in ("$defs", "definitions") if key in schema}


def _required(schema: Schema) -> list[Any]:
    found = schema.get("required")
    return found if isinstance(found, list) else []


def _is_closed(schema: Schema) -> bool:
    return not schema.get("additionalProperties") and "properties" in schema


def _texts(schema: Any) -> list[str] | None:
    """The strings that a schema allows, [] for any string. None if it allows other values than strings."""
    if not isinstance(schema, dict):
        return None
    allowed = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(allowed, list) and allowed and all(isinstance(one, str) for one in allowed):
        return allowed
    return [] if schema.get("type") == "string" and not allowed else None
