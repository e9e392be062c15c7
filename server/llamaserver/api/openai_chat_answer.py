"""OpenAI's answers to chats: whole, or in chunks."""

from collections.abc import Sequence
from typing import Any

from ..interfaces.output import Delta, Event, Finish, TokenProbs
from ..toolformat.events import Arguments, Call, Content, Reasoning
from ..toolformat.events import Event as ChatEvent
from .answer import Answer, size_of
from .answer_reader import AnswerReader, Message, ToolCall
from .body import dumps
from .chat_call import ChatCall
from .openai_answer import Call as AnyCall
from .openai_answer import Chunks, Head, whole_json
from .openai_logprobs import ChatLogprobs

_END = b'},"finish_reason":null}]}\n\n'


class Chat(AnyCall):
    """A chat. `logprobs` is the number of alternatives for each token, None without logprobs.

    `functions` says that a call is to be answered as in OpenAI's older API.
    """

    def __init__(self, head: Head, call: ChatCall, logprobs: int | None, *, functions: bool) -> None:
        self.head, self.jobs, self.call, self.functions = head, call.jobs, call, functions
        self.logprobs = None if logprobs is None else ChatLogprobs(logprobs)

    def whole(self, answers: Sequence[Answer]) -> bytes:
        """The answer in one piece, as JSON."""
        choices = [self._choice(i, answer) for i, answer in enumerate(answers)]
        return whole_json(self, "chat.completion", choices, answers)

    def cost(self, answers: Sequence[Answer]) -> int:
        """What `whole` costs, in bytes to be encoded."""
        return self.call.reader(0).cost(size_of(answers))

    def chunks(self) -> Chunks:
        """The encoder of a stream."""
        return _ChatChunks(self)

    def _choice(self, index: int, answer: Answer) -> dict[str, Any]:
        reader = self.call.reader(index)
        return {
            "index": index,
            "message": _message_json(reader.message(answer), functions=self.functions),
            "logprobs": self.logprobs(answer.probs) if self.logprobs else None,
            "finish_reason": self.reason(reader),
        }

    def reason(self, reader: AnswerReader) -> str:
        """Why an answer has ended."""
        called = self.functions and reader.stop_reason == "tool_calls"
        return "function_call" if called else reader.stop_reason


def _message_json(message: Message, *, functions: bool) -> dict[str, Any]:
    """An answer with calls has null as its content if it has no other words."""
    value: dict[str, Any] = {"role": "assistant", "content": message.content, "refusal": None}
    if message.reasoning:
        value["reasoning_content"] = message.reasoning
    if message.calls:
        value["content"] = message.content or None
        calls = [_call_json(call) for call in message.calls]
        value |= {"function_call": calls[0]["function"]} if functions else {"tool_calls": calls}
    return value


def _call_json(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


class _ChatChunks(Chunks):
    empty = b'"delta":{}'

    def __init__(self, call: Chat) -> None:
        count = len(call.jobs)
        super().__init__(call, "chat.completion.chunk")
        self._readers = [call.call.reader(i) for i in range(count)]
        self._call = call
        self._logprobs = call.logprobs
        self._waiting: list[list[TokenProbs]] = [[] for _ in range(count)]  # for the next chunk
        self._calls = [-1] * count  # index of the current call

    def begin(self) -> bytes:
        """The role of each choice."""
        delta = b'"delta":{"role":"assistant","content":null,"refusal":null},"finish_reason":null}]}\n\n'
        return b"".join(before + delta for before in self._before)

    def held(self) -> int:
        """Characters that the end of an answer may have to read again."""
        return sum(reader.held for reader in self._readers)

    def encode(self, index: int, event: Event) -> bytes:
        """Encode one event, as none, one or several chunks."""
        reader = self._readers[index]
        assert isinstance(event, Delta | Finish)
        if reader.plain and isinstance(event, Delta):  # the usual case costs no more than that
            return self.also(self._chunk(index, b'{"content":' + dumps(event.content), event.probs), event)
        waiting = self._waiting[index]
        waiting += event.probs
        chunks = [self._event(index, found) for found in reader.feed(event)]
        if isinstance(event, Delta):
            if event.progress and not chunks:
                chunks.append(self._chunk(index, b"{", ()))
            return self.also(b"".join(chunks), event) if chunks else b""
        if waiting:
            chunks.append(self._event(index, Content("")))
        return b"".join(chunks) + self.end(index, event, self._call.reason(reader))

    def _event(self, index: int, event: ChatEvent) -> bytes:
        probs, self._waiting[index] = self._waiting[index], []
        match event:
            case Content(text):
                return self._chunk(index, b'{"content":' + dumps(text), probs)
            case Reasoning(text):
                return self._chunk(index, b'{"reasoning_content":' + dumps(text), probs)
            case Call(name, call_id):
                self._calls[index] += 1
                return self._chunk(index, self._part(index, _call_json(ToolCall(call_id, name))), probs)
            case Arguments(text):
                return self._chunk(index, self._part(index, {"function": {"arguments": text}}), probs)
        self._waiting[index] = probs
        return b""

    def _part(self, index: int, part: dict[str, Any]) -> bytes:
        """A part of a call."""
        if self._call.functions:
            return b'{"function_call":' + dumps(part["function"])
        return b'{"tool_calls":' + dumps([{"index": self._calls[index], **part}])

    def _chunk(self, index: int, delta: bytes, probs: Sequence[TokenProbs]) -> bytes:
        start = self._before[index]
        if self._logprobs:
            start += b'"logprobs":' + dumps(self._logprobs(probs) if probs else None) + b","
        return start + b'"delta":' + delta + _END
