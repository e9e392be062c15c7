"""Anthropic's answers: a message, whole or as a stream of events."""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson

from ..interfaces.output import Finish
from ..toolformat.events import Arguments, Call, Content, End, Event, Reasoning
from .answer import timings_json
from .body import dumps

PING = b'event: ping\ndata: {"type":"ping"}\n\n'


@dataclass(frozen=True, slots=True)
class Head:
    """What is known of a message before its answer. `n_prompt` counts the prompt's tokens."""

    model: str
    n_prompt: int
    id: str = field(default_factory=lambda: f"msg_{uuid.uuid4().hex}")

    def message(self, **members: Any) -> dict[str, Any]:
        """The message object."""
        head = {"id": self.id, "type": "message", "role": "assistant", "model": self.model, "content": []}
        return {**head, "stop_reason": None, "stop_sequence": None, **members}


@dataclass(frozen=True, slots=True)
class Ending:
    """How an answer has ended. `stop_sequence` is the client's, if one has ended it."""

    finish: Finish
    stop_reason: str
    stop_sequence: str | None

    def why(self) -> dict[str, Any]:
        """The reason as members of a message."""
        return {"stop_reason": self.stop_reason, "stop_sequence": self.stop_sequence}

    def usage(self) -> dict[str, Any]:
        """The counts of tokens."""
        finish = self.finish
        counts = usage(finish.n_prompt - finish.n_cached, finish.n_cached, finish.n_decoded)
        return {**counts, "output_tokens_details": {"thinking_tokens": finish.n_reasoning}}


def usage(evaluated: int, cached: int, generated: int) -> dict[str, int]:
    """The counts of tokens. Only the tokens of the prompt that were evaluated are input."""
    return {
        "input_tokens": evaluated,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": generated,
    }


class MessageWriter:
    """Encodes one answer as events. A block ends before the next one begins."""

    def __init__(self, head: Head) -> None:
        self._head = head
        self.begun = False
        self._index = -1  # of the last block
        self._open = ""  # the type of the block that is open

    def begin(self, n_cached: int) -> bytes:
        """The first events. `n_cached` tokens of the prompt came from the cache."""
        self.begun = True
        message = self._head.message(usage=usage(self._head.n_prompt - n_cached, n_cached, 0))
        return event("message_start", {"message": message}) + PING

    def add(self, events: Iterable[Event]) -> bytes:
        """The events for what the model wrote."""
        return b"".join(map(self._add, events))

    def end(self, ending: Ending) -> bytes:
        """The last events."""
        delta = event("message_delta", {"delta": ending.why(), "usage": ending.usage()})
        return self._close() + delta + event("message_stop", {"timings": timings_json(ending.finish.timings)})

    def _add(self, found: Event) -> bytes:
        match found:
            case Reasoning(text):
                opened = self._continue("thinking", {"thinking": "", "signature": ""})
                return opened + self._delta("thinking_delta", "thinking", text)
            case Content(text):
                return self._continue("text", {"text": ""}) + self._delta("text_delta", "text", text)
            case Call(name, id):
                return self._begin("tool_use", {"id": id, "name": name, "input": {}})
            case Arguments(text):
                return self._delta("input_json_delta", "partial_json", text)
            case End():
                return self._close()

    def _continue(self, kind: str, members: dict[str, Any]) -> bytes:
        return b"" if self._open == kind else self._begin(kind, members)

    def _begin(self, kind: str, members: dict[str, Any]) -> bytes:
        closed = self._close()
        self._index += 1
        self._open = kind
        block = {"type": kind, **members}
        return closed + event("content_block_start", {"index": self._index, "content_block": block})

    def _delta(self, kind: str, name: str, text: str) -> bytes:
        return event("content_block_delta", {"index": self._index, "delta": {"type": kind, name: text}})

    def _close(self) -> bytes:
        """End the block that is open. A thought has a signature, which is empty here."""
        if not self._open:
            return b""
        signed = self._delta("signature_delta", "signature", "") if self._open == "thinking" else b""
        self._open = ""
        return signed + event("content_block_stop", {"index": self._index})


def whole(head: Head, events: Iterable[Event], ending: Ending) -> bytes:
    """The answer in one piece, as JSON."""
    timings = timings_json(ending.finish.timings)
    return dumps(head.message(content=_blocks(events), **ending.why(), usage=ending.usage(), timings=timings))


def _blocks(events: Iterable[Event]) -> list[dict[str, Any]]:
    """The content of a message. A call that was cut off is left out: it must not be carried out."""
    blocks: list[dict[str, Any]] = []
    texts: list[str] = []  # of the last block
    kind = ""

    def close() -> None:
        if kind == "thinking":
            blocks.append({"type": kind, "thinking": "".join(texts), "signature": ""})
        elif kind == "text":
            blocks.append({"type": kind, "text": "".join(texts)})
        texts.clear()

    call = Call("")
    for found in events:
        match found:
            case Reasoning(text) | Content(text):
                wanted = "thinking" if isinstance(found, Reasoning) else "text"
                if kind != wanted:
                    close()
                    kind = wanted
                texts.append(text)
            case Call():
                close()
                call, kind = found, "tool_use"
            case Arguments(text):
                texts.append(text)
            case End():
                blocks += _tool_use(call, "".join(texts) or "{}")
                texts.clear()
                kind = ""
    close()
    return blocks


def _tool_use(call: Call, arguments: str) -> list[dict[str, Any]]:
    """The block of a call. Arguments that are no JSON, of a call that no grammar has restricted, have none."""
    try:
        orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return []
    return [{"type": "tool_use", "id": call.id, "name": call.name, "input": orjson.Fragment(arguments)}]


def event(kind: str, members: dict[str, Any]) -> bytes:
    """One event of a stream."""
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), dumps({"type": kind, **members}))
