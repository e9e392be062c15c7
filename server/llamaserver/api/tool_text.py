"""Tools, calls and results as plain text, for templates that know nothing of them.

The form is the one that most templates write (Hermes, Qwen, Granite), so that a model has probably seen it.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..toolformat.form import ARGUMENTS_HERE, NAME_HERE, Format, Mode

FORMAT = Format(  # of what `call_text` writes
    Mode.JSON,
    call=("<tool_call>", "</tool_call>"),
    name_path=("name",),
    arguments_path=("arguments",),
    object=f'{{"name": "{NAME_HERE}", "arguments": {ARGUMENTS_HERE}}}',
)
_HEAD = (
    "# Tools\n\nYou may call one or more functions to assist with the user query. Their signatures are within "
    "<tools></tools>:\n<tools>\n"
)
_TAIL = (
    "\n</tools>\n\nFor each function call, return a JSON object with the name and the arguments of the function within "
    '<tool_call></tool_call>:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)


def tools_text(tools: Sequence[Mapping[str, Any]]) -> str:
    """A system prompt that tells a model its tools."""
    return _HEAD + "\n".join(_json(tool) for tool in tools) + _TAIL


def call_text(call: Mapping[str, Any]) -> str:
    """What the model has written to make a call."""
    function = call["function"]
    return f"<tool_call>\n{_json({'name': function['name'], 'arguments': function['arguments']})}\n</tool_call>"


def result_text(message: Mapping[str, Any]) -> str:
    """What the user tells of a call's result."""
    return f"<tool_response>\n{message['content']}\n</tool_response>"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
