"""The keywords of one place in a JSON schema as a conjunction: `$ref` and `allOf` resolved, equal keywords combined.

Reads JSON Schema from draft 4 to 2020-12 and the schema objects of OpenAPI 3.0, also as everyday generators write
them: null for an absent keyword, 10.0 for 10, types in upper case. Work is bounded. Pure.
"""

import math
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from ..interfaces.backend import never
from .json_members import MEMBERS, Names, both
from .json_strings import Strings
from .json_values import Values
from .rules import GrammarError

__all__ = ["NEVER", "TYPES", "Conjunction", "Flat", "GrammarError", "implied_types"]

Flat = dict[str, Any]

NEVER = "never"  # the keyword of what no value fits
# The type that a keyword is about. The first of them is meant where a schema names no type.
TYPES = {
    **dict.fromkeys(("properties", "patternProperties", "additionalProperties", "required", "propertyNames"), "object"),
    **dict.fromkeys(("minProperties", "maxProperties"), "object"),
    **dict.fromkeys(("prefixItems", "items", "minItems", "maxItems", "uniqueItems"), "array"),
    **dict.fromkeys(("pattern", "format", "minLength", "maxLength"), "string"),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"), "number"),
}
_ALL = ("null", "boolean", "object", "array", "number", "string", "integer")
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_LIMITS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_NOT_ENFORCED = ("dependentRequired", "dependentSchemas", "dependencies", "$dynamicRef", "$recursiveRef")
_UNEVALUATED = {"unevaluatedProperties": "additionalProperties", "unevaluatedItems": "items"}
_NUMBER_FORMATS = ("int32", "int64", "float", "double")  # of OpenAPI: notes on sizes
_DEEPEST = 64  # schemas inside each other
_MOST_VISITS = 10_000  # visited schemas, with each further visit through a reference
_MOST_MEMBERS = 300_000  # members of schemas that are visited and combined
_MOST_DIGITS = 8  # of an index in a reference
_SHOWN = 80  # characters of a reference in an error


@dataclass(frozen=True, slots=True)
class _Variant:
    """A variant with what surrounds it, and what must fit that none of both speaks about."""

    rest: Flat
    variant: object
    unevaluated: Flat


