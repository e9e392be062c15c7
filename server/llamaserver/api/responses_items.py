"""The output of a response: its items, and the events of OpenAI's stream that tell of them."""

import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from ..interfaces.output import TokenProbs
from ..toolformat.events import Arguments, Call, Content, End, Event, Reasoning
from .openai_logprobs import ChatLogprobs
from .responses_custom import CustomInput
from .responses_input import packed
from .text_tokens import TextTokens

Item = dict[str, Any]
Told = tuple[str, dict[str, Any]]  # the type of an event, and its members


@dataclass(frozen=True, slots=True)
class Form:
    """How a client wants its output. `spaces` has namespace and name of functions that have a namespace."""

    summary: bool = False  # thoughts as a summary, which is what most clients show
    packs: bool = False  # thoughts as `encrypted_content` too
    logprobs: int | None = None  # alternatives for each token of a message, None without logprobs
    custom: Collection[str] = ()  # the names of functions that are custom tools
    spaces: Mapping[str, tuple[str, str]] = field(default_factory=dict)


class Items:
    """Makes items of what a model writes. One is open at a time."""

    def __init__(self, form: Form) -> None:
        self.items: list[Item] = []
        self._form = form
        self._parts: list[str] = []  # the text of the open item
        self._logprobs: list[orjson.Fragment] = []  # of the open item
        self._tokens = TextTokens()
        self._input = CustomInput()  # of the open call of a custom tool
        self._open: Item | None = None

    def put(self, tokens: Iterable[TokenProbs]) -> None:
        """Take the tokens of the next events."""
        if self._form.logprobs is not None:
            self._tokens.put(tokens)

    def add(self, event: Event) -> Iterator[Told]:
        """Take one event. Returns the events for the client."""
        logprobs = self._logprobs_of(event)
        match event:
            case Reasoning(text):
                yield from self._enter("reasoning")
                yield from self._more(text, "reasoning_summary_text" if self._form.summary else "reasoning_text")
            case Content(text):
                yield from self._enter("message")
                self._logprobs += logprobs
                yield from self._more(text, "output_text", logprobs=logprobs)
            case Call(name, call_id):
                yield from self._close("completed")
                space, name = self._form.spaces.get(name, ("", name))
                call = {"call_id": call_id, "name": name} | ({"namespace": space} if space else {})
                if event.name in self._form.custom:
                    self._input = CustomInput()
                    yield from self._begin({"type": "custom_tool_call", "input": "", **call}, "ctc")
                else:
                    yield from self._begin({"type": "function_call", "arguments": "", **call}, "fc")
            case Arguments(text) if self._open and self._open["type"] == "custom_tool_call":
                yield from self._more(self._input.feed(text), "custom_tool_call_input")
            case Arguments(text):
                yield from self._more(text, "function_call_arguments")
            case End():
                yield from self._close("completed")

    def finish(self, *, cut: bool) -> Iterator[Told]:
        """The answer has ended, or was cut. A whole answer has at least a message or a call."""
        yield from self._close("incomplete" if cut else "completed")
        if not cut and all(item["type"] == "reasoning" for item in self.items):
            yield from self._enter("message")
            yield from self._close("completed")

    def _logprobs_of(self, event: Event) -> list[orjson.Fragment]:
        """The logprobs of the tokens of an event, each encoded: as JSON it takes a tenth of the memory."""
        if self._form.logprobs is None or isinstance(event, End):
            return []
        tokens = self._tokens.of(event.name if isinstance(event, Call) else event.text)
        return [orjson.Fragment(orjson.dumps(one)) for one in ChatLogprobs(self._form.logprobs).of(tokens)]

    def _enter(self, kind: str) -> Iterator[Told]:
        """Have an item of this kind open."""
        if self._open is not None and self._open["type"] == kind:
            return
        yield from self._close("completed")
        if kind == "message":
            yield from self._begin({"type": kind, "role": "assistant", "content": []}, "msg")
            yield self._told("content_part.added", part=_text(""))
        elif self._form.summary:
            yield from self._begin({"type": kind, "summary": []}, "rs")
            yield self._told("reasoning_summary_part.added", part=_summary(""))
        else:
            yield from self._begin({"type": kind, "summary": [], "content": []}, "rs")
            yield self._told("content_part.added", part=_thought(""))

    def _begin(self, item: Item, prefix: str) -> Iterator[Told]:
        self._open = {"id": f"{prefix}_{uuid.uuid4().hex}", "status": "in_progress"} | item
        self._parts, self._logprobs = [], []
        self.items.append(self._open)
        yield "response.output_item.added", {"output_index": len(self.items) - 1, "item": dict(self._open)}

    def _more(self, text: str, kind: str, **members: Any) -> Iterator[Told]:
        if text:
            self._parts.append(text)
            yield self._told(f"{kind}.delta", delta=text, **members)

    def _close(self, status: str) -> Iterator[Told]:
        if self._open is None:
            return
        if self._open["type"] == "custom_tool_call":
            yield from self._more(self._input.close(), "custom_tool_call_input")
        item, text = self._open, "".join(self._parts)
        item["status"] = status
        if item["type"] == "function_call":
            item["arguments"] = text
            yield self._told("function_call_arguments.done", name=item["name"], arguments=text)
        elif item["type"] == "custom_tool_call":
            item["input"] = text
            yield self._told("custom_tool_call_input.done", input=text)
        elif item["type"] == "message":
            part = _text(text) | {"logprobs": self._logprobs}
            item["content"] = [part]
            yield self._told("output_text.done", text=text, logprobs=self._logprobs)
            yield self._told("content_part.done", part=part)
        else:
            yield from self._end_thought(item, text)
        yield "response.output_item.done", {"output_index": len(self.items) - 1, "item": item}
        self._open = None

    def _end_thought(self, item: Item, text: str) -> Iterator[Told]:
        if self._form.packs:
            item["encrypted_content"] = packed(text)
        if self._form.summary:
            item["summary"] = [_summary(text)]
            yield self._told("reasoning_summary_text.done", text=text)
            yield self._told("reasoning_summary_part.done", part=_summary(text))
        else:
            item["content"] = [_thought(text)]
            yield self._told("reasoning_text.done", text=text)
            yield self._told("content_part.done", part=_thought(text))

    def _told(self, kind: str, **members: Any) -> Told:
        """An event of the open item."""
        assert self._open is not None
        place = {"item_id": self._open["id"], "output_index": len(self.items) - 1}
        if kind.startswith("reasoning_summary"):
            place["summary_index"] = 0
        elif not kind.startswith(("function_call", "custom_tool_call")):
            place["content_index"] = 0
        return f"response.{kind}", place | members


def _text(text: str) -> Item:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _thought(text: str) -> Item:
    return {"type": "reasoning_text", "text": text}


def _summary(text: str) -> Item:
    return {"type": "summary_text", "text": text}
