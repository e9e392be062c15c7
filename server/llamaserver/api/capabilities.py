"""What a chat template can render. It is found out by rendering conversations of words that occur nowhere else.

llama.cpp does the same (common/jinja/caps.cpp) by watching which values a template reads. Here, only the text counts:
a template can render something if all of its words are there.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from ..errors import ServerError

Message = dict[str, Any]
Tool = dict[str, Any]
Render = Callable[[Sequence[Message], Sequence[Tool], Mapping[str, Any]], str]  # messages, tools, variables


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a template can render. The defaults are for one that refuses even the plainest chat."""

    string_content: bool = True
    typed_content: bool = False  # a list of parts
    system: bool = True  # a system message at the beginning
    later_system: bool = True  # system messages anywhere, and several of them
    developer: bool = False  # the role of that name
    any_order: bool = True  # users and assistants need not take turns
    tools: bool = False
    tool_calls: bool = False  # calls and results in the history, in a request with tools
    bare_tool_calls: bool = False  # the same in a request without tools
    parallel_tool_calls: bool = False  # several calls in one message
    object_arguments: bool = False  # arguments as an object, not as its JSON
    text_with_calls: bool = False  # content in a message that has calls
    any_id: bool = False  # ids of calls in any form. Mistral's must have nine letters or digits
    reasoning: bool = False  # reasoning of the answer that is being written
    thinking_parts: bool = False  # reasoning as a part of the content, and in no other form
    preserve_reasoning: bool = False  # reasoning of earlier answers
    reasoning_effort: bool = False

    def by_name(self) -> dict[str, bool]:
        """By the names that llama-server has in /props, and two more."""
        return {
            "supports_string_content": self.string_content,
            "supports_typed_content": self.typed_content,
            "supports_tools": self.tools,
            "supports_tool_calls": self.tool_calls,
            "supports_parallel_tool_calls": self.parallel_tool_calls,
            "supports_system_role": self.system,
            "supports_preserve_reasoning": self.preserve_reasoning,
            "supports_reasoning_effort": self.reasoning_effort,
            "supports_object_arguments": self.object_arguments,
            "supports_developer_role": self.developer,
            "supports_reasoning": self.reasoning,
        }


def probe(render: Render, *, names_developer: bool) -> Capabilities:
    """Find out what a template can render. `names_developer` tells whether its source has that word."""
    trial = _Trial(render)
    string, typed = trial.keeps(_ASK), trial.keeps_parts(_ASK | {"content": as_parts("apricot")}, "apricot")
    if not string and not typed:
        return Capabilities()
    trial.parts = not string
    objects = trial.keeps_calls(objects=True) or trial.keeps_calls(objects=True, tools=_TOOLS)
    calls = trial.keeps_calls(objects=objects, tools=_TOOLS)
    bare = trial.keeps_calls(objects=objects)
    some = _TOOLS if calls else ()
    called, thought = _calls("quince", objects=objects), _calls("quince", objects=objects, **_THOUGHT)
    thinks = trial.keeps(_ASK, *thought, tools=some, also=("walnut",)) or trial.keeps(
        _ASK, _ANSWER | _THOUGHT, also=("walnut",)
    )
    thinks_in_parts = not thinks and trial.keeps_parts(_THOUGHT_IN_PARTS, "walnut", "banana")
    return Capabilities(
        string_content=string,
        typed_content=typed,
        system=trial.keeps(_SYSTEM, _ASK)
        and trial.keeps(_SYSTEM, _ASK, _ANSWER, _ASK_MORE)
        and (not calls or trial.keeps(_SYSTEM, _ASK, *called, tools=_TOOLS))
        and (not bare or trial.keeps(_SYSTEM, _ASK, *called)),
        later_system=trial.keeps(_SYSTEM, _LATER, _ASK)
        and trial.keeps(_SYSTEM, _ASK, _ANSWER, _LATER, _ASK_MORE)
        and trial.keeps(_ASK, _SYSTEM, _ANSWER, _ASK_MORE),
        developer=names_developer and trial.keeps(_DEVELOPER, _ASK),
        any_order=trial.keeps(_ASK, _ASK_MORE)
        and trial.keeps(_ASK, _ANSWER, _ANSWER_MORE, _ASK_MORE)
        and trial.keeps(_ANSWER, _ASK),
        tools=trial.keeps(_ASK, tools=_TOOLS, also=("tangerine", "dandelion", "fennel")),
        tool_calls=calls,
        bare_tool_calls=bare,
        parallel_tool_calls=trial.keeps(_ASK, *_calls("quince", "rhubarb", objects=objects), tools=some),
        object_arguments=objects,
        text_with_calls=trial.keeps_before_calls(objects=objects, tools=some)
        and trial.keeps_before_calls(objects=objects, tools=some, **_THOUGHT),
        any_id=trial.keeps(_ASK, *_calls("quince", objects=objects, ids="call_{:020}"), tools=some),
        reasoning=thinks or thinks_in_parts,
        thinking_parts=thinks_in_parts,
        preserve_reasoning=trial.keeps(
            _ASK, _ANSWER | _THOUGHT, _ASK_MORE, _ANSWER_MORE, _ASK, also=("walnut",), variables=_KEEP_REASONING
        ),
        reasoning_effort=len({trial.text([_ASK], (), _effort(level)) for level in _EFFORTS}) > 1,
    )


