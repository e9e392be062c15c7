"""What restricts an answer with tools, within bounds."""

import functools
import re
from types import SimpleNamespace
from typing import Any

import pytest
from llamaserver.api.chat_template import ChatTemplate
from llamaserver.api.fields import Fields
from llamaserver.api.templates import CHATML
from llamaserver.api.tool_grammar import tool_constraint
from llamaserver.api.tool_use import read_tool_use
from llamaserver.errors import InvalidRequest
from llamaserver.interfaces.grammar import Constraint
from llamaserver.llama.templates import LlamaTemplates
from llamaserver.toolformat.form import Format, Mode

from tests.support.engine.vocab import ListVocab

JSON = dict[str, Any]
TEMPLATE = ChatTemplate(CHATML, LlamaTemplates())
PRODUCT: JSON = {"allOf": [{"anyOf": [{"minimum": i}, {"maximum": i}]} for i in range(9)]}  # long as Lark
VOCAB = ListVocab([bytes([i]) for i in range(256)])
SMALL: JSON = {"type": "object", "properties": {"city": {"type": "string"}}}
MANY: JSON = {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(20)}}
LARGE: JSON = {"type": "object", "properties": {f"p{i}": {"description": "x" * 900} for i in range(99)}}
REFERENCES: JSON = {
    "$defs": {f"d{i}": {"enum": ["x" * 90]} for i in range(99)},
    "properties": {f"p{i}": {"$ref": "#/$defs/d1"} for i in range(99)},
}


def tools(count: int, schema: JSON, **more: Any) -> list[JSON]:
    return [{"type": "function", "function": {"name": f"f{i}", "parameters": schema, **more}} for i in range(count)]


def constraint(fields: JSON, form: Format | None = None) -> Constraint | None:
    read = Fields(fields)
    chat: Any = SimpleNamespace(begun="<|im_start|>assistant\n")
    template: Any = form and SimpleNamespace(form=form, capabilities=TEMPLATE.capabilities)
    return tool_constraint(read_tool_use(read), read, template or TEMPLATE, chat, VOCAB)


def test_no_tools_restrict_nothing() -> None:
    assert constraint({}) is None
    assert constraint({"tools": tools(2, SMALL), "tool_choice": "none"}) is None


def test_schemas_are_in_the_grammar() -> None:
    found = constraint({"tools": tools(2, SMALL)})
    assert found
    assert (found.field, found.weakened) == ("tools", ())
    assert found.lark.count('"city"') == 2


@pytest.mark.parametrize("schema", [SMALL, MANY, LARGE, REFERENCES, PRODUCT])
@pytest.mark.parametrize("count", [1, 1024])
def test_the_grammar_has_bounds(count: int, schema: JSON) -> None:
    found = constraint({"tools": tools(count, schema), "tool_choice": "required"})
    assert found
    assert len(found.lark) < 1 << 20
    assert found.lark.count("\n") < 2000
    assert f'"f{count - 1}"' in found.lark.replace('\\"', '"') or f"f{count - 1}" in found.lark


def test_what_is_not_enforced_is_told() -> None:
    weaker = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    found = constraint({"tools": tools(1, weaker)})
    assert found
    assert found.weakened == ("uniqueItems",)
    with pytest.raises(InvalidRequest, match="uniqueItems") as caught:
        constraint({"tools": tools(1, weaker, strict=True)})
    assert caught.value.field == "tools"


