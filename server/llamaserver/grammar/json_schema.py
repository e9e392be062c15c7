"""JSON schemas as parts of a Lark text: `%json` of llguidance, with each schema rewritten to what it enforces exactly.

Where llguidance cannot enforce a keyword, the rewritten schema allows more, and the keyword is named. The schema is
lowered from the top: each place becomes a conjunction (json_conjunction.py), and then one schema for each type.
Objects that do not say so have no other properties, and tuples no further items, so that each answer ends.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidRequest
from ..interfaces.backend import never
from ..interfaces.declare import size
from .json_conjunction import NEVER, TYPES, Conjunction, Flat, GrammarError, implied_types
from .json_disjoint import Disjoint
from .json_multiples import Multiples
from .json_numbers import is_of, is_within, number_schema
from .json_strings import counted

_MOST_SIZE = 64 * 1024  # characters of a schema's texts, and one for each value
_MOST_LOWERED = 512 * 1024  # the same for the rewritten schema, in which alternatives repeat what surrounds them
_LAYOUT = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}
_SHOWN = 40

# Where a lowered schema has others inside.
_MAPS = frozenset(("$defs", "properties", "patternProperties"))
_LISTS = frozenset(("anyOf", "allOf", "prefixItems"))
_SCHEMAS = frozenset(("items", "additionalProperties"))

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
        self._names = self._conjunction.names
        self._definitions: dict[str, str] = {}  # JSON pointer -> name of the definition
        self._waiting: list[str] = []
        self._multiples = Multiples()
        self._root = root

    def whole(self) -> dict[str, Any]:
        """The rewritten schema with its definitions."""
        lowered = self._schema(self._root, 0)
        definitions: dict[str, Schema] = {}
        while self._waiting:
            pointer = self._waiting.pop()
            definitions[self._definitions[pointer]] = self._schema(self._conjunction.target(pointer), 0)
        possible = _possible(definitions)
        if not _fits(lowered, possible):
            raise GrammarError("no value fits the schema")
        whole: dict[str, Any] = {} if isinstance(lowered, bool) else lowered
        kept = {name: one for name, one in definitions.items() if name in possible}
        if kept:
            whole = {**whole, "$defs": kept}
        result: dict[str, Any] = _without_impossible(whole, possible) if len(kept) < len(definitions) else whole
        return result

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
        if pointer not in self._definitions:
            self._definitions[pointer] = f"r{len(self._definitions)}"
            self._waiting.append(pointer)
        return {"$ref": f"#/$defs/{self._definitions[pointer]}"}

    def _chosen(self, flat: Flat, depth: int) -> Schema:
        (keyword, choices), *others = flat["choices"]
        rest = {**flat, "choices": others}
        variants = [self._conjunction.flat(one, depth + 1) for one in choices]
        merged = [self._conjunction.merged(rest, one, depth + 1) for one in variants]
        if keyword == "oneOf" and not self._is_disjoint(merged, variants, depth + 1):
            self.weakened.add("oneOf")
        return _either([self._lowered(one, depth + 1) for one in merged])

    def _is_disjoint(self, merged: list[Flat], variants: list[Flat], depth: int) -> bool:
        conjunction = self._conjunction
        disjoint = Disjoint(lambda schema: conjunction.resolved(schema, depth), implied_types)
        written, others = ([conjunction.inlined(one, depth) for one in flats] for flats in (merged, variants))
        return disjoint.all_apart(written, others)

    def _enumerated(self, flat: Flat) -> Schema:
        kinds = flat.get("type")
        values = [one for one in flat["enum"] if kinds is None or is_of(one, kinds)]
        numbers = [one for one in values if isinstance(one, int | float) and not isinstance(one, bool)]
        strings = [one for one in values if isinstance(one, str)]
        others = [one for one in values if not isinstance(one, str | float) and type(one) is not int]
        if any(isinstance(one, dict | list) for one in others):
            self.weakened |= {keyword for keyword in flat if TYPES.get(keyword) in ("object", "array")}
        kept = [one for one in numbers if is_within(one, flat)] + others
        if not flat.keys() & {"pattern", "format", "minLength", "maxLength"}:
            return _enum([*strings, *kept])
        string = self._conjunction.strings.schema(flat) if strings else False
        return _either([_enum(kept), string and {"allOf": [_enum(strings), string]}])

    def _kinds(self, flat: Flat) -> list[str] | None:
        """The types that a value may have; None for all."""
        if "type" in flat:
            kinds: list[str] = flat["type"]
            return [kind for kind in kinds if kind != "integer" or "number" not in kinds]
        return implied_types(flat) or None

    def _typed(self, kind: str, flat: Flat, depth: int) -> Schema:
        if kind == "object":
            return self._object(flat, depth)
        if kind == "array":
            return self._array(flat, depth)
        if kind == "string":
            return self._conjunction.strings.schema(flat)
        if kind in ("integer", "number"):
            return number_schema(kind, flat, self._multiples, self.weakened)
        return {"type": kind}

    # ---- types

    def _array(self, flat: Flat, depth: int) -> Schema:
        low, high = counted(flat, "minItems", "maxItems")
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
        names = flat.get("propertyNames")
        found = self._names.members(flat, None if names is None else self._conjunction.resolved(names, depth))
        required: list[str] = list(flat.get("required", []))
        lowered = {name: self._schema(one, depth) for name, one in found.properties.items()}
        if any(lowered[name] is False for name in required):
            return False
        result: dict[str, Any] = {"type": "object", "properties": lowered, "required": required}
        if found.patterns:
            result["patternProperties"] = {name: self._schema(one, depth) for name, one in found.patterns.items()}
        rest = self._schema(found.others, depth)
        result["additionalProperties"] = rest
        amount = self._counted(flat, lowered, required, closed=rest is False and not found.patterns)
        return False if amount is None else {**result, **amount}

    def _counted(
        self, flat: Flat, properties: dict[str, Schema], required: list[str], *, closed: bool
    ) -> dict[str, Any] | None:
        """The bounds on the number of properties as far as llguidance enforces them; None if no object fits."""
        low, high = counted(flat, "minProperties", "maxProperties")
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
        if high == 0:
            return {"properties": {}, "patternProperties": {}, "additionalProperties": False}
        plain = len(required) == len(possible)
        # Names that are not in `properties` may come twice, and count once.
        fits = (low <= 1 or (closed and plain)) and (plain or (closed and low <= 1 and high in (None, 1)))
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


def _without_impossible(schema: Any, possible: set[str]) -> Any:
    """A lowered schema in which references to definitions that no value fits are false."""
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return schema if _fits(schema, possible) else False
    result = dict(schema)
    for keyword in _MAPS & schema.keys():
        result[keyword] = {name: _without_impossible(one, possible) for name, one in schema[keyword].items()}
    for keyword in _LISTS & schema.keys():
        result[keyword] = [_without_impossible(one, possible) for one in schema[keyword]]
    for keyword in _SCHEMAS & schema.keys():
        result[keyword] = _without_impossible(schema[keyword], possible)
    return result


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
