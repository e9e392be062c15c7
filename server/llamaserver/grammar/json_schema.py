"""Converts a JSON schema to a grammar. The generated text is then JSON that fits the schema.

Supported: type, properties, required, additionalProperties, items, prefixItems, minItems, maxItems, minLength,
maxLength, pattern, format (date, time, date-time, uuid), enum, const, anyOf, oneOf, allOf, local $ref. Other
keywords have no effect. Work and output are bounded. Properties appear in the order of the schema. Other
properties appear only if the schema allows them.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import unquote

from ..errors import InvalidRequest
from ..interfaces.declare import size
from ..interfaces.grammar import Grammar
from .gbnf import MAX_BYTES, MAX_REPEAT, parse
from .json_pattern import pattern_to_gbnf
from .json_text import DEEPEST, json_text, quote
from .kept import Kept
from .rules import GrammarError

Schema = Mapping[str, Any]

_MOST_SIZE = 64 * 1024  # characters of a schema's texts, and one for each value
_MOST_VISITS = 4_000  # visited schemas, with each further visit through a reference
_MOST_COPIES = 40_000  # members that are copied when schemas are combined
_MOST_DIGITS = 8  # of an index in a reference
_SHOWN = 80  # characters of a reference in an error
_AROUND = 6  # characters around the name and the body of a rule

_SHARED = {
    "ws": '| " " | "\\n"{1,2} [ \\t]{0,20}',
    "char": '[^"\\\\\\x00-\\x1F\\x7F] | "\\\\" (["\\\\/bfnrt] | "u" [0-9a-fA-F]{4})',
    "string": '"\\"" char* "\\""',
    "integer": '"-"? ("0" | [1-9] [0-9]{0,15})',
    "number": 'integer ("." [0-9]{1,16})? ([eE] [-+]? [0-9]{1,3})?',
    "boolean": '"true" | "false"',
    "null": '"null"',
    "pair": 'string ":" ws value',
    "object": '"{" ws (pair ("," ws pair)* ws)? "}"',
    "array": '"[" ws (value ("," ws value)* ws)? "]"',
    "value": "object | array | string | number | boolean | null",
    "date": '[0-9]{4} "-" ("0" [1-9] | "1" [0-2]) "-" ("0" [1-9] | [12] [0-9] | "3" [01])',
    "time": '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{1,6})? '
    '("Z" | [-+] ([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9])',
    "uuid": '[0-9a-fA-F]{8} ("-" [0-9a-fA-F]{4}){3} "-" [0-9a-fA-F]{12}',
}
_PLAIN = ("value", "integer", "number", "boolean", "null")
_FORMATS = {"date": "date", "time": "time", "date-time": 'date "T" time', "uuid": "uuid"}


def compile_schema(schema: object) -> Grammar:
    """Compile a parsed schema. Raises InvalidRequest that names json_schema."""
    try:
        if size(schema, _MOST_SIZE) > _MOST_SIZE:
            raise GrammarError(f"the schema is larger than {_MOST_SIZE} characters")
        return _parsed(_Converter(schema).text())
    except GrammarError as error:
        raise InvalidRequest(f"json_schema: {error}", field="json_schema") from None


def _no_token(_: str) -> None:
    """No token: the text of a schema names none."""


_parsed = Kept(partial(parse, token_id=_no_token))


class _Converter:
    def __init__(self, root: object) -> None:
        self._root = root
        self._rules: dict[str, str] = {}
        self._names: dict[str, str] = {}  # body -> name
        self._references: dict[str, str] = {}  # JSON pointer -> rule name
        self._size = sum(len(name) + len(body) + _AROUND for name, body in _SHARED.items())
        self._visits = self._copies = 0
        self._combining: dict[str, Callable[[Schema, int], str]] = {
            "$ref": self._reference,
            "const": self._const,
            "enum": self._enum,
            "allOf": self._all_of,
            "anyOf": self._any_of,
            "oneOf": self._any_of,
        }
        self._types: dict[str, Callable[[Schema, int], str]] = {
            "object": self._object,
            "array": self._array,
            "string": self._string,
        }

    def text(self) -> str:
        """The whole grammar."""
        self._references["#"] = "root"
        self._put("root", self._visit(self._root, 0))
        result = "\n".join(f"{name} ::= {body}" for name, body in {**self._rules, **_SHARED}.items())
        if len(result.encode()) > MAX_BYTES:
            raise GrammarError("the schema is too large")
        return result

    # ---- rules

    def _put(self, name: str, body: str) -> None:
        self._size += len(name) + len(body) + _AROUND
        if self._size > MAX_BYTES:
            raise GrammarError("the schema is too large")
        self._rules[name] = body

    def _rule(self, body: str) -> str:
        """The name of the rule with this body. A new body makes a new rule."""
        name = self._names.get(body)
        if name is None:
            name = self._names[body] = f"r{len(self._names)}"
            self._put(name, body)
        return name

    def _count_visit(self, depth: int) -> None:
        self._visits += 1
        if self._visits > _MOST_VISITS or depth > DEEPEST:
            raise GrammarError("the schema is too large or nested too deeply")

    def _copied(self, schema: Schema) -> Schema:
        """The same schema, whose members are counted: it has just been copied."""
        inner = (value for value in schema.values() if isinstance(value, Mapping | list))
        self._copies += len(schema) + sum(map(len, inner))
        if self._copies > _MOST_COPIES:
            raise GrammarError("the schema combines too many parts")
        return schema

    # ---- schemas

    def _visit(self, schema: object, depth: int) -> str:
        """GBNF for the values that a schema allows. The expression can stand beside other expressions."""
        self._count_visit(depth)
        if schema is True:
            return "value"
        if not isinstance(schema, Mapping):
            raise GrammarError("a schema must be an object")
        for keyword, make in self._combining.items():
            if keyword in schema:
                return make(schema, depth)
        return self._typed(schema, depth)

    def _const(self, schema: Schema, depth: int) -> str:
        return quote(json_text(schema["const"], depth))

    def _enum(self, schema: Schema, depth: int) -> str:
        return _either([quote(json_text(value, depth)) for value in _listed(schema, "enum")])

    def _any_of(self, schema: Schema, depth: int) -> str:
        keyword = "anyOf" if "anyOf" in schema else "oneOf"
        rest = self._copied({name: value for name, value in schema.items() if name != keyword})
        return _either([self._variant(rest, one, depth) for one in _listed(schema, keyword)])

    def _all_of(self, schema: Schema, depth: int) -> str:
        return self._visit(self._merged(schema, depth), depth + 1)

    def _variant(self, rest: Schema, one: object, depth: int) -> str:
        """GBNF for one alternative, combined with the schema's keywords beside the alternatives."""
        constrains = rest.keys() & {"type", "properties", "items", "required", "additionalProperties"}
        if constrains and isinstance(one, Mapping):
            return self._visit(self._copied(_merge(rest, self._resolved(one, depth))), depth + 1)
        return self._visit(one, depth + 1)

    def _typed(self, schema: Schema, depth: int) -> str:
        self._count_visit(depth)
        kind = schema.get("type")
        if kind is None:
            kind = _implied_type(schema)
        if isinstance(kind, list):
            kinds = _listed(schema, "type")
            return _either([self._typed(self._copied({**schema, "type": one}), depth + 1) for one in kinds])
        if not isinstance(kind, str) or (kind not in self._types and kind not in _PLAIN):
            raise GrammarError(f"unknown type {str(kind)[:40]!r}")
        return self._types[kind](schema, depth) if kind in self._types else kind

    # ---- references and combinations

    def _reference(self, schema: Schema, depth: int) -> str:
        pointer = str(schema["$ref"])
        target = self._find(pointer)
        if pointer not in self._references:
            name = self._references[pointer] = f"ref{len(self._references)}"
            self._put(name, self._visit(target, depth + 1))
        return self._references[pointer]

    def _find(self, pointer: str) -> object:
        if pointer != "#" and not pointer.startswith("#/"):
            raise GrammarError("only references within the schema are supported, like #/$defs/name")
        target = self._root
        for part in pointer.split("/")[1:]:
            key = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(target, Mapping) and key in target:
                target = target[key]
            elif isinstance(target, list) and key.isdecimal() and len(key) <= _MOST_DIGITS and int(key) < len(target):
                target = target[int(key)]
            else:
                raise GrammarError(f"reference {pointer[:_SHOWN]!r} leads nowhere")
        return target

    def _resolved(self, schema: object, depth: int) -> Schema:
        """The schema with its reference and its allOf resolved."""
        while isinstance(schema, Mapping) and "$ref" in schema:
            depth += 1
            self._count_visit(depth)
            schema = self._find(str(schema["$ref"]))
        if not isinstance(schema, Mapping):
            raise GrammarError("a schema must be an object")
        return self._merged(schema, depth + 1) if "allOf" in schema else schema

    def _merged(self, schema: Schema, depth: int) -> Schema:
        result = self._copied({key: value for key, value in schema.items() if key != "allOf"})
        for one in _listed(schema, "allOf"):
            self._count_visit(depth)
            result = self._copied(_merge(result, self._resolved(one, depth + 1)))
        return result

    # ---- types

    def _object(self, schema: Schema, depth: int) -> str:
        properties = schema.get("properties", {})
        if not isinstance(properties, Mapping):
            raise GrammarError("properties must be an object")
        others = schema.get("additionalProperties", not properties)
        required = dict.fromkeys(map(str, _listed(schema, "required", empty=True)))
        more = [name for name in required if name not in properties]
        if not properties and not more and others is True:
            return "object"
        pairs = {str(name): self._pair(str(name), value, depth) for name, value in properties.items()}
        pairs.update({name: self._pair(name, True, depth) for name in more})
        last, first = '""', '""'
        if others is not False:
            pair = self._rule(f'string ":" ws {self._visit(others, depth + 1)}')
            last = self._rule(f'("," ws {pair})*')
            first = self._rule(f"({pair} {last})?")
        for name, pair in reversed(pairs.items()):
            # `first` stands at the beginning, `last` after a pair. Only `last` begins with a comma.
            if name in required:
                first, last = self._rule(f"{pair} {last}"), self._rule(f'"," ws {pair} {last}')
            else:
                first, last = self._rule(f"{pair} {last} | {first}"), self._rule(f'("," ws {pair})? {last}')
        return f'"{{" ws {first} ws "}}"'

    def _pair(self, name: str, schema: object, depth: int) -> str:
        return self._rule(f"{quote(json_text(name, 0) + ':')} ws {self._visit(schema, depth + 1)}")

    def _array(self, schema: Schema, depth: int) -> str:
        places = schema.get("prefixItems", schema["items"] if isinstance(schema.get("items"), list) else None)
        if places is not None:
            if not isinstance(places, list) or not places:
                raise GrammarError("prefixItems must be a list of schemas")
            inner = ' "," ws '.join(self._visit(one, depth + 1) for one in places)
            return f'"[" ws {inner} ws "]"'
        low, high = _bounds(schema, "minItems", "maxItems")
        if high == 0:
            return '"[" ws "]"'
        item = self._rule(self._visit(schema.get("items", True), depth + 1))
        top = "" if high is None else str(high - 1)
        inner = f'{item} ("," ws {item}){{{max(low - 1, 0)},{top}}} ws'
        return f'"[" ws {inner} "]"' if low else f'"[" ws ({inner})? "]"'

    def _string(self, schema: Schema, _depth: int) -> str:
        pattern, kind = schema.get("pattern"), schema.get("format")
        if pattern is not None:
            if not isinstance(pattern, str):
                raise GrammarError("pattern must be a string")
            return f'"\\"" {self._rule(pattern_to_gbnf(pattern))} "\\""'
        if isinstance(kind, str) and kind in _FORMATS:
            return f'"\\"" {_FORMATS[kind]} "\\""'
        low, high = _bounds(schema, "minLength", "maxLength")
        if low == 0 and high is None:
            return "string"
        # This is a separate rule, so strings with the same bounds share the many rules of the count.
        return self._rule(f'"\\"" char{{{low},{"" if high is None else high}}} "\\""')