class Conjunction:
    """Makes the conjunctions of one schema. `weakened` collects keywords that are left out."""

    def __init__(self, root: object, weakened: set[str], cancelled: Callable[[], bool] = never) -> None:
        self._root = root
        self._weakened = weakened
        self._cancelled = cancelled
        self._visits = self._members = 0
        self._inlining: list[str] = []
        self.strings = Strings(weakened)
        self.names = Names(weakened, self.strings)
        self._values = Values()
        self._anchors: dict[str, object] | None = None

    # ---- references

    def target(self, pointer: str) -> object:
        """The schema that a reference leads to. Raises GrammarError."""
        if pointer.startswith("#") and not pointer.startswith("#/") and pointer != "#":
            return self._anchored(pointer[1:])
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

    def _anchored(self, name: str) -> object:
        if self._anchors is None:
            self._anchors = _anchors(self._root)
        if name not in self._anchors:
            raise GrammarError(f"reference '#{name[:_SHOWN]}' leads nowhere")
        return self._anchors[name]

    # ---- one schema

    def flat(self, schema: object, depth: int) -> Flat:
        """The conjunction of a schema. A reference that stands alone stays one. Raises GrammarError."""
        self._count(depth)
        if schema is True or schema is None:
            return {}
        if schema is False:
            return {NEVER: True}
        if isinstance(schema, _Variant):
            whole = self.merged(schema.rest, self.flat(schema.variant, depth + 1), depth + 1)
            return self._evaluated(whole, schema.unevaluated, depth + 1)
        if not isinstance(schema, Mapping):
            raise GrammarError("a schema must be an object, true or false")
        given = {str(keyword): value for keyword, value in schema.items() if value is not None or keyword == "const"}
        if given.get("nullable") is True:
            rest = {keyword: value for keyword, value in given.items() if keyword != "nullable"}
            return {"choices": [("anyOf", [rest, {"type": "null"}])]}
        self._spend(given)
        result = self._keywords(given)
        if "$ref" in given:
            result = self._with_reference(str(given["$ref"]), result, depth)
        for one in _listed(given, "allOf"):
            result = self.merged(result, self.flat(one, depth + 1), depth + 1)
        unevaluated = {keyword: given[word] for word, keyword in _UNEVALUATED.items() if word in given}
        return self._evaluated(result, unevaluated, depth) if unevaluated else result

    def _evaluated(self, flat: Flat, unevaluated: Flat, depth: int) -> Flat:
        """The conjunction with what must fit the members and items that nothing in it speaks about."""
        flat = self.inlined(flat, depth)
        if not flat.get("choices"):
            return {**unevaluated, **flat}
        (keyword, variants), *others = flat["choices"]
        rest = {**flat, "choices": others}
        return {"choices": [(keyword, [_Variant(rest, one, unevaluated) for one in variants])]}

    def _with_reference(self, pointer: str, rest: Flat, depth: int) -> Flat:
        if not rest:
            self.target(pointer)
            return {"$ref": pointer}
        return self.merged(rest, {"$ref": pointer}, depth + 1)

    def inlined(self, flat: Flat, depth: int) -> Flat:
        """The conjunction without a reference."""
        pointer = flat.get("$ref")
        if pointer is None:
            return flat
        if pointer in self._inlining:
            self._weakened.add("$ref")  # it leads to itself, with more keywords each time
            return {}
        self._inlining.append(pointer)
        try:
            return self.inlined(self.flat(self.target(pointer), depth + 1), depth + 1)
        finally:
            self._inlining.pop()

    def _count(self, depth: int) -> None:
        self._visits += 1
        if self._cancelled():
            raise CancelledError
        if self._visits > _MOST_VISITS or depth > _DEEPEST:
            raise GrammarError("the schema is too large or nested too deeply")

    def _spend(self, parts: Mapping[str, Any]) -> None:
        self._members += sum(len(one) if isinstance(one, dict | list) else 1 for one in parts.values())
        if self._members > _MOST_MEMBERS:
            raise GrammarError("the schema combines too many parts")

    def _keywords(self, given: Mapping[str, Any]) -> Flat:
        """The keywords of a schema in one form, without references and combinations but for `choices`."""
        result: Flat = {}
        kinds = _types(given.get("type"))
        if kinds is not None:
            result["type"] = kinds
        for keyword in (*_COUNTS, *_LIMITS):
            if keyword in given:
                result[keyword] = _number(given, keyword, whole=keyword in _COUNTS)
        _apply_draft_4(given, result)
        self._of_strings_and_numbers(given, result)
        self._of_arrays(given, result)
        self._of_objects(given, result)
        self._combinations(given, result)
        return result

    def _of_strings_and_numbers(self, given: Mapping[str, Any], result: Flat) -> None:
        for keyword in ("pattern", "format"):
            if keyword in given:
                if not isinstance(given[keyword], str):
                    raise GrammarError(f"{keyword} must be a string")
                result[keyword] = [given[keyword]]
        if result.get("format", [""])[0] in _NUMBER_FORMATS:
            del result["format"]
        if "multipleOf" in given:
            step = _number(given, "multipleOf")
            if step <= 0:
                raise GrammarError("multipleOf must be larger than 0")
            result["multipleOf"] = [step]

    def _of_arrays(self, given: Mapping[str, Any], result: Flat) -> None:
        items = given.get("items")
        if "prefixItems" in given or isinstance(items, list):
            tuple_first = "prefixItems" in given
            result["prefixItems"] = _listed(given, "prefixItems" if tuple_first else "items")
            rest = items if tuple_first else given.get("additionalItems")
            if not result["prefixItems"]:
                del result["prefixItems"]
                rest = True if rest is None else rest
            if rest is not None:
                result["items"] = rest
        elif items is not None:
            result["items"] = items
        if given.get("uniqueItems") is True:
            result["uniqueItems"] = True
        if "contains" in given and given.get("minContains") != 0:
            self._weakened.add("contains")
        elif "contains" in given and "maxContains" in given:
            self._weakened.add("maxContains")

    def _of_objects(self, given: Mapping[str, Any], result: Flat) -> None:
        for keyword in ("properties", "patternProperties"):
            if keyword in given:
                if not isinstance(given[keyword], Mapping):
                    raise GrammarError(f"{keyword} must be an object")
                result[keyword] = {str(name): one for name, one in given[keyword].items()}
        if isinstance(given.get("required"), list):
            result["required"] = list(dict.fromkeys(map(str, given["required"])))
        elif "required" in given and not isinstance(given["required"], bool):  # draft 3 has truth values
            raise GrammarError("required must be a list")
        for keyword in ("additionalProperties", "propertyNames"):
            if keyword in given:
                result[keyword] = given[keyword]

    def _combinations(self, given: Mapping[str, Any], result: Flat) -> None:
        if "const" in given:
            result["enum"] = [given["const"]]
        if "enum" in given:
            values = _listed(given, "enum", empty=False)
            result["enum"] = self._values.common(result["enum"], values) if "enum" in result else values
        result_choices = [
            (keyword, _listed(given, keyword, empty=False)) for keyword in ("anyOf", "oneOf") if keyword in given
        ]
        if result_choices:
            result["choices"] = result_choices
        if "not" in given:
            self._negated(given["not"], result)
        if "if" in given and given.keys() & {"then", "else"}:
            self._weakened.add("if")
        self._weakened.update(keyword for keyword in _NOT_ENFORCED if given.get(keyword))

    def _negated(self, schema: object, result: Flat) -> None:
        if schema is True or schema == {}:
            result[NEVER] = True
        elif isinstance(schema, Mapping) and schema.keys() == {"type"}:
            refused = _types(schema["type"]) or list(_ALL)
            refused += ["integer"] if "number" in refused else []
            kept = [kind for kind in result.get("type", _ALL) if kind not in refused]
            if "integer" in refused and "number" in kept:
                self._weakened.add("not")
            result["type"] = kept
        elif schema is not False:
            self._weakened.add("not")

    # ---- two schemas

    def merged(self, left: Flat, right: Flat, depth: int) -> Flat:
        """What fits both."""
        self._count(depth)
        if not left or (left.keys() == {"choices"} and not left["choices"]):
            return right
        if not right:
            return left
        left, right = self.inlined(left, depth), self.inlined(right, depth)
        self._spend(left)
        self._spend(right)
        result: Flat = {**left, **right}
        for keyword in left.keys() & right.keys():
            both = self._values.common if keyword == "enum" else _BOTH.get(keyword, _either_one)
            result[keyword] = both(left[keyword], right[keyword])
        if result.get("type") == [] or result.get("enum") == []:
            result[NEVER] = True
        if any(keyword in result for keyword in MEMBERS):
            self.names.merge(left, right, result)
        if "prefixItems" in result:
            _merge_items(left, right, result)
        return result

    def resolved(self, schema: object, depth: int) -> Flat:
        """The conjunction of a schema, without a reference."""
        return self.inlined(self.flat(schema, depth), depth)