FORMS = {
    "tagged": Format(Mode.TAGGED, call=("<f>", "</f>"), name_end=">", argument=("<a>", "</a>"), key_end="="),
    "gemma": Format(Mode.GEMMA, call=("<f>", "</f>")),
    "python": Format(Mode.PYTHON, call=("<f>", "</f>")),
}
# A parameter, and the keywords that the formats do not enforce.
PARAMETERS: list[tuple[JSON, str, str, str]] = [
    ({"type": "string"}, "", "", ""),
    ({"type": ["string", "null"]}, "", "", ""),
    ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "", "", ""),
    ({"enum": ["a", "b"]}, "", "", ""),
    ({"type": "string", "pattern": "^a", "minLength": 1}, *["minLength pattern"] * 3),
    ({"type": "string", "format": "date"}, *["format"] * 3),
    ({"type": "string", "format": "color", "maxLength": None, "minLength": 0}, "", "", ""),
    ({"type": "integer", "minimum": 3}, "", "minimum", ""),
    ({"type": ["integer", "null"]}, "", "", ""),
    ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "", "", ""),
    ({"type": "boolean", "enum": [True]}, *["enum"] * 3),
    ({"type": "array", "items": {"type": "string"}, "maxItems": 3}, "", "maxItems", ""),
    ({"type": "array", "items": {"type": "string", "pattern": "^a"}}, "", "pattern", ""),
    ({"type": "object", "properties": {"x": {"type": "string"}}, "required": ["y"]}, "", "required", ""),
    ({"$ref": "#/$defs/point"}, "", "$ref", ""),
    ({"type": ["string", "integer"]}, "type", "", "type"),
    ({"not": {"type": "string"}}, *["not"] * 3),
]


@pytest.mark.parametrize(("parameter", *FORMS), PARAMETERS)
def test_formats_tell_what_they_do_not_enforce(parameter: JSON, tagged: str, gemma: str, python: str) -> None:
    definitions = {"$defs": {"point": {"type": "object", "properties": {"x": {"type": "integer"}}}}}
    schema = {"type": "object", "properties": {"a": parameter}, "required": ["a"], **definitions}
    for form, left_out in zip(FORMS.values(), (tagged, gemma, python), strict=True):
        found = constraint({"tools": tools(1, schema)}, form)
        assert found
        assert found.weakened == tuple(left_out.split())
        if not left_out:
            assert constraint({"tools": tools(1, schema, strict=True)}, form)
            continue
        with pytest.raises(InvalidRequest, match=re.escape(left_out.split()[0])):
            constraint({"tools": tools(1, schema, strict=True)}, form)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize(
    ("more", "left_out"),
    [({"required": ["b"]}, "required"), ({"allOf": [{"minProperties": 1}]}, "allOf"), ({"maxProperties": 0}, "")],
)
def test_formats_tell_of_the_whole_object(form: Format, more: JSON, left_out: str) -> None:
    found = constraint({"tools": tools(1, {**SMALL, **more})}, form)
    assert found
    assert found.weakened == ((left_out or "maxProperties"),)


def test_a_large_schema_cannot_be_strict() -> None:
    for count, schema in ((1, LARGE), (1024, MANY)):
        found = constraint({"tools": tools(count, schema)})
        assert found
        assert found.weakened == ("properties",)
        with pytest.raises(InvalidRequest, match="too large"):
            constraint({"tools": tools(count, schema, strict=True)})


def test_schemas_that_are_not_strict_make_room_for_those_that_are() -> None:
    strict = tools(1, {"type": "object", "properties": {"only": {"type": "null"}}}, strict=True)
    strict[0]["function"]["name"] = "strict"
    rules = {"type": "object", "properties": {f"q{i}": {"type": "string"} for i in range(1600)}}
    for count, schema, form in ((1023, MANY, None), (1, rules, FORMS["tagged"]), (200, PRODUCT, None)):
        found = constraint({"tools": [*tools(count, schema), *strict]}, form)
        assert found
        assert "properties" in found.weakened
        assert "only" in found.lark


def test_references_in_a_circle_cost_little() -> None:
    circle = {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 50} for i in range(20)} | {"d20": {"type": "null"}}
    schema = {"type": "object", "properties": {"a": {"$ref": "#/$defs/d15"}}, "$defs": circle}
    assert constraint({"tools": tools(1, schema)}, FORMS["tagged"])


DEEP: JSON = functools.reduce(lambda inner, _: {"type": ["object"] * 9, "properties": {"a": inner}}, range(60), SMALL)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_types_in_types_cost_little(form: Format) -> None:
    assert constraint({"tools": tools(1, {"type": "object", "properties": {"a": DEEP}})}, form)


def test_a_form_of_the_content() -> None:
    found = constraint({"tools": tools(1, SMALL), "json_schema": {"enum": ["apricot"]}})
    assert found
    assert "apricot" in found.lark
    with pytest.raises(InvalidRequest, match="Cannot use custom grammar constraints with tools"):
        constraint({"tools": tools(1, SMALL), "grammar": 'root ::= "x"'})
