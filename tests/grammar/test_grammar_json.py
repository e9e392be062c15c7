"""JSON schemas as grammars: what they generate, checked by a validator of our own making for each case."""

import json
import re
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llamaserver.errors import InvalidRequest
from llamaserver.grammar import gbnf
from llamaserver.grammar.automaton import Automaton
from llamaserver.grammar.automaton_matcher import GrammarMatcher
from llamaserver.grammar.json_schema import compile_schema
from llamaserver.grammar.json_text import json_text
from llamaserver.grammar.vocabulary import PieceIndex
from llamaserver.interfaces.grammar import Grammar
from llamaserver.interfaces.params import SamplingParams
from llamaserver.sampling.sampler import ChainSamplerFactory

from tests.support.engine.vocab import ListVocab

VOCAB = ListVocab([*(bytes([c]) for c in range(256)), b"<end>"], eog=[256])
INDEX = PieceIndex(VOCAB)


def accepts(grammar: Grammar, text: str) -> bool:
    automaton = GrammarMatcher(Automaton(grammar, INDEX))
    for byte in text.encode():
        automaton.begin()
        if not automaton.allows(byte):
            return False
        automaton.accept(byte)
    return automaton.allows(256)


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
    "tuple": ({"prefixItems": [{"type": "integer"}, {"type": "string"}]}, ['[1,"a"]'], ["[1]", '["a",1]']),
    "old tuple": ({"items": [{"type": "integer"}, {"type": "null"}]}, ["[1,null]"], ["[1]"]),
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
    grammar = compile_schema(schema)
    for text in inside:
        json.loads(text)
        assert accepts(grammar, text), text
    for text in outside:
        assert not accepts(grammar, text), text


def test_any_object_is_an_object() -> None:
    grammar = compile_schema({"type": "object"})
    assert accepts(grammar, '{"a": [{}, 1.5e3, "x"]}')
    assert not accepts(grammar, "[]")


def test_the_text_of_a_compiled_schema_compiles_to_the_same() -> None:
    grammar = compile_schema(PERSON)
    again = gbnf.parse(grammar.text, lambda _: None)
    assert again.kinds == grammar.kinds
    assert again.values == grammar.values
    assert again.nexts == grammar.nexts
    assert again.rules == grammar.rules


def test_a_sampler_does_not_compile_a_schema_again(monkeypatch: pytest.MonkeyPatch) -> None:
    grammar = compile_schema(PERSON)
    monkeypatch.setattr(gbnf, "parse", lambda *_, **__: pytest.fail("compiled again"))
    make = ChainSamplerFactory(VOCAB)
    make(SamplingParams(grammar=grammar.text, rules=grammar), 100)


def test_constants_are_written_as_json() -> None:
    for value in ('\x00\x1f\x7f"\\/\n\r\t\b\fé€🦩', [1, -2.5, 1e300, 0.1, True, None, {}], {"a": {"b": []}}):
        assert json_text(value, 0) == json.dumps(value, ensure_ascii=False)
    assert json_text("a\ud800b", 0) == '"a\\ud800b"'


def deep(levels: int, key: str) -> object:
    schema: object = {"type": "null"}
    for _ in range(levels):
        schema = {key: {"x": schema}} if key == "properties" else {key: [schema]}
    return schema


REFUSED = {
    "false": False,
    "a number": 5,
    "null": None,
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
    "no places": {"prefixItems": []},
    "pattern of a wrong type": {"pattern": 3},
    "bound of a wrong type": {"minLength": "3"},
    "bound of a wrong kind": {"maxItems": 1.5},
    "negative bound": {"minItems": -1},
    "bounds reversed": {"minLength": 3, "maxLength": 2},
    "bound enormous": {"minItems": 10**9},
    "remote reference": {"$ref": "https://example.com/schema.json"},
    "reference to nowhere": {"$ref": "#/$defs/missing"},
    "reference of a wrong type": {"$ref": 3},
    "reference to itself": {"$ref": "#"},
    "reference round about": {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    "endless object": {"properties": {"a": {"$ref": "#"}}, "required": ["a"]},
    "references in a circle": {"$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"},
    "deep properties": deep(300, "properties"),
    "deep variants": deep(300, "anyOf"),
    "deep alternatives": deep(300, "allOf"),
    "many": {"properties": {f"p{i}": {"enum": [f"{i}-{j}" for j in range(30)]} for i in range(1000)}},
    "doubling": {
        "$defs": {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(40)} | {"d40": {}},
        "$ref": "#/$defs/d0",
    },
    "look-ahead": {"pattern": "^(?=a)$"},
    "back-reference": {"pattern": "^(a)\\1$"},
    "word border": {"pattern": "^\\bword$"},
    "unclosed group": {"pattern": "^(a$"},
    "closed too often": {"pattern": "^a)$"},
    "unclosed set": {"pattern": "^[a$"},
    "empty set": {"pattern": "^[]$"},
    "range reversed": {"pattern": "^[z-a]$"},
    "nothing to count": {"pattern": "^*$"},
    "count unclosed": {"pattern": "^a{2$"},
    "count malformed": {"pattern": "^a{x}$"},
    "count enormous": {"pattern": "^a{999999}$"},
    "deep pattern": {"pattern": "^" + "(" * 500 + "a" + ")" * 500 + "$"},
    "half anchored": {"pattern": "^a|b"},
}


@pytest.mark.parametrize("schema", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_schema_or_too_much_is_refused(schema: object) -> None:
    with pytest.raises(InvalidRequest) as refused:
        compile_schema(schema)
    assert refused.value.field == "json_schema"
    assert refused.value.message.startswith("json_schema: ")


def test_no_recursion_error_close_to_the_limit() -> None:
    def at_depth(levels: int) -> Grammar:
        return compile_schema(deep(20, "properties")) if levels == 0 else at_depth(levels - 1)

    assert at_depth(sys.getrecursionlimit() // 3)


KEYWORDS = (
    "type properties required items prefixItems enum const anyOf oneOf allOf $ref additionalProperties "
    "minItems maxItems minLength maxLength pattern format $defs"
)
keywords = st.sampled_from(KEYWORDS.split())
WORDS = "object array string integer # #/properties/type ^a*$ date a"
words = st.sampled_from(WORDS.split())
schemas = st.recursive(
    st.one_of(words, st.integers(-2, 3), st.booleans(), st.none()),
    lambda inner: st.one_of(st.dictionaries(keywords, inner, max_size=4), st.lists(inner, max_size=3)),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None)
@given(schemas)
def test_every_json_value_is_converted_or_refused(schema: object) -> None:
    try:
        grammar = compile_schema(schema)
    except InvalidRequest:
        return
    assert grammar.text.startswith("root ::= ") or "\nroot ::= " in grammar.text


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet='ab()[]{}|^$*+?.\\-d,1 "n', max_size=12), st.text(alphabet='ab1 "\n', max_size=5))
def test_patterns_agree_with_regular_expressions(pattern: str, word: str) -> None:
    anchored = f"^({pattern})$"
    try:
        grammar = compile_schema({"pattern": anchored})
    except InvalidRequest:
        return
    expression = re.compile(anchored[:-1] + r"\Z")
    assert accepts(grammar, json.dumps(word)) == (expression.match(word) is not None)


def test_requests_with_the_same_schema_share_one_grammar() -> None:
    assert compile_schema(dict(PERSON)) is compile_schema(dict(PERSON))
