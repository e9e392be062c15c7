"""Which of its tools a model may call, and whether it must: `tool_choice` and its relatives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import InvalidRequest
from .capabilities import Tool
from .fields import Fields
from .messages import read_tools


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools that may be called, by name. `parallel` is None if the request does not say.

    `arguments` has Lark expressions for the arguments of some functions, which are more than their schemas say. "" is
    one that cannot be enforced.
    """

    tools: dict[str, Tool] = field(default_factory=dict)
    required: bool = False
    parallel: bool | None = None
    arguments: Mapping[str, str] = field(default_factory=dict)

    @property
    def parameters(self) -> dict[str, dict[str, Any]]:
        """The schemas of the parameters of each function."""
        return {name: tool["function"]["parameters"] for name, tool in self.tools.items()}

    @property
    def strict(self) -> set[str]:
        """The names of the functions whose schemas must hold exactly."""
        return {name for name, tool in self.tools.items() if tool["function"].get("strict")}


def read_tool_use(fields: Fields) -> ToolUse:
    """Read `tools`, `tool_choice` and `parallel_tool_calls`, or the older `functions` and `function_call`.

    Raises InvalidRequest.
    """
    tools = {tool["function"]["name"]: tool for tool in read_tools(fields)}
    _, parallel = fields.get("parallel_tool_calls")
    if parallel is not None:
        parallel = fields.boolean("parallel_tool_calls", default=True)
    if uses_functions(fields):
        parallel = False
    name, choice = fields.get("tool_choice", "function_call")
    required, names = _chosen(name, choice, tools)
    if required and not names:
        raise InvalidRequest(f"Field '{name}': there are no tools to choose from", field=name)
    return ToolUse({one: tools[one] for one in names}, required, parallel)


def uses_functions(fields: Fields) -> bool:
    """Whether a request has the fields of OpenAI's older API, and wants an answer of that kind."""
    return bool(fields.array("functions")) and not fields.array("tools")


def _chosen(name: str, choice: Any, tools: dict[str, Tool]) -> tuple[bool, Sequence[str]]:
    """Whether the model must call a tool, and which ones it may call."""
    if isinstance(choice, str) and choice in ("none", "auto", "required"):
        return choice == "required", () if choice == "none" else list(tools)
    if choice is None:
        return False, list(tools)
    if isinstance(choice, dict):
        if name == "function_call":
            return True, [_known(choice, name, name, tools)]
        if choice.get("type") == "function":
            return True, [_known(choice.get("function"), name, f"{name}.function", tools)]
        if choice.get("type") == "allowed_tools":
            return _allowed(choice.get("allowed_tools"), f"{name}.allowed_tools", tools)
    raise InvalidRequest(f"Invalid {name}: {choice!s:.100}", field=name)


def _allowed(choice: Any, where: str, tools: dict[str, Tool]) -> tuple[bool, Sequence[str]]:
    mode = choice.get("mode") if isinstance(choice, dict) else None
    if mode not in ("auto", "required"):
        raise InvalidRequest(f"Field '{where}.mode': must be auto or required", field=f"{where}.mode")
    items = choice.get("tools")
    if not isinstance(items, list):
        raise InvalidRequest(f"Field '{where}.tools': must be an array", field=f"{where}.tools")
    functions = [item.get("function") if isinstance(item, dict) else None for item in items]
    names = [_known(each, "tool_choice", f"{where}.tools[{i}].function", tools) for i, each in enumerate(functions)]
    return mode == "required", list(dict.fromkeys(names))


def _known(function: Any, name: str, where: str, tools: dict[str, Tool]) -> str:
    """The name of a tool that the request has."""
    wanted = function.get("name") if isinstance(function, dict) else None
    if not isinstance(wanted, str):
        raise InvalidRequest(f"Field '{where}.name': must be a string", field=f"{where}.name")
    if wanted not in tools:
        raise InvalidRequest(f"Invalid {name}: there is no tool with the name {wanted!r:.80}", field=f"{where}.name")
    return wanted
