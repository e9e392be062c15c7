"""Renderings of small conversations whose words are known."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .marks import common_prefix

Message = dict[str, Any]
Render = Callable[[Sequence[Message], Sequence[Message], bool], str]  # messages, tools, whether an answer begins

USER, CONTENT, THOUGHT = "UUUSER", "CCCONTENT", "TTTHOUGHT"
NAME, OTHER_NAME = "NNNAME", "MMMAME"
KEY, OTHER_KEY = "KKKEY", "LLLEY"
VALUE, OTHER_VALUE = "VVVALUE", "WWWALUE"
ID, OTHER_ID = "call00001", "call00002"  # nine letters and digits, as Mistral's templates want them
NUMBER = 7777
_KEYS = {key: {"type": "string", "description": key} for key in (KEY, OTHER_KEY)}
_PARAMETERS = {"type": "object", "properties": _KEYS, "required": []}
_TOOLS = [
    {"type": "function", "function": {"name": name, "description": name, "parameters": _PARAMETERS}}
    for name in (NAME, OTHER_NAME)
]
_ASK: Message = {"role": "user", "content": USER}
_CALL = (NAME, ID, {KEY: VALUE, OTHER_KEY: OTHER_VALUE})
_OTHER_CALL = (OTHER_NAME, OTHER_ID, {KEY: VALUE, OTHER_KEY: OTHER_VALUE})
_NUMBER_CALL = (NAME, ID, {KEY: NUMBER})


class Samples:
    """What a template makes of an assistant's turn."""

    def __init__(self, render: Render) -> None:
        self._render = render
        self.size = 0  # characters that were rendered
        self._before = self._text([])
        self.prompt = ""
        self.prompt = self._after(render([_ASK], _TOOLS, True))  # what begins an answer
        self.content = self._turn(CONTENT)
        self.call = self._turn("", _CALL)
        self.two_calls = self._turn("", _CALL, _OTHER_CALL)
        self.number = self._turn("", _NUMBER_CALL)
        self.thoughts = (self._turn(CONTENT, thought=THOUGHT), self._turn("", _CALL, thought=THOUGHT))

    def _turn(self, content: str, *calls: tuple[str, str, Mapping[str, Any]], thought: str = "") -> str:
        message: Message = {"role": "assistant", "content": content}
        if thought:
            message |= dict.fromkeys(("reasoning_content", "reasoning", "thinking"), thought)
        if calls:
            message["tool_calls"] = [
                {"id": call_id, "type": "function", "function": {"name": name, "arguments": dict(arguments)}}
                for name, call_id, arguments in calls
            ]
        return self._after(self._text([message]))

    def _text(self, messages: list[Message]) -> str:
        text = self._render([_ASK, *messages], _TOOLS, False)
        self.size += len(text)
        return text

    def _after(self, text: str) -> str:
        """What follows the user's message."""
        if text.startswith(self._before):
            return text[len(self._before) :]
        after = text[text.rfind(USER) + len(USER) :]
        if self.prompt:  # the template writes something after the last message
            return after[max(after.find(self.prompt), 0) :]
        return after.removeprefix(common_prefix(after, self._before.rpartition(USER)[2]))