_SYSTEM: Message = {"role": "system", "content": "zucchini"}
_DEVELOPER: Message = {"role": "developer", "content": "zucchini"}
_LATER: Message = {"role": "system", "content": "yam"}
_ASK: Message = {"role": "user", "content": "apricot"}
_ANSWER: Message = {"role": "assistant", "content": "banana"}
_ASK_MORE: Message = {"role": "user", "content": "cherry"}
_ANSWER_MORE: Message = {"role": "assistant", "content": "damson"}
_THOUGHT = {"reasoning_content": "walnut", "reasoning": "walnut", "thinking": "walnut"}
_THOUGHT_IN_PARTS: Message = {
    "role": "assistant",
    "content": [{"type": "thinking", "thinking": "walnut"}, {"type": "text", "text": "banana"}],
}
_PARAMETERS = {"type": "object", "properties": {"fennel": {"type": "string", "description": ""}}, "required": []}
_FUNCTION = {"name": "tangerine", "description": "dandelion", "parameters": _PARAMETERS}
_TOOLS: Sequence[Tool] = ({"type": "function", "function": _FUNCTION},)
_KEEP_REASONING = {  # by the names that templates have for it
    "enable_thinking": True,
    "preserve_thinking": True,
    "clear_thinking": False,
    "truncate_history_thinking": False,
    "drop_thinking": False,
}
_EFFORTS = ("none", "low", "high", "max")


def _effort(level: str) -> dict[str, Any]:
    return {"enable_thinking": True, "reasoning_effort": level, "reasoning_strength": level}


def _calls(*values: str, objects: bool, content: str = "", ids: str = "{:09}", **more: str) -> list[Message]:
    """A message with a call for each value, and the results."""
    calls, results = [], []
    for number, (value, result) in enumerate(zip(values, ("saffron", "thyme"), strict=False), 1):
        arguments = {"parsnip": value}
        function = {"name": "tangerine", "arguments": arguments if objects else json.dumps(arguments)}
        calls.append({"id": ids.format(number), "type": "function", "function": function})
        results.append({"role": "tool", "name": "tangerine", "tool_call_id": ids.format(number), "content": result})
    return [{"role": "assistant", "content": content, **more, "tool_calls": calls}, *results]


class _Trial:
    """Renders conversations and looks for their words."""

    def __init__(self, render: Render) -> None:
        self._render = render
        self.parts = False  # whether contents are written as parts

    def text(self, messages: Sequence[Message], tools: Sequence[Tool], variables: Mapping[str, Any]) -> str:
        """The rendered text, "" if the template fails."""
        messages = deepcopy(list(messages))  # a template can change them
        for message in messages:
            if self.parts and isinstance(message["content"], str):
                message["content"] = as_parts(message["content"])
        try:
            return self._render(messages, deepcopy(list(tools)), variables)
        except ServerError:
            return ""

    def keeps(
        self,
        *messages: Message,
        tools: Sequence[Tool] = (),
        also: Sequence[str] = (),
        variables: Mapping[str, Any] | None = None,
    ) -> bool:
        """Whether the text has all words of the messages."""
        text = self.text(messages, tools, variables or {})
        return all(word in text for word in (*_words(messages), *also))

    def keeps_parts(self, message: Message, *words: str) -> bool:
        """Whether the template takes parts for what they are, and does not write them out as a list."""
        text = self.text([_ASK, message] if message["role"] == "assistant" else [message], (), {})
        return all(word in text for word in words) and "'type'" not in text and '"type"' not in text

    def keeps_calls(self, *, objects: bool, tools: Sequence[Tool] = ()) -> bool:
        """Whether calls and results are kept, with arguments that are neither quoted twice nor Python's."""
        called = _calls("quince", objects=objects)
        text = self.text([_ASK, *called], tools, {})
        spoiled = "{'parsnip'" in text or '\\"parsnip' in text
        return (
            not spoiled
            and self.keeps(_ASK, *called, tools=tools)
            and self.keeps(_ASK, *called, _ANSWER, _ASK_MORE, tools=tools)
        )

    def keeps_before_calls(self, *, objects: bool, tools: Sequence[Tool], **more: str) -> bool:
        """Whether the content of a message with a call is kept, and comes before the call, as models write it."""
        messages = [_ASK, *_calls("quince", objects=objects, content="damson", **more)]
        text = self.text(messages, tools, {})
        return self.keeps(*messages, tools=tools) and text.rfind("damson") < text.rfind("quince")


def as_parts(text: str) -> list[dict[str, str]]:
    """A content as the list of parts that some templates need."""
    return [{"type": "text", "text": text}]


def _words(messages: Sequence[Message]) -> Iterator[str]:
    for message in messages:
        yield message["content"]
        for call in message.get("tool_calls", ()):
            yield call["function"]["name"]
            arguments = call["function"]["arguments"]
            yield (arguments if isinstance(arguments, dict) else json.loads(arguments))["parsnip"]
