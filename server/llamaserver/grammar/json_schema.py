"""JSON schemas as parts of a Lark text: `%json` of llguidance, with each schema rewritten to what it enforces exactly.

Where llguidance cannot enforce a keyword, the rewritten schema allows more, and the keyword is named. The schema is
lowered from the top: each place becomes a conjunction (json_conjunction.py), and then one schema for each type.
Objects that do not say so have no other properties, and tuples no further items, so that each answer ends.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ..errors import InvalidRequest
from ..interfaces.backend import never
from ..interfaces.declare import size
from . import json_formats
from .json_conjunction import NEVER, TYPES, Conjunction, Flat, GrammarError, bounds
from .json_multiples import Multiples
from .json_numbers import is_within, number_schema
from .json_pattern import translated

_MOST_SIZE = 64 * 1024  # characters of a schema's texts, and one for each value
_MOST_LOWERED = 512 * 1024  # the same for the rewritten schema, in which alternatives repeat what surrounds them
_LAYOUT = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}
_MOST_PATTERNS = 32  # of names of properties. llguidance compares them, and takes 1 s for 200 of them
_SHOWN = 40

Schema = bool | dict[str, Any]


@dataclass(frozen=True, slots=True)
class JsonValue:
    """A JSON value that fits a schema.

    `lark` is an expression that may stand in any rule of a Lark text, such as `start: "<call>" EXPRESSION`. The text
    around it must not end in what could be the begin of the value, nor begin with what could be more of it. `weakened`
    names the keywords of the schema that the expression does not enforce, in alphabetical order.
    """

    lark: str
    weakened: tuple[str, ...] = ()


def json_value(
    schema: object, *, field: str = "json_schema", strict: bool = False, cancelled: Callable[[], bool] = never
) -> JsonValue:
    """The values that fit a parsed schema, as one expression of Lark.

    Raises InvalidRequest that names `field` for what is no schema, is too large, or fits no value. With `strict`, also
    for a schema that cannot be enforced as it is. Raises CancelledError soon after `cancelled` returns True.
    """
    try:
        if size(schema, _MOST_SIZE) > _MOST_SIZE:
            raise GrammarError(f"the schema is larger than {_MOST_SIZE} characters")
        lowering = _Lowering(schema, cancelled)
        lowered = lowering.whole()
        if size(lowered, _MOST_LOWERED) > _MOST_LOWERED:
            raise GrammarError(f"the schema with all its alternatives is larger than {_MOST_LOWERED} characters")
        text = json.dumps({**lowered, "x-guidance": _LAYOUT})
    except GrammarError as error:
        raise InvalidRequest(f"Field '{field}': {error}", field=field) from None
    except RecursionError:
        raise InvalidRequest(f"Field '{field}': the schema is nested too deeply", field=field) from None
    weakened = tuple(sorted(lowering.weakened))
    if strict and weakened:
        keywords = ", ".join(f"'{keyword}'" for keyword in weakened)
        raise InvalidRequest(
            f"Field '{field}': the schema's {keywords} cannot be enforced, and strict is true", field=field
        )
    return JsonValue("%json " + text, weakened)


class _Lowering:
    def __init__(self, root: object, cancelled: Callable[[], bool]) -> None:
        self.weakened: set[str] = set()
        self._conjunction = Conjunction(root, self.weakened, cancelled)
        self._names: dict[str, str] = {}  # JSON pointer -> name of the definition
        self._waiting: list[str] = []
        self._multiples = Multiples()
        self._root = root

    def whole(self) -> dict[str, Any]:
        """The rewritten schema with its definitions."""
        lowered = self._schema(self._root, 0)
        definitions: dict[str, Schema] = {}
        while self._waiting:
            pointer = self._waiting.pop()
            definitions[self._names[pointer]] = self._schema(self._conjunction.target(pointer), 0)
        if not _fits(lowered, _possible(definitions)):
            raise GrammarError("no value fits the schema")
        result: dict[str, Any] = {} if isinstance(lowered, bool) else lowered
        return {**result, "$defs": definitions} if definitions else result

    # ---- one place

    def _schema(self, schema: object, depth: int) -> Schema:
        return self._lowered(self._conjunction.flat(schema, depth), depth)

    def _lowered(self, flat: Flat, depth: int) -> Schema:
        if NEVER in flat:
            return False
        if "$ref" in flat:
            return self._reference(flat["$ref"])
        if flat.get("choices"):
            return self._chosen(flat, depth)
        if "enum" in flat:
            return self._enumerated(flat)
        kinds = self._kinds(flat)
        if kinds is None:
            return True
        return _either([self._typed(kind, flat, depth + 1) for kind in kinds])

    def _reference(self, pointer: str) -> Schema:
        if pointer not in self._names:
            self._names[pointer] = f"r{len(self._names)}"
            self._waiting.append(pointer)
        return {"$ref": f"#/$defs/{self._names[pointer]}"}

    def _chosen(self, flat: Flat, depth: int) -> Schema:
        (keyword, choices), *others = flat["choices"]
        rest = {**flat, "choices": others}
        variants = [self._conjunction.flat(one, depth + 1) for one in choices]
        if keyword == "oneOf" and not self._conjunction.disjoint(variants, depth):
            self.weakened.add("oneOf")
        merged = [self._conjunction.merged(rest, one, depth + 1) for one in variants]
        return _either([self._lowered(one, depth + 1) for one in merged])

    def _enumerated(self, flat: Flat) -> Schema:
        kinds = flat.get("type")
        values = [one for one in flat["enum"] if kinds is None or _is_of(one, kinds)]
        numbers = [one for one in values if isinstance(one, int | float) and not isinstance(one, bool)]
        strings = [one for one in values if isinstance(one, str)]
        others = [one for one in values if not isinstance(one, str | float) and type(one) is not int]
        if any(isinstance(one, dict | list) for one in others):
            self.weakened |= {keyword for keyword in flat if TYPES.get(keyword) in ("object", "array")}
        kept = [one for one in numbers if is_within(one, flat)] + others
        if not flat.keys() & {"pattern", "format", "minLength", "maxLength"}:
            return _enum([*strings, *kept])
        string = self._string(flat) if strings else False
        return _either([_enum(kept), string and {"allOf": [_enum(strings), string]}])

    def _kinds(self, flat: Flat) -> list[str] | None:
        """The types that a value may have; None for all."""
        if "type" in flat:
            kinds: list[str] = flat["type"]
            return [kind for kind in kinds if kind != "integer" or "number" not in kinds]
        implied = [kind for keyword, kind in TYPES.items() if keyword in flat]
        return implied[:1] or None

    def _typed(self, kind: str, flat: Flat, depth: int) -> Schema:
        if kind == "object":
            return self._object(flat, depth)
        if kind == "array":
            return self._array(flat, depth)
        if kind == "string":
            return self._string(flat)
        return (
            number_schema(kind, flat, self._multiples, self.weakened)
            if kind in ("integer", "number")
            else {"type": kind}
        )

    # ---- types

    def _string(self, flat: Flat) -> Schema:
        result: dict[str, Any] = {"type": "string"}
        low, high = bounds(flat, "minLength", "maxLength")
        if high is not None and high < low:
            return False
        result |= ({"minLength": low} if low else {}) | ({"maxLength": high} if high is not None else {})
        more: list[dict[str, Any]] = []
        for pattern in flat.get("pattern", []):
            found = translated(pattern)
            if not found.exact:
                self.weakened.add("pattern")
            more += [{"type": "string", "pattern": expression} for expression in found.expressions]
        for name in flat.get("format", []):
            if name in json_formats.KNOWN:
                more.append({"type": "string", "format": name})
            elif name in json_formats.EXPRESSIONS:
                more.append({"type": "string", "pattern": json_formats.EXPRESSIONS[name]})
            elif name in json_formats.NOT_ENFORCED:
                self.weakened.add("format")
        return _all_of(result, more)

    def _array(self, flat: Flat, depth: int) -> Schema:
        low, high = bounds(flat, "minItems", "maxItems")
        places = flat.get("prefixItems", [])
        # Without `items`, a tuple ends after its places, unless it must be longer.
        items = flat.get("items", not places or low > len(places))
        if "uniqueItems" in flat and (high is None or high > 1) and (items is not False or len(places) > 1):
            self.weakened.add("uniqueItems")
        if high is not None and high < low:
            return False
        result: dict[str, Any] = {"type": "array"}
        result |= ({"minItems": low} if low else {}) | ({"maxItems": high} if high is not None else {})
        lowered = [self._schema(one, depth) for one in places]
        rest = self._schema(items, depth)
        possible = next((at for at, one in enumerate(lowered) if one is False), len(lowered))
        if possible < len(lowered):  # no item can stand there, so the array ends before
            lowered, rest = lowered[:possible], False
        if rest is False and low > len(lowered):
            return False
        return {**result, "prefixItems": lowered, "items": rest} if lowered else {**result, "items": rest}

    def _object(self, flat: Flat, depth: int) -> Schema:
        properties: dict[str, Any] = dict(flat.get("properties", {}))
        patterns = self._patterns(flat)
        required: list[str] = list(flat.get("required", []))
        closed = "additionalProperties" not in flat and bool("properties" in flat or patterns)
        others: Any = False if closed else flat.get("additionalProperties", True)
        if closed:
            properties |= {name: True for name in required if name not in properties}
        if patterns is None:
            patterns, others = {}, True
        if "propertyNames" in flat:
            properties, patterns, others = self._named(flat["propertyNames"], properties, patterns, others, depth)
        for name in required:
            properties.setdefault(name, others)
        lowered = {name: self._schema(one, depth) for name, one in properties.items()}
        if any(lowered[name] is False for name in required):
            return False
        result: dict[str, Any] = {"type": "object", "properties": lowered, "required": required}
        if patterns:
            result["patternProperties"] = {name: self._schema(one, depth) for name, one in patterns.items()}
        rest = self._schema(others, depth)
        result["additionalProperties"] = rest
        counted = self._counted(flat, lowered, required, closed=rest is False and not patterns)
        return False if counted is None else {**result, **counted}

    def _patterns(self, flat: Flat) -> dict[str, Any] | None:
        """The patterns of names; None if they cannot be enforced. llguidance wants them disjoint."""
        result: dict[str, Any] = {}
        for pattern, schema in flat.get("patternProperties", {}).items():
            found = translated(pattern)
            if not found.exact or len(found.expressions) != 1:
                self.weakened.add("patternProperties")
                return None
            result[found.expressions[0]] = schema
        if len(result) > _MOST_PATTERNS or not _apart(list(result)):
            self.weakened.add("patternProperties")
            return None
        return result

    def _named(
        self, names: Any, properties: dict[str, Any], patterns: dict[str, Any], others: Any, depth: int
    ) -> tuple[dict[str, Any], dict[str, Any], Any]:
        """Properties, patterns and others under `propertyNames`, if that can be said with them."""
        flat = self._conjunction.flat(names, depth)
        if NEVER in flat:
            return {}, {}, False
        if "enum" in flat and not patterns and not flat.get("choices"):
            allowed = dict.fromkeys(one for one in flat["enum"] if isinstance(one, str))
            kept = {name: one for name, one in properties.items() if name in allowed}
            if others is not False:
                kept |= {name: others for name in allowed if name not in kept}
            return kept, {}, False
        if flat.keys() <= {"type", "choices"} and not flat.get("choices") and "string" in flat.get("type", ["string"]):
            return properties, patterns, others
        if others is False and not properties and not patterns:
            return properties, patterns, others
        lowered = (
            self._string(flat) if flat.keys() <= {"type", "choices", "pattern", "minLength", "maxLength"} else True
        )
        if isinstance(lowered, dict) and not properties and not patterns:
            expressions = [one["pattern"] for one in lowered.get("allOf", [])]
            if "minLength" in lowered or "maxLength" in lowered:
                expressions.append(f"^(?s:.{{{lowered.get('minLength', 0)},{lowered.get('maxLength', '')}}})$")
            if len(expressions) == 1:
                return {}, {expressions[0]: others}, False
        self.weakened.add("propertyNames")
        return properties, patterns, others

    def _counted(
        self, flat: Flat, properties: dict[str, Schema], required: list[str], *, closed: bool
    ) -> dict[str, int] | None:
        """The bounds on the number of properties as far as llguidance enforces them; None if no object fits."""
        low, high = bounds(flat, "minProperties", "maxProperties")
        possible = [name for name, one in properties.items() if one is not False]
        if closed and high is not None and high >= len(possible):
            high = None
        if low <= len(required):
            low = 0
        if (closed and low > len(possible)) or (high is not None and high < max(low, len(required))):
            return None
        if closed and low == len(possible):
            low = 0
            required[:] = dict.fromkeys([*required, *possible])
        plain = len(required) == len(possible)
        # Names that are not in `properties` may come twice, and count once.
        fits = (low <= 1 or (closed and plain)) and (plain or (low <= 1 and high in (None, 0, 1)))
        if not fits:
            self.weakened |= {
                word for word, on in (("minProperties", low > 0), ("maxProperties", high is not None)) if on
            }
            return {}
        return ({"minProperties": low} if low else {}) | ({"maxProperties": high} if high is not None else {})


def _possible(definitions: dict[str, Schema]) -> set[str]:
    """The definitions that any value fits. One that needs itself inside is not among them."""
    possible: set[str] = set()
    names, before = list(definitions), -1
    while len(possible) > before:
        before = len(possible)
        for name in names:
            if name not in possible and _fits(definitions[name], possible):
                possible.add(name)
        names.reverse()  # chains of definitions mostly have one direction
    return possible


def _fits(schema: Schema, possible: set[str]) -> bool:
    """Whether a value fits a lowered schema, if some fits each of the definitions `possible`."""
    if isinstance(schema, bool):
        return schema
    if "$ref" in schema:
        return schema["$ref"].removeprefix("#/$defs/") in possible
    if "anyOf" in schema:
        return any(_fits(one, possible) for one in schema["anyOf"])
    needed = [schema["properties"].get(name, True) for name in schema.get("required", [])]
    low = schema.get("minItems", 0)
    needed += schema.get("prefixItems", [])[:low]
    if low > len(schema.get("prefixItems", [])):
        needed.append(schema.get("items", True))
    return all(_fits(one, possible) for one in needed)


def _either(schemas: list[Schema]) -> Schema:
    possible = [one for one in schemas if one is not False]
    if not possible or any(one is True for one in possible):
        return bool(possible)
    return possible[0] if len(possible) == 1 else {"anyOf": possible}


def _enum(values: list[Any]) -> Schema:
    return {"enum": values} if values else False


def _all_of(schema: dict[str, Any], more: list[dict[str, Any]]) -> dict[str, Any]:
    return {**schema, "allOf": more} if more else schema


def _is_of(value: object, kinds: list[str]) -> bool:
    """Whether a JSON value has one of the types."""
    if isinstance(value, bool):
        return "boolean" in kinds
    if isinstance(value, int | float):
        whole = isinstance(value, int) or value.is_integer()
        return "number" in kinds or (whole and "integer" in kinds)
    names = {str: "string", type(None): "null", list: "array"}
    return names.get(type(value), "object" if isinstance(value, Mapping) else "") in kinds


def _apart(expressions: list[str]) -> bool:
    """Whether no text can match two of the expressions, as far as their first characters tell."""
    begins = sorted(map(_literal_begin, expressions))
    return not any(right.startswith(left) for left, right in pairwise(begins))


def _literal_begin(expression: str) -> str:
    """The text that every match begins with, as it is written in the expression."""
    if not expression.startswith("^") or "|" in expression:
        return ""
    found = ""
    for character in expression[1:]:
        if not (character.isascii() and character.isalnum()):
            break
        found += character
    return found
