"""JSON schemas as constraints: what they generate, checked by the jsonschema package on random answers."""

import functools
import json
import random
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llamaserver.errors import InvalidRequest
from llamaserver.grammar.compiler import Compiler
from llamaserver.grammar.json_schema import json_value
from llamaserver.grammar.matcher import Matcher
from llamaserver.grammar.rules import GrammarError

from tests.grammar.random_schemas import random_schema
from tests.support.engine.vocab import ListVocab

COMPILER = Compiler(ListVocab([*(bytes([c]) for c in range(256)), b"<end>"], eog=[256]))
END = 256


def compiled(schema: object) -> Matcher:
    return COMPILER(f"start: {json_value(schema).lark}").copy()


def accepts(schema: object, text: str) -> bool:
    matcher = compiled(schema)
    for byte in text.encode():
        if not matcher.allows(byte):
            return False
        matcher.accept(byte)
    return matcher.allows(END)


PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "tags": {"items": {"type": "string"}}},
    "required": ["name"],
}
TREE = {
    "$defs": {"a/b": {"properties": {"left": {"$ref": "#/$defs/a~1b"}, "value": {"type": "number"}}}},
    "$ref": "#/$defs/a~1b",
}

# schema, texts of its language, texts outside
CASES = {
    "anything": ({}, ['{"a": [1, null]}', "3", '"x"', "-1.5e+3", "true"], ["01", "{a: 1}", "[1,]", "'x'"]),
    "true": (True, ["[]"], [""]),
    "integer": ({"type": "integer"}, ["0", "-12"], ["1.5", "+1", "01", '"1"']),
    "number": ({"type": "number"}, ["0", "-12.25", "1e9"], [".5", "1.", "NaN"]),
    "boolean": ({"type": "boolean"}, ["true", "false"], ["null", "True"]),
    "several types": ({"type": ["string", "null"]}, ['"a"', "null"], ["1"]),
    "string": ({"type": "string"}, ['"a€\\n\\u00e9\\""', '""'], ['"\n"', '"\\x"', '"a', "a"]),
    "length": ({"type": "string", "minLength": 2, "maxLength": 3}, ['"ab"', '"€bc"'], ['"a"', '"abcd"']),
    "least length": ({"minLength": 1}, ['"a"', '"abcd"'], ['""']),
    "const": ({"const": {"a": [1, "x\n", None, True, 1.5]}}, ['{"a": [1, "x\\n", null, true, 1.5]}'], ["{}"]),
    "enum": ({"enum": ["a", 'b"\\', 3, None, "é"]}, ['"a"', '"b\\"\\\\"', "3", "null", '"é"'], ['"c"', "4"]),
    "any of": ({"anyOf": [{"type": "integer"}, {"const": "x"}]}, ["1", '"x"'], ["null", '"y"']),
    "object": (
        PERSON,
        ['{"name":"a"}', '{"name":"a","age":3}', '{"name": "a", "tags": ["x","y"]}', '{\n  "name":"a"\n}'],
        ["{}", '{"age":3}', '{"age":3,"name":"a"}', '{"name":"a","x":1}', '{"name":"a",}', '{"name":"a""age":3}'],
    ),
    "all optional": (
        {"properties": {"a": {"type": "null"}, "b": {"type": "null"}, "c": {"type": "null"}}},
        ["{}", '{"a":null}', '{"b":null}', '{"a":null,"c":null}', '{"a":null,"b":null,"c":null}', '{"c":null}'],
        ['{,"b":null}', '{"c":null,"a":null}', '{"a":null "b":null}'],
    ),
    "additional": (
        {"properties": {"a": {"type": "null"}}, "required": ["a"], "additionalProperties": {"type": "integer"}},
        ['{"a":null}', '{"a":null,"x":1,"y":2}'],
        ["{}", '{"x":1}', '{"a":null,"x":"1"}'],
    ),
    "only additional": ({"additionalProperties": {"type": "integer"}}, ["{}", '{"x":1,"y":2}'], ['{"x":null}', "[]"]),
    "nothing additional": ({"type": "object", "additionalProperties": False}, ["{}", "{ }"], ['{"x":1}']),
    "required alone": ({"required": ["a"]}, ['{"a":1}', '{"a":1,"b":2}'], ["{}", '{"b":2}']),
    "free object": ({"type": "object"}, ["{}", '{"a": {"b": []}}'], ["[]", "1"]),
    "array": ({"items": {"type": "integer"}}, ["[]", "[1]", "[1,2, 3]"], ["[1,]", '["a"]', "[,1]"]),
    "counted array": (
        {"items": {"type": "integer"}, "minItems": 2, "maxItems": 3},
        ["[1,2]", "[1,2,3]"],
        ["[]", "[1]", "[1,2,3,4]"],
    ),
    "at most": ({"items": {"type": "integer"}, "maxItems": 1}, ["[]", "[1]"], ["[1,2]"]),
    "empty array": ({"type": "array", "maxItems": 0}, ["[]"], ["[1]"]),
    "tuple": ({"prefixItems": [{"type": "integer"}, {"type": "string"}]}, ['[1,"a"]', "[1]"], ['[1,"a",2]', '["a",1]']),
    "old tuple": ({"items": [{"type": "integer"}, {"type": "null"}]}, ["[1,null]", "[]"], ["[1,null,2]"]),
    "date": ({"type": "string", "format": "date"}, ['"2024-02-29"'], ['"2024-13-01"', '"x"']),
    "date-time": ({"format": "date-time"}, ['"2024-02-29T23:59:59.5Z"', '"2024-02-29T23:59:59+02:00"'], ['"2024"']),
    "uuid": ({"format": "uuid"}, ['"01234567-89ab-cdef-0123-456789ABCDEF"'], ['"0123"']),
    "unknown format": ({"type": "string", "format": "color"}, ['"red"'], ["1"]),
    "recursion": (TREE, ["{}", '{"left":{"left":{},"value":1}}'], ['{"value":"x"}', '{"left":1}']),
    "recursion to the root": (
        {"properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}},
        ['{"next":{"next":null}}', "{}"],
        ['{"next":1}'],
    ),
    "all of": (
        {
            "$defs": {"named": {"properties": {"n": {"type": "null"}}, "required": ["n"]}},
            "allOf": [{"$ref": "#/$defs/named"}, {"properties": {"m": {"type": "null"}}, "required": ["m"]}],
        },
        ['{"n":null,"m":null}'],
        ['{"n":null}', '{"m":null}'],
    ),
    "variants of one object": (
        {"properties": {"k": {"type": "null"}}, "required": ["k"], "anyOf": [{"properties": {"a": True}}, {}]},
        ['{"k":null}', '{"k":null,"a":1}'],
        ["{}", '{"k":null,"b":1}'],
    ),
    "pattern": ({"pattern": "^(a|b)[^c-e\\d]{2,}\\.x?$"}, ['"azz."', '"bzzzz.x"'], ['"cz."', '"az3."', '"azz"']),
    "pattern with quotes": ({"pattern": '^"[\\\\"]\\n$'}, ['"\\"\\\\\\n"', '"\\"\\"\\n"'], ['""""', '"\\"n\\n"']),
    "loose pattern": ({"pattern": "ab"}, ['"ab"', '"xxabyy"'], ['"axb"']),
    "half a pattern": ({"pattern": "^ab"}, ['"abyy"'], ['"xab"']),
    "pattern of a dollar": ({"pattern": "^a\\$"}, ['"a$"', '"a$b"'], ['"a"']),
    "pattern of a stray brace": ({"pattern": "^}$"}, ['"}"'], ['"a"']),
    "odd property names": ({"properties": {'a "b"\n\\': {"type": "null"}}}, ['{"a \\"b\\"\\n\\\\":null}'], []),
}


@pytest.mark.parametrize(("schema", "inside", "outside"), CASES.values(), ids=CASES.keys())
def test_a_schema_generates_its_values(schema: object, inside: list[str], outside: list[str]) -> None:
    for text in inside:
        assert accepts(schema, json.dumps(json.loads(text), ensure_ascii=False)), text
    for text in outside:
        assert not accepts(schema, text), text


def deep(levels: int, key: str) -> object:
    schema: object = {"type": "null"}
    for _ in range(levels):
        schema = {key: {"x": schema}} if key == "properties" else {key: [schema]}
    return schema


REFUSED = {
    "false": False,
    "a number": 5,
    "a list": [],
    "unknown type": {"type": "float"},
    "type of a wrong type": {"type": 7},
    "no type": {"type": []},
    "no enum": {"enum": []},
    "enum of a wrong type": {"enum": "abc"},
    "no variants": {"anyOf": []},
    "variants of a wrong type": {"oneOf": 3},
    "properties of a wrong type": {"properties": ["a"]},
    "property of a wrong type": {"properties": {"a": 3}},
    "required of a wrong type": {"required": "a"},
    "items of a wrong type": {"items": 3},
    "pattern of a wrong type": {"pattern": 3},
    "bound of a wrong type": {"minLength": "3"},
    "bound of a wrong kind": {"maxItems": 1.5},
    "negative bound": {"minItems": -1},
    "bounds reversed": {"minLength": 3, "maxLength": 2},
    "remote reference": {"$ref": "https://example.com/schema.json"},
    "reference to nowhere": {"$ref": "#/$defs/missing"},
    "reference of a wrong type": {"$ref": 3},
    "reference to itself": {"$ref": "#"},
    "reference round about": {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    "endless object": {"properties": {"a": {"$ref": "#"}}, "required": ["a"]},
    "references in a circle": {"$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"},
    "alternatives around a long list": {"enum": ["x" * 60_000], "anyOf": [True] * 4_900},
    "a deep constant": {"const": functools.reduce(lambda inner, _: [inner], range(1000), 1)},
    "deep properties": deep(300, "properties"),
    "deep variants": deep(300, "anyOf"),
    "deep alternatives": deep(300, "allOf"),
    "many": {"properties": {f"p{i}": {"enum": [f"{i}-{j}" for j in range(30)]} for i in range(1000)}},
    "doubling": {
        "$defs": {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(40)} | {"d40": {}},
        "$ref": "#/$defs/d0",
    },
}


@pytest.mark.parametrize("schema", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_schema_or_too_much_is_refused(schema: object) -> None:
    with pytest.raises((InvalidRequest, GrammarError)):
        compiled(schema)


# schema, and the keywords that are not enforced
EXACT: dict[str, object] = {
    "minimum of an integer": {"type": "integer", "minimum": 7},
    "maximum of an integer": {"type": "integer", "maximum": -3},
    "bounds of a number": {"type": "number", "minimum": 0.5, "maximum": 3},
    "exclusive bounds": {"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 4},
    "exclusive bounds of draft 4": {"type": "integer", "minimum": 1, "exclusiveMinimum": True, "maximum": 5},
    "multipleOf": {"type": "integer", "minimum": 0, "maximum": 100, "multipleOf": 7},
    "two multiples": {"type": "integer", "minimum": 0, "maximum": 100, "allOf": [{"multipleOf": 4}, {"multipleOf": 6}]},
    "between 0 and 1": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    "between 0 and a part of 1": {"type": "number", "exclusiveMinimum": 0, "maximum": 0.25},
    "between -1 and 0": {"type": "number", "exclusiveMinimum": -1, "exclusiveMaximum": 0},
    "a very small bound": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1e-12},
    "a bound of many digits": {"type": "number", "minimum": -2.97, "maximum": -1.9700000000000002},
    "int64": {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
    "uint64": {"type": "integer", "minimum": 0, "maximum": 2**64 - 1},
    "double": {"type": "number", "minimum": -1.7976931348623157e308, "maximum": 1.7976931348623157e308},
    "bounds of 400 digits": {"type": "integer", "minimum": -(10**400), "maximum": 10**400},
    "numbers of 400 digits": {"type": "number", "minimum": -(10**400), "maximum": 10**400},
    "a length of 400 digits": {"type": "string", "maxLength": 10**400},
    "a count of 400 digits": {"items": {"type": "null"}, "maxItems": 10**400},
    "enum with a bound of 400 digits": {"enum": [1, 2.5, "a"], "minimum": 2, "maximum": 10**400},
    "enum with multipleOf": {"enum": [0.3, 0.45, 1], "multipleOf": 0.15},
    "bounds without a type": {"minimum": 3, "maximum": 5},
    "lengths": {"type": "string", "minLength": 2, "maxLength": 4},
    "length and pattern": {"pattern": "^a+$", "minLength": 3, "maxLength": 5},
    "length and format": {"type": "string", "format": "email", "maxLength": 12},
    "two patterns": {"allOf": [{"pattern": "a"}, {"pattern": "b"}], "maxLength": 4},
    "look-ahead": {"pattern": "^(?=.*[A-Z])(?=.*[0-9])[A-Z0-9]{2,4}$"},
    "date": {"type": "string", "format": "date"},
    "date-time": {"type": "string", "format": "date-time"},
    "time": {"type": "string", "format": "time"},
    "duration": {"type": "string", "format": "duration"},
    "ipv4": {"type": "string", "format": "ipv4"},
    "ipv6": {"type": "string", "format": "ipv6"},
    "uuid": {"type": "string", "format": "uuid"},
    "uri": {"type": "string", "format": "uri", "maxLength": 30},
    "const": {"const": {"a": [1, None]}},
    "enum with a type": {"type": "string", "enum": ["a", 1, "b"]},
    "enum with bounds": {"enum": [1, 5, 9, "x", None], "minimum": 4},
    "enum with a pattern": {"enum": ["ab", "b", 3], "pattern": "^a"},
    "several types": {"type": ["integer", "null", "string"], "maximum": 9, "minimum": 0, "maxLength": 2},
    "nullable": {"type": "string", "maxLength": 2, "nullable": True},
    "properties": {"properties": {"a": {"type": "integer"}, "b": {"enum": ["x"]}}, "required": ["b"]},
    "false property": {"properties": {"a": False, "b": {"type": "null"}}},
    "required beside properties": {"properties": {"a": {"type": "null"}}, "required": ["b"]},
    "patternProperties": {"patternProperties": {"^a+$": {"type": "null"}}, "additionalProperties": False},
    "two patterns of names": {"patternProperties": {"^x-": {"type": "null"}, "^y-": {"type": "boolean"}}},
    "pattern and name": {
        "properties": {"aa": {"maximum": 5}},
        "patternProperties": {"^a": {"type": "integer", "minimum": 3}},
        "required": ["aa"],
    },
    "propertyNames": {"propertyNames": {"pattern": "^[a-c]{1,3}$"}, "additionalProperties": {"type": "null"}},
    "enum of names": {"propertyNames": {"enum": ["k", "l"]}, "additionalProperties": {"type": "null"}},
    "length of names": {"propertyNames": {"maxLength": 3}, "additionalProperties": {"type": "null"}},
    "minProperties": {"minProperties": 1, "additionalProperties": {"type": "null"}},
    "maxProperties": {"properties": {"a": {}, "b": {}}, "maxProperties": 1, "additionalProperties": False},
    "unevaluatedProperties": {
        "allOf": [{"properties": {"a": {"type": "null"}}}],
        "properties": {"b": {"type": "null"}},
        "unevaluatedProperties": False,
    },
    "unevaluatedProperties of a base": {
        "$defs": {"Base": {"properties": {"id": {"type": "null"}}, "required": ["id"]}},
        "allOf": [{"$ref": "#/$defs/Base"}, {"properties": {"b": {"type": "null"}}, "required": ["b"]}],
        "unevaluatedProperties": False,
    },
    "unevaluatedProperties beside a reference": {
        "$defs": {"Base": {"type": "object", "properties": {"id": {"type": "null"}}, "required": ["id"]}},
        "$ref": "#/$defs/Base",
        "properties": {"b": {"type": "boolean"}},
        "required": ["b"],
        "unevaluatedProperties": {"type": "null"},
    },
    "unevaluatedProperties of variants": {
        "properties": {"k": {"type": "null"}},
        "required": ["k"],
        "anyOf": [
            {"properties": {"a": {"type": "null"}}, "required": ["a"]},
            {"properties": {"b": {"type": "null"}}, "required": ["b"]},
        ],
        "unevaluatedProperties": False,
    },
    "unevaluatedProperties of one branch": {
        "allOf": [
            {"anyOf": [{"properties": {"a": {"type": "null"}}}], "unevaluatedProperties": {"type": "boolean"}},
            {"properties": {"b": {}}, "required": ["b"]},
        ],
    },
    "unevaluatedProperties beside additionalProperties": {
        "allOf": [{"additionalProperties": {"type": "null"}}],
        "unevaluatedProperties": False,
        "required": ["a"],
    },
    "unevaluatedItems": {
        "allOf": [{"prefixItems": [{"type": "null"}, {"type": "boolean"}]}],
        "unevaluatedItems": False,
        "minItems": 2,
    },
    "patterns beside a closed object": {
        "allOf": [
            {"properties": {"xa": {"enum": [1, None]}}, "required": ["xa"], "additionalProperties": False},
            {"patternProperties": {"^x": {"type": "null"}}, "additionalProperties": False},
        ]
    },
    "patterns beside additionalProperties": {
        "allOf": [
            {"additionalProperties": {"type": "null"}},
            {"patternProperties": {"^x": {"type": ["null", "boolean"]}}, "required": ["x"]},
        ]
    },
    "patterns of two branches": {
        "allOf": [
            {"patternProperties": {"^x": {"enum": [1, 2]}}, "additionalProperties": {"enum": [1, 3]}},
            {"patternProperties": {"^y": {"enum": [3, 2]}}, "additionalProperties": {"enum": [1, 2]}},
        ]
    },
    "names beside patterns of another branch": {
        "allOf": [
            {"properties": {"x1": {"enum": [1, 2]}, "y1": {"enum": [1, 4]}}, "required": ["x1", "y1"]},
            {"patternProperties": {"^x": {"enum": [2, 3]}}, "additionalProperties": {"enum": [4]}},
        ]
    },
    "patterns whose names are listed": {
        "properties": {"a": {"type": "number"}, "b": {"type": "null"}, "k": {"type": "null"}},
        "patternProperties": {"^[ab]$": {"type": "integer", "maximum": 3}},
    },
    "required by pattern": {
        "patternProperties": {"^x": {"type": "null"}},
        "additionalProperties": False,
        "required": ["xa"],
    },
    "required by additionalProperties": {"additionalProperties": {"type": "null"}, "required": ["a", "b"]},
    "names of an enum with more": {
        "propertyNames": {"enum": ["a", "bb", "ccc"], "maxLength": 2, "pattern": "^[bc]"},
        "additionalProperties": {"type": "null"},
        "minProperties": 1,
    },
    "names of an enum beside patterns": {
        "patternProperties": {"^b": {"type": "boolean"}},
        "propertyNames": {"enum": ["a", "b"]},
        "additionalProperties": {"type": "null"},
        "required": ["a", "b"],
    },
    "names and properties": {"properties": {"a": {}, "b": {"type": "null"}}, "propertyNames": {"pattern": "^b"}},
    "names by a reference": {
        "$defs": {"Key": {"enum": ["k"]}},
        "propertyNames": {"$ref": "#/$defs/Key"},
        "additionalProperties": {"type": "null"},
    },
    "oneOf of closed objects": {
        "oneOf": [
            {"properties": {"a": {"type": "null"}}, "required": ["a"]},
            {"properties": {"b": {"type": "null"}}, "required": ["b"]},
        ]
    },
    "more members than are listed": {"type": "object", "properties": {}, "minProperties": 1},
    "no members": {
        "properties": {"a": {}},
        "patternProperties": {"^x": {}},
        "additionalProperties": True,
        "maxProperties": 0,
    },
    "a definition of nothing": {
        "$defs": {"none": {"properties": {"x": False}, "required": ["x"]}},
        "properties": {"a": {"$ref": "#/$defs/none"}, "$ref": {"$ref": "#/$defs/none"}, "b": {"type": "null"}},
    },
    "oneOf of ranges": {"type": "integer", "oneOf": [{"maximum": 3}, {"minimum": 5, "maximum": 9}]},
    "prefixItems": {"prefixItems": [{"type": "null"}, {"type": "boolean"}], "minItems": 1},
    "tuple with a rest": {"prefixItems": [{"type": "null"}], "items": {"enum": [1]}, "minItems": 2, "maxItems": 3},
    "tuple of draft 4": {"items": [{"type": "null"}], "additionalItems": {"type": "boolean"}, "maxItems": 3},
    "no items": {"type": "array", "items": False},
    "counted items": {"items": {"type": "null"}, "minItems": 2, "maxItems": 3},
    "siblings of a reference": {"$defs": {"n": {"type": "integer", "minimum": 3}}, "$ref": "#/$defs/n", "maximum": 6},
    "multiples of decimals": {
        "type": "number",
        "minimum": 0,
        "maximum": 9,
        "allOf": [{"multipleOf": 0.25}, {"multipleOf": 0.1}],
    },
    "whole multiples of decimals": {"type": "integer", "minimum": 0, "maximum": 90, "multipleOf": 0.75},
    "siblings of anyOf": {"type": "integer", "minimum": 3, "anyOf": [{"maximum": 5}, {"multipleOf": 10}]},
    "two anyOf": {"allOf": [{"anyOf": [{"minimum": 3}, {"const": 0}]}, {"anyOf": [{"maximum": 5}, {"const": 9}]}]},
    "oneOf by a constant": {
        "oneOf": [
            {"properties": {"t": {"const": "a"}, "n": {"type": "null"}}, "required": ["t", "n"]},
            {"properties": {"t": {"const": "b"}}, "required": ["t"]},
        ]
    },
    "oneOf of types": {"oneOf": [{"type": "null"}, {"type": "boolean"}]},
    "not of a type": {"type": ["null", "boolean", "string"], "not": {"type": "string"}},
    "allOf of closed objects": {
        "allOf": [
            {"properties": {"a": {"type": "null"}}, "required": ["a"]},
            {"properties": {"b": {"type": "null"}}, "required": ["b"]},
        ]
    },
    "allOf with a closed object": {
        "allOf": [
            {"properties": {"a": {"type": "null"}}, "additionalProperties": False},
            {"properties": {"a": {}, "b": {"type": "null"}}},
        ]
    },
    "recursion": {"$defs": {"t": {"properties": {"n": {"$ref": "#/$defs/t"}}}}, "$ref": "#/$defs/t"},
}
WEAKER: dict[str, tuple[object, str]] = {
    "oneOf": ({"oneOf": [{"type": "integer"}, {"minimum": 3}]}, "oneOf"),
    "not": ({"type": "string", "maxLength": 3, "not": {"const": "a"}}, "not"),
    "if": ({"type": "integer", "if": {"minimum": 3}, "then": {"multipleOf": 2}}, "if"),
    "multipleOf": ({"type": "integer", "multipleOf": 999_983}, "multipleOf"),
    "multipleOf with many digits": ({"type": "number", "multipleOf": 10**30}, "multipleOf"),
    "multipleOf with very many digits": ({"type": "integer", "multipleOf": 10**4000}, "multipleOf"),
    "multipleOf with many decimals": ({"type": "number", "multipleOf": 1e-20}, "multipleOf"),
    "multipleOf that is read wrongly": (
        {"type": "number", "minimum": 0, "maximum": 9, "multipleOf": 0.07},
        "multipleOf",
    ),
    "multiples together": ({"type": "integer", "allOf": [{"multipleOf": 997}, {"multipleOf": 991}]}, "multipleOf"),
    "many multiples": ({"properties": {f"p{i}": {"multipleOf": 9000 + i} for i in range(100)}}, "multipleOf"),
    "uniqueItems": ({"items": {"type": "boolean"}, "uniqueItems": True, "maxItems": 3}, "uniqueItems"),
    "contains": ({"items": {"type": "boolean"}, "contains": {"const": True}, "maxItems": 3}, "contains"),
    "dependentRequired": ({"properties": {"a": {}}, "dependentRequired": {"a": ["b"]}}, "dependentRequired"),
    "dependencies": ({"properties": {"a": {}}, "dependencies": {"a": ["b"]}}, "dependencies"),
    "dependentSchemas": ({"properties": {"a": {}}, "dependentSchemas": {"a": False}}, "dependentSchemas"),
    "propertyNames": ({"properties": {"a": {}}, "propertyNames": {"not": {"const": "a"}}}, "not"),
    "many names beside many patterns": (
        {
            "allOf": [
                {"properties": {f"n{i}": {} for i in range(2000)}},
                {"patternProperties": {f"[a-c]{i}z": {} for i in range(800)}},
            ]
        },
        "patternProperties",
    ),
    "minProperties beside others": (
        {"properties": {"a": {"type": "null"}}, "additionalProperties": {"type": "null"}, "minProperties": 1},
        "minProperties",
    ),
    "patterns of names with propertyNames": (
        {"patternProperties": {"^a": {"type": "null"}}, "propertyNames": {"pattern": "^.b"}},
        "propertyNames",
    ),
    "oneOf without types": ({"oneOf": [{"minimum": 3}, {"maxLength": 2}]}, "oneOf"),
    "oneOf with all values": ({"oneOf": [{}, {"type": "null"}]}, "oneOf"),
    "oneOf of objects without types": (
        {"oneOf": [{"properties": {"a": {"type": "null"}}}, {"properties": {"b": {"type": "null"}}}]},
        "oneOf",
    ),
    "minProperties": ({"minProperties": 2, "additionalProperties": {"type": "null"}}, "minProperties"),
    "maxProperties": ({"properties": {"a": {}, "b": {}, "c": {}}, "maxProperties": 2}, "maxProperties"),
    "patternProperties": ({"patternProperties": {"a": {"type": "null"}, "b": {"type": "null"}}}, "patternProperties"),
    "look-around": ({"pattern": r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"}, "pattern"),
    "word border": ({"pattern": r"^\bword\b$"}, "pattern"),
    "back reference": ({"pattern": r"^(a|b)\1$"}, "pattern"),
    "halves of surrogate pairs": ({"pattern": r"^[\ud83c-\udbff\udc00-\udfff]+$"}, "pattern"),
    "no expression": ({"pattern": "^(a$"}, "pattern"),
    "expressions together": (
        {"allOf": [{"type": "string", "pattern": f"a.{{0,{300 + i}}}b"} for i in range(9)]},
        "pattern",
    ),
    "expression with lengths": (
        {"type": "string", "pattern": "(a|b|c).{0,300}(d|e)", "minLength": 100, "maxLength": 300},
        "pattern",
    ),
    "format": ({"type": "string", "format": "idn-email"}, "format"),
    "minimum beyond": ({"type": "integer", "minimum": 10**17 + 1}, "minimum"),
    "minimum of 400 digits": ({"type": "number", "minimum": 10**400}, "minimum"),
    "a reference that grows": (
        {"$defs": {"a": {"properties": {"n": {"type": "null"}}, "$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        "$ref",
    ),
}
UNCHECKED = (
    "many names beside many patterns",
    "no expression",
    "a reference that grows",
    "multipleOf with many decimals",
)  # the validator fails
KEPT = [*b'"]}', END]


def walk(matcher: Matcher, seed: int) -> str | None:
    """A random answer, None if it does not end soon. Ends are taken more often than other bytes."""
    draw = random.Random(seed)
    text = bytearray()
    for _ in range(300):
        allowed = matcher.allowed().tolist()
        assert allowed, bytes(text)
        ends = [token for token in allowed if token in KEPT]
        plain = [token for token in allowed if chr(token).isascii() and chr(token).isalnum()]
        pool = ends if ends and draw.random() < 0.4 else plain if plain and draw.random() < 0.7 else allowed
        token = draw.choice(pool)
        assert matcher.allows(token)
        if token == END:
            return text.decode()
        matcher.accept(token)
        text.append(token)
    return None


def nullable(schema: Any) -> Any:
    """The schema with OpenAPI's `nullable` in words of JSON Schema."""
    if isinstance(schema, Mapping) and schema.get("nullable"):
        return {"anyOf": [{**schema, "nullable": False}, {"type": "null"}]}
    return schema


def check(schema: object, *, without: str = "") -> int:
    """Compare random answers with the validator, and return their number."""
    draft = jsonschema.Draft4Validator if "of draft 4" in without else jsonschema.Draft202012Validator
    validator = draft(nullable(schema), format_checker=draft.FORMAT_CHECKER)
    matcher = compiled(schema)
    answers = [answer for seed in range(12) if (answer := walk(matcher.copy(), seed)) is not None]
    for answer in answers:
        found = validator.iter_errors(json.loads(answer))
        errors = [error for error in found if not set(without.split()) & set(map(str, error.absolute_schema_path))]
        assert not errors, (answer, errors[0].message)
    return len(answers)


@pytest.mark.parametrize("name", EXACT)
def test_each_answer_is_valid(name: str) -> None:
    schema = EXACT[name]
    assert json_value(schema).weakened == ()
    assert json_value(schema, strict=True)
    assert check(schema, without=name) >= 1


@pytest.mark.parametrize("name", WEAKER)
def test_what_is_not_enforced_is_told(name: str) -> None:
    schema, keyword = WEAKER[name]
    assert json_value(schema).weakened == (keyword,)
    with pytest.raises(InvalidRequest, match=keyword.replace("$", "[$]")) as refused:
        json_value(schema, field="response_format", strict=True)
    assert refused.value.field == "response_format"
    if name not in UNCHECKED:
        assert check(schema, without=f"{keyword} then") >= 1


@pytest.mark.parametrize("seeds", [*(range(first, first + 40) for first in range(0, 240, 40)), (1517, 1940, 2046)])
def test_each_answer_to_a_random_schema_is_valid(seeds: Sequence[int]) -> None:
    """It is valid, or a keyword is told. What is not an answer's schema is refused."""
    answers = 0
    for seed in seeds:
        schema = random_schema(seed)
        try:
            found = json_value(schema)
            matcher = COMPILER(f"start: {found.lark}")
        except (InvalidRequest, GrammarError):
            continue
        if not found.weakened:
            validator = jsonschema.Draft202012Validator(schema)
            for answer in filter(None, (walk(matcher.copy(), walked) for walked in range(3))):
                assert validator.is_valid(json.loads(answer)), (seed, answer)
                answers += 1
    assert answers >= len(seeds) // 2


def test_no_recursion_error_close_to_the_limit() -> None:
    def at_depth(levels: int) -> str:
        return json_value(deep(20, "properties")).lark if levels == 0 else at_depth(levels - 1)

    assert at_depth(sys.getrecursionlimit() // 3)


KEYWORDS = (
    "type properties required items prefixItems enum const anyOf oneOf allOf not $ref additionalProperties minItems "
    "maxItems minLength maxLength pattern format $defs minimum multipleOf patternProperties propertyNames "
    "minProperties nullable"
)
keywords = st.sampled_from(KEYWORDS.split())
WORDS = "object array string integer # #/properties/type ^a*$ date a"
words = st.sampled_from(WORDS.split())
schemas = st.recursive(
    st.one_of(words, st.integers(-2, 3), st.booleans(), st.none()),
    lambda inner: st.one_of(st.dictionaries(keywords, inner, max_size=4), st.lists(inner, max_size=3)),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(schemas)
def test_every_json_value_is_compiled_or_refused(schema: object) -> None:
    try:
        matcher = compiled(schema)
    except (InvalidRequest, GrammarError):
        return
    assert np.size(matcher.allowed())


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet='ab()[]{}|^$*+?.\\-d,1 "n', max_size=12), st.text(alphabet='ab1 "\n', max_size=5))
def test_patterns_agree_with_regular_expressions(pattern: str, word: str) -> None:
    anchored = f"^({pattern})$"
    try:
        expression = re.compile(anchored[:-1] + r"\Z")
    except re.error:
        return
    schema = {"pattern": anchored}
    try:
        exact = not json_value(schema).weakened
        matches = accepts(schema, json.dumps(word))
    except GrammarError:  # nothing matches it
        exact, matches = True, False
    if "[]" in pattern or "[^]" in pattern or ",}" in pattern or "{," in pattern or "++" in pattern:
        return  # Python reads these in another way
    assert matches == (expression.search(word) is not None) if exact else matches or expression.search(word) is None


# What everyday generators write, with an answer that fits, and the keywords that are not enforced.
GENERATED: dict[str, tuple[object, str, tuple[str, ...]]] = {
    "pydantic Decimal": (
        {"anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"}]},
        '"1.5"',
        ("pattern",),
    ),
    "pydantic model": (
        {
            "$defs": {"Kind": {"enum": ["a", "b"], "title": "Kind", "type": "string"}},
            "properties": {
                "kind": {"$ref": "#/$defs/Kind", "description": "which", "default": "a"},
                "point": {"prefixItems": [{"type": "integer"}] * 2, "minItems": 2, "maxItems": 2, "type": "array"},
                "more": {"anyOf": [{"additionalProperties": {"type": "integer"}, "type": "object"}, {"type": "null"}]},
            },
            "required": ["kind"],
            "title": "M",
            "type": "object",
        },
        '{"kind": "b", "point": [1, 2], "more": {"x": 3}}',
        (),
    ),
    "zod base64": ({"type": "string", "pattern": "^$|^(?:[0-9a-zA-Z+/]{4})*$"}, '"YWJj"', ()),
    "zod e-mail": (
        {
            "type": "string",
            "format": "email",
            "pattern": r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)@([a-z0-9]+\.)+[a-z]{2,}$",
        },
        '"a.b@c.de"',
        ("pattern",),
    ),
    "zod emoji": ({"pattern": r"^(\p{Extended_Pictographic}|\p{Emoji_Component})+$"}, '"😀"', ()),
    "zod record": (
        {"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": {"type": "number"}},
        '{"a": 1.5}',
        (),
    ),
    "zod record of an enum": (
        {
            "type": "object",
            "propertyNames": {"type": "string", "enum": ["a", "b"]},
            "additionalProperties": {"type": "null"},
            "required": ["a", "b"],
        },
        '{"a": null, "b": null}',
        (),
    ),
    "zod int": ({"type": "integer", "minimum": -9007199254740991, "maximum": 9007199254740991}, "-12", ()),
    "zod never": ({"type": "object", "properties": {"a": {"not": {}}, "b": {"type": "null"}}}, '{"b": null}', ()),
    "null keywords of C#": (
        {"type": "object", "properties": {"a": {"type": "string", "pattern": None, "enum": None}}, "required": None},
        '{"a": "x"}',
        (),
    ),
    "types of Java": ({"type": "OBJECT", "properties": {"a": {"type": "INTEGER"}}, "required": ["a"]}, '{"a": 3}', ()),
    "any of LangChain": ({"type": "object", "properties": {"a": {"type": "any"}}}, '{"a": [1, {"b": null}]}', ()),
    "nullable reference": (
        {
            "type": "object",
            "properties": {"a": {"$ref": "#/definitions/A", "nullable": True}},
            "definitions": {"A": {"type": "object", "properties": {"x": {"type": "integer", "format": "int32"}}}},
        },
        '{"a": null}',
        (),
    ),
    "subtypes of Java": (
        {
            "$defs": {"Base": {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]}},
            "anyOf": [
                {
                    "allOf": [
                        {"$ref": "#/$defs/Base"},
                        {"type": "object", "properties": {"kind": {"const": kind}}, "required": ["kind"]},
                    ],
                    "unevaluatedProperties": False,
                }
                for kind in ("one", "two")
            ],
        },
        '{"id": "x", "kind": "two"}',
        (),
    ),
    "numbers of Kotlin": (
        {
            "type": "object",
            "properties": {
                "long": {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
                "float": {"type": "number", "minimum": 1.4e-45, "maximum": 3.4028235e38},
            },
            "additionalProperties": False,
        },
        '{"long": -5, "float": 0.5}',
        (),
    ),
    "a base class of C#": (
        {
            "allOf": [
                {"$ref": "#/definitions/Base"},
                {"type": "object", "additionalProperties": False, "properties": {"id": {}, "x": {"type": "integer"}}},
            ],
            "definitions": {
                "Base": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {"id": {"type": "string", "format": "guid"}, "x": {}},
                    "required": ["id"],
                }
            },
        },
        '{"id": "a", "x": 3}',
        (),
    ),
    "enum of Rust": (
        {
            "oneOf": [
                {"type": "string", "enum": ["Unit"]},
                {"type": "object", "required": ["New"], "properties": {"New": {"type": "integer"}}},
                {"type": "object", "required": ["Old"], "properties": {"Old": {"type": "null"}}},
            ]
        },
        '{"Old": null}',
        (),
    ),
    "floats for counts": ({"type": "string", "maxLength": 10.0, "minLength": 1.0}, '"ab"', ()),
    "no items": ({"type": "array", "items": []}, "[1]", ()),
    "literal brace": ({"pattern": "^{{[a-z]+}}$"}, '"{{ab}}"', ()),
    "named groups": ({"pattern": r"^(?<y>\d{4})-(?<m>\d{2})$"}, '"2024-01"', ()),
    "unicode escapes": ({"pattern": r"^\u{1F600}\ud83d\ude00\u00e9$"}, '"😀😀é"', ()),
}


@pytest.mark.parametrize("name", GENERATED)
def test_schemas_of_everyday_generators_are_taken(name: str) -> None:
    schema, answer, weakened = GENERATED[name]
    assert json_value(schema).weakened == weakened
    assert accepts(schema, answer)
