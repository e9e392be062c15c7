"""What restricts an answer with tools, within bounds."""

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


def constraint(fields: JSON) -> Constraint | None:
    read = Fields(fields)
    chat: Any = SimpleNamespace(begun="<|im_start|>assistant\n")
    return tool_constraint(read_tool_use(read), read, TEMPLATE, chat, VOCAB)


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


def test_a_large_schema_cannot_be_strict() -> None:
    with pytest.raises(InvalidRequest):
        constraint({"tools": tools(1, LARGE, strict=True)})


def test_a_form_of_the_content() -> None:
    found = constraint({"tools": tools(1, SMALL), "json_schema": {"enum": ["apricot"]}})
    assert found
    assert "apricot" in found.lark
    with pytest.raises(InvalidRequest, match="Cannot use custom grammar constraints with tools"):
        constraint({"tools": tools(1, SMALL), "grammar": 'root ::= "x"'})