def implied_types(flat: Flat) -> list[str]:
    """The type of the values that are written where a schema names none, [] for all."""
    return [kind for keyword, kind in TYPES.items() if keyword in flat][:1]


def _common_types(left: list[str], right: list[str]) -> list[str]:
    """The types that both have. An integer is a number, too."""
    found = [kind for kind in left if kind in right or (kind == "integer" and "number" in right)]
    return found + [kind for kind in right if kind == "integer" and "number" in left and kind not in found]


def _both_types(left: list[str], right: list[str]) -> list[str]:
    found = _common_types(left, right)
    return [kind for kind in found if kind != "integer" or "number" not in found]


def _both_schemas(left: object, right: object) -> object:
    return False if left is False or right is False else both(left, right)


def _added(left: list[Any], right: list[Any]) -> list[Any]:
    return list(dict.fromkeys([*left, *right]))


def _merge_items(left: Flat, right: Flat, result: Flat) -> None:
    places = [side.get("prefixItems", []) for side in (left, right)]
    rests = [side.get("items", True) for side in (left, right)]
    combined = []
    for at in range(max(map(len, places))):
        both = [own[at] if at < len(own) else rest for own, rest in zip(places, rests, strict=True)]
        kept = [one for one in both if one is not True]
        combined.append(kept[0] if len(kept) == 1 else {"allOf": kept} if kept else True)
    result["prefixItems"] = combined


def _anchors(root: object) -> dict[str, object]:
    """The schemas that have a name, by it."""
    found: dict[str, object] = {}
    todo = [root]
    while todo:
        one = todo.pop()
        if isinstance(one, Mapping):
            for name in (one.get("$anchor"), str(one.get("$id", ""))[1:]):
                if isinstance(name, str):
                    found.setdefault(name, one)
            todo += one.values()
        elif isinstance(one, list):
            todo += one
    return found


def _types(value: Any) -> list[str] | None:
    """The types that a schema names; None for all. Java's tools write them in upper case, and some write `any`."""
    if value is None:
        return None
    names = value if isinstance(value, list) else [value]
    found: list[str] = []
    for name in names:
        kind = name.lower() if isinstance(name, str) else ""
        if kind == "any":
            return None
        if kind not in _ALL:
            raise GrammarError(f"unknown type {str(name)[:40]!r}")
        if kind not in found:
            found.append(kind)
    if not found:
        raise GrammarError("type must be a list that is not empty")
    return found


def _number(given: Mapping[str, Any], keyword: str, *, whole: bool = False) -> Any:
    """The number of a keyword. 10.0 is 10."""
    value = given[keyword]
    if isinstance(value, bool) and keyword.startswith("exclusive"):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise GrammarError(f"{keyword} must be a number")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise GrammarError(f"{keyword} must be a number")
        value = int(value) if value.is_integer() else value
    if whole and (not isinstance(value, int) or value < 0):
        raise GrammarError(f"{keyword} must be a whole number that is not negative")
    return value


def _apply_draft_4(given: Mapping[str, Any], result: Flat) -> None:
    """In draft 4 and OpenAPI 3.0, exclusiveMinimum and exclusiveMaximum are truth values."""
    for keyword, limit in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if result.get(keyword) is True and limit in given:
            result[keyword] = result.pop(limit)
        elif isinstance(result.get(keyword), bool):
            del result[keyword]


def _listed(given: Mapping[str, Any], keyword: str, *, empty: bool = True) -> list[Any]:
    value = given.get(keyword, [])
    if not isinstance(value, list) or not (value or empty):
        raise GrammarError(f"{keyword} must be a list{'' if empty else ' that is not empty'}")
    return value


def _either_one(_left: Any, right: Any) -> Any:
    return right


# The value of a keyword that fits both values.
_BOTH: dict[str, Callable[[Any, Any], Any]] = {
    "type": _both_types,
    "choices": lambda left, right: [*left, *right],
    **dict.fromkeys(("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"), min),
    **dict.fromkeys(("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"), max),
    **dict.fromkeys(("pattern", "format", "multipleOf", "required"), _added),
    **dict.fromkeys(("items", "additionalProperties", "propertyNames"), _both_schemas),
}
