"""Which tools a request lets the model call."""

from typing import Any

import pytest
from llamaserver.api.fields import Fields
from llamaserver.api.tool_use import read_tool_use, uses_functions
from llamaserver.errors import InvalidRequest

FUNCTIONS = [{"name": name, "parameters": {"properties": {"n": {}}}} for name in ("f", "g", "h")]
TOOLS = [{"type": "function", "function": function} for function in FUNCTIONS]


def used(**fields: Any) -> tuple[str, bool, bool | None]:
    use = read_tool_use(Fields({"tools": TOOLS, **fields}))
    return "".join(use.tools), use.required, use.parallel


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def allowed(mode: str, *names: str) -> dict[str, Any]:
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [named(name) for name in names]}}


@pytest.mark.parametrize(
    ("choice", "names", "required"),
    [
        (None, "fgh", False),
        ("auto", "fgh", False),
        ("none", "", False),
        ("required", "fgh", True),
        (named("g"), "g", True),
        (allowed("auto", "h", "f", "h"), "hf", False),
        (allowed("required", "g"), "g", True),
        (allowed("auto"), "", False),
    ],
)
def test_choices(choice: Any, names: str, required: bool) -> None:
    assert used(tool_choice=choice) == (names, required, None)


def test_parallel_calls() -> None:
    assert used(parallel_tool_calls=False)[2] is False
    assert used(parallel_tool_calls=True)[2] is True


def test_functions_of_old_clients() -> None:
    for choice, expected in ((None, ("fgh", False)), ("auto", ("fgh", False)), ("none", ("", False))):
        fields = Fields({"functions": FUNCTIONS, "function_call": choice})
        use = read_tool_use(fields)
        assert (uses_functions(fields), "".join(use.tools), use.required, use.parallel) == (True, *expected, False)
    use = read_tool_use(Fields({"functions": FUNCTIONS, "function_call": {"name": "g"}}))
    assert ("".join(use.tools), use.required) == ("g", True)


def test_without_tools() -> None:
    assert read_tool_use(Fields({})).tools == {}
    assert read_tool_use(Fields({"tool_choice": "auto"})).tools == {}


def test_strict_functions() -> None:
    tools = [{"type": "function", "function": {"name": "f", "strict": True}}, TOOLS[1]]
    use = read_tool_use(Fields({"tools": tools}))
    assert use.strict == {"f"}
    assert use.parameters == {
        "f": {"type": "object", "properties": {}},
        "g": {"type": "object", "properties": {"n": {}}},
    }


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"tool_choice": "maybe"}, "tool_choice", "Invalid tool_choice: maybe"),
        ({"tool_choice": 5}, "tool_choice", "Invalid tool_choice: 5"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice", "Invalid tool_choice: "),
        ({"tool_choice": named("x")}, "tool_choice.function.name", "there is no tool with the name 'x'"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function.name", "must be a string"),
        ({"tool_choice": {"type": "function", "function": {"name": 5}}}, "tool_choice.function.name", "must be"),
        ({"tool_choice": allowed("some", "f")}, "tool_choice.allowed_tools.mode", "auto or required"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools.mode", "auto or required"),
        ({"tool_choice": allowed("auto", "x")}, "tool_choice.allowed_tools.tools[0].function.name", "no tool with"),
        ({"tool_choice": allowed("required")}, "tool_choice", "no tools to choose from"),
        ({"tool_choice": "required", "tools": []}, "tool_choice", "no tools to choose from"),
        ({"parallel_tool_calls": "yes"}, "parallel_tool_calls", "true or false"),
        ({"tools": {}}, "tools", "must be an array"),
        ({"tools": [5]}, "tools[0].function.name", "must be a string"),
        ({"tools": [{"function": {"name": ""}}]}, "tools[0].function.name", "must be a string"),
        ({"tools": [{"function": {"name": "f", "parameters": 5}}]}, "tools[0].function.parameters", "an object"),
        ({"tools": [{"function": {"name": "f", "strict": 5}}]}, "tools[0].function.strict", "true or false"),
        ({"tools": None, "functions": [{}]}, "functions[0].name", "must be a string"),
        ({"tools": None, "functions": FUNCTIONS, "function_call": {"name": "x"}}, "function_call.name", "no tool"),
        ({"tools": None, "functions": FUNCTIONS, "function_call": "all"}, "function_call", "Invalid function_call"),
    ],
)  # fmt: skip
def test_wrong_values_are_named(fields: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        used(**fields)
    assert caught.value.field == field
    assert words in caught.value.message