def _either(choices: Sequence[str]) -> str:
    return choices[0] if len(choices) == 1 else "(" + " | ".join(choices) + ")"


def _implied_type(schema: Schema) -> str:
    if schema.keys() & {"properties", "additionalProperties", "required"}:
        return "object"
    if schema.keys() & {"items", "prefixItems", "minItems", "maxItems"}:
        return "array"
    return "string" if schema.keys() & {"pattern", "format", "minLength", "maxLength"} else "value"


def _listed(schema: Schema, key: str, *, empty: bool = False) -> list[Any]:
    values = schema.get(key, [])
    if not isinstance(values, list) or not (values or empty):
        raise GrammarError(f"{key} must be a list{'' if empty else ' that is not empty'}")
    return values


def _bounds(schema: Schema, lowest: str, highest: str) -> tuple[int, int | None]:
    for name in (lowest, highest):
        value = schema.get(name, 0)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise GrammarError(f"{name} must be a whole number that is not negative")
    low, high = schema.get(lowest, 0), schema.get(highest)
    if low > MAX_REPEAT or (high is not None and high < low):
        raise GrammarError(f"{lowest} is larger than {highest} or than {MAX_REPEAT}")
    return low, None if high is None or high > MAX_REPEAT else high


def _merge(left: Schema, right: Schema) -> Schema:
    """A schema that combines both. Properties and requirements add up. For other keywords, the right schema wins."""
    result = {**left, **right}
    both = left.get("properties"), right.get("properties")
    if isinstance(both[0], Mapping) and isinstance(both[1], Mapping):
        result["properties"] = {**both[0], **both[1]}
    needs = left.get("required"), right.get("required")
    if isinstance(needs[0], list) and isinstance(needs[1], list):
        result["required"] = list(dict.fromkeys([*map(str, needs[0]), *map(str, needs[1])]))
    return result
