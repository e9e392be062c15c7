"""What JSON schemas say about the members of objects: by name, by pattern of names, and about all others. Pure.

llguidance enforces patterns of names if no name matches two of them. A name that is listed must fit its pattern, too.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .json_pattern import Pattern, matches, matches_others, translated
from .json_strings import Strings, counted

_MOST_LISTED = 64
_MOST_PATTERNS = 32  # of names. llguidance compares them, and takes 1 s for 200 of them
_MOST_PAIRS = 20_000  # of names with patterns that are compared at all
MEMBERS = ("properties", "patternProperties", "additionalProperties")
_MOST_MATCHES = 300  # of names with patterns, for one schema. Each takes up to a millisecond

Flat = dict[str, Any]
Schemas = dict[str, Any]


def lists_all(flat: Flat) -> bool:
    """Whether answers have no other members than those that are listed, though the schema does not say so."""
    if "additionalProperties" in flat or not ("properties" in flat or flat.get("patternProperties")):
        return False
    listed = {*flat.get("properties", ()), *flat.get("required", ())}
    return "patternProperties" in flat or flat.get("minProperties", 0) <= len(listed)


@dataclass(slots=True)
class Members:
    """The schemas of the members of an object. Patterns are expressions of Rust."""

    properties: Schemas
    patterns: Schemas
    others: Any


@dataclass(slots=True)
class Names:
    """Tells which patterns a name matches. `weakened` collects keywords that are left out."""

    weakened: set[str]
    strings: Strings
    _left: int = field(default=_MOST_MATCHES)
    _pairs: int = field(default=_MOST_PAIRS)
    _known: dict[str, Pattern] = field(default_factory=dict)

    def _translated(self, pattern: str) -> Pattern:
        if pattern not in self._known:
            self._known[pattern] = translated(pattern)
        return self._known[pattern]

    def matched(self, name: str, patterns: Iterable[str]) -> list[str]:
        """The patterns of a schema that a name matches. All of them if that cannot be said."""
        found = []
        for pattern in patterns:
            self._pairs -= 1
            if self._pairs < 0:
                self.weakened.add("patternProperties")
                return list(patterns)
            expressions = self._translated(pattern).expressions
            if all(self.matches(one, name, "patternProperties") for one in expressions):
                found.append(pattern)
        return found

    def matches(self, expression: str, name: str, keyword: str) -> bool:
        """Whether a name matches an expression. True if that cannot be said, and then the keyword is left out."""
        begin = literal_begin(expression)
        if not name.startswith(begin):
            return False
        if expression == f"^{begin}":
            return True
        self._left -= 1
        if self._left < 0:
            self.weakened.add(keyword)
            return True
        return matches(expression, name)

    # ---- two schemas

    def merge(self, left: Flat, right: Flat, result: Flat) -> None:
        """Combine the members of two schemas: what one of them names must fit what the other says about it."""
        sides = ((left, right), (right, left))
        properties: Schemas = {}
        patterns: Schemas = {}
        for side, other in sides:
            for name, schema in side.get("properties", {}).items():
                there = other.get("properties", {}).get(name)
                if there is None and not self.matched(name, other.get("patternProperties", ())):
                    there = other.get("additionalProperties")
                properties.setdefault(name, both(schema, there))
            for pattern, schema in side.get("patternProperties", {}).items():
                there = other.get("patternProperties", {}).get(pattern, other.get("additionalProperties"))
                patterns.setdefault(pattern, both(schema, there))
        if result.get("additionalProperties") is False:
            self._close(sides, properties, patterns)
        if "properties" in result:
            result["properties"] = properties
        if patterns:
            result["patternProperties"] = patterns
        else:
            result.pop("patternProperties", None)

    def _close(self, sides: tuple[tuple[Flat, Flat], ...], properties: Schemas, patterns: Schemas) -> None:
        """Leave out patterns whose names one side refuses unless they are listed."""
        for side, other in sides:
            for pattern, schema in side.get("patternProperties", {}).items():
                self._pairs -= 1 + len(other.get("patternProperties", ()))
                if self._pairs < 0:
                    self.weakened.add("patternProperties")
                    return
                if other.get("additionalProperties") is not False or not _is_alone(pattern, other):
                    continue
                del patterns[pattern]
                for name in properties:
                    if self.matched(name, [pattern]):
                        properties[name] = both(properties[name], schema)

    # ---- one schema

    def members(self, flat: Flat, names: Flat | None) -> Members:
        """The members of a conjunction, those that are required included. `names` is what its names must fit."""
        properties: Schemas = dict(flat.get("properties", {}))
        patterns = self._patterns(flat)
        closed = lists_all(flat)
        others: Any = False if closed else flat.get("additionalProperties", True)
        if patterns is None:
            patterns, others = {}, True
            self.weakened |= {"additionalProperties"} & flat.keys()
        result = Members(properties, patterns, others)
        self._list_all_of_patterns(result)
        for name in flat.get("required", []):
            if name not in properties:
                properties[name] = True if closed or self._pattern(name, patterns) else others
        if names is not None:
            self._restrict(result, names)
        return result

    def _list_all_of_patterns(self, members: Members) -> None:
        """Leave out patterns whose names are all listed: llguidance would wait for one more."""
        for expression in [one for one in members.patterns if _is_finite(one)]:
            names = [one for one in members.properties if self.matches(expression, one, "patternProperties")]
            if 0 < len(names) <= _MOST_LISTED and not matches_others(expression, names):
                schema = members.patterns.pop(expression)
                members.properties |= {name: both(members.properties[name], schema) for name in names}

    def _pattern(self, name: str, expressions: Iterable[str]) -> str | None:
        return next((one for one in expressions if self.matches(one, name, "patternProperties")), None)

    def _patterns(self, flat: Flat) -> Schemas | None:
        """The patterns of names, None if they cannot be enforced."""
        result: Schemas = {}
        for pattern, schema in flat.get("patternProperties", {}).items():
            found = self._translated(pattern)
            if not found.exact or len(found.expressions) != 1:
                self.weakened.add("patternProperties")
                return None
            expression = found.expressions[0]
            result[expression] = both(schema, result.get(expression))
        if len(result) > _MOST_PATTERNS or not _apart(list(result)):
            self.weakened.add("patternProperties")
            return None
        return result

    def _restrict(self, members: Members, names: Flat) -> None:
        """Apply `propertyNames`, as far as that can be said with the other keywords."""
        if "never" in names or "string" not in names.get("type", ["string"]):
            members.properties, members.patterns, members.others = dict.fromkeys(members.properties, False), {}, False
            return
        expressions = self._expressions(names)
        if "enum" in names:
            self._list(members, [one for one in names["enum"] if isinstance(one, str)])
        for name in members.properties:
            if not all(self.matches(one, name, "propertyNames") for one in expressions):
                members.properties[name] = False
        if not expressions or (members.others is False and not members.patterns):
            return
        free = not members.properties or members.others is True
        if len(expressions) == 1 and not members.patterns and free:
            members.patterns, members.others = {expressions[0]: members.others}, False
        else:
            self.weakened.add("propertyNames")

    def _list(self, members: Members, allowed: list[str]) -> None:
        """Allow these names only."""
        found = dict.fromkeys(members.properties, False)
        for name in dict.fromkeys(allowed):
            pattern = self._pattern(name, members.patterns)
            more = members.others if pattern is None else members.patterns[pattern]
            if name not in members.properties:
                found[name] = more
            else:
                found[name] = members.properties[name] if pattern is None else both(members.properties[name], more)
        members.properties, members.patterns, members.others = found, {}, False

    def _expressions(self, names: Flat) -> list[str]:
        """What names must match, with their length."""
        lowered = self.strings.schema(names)
        if not isinstance(lowered, dict):
            return [_NOTHING]
        if names.get("choices") or any("format" in one for one in lowered.get("allOf", ())):
            self.weakened.add("propertyNames")
        expressions = [one["pattern"] for one in lowered.get("allOf", ()) if "pattern" in one]
        low, high = counted(names, "minLength", "maxLength")
        if low or high is not None:
            expressions.append(f"^(?s:.{{{low},{'' if high is None else high}}})$")
        return expressions


_NOTHING = r"^[^\x{0}-\x{10ffff}]$"


def both(left: Any, right: Any) -> Any:
    """A schema of what fits two. None is no schema."""
    if right is None or right is True:
        return left
    return right if left is True else {"allOf": [left, right]}


def _is_alone(pattern: str, other: Flat) -> bool:
    """Whether no name matches a pattern and one of another schema's."""
    patterns = [pattern, *other.get("patternProperties", ())]
    return len(patterns) == 1 or _apart([one for each in patterns for one in translated(each).expressions or ("",)])


def _is_finite(expression: str) -> bool:
    """Whether an expression can match a few short texts only, roughly."""
    return expression[:1] == "^" and expression[-1:] == "$" and not any(one in expression for one in ("*", "+", ",}"))


def _apart(expressions: list[str]) -> bool:
    """Whether no text can match two of the expressions, as far as their first characters tell."""
    begins = [literal_begin(one) for one in expressions]
    return all(
        not left.startswith(right) and not right.startswith(left)
        for at, left in enumerate(begins)
        for right in begins[at + 1 :]
    )


def literal_begin(expression: str) -> str:
    """The text that every match begins with, as far as it consists of letters and digits."""
    if not expression.startswith("^") or "|" in expression:
        return ""
    found = ""
    for character in expression[1:]:
        if character in "?*{":
            return found[:-1]  # the last may be absent
        if not (character.isascii() and character.isalnum()):
            break
        found += character
    return found
