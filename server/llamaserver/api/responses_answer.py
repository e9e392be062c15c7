"""OpenAI's Responses answers: a response object, whole or as the end of a stream of events."""

import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson

from ..errors import ContextExceeded, ServerError
from ..interfaces.output import Finish, TokenProbs
from ..toolformat.events import Event
from .answer import timings_json
from .body import dumps
from .kept_responses import with_output
from .responses_items import Form, Item, Items, Told

_NEEDED: dict[str, Any] = {"parallel_tool_calls": True, "tool_choice": "auto", "tools": []}


@dataclass(frozen=True, slots=True)
class Head:
    """What is known of a response before its answer. `echo` is a JSON object: members that repeat the request."""

    model: str
    echo: bytes
    form: Form = field(default_factory=Form)
    id: str = field(default_factory=lambda: f"resp_{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))


@dataclass(frozen=True, slots=True)
class Ending:
    """How an answer has ended."""

    finish: Finish
    cut: bool  # by a limit of tokens
    reasoning_tokens: int


class Answer:
    """One response. It takes what the model writes, and encodes it."""

    def __init__(self, head: Head) -> None:
        self.head = head
        self._items = Items(head.form)
        self._number = 0  # of the next event
        self.rest = b"{}"  # once it has ended: the response object without its output
        self.output = b"[]"  # as JSON

    @property
    def items(self) -> list[Item]:
        """What the model wrote."""
        return self._items.items

    def ping(self) -> bytes:
        """A sign of life. Codex ends a stream without events, and comments are none.

        It has only what each client needs of a response, because it can come many times.
        """
        head = self.head
        response = {
            "id": head.id,
            "object": "response",
            "created_at": head.created,
            "status": "in_progress",
            "model": head.model,
            "output": [],
            **_NEEDED,
        }
        return self._begin() or self._sent(("response.in_progress", {"response": response}))

    def add(self, events: Iterable[Event], tokens: Iterable[TokenProbs] = ()) -> bytes:
        """The events of a stream for what the model wrote. `tokens` are the next ones, of these or of later events."""
        self._items.put(tokens)
        return self._begin() + self._sent(*(told for event in events for told in self._items.add(event)))

    def end(self, ending: Ending) -> bytes:
        """The last events of a stream."""
        closing = self._sent(*self._items.finish(cut=ending.cut))
        kind = "response.incomplete" if ending.cut else "response.completed"
        return closing + self._sent((kind, {"response": orjson.Fragment(self._ended(ending))}))

    def fail(self, error: ServerError) -> bytes:
        """The event that ends a stream which cannot go on."""
        response = with_output(self._rest("failed", error=error_json(error)), dumps(self.items))
        return self._begin() + self._sent(("response.failed", {"response": orjson.Fragment(response)}))

    def whole(self, events: Iterable[Event], ending: Ending, tokens: Iterable[TokenProbs] = ()) -> bytes:
        """The answer in one piece, as JSON. `tokens` are all of it."""
        self.add(events, tokens)
        self._sent(*self._items.finish(cut=ending.cut))
        return self._ended(ending)

    def _begin(self) -> bytes:
        """The first events of a stream, once."""
        if self._number:
            return b""
        return self._sent(("response.created", self._state()), ("response.in_progress", self._state()))

    def _state(self) -> dict[str, Any]:
        return {"response": orjson.Fragment(with_output(self._rest("in_progress"), b"[]"))}

    def _ended(self, ending: Ending) -> bytes:
        finish = ending.finish
        state = (
            {"incomplete_details": {"reason": "max_output_tokens"}}
            if ending.cut
            else {"completed_at": int(time.time())}
        )
        self.output = dumps(self.items)
        self.rest = self._rest(
            "incomplete" if ending.cut else "completed",
            **state,
            usage=_usage(finish, ending.reasoning_tokens),
            timings=timings_json(finish.timings),
        )
        return with_output(self.rest, self.output)

    def _rest(self, status: str, **members: Any) -> bytes:
        """The response object without its output. Absent members are null, because strict clients require them."""
        head = self.head
        value: dict[str, Any] = {
            "id": head.id,
            "object": "response",
            "created_at": head.created,
            "status": status,
            "background": False,
            "completed_at": None,
            "error": None,
            "incomplete_details": None,
            "model": head.model,
            "usage": None,
        }
        return dumps(value | members)[:-1] + b"," + head.echo[1:]

    def _sent(self, *events: Told) -> bytes:
        """Events as the stream has them."""
        sent = []
        for kind, members in events:
            data = dumps({"type": kind, "sequence_number": self._number} | members)
            sent.append(b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n")
            self._number += 1
        return b"".join(sent)


def error_json(error: ServerError) -> dict[str, Any]:
    """An error as a failed response has it. Codex makes room in its conversation at context_length_exceeded."""
    code = "context_length_exceeded" if isinstance(error, ContextExceeded) else "server_error"
    return {"code": code, "message": error.message, "type": error.kind, "param": error.field} | error.extra


def _usage(finish: Finish, reasoning_tokens: int) -> dict[str, Any]:
    return {
        "input_tokens": finish.n_prompt,
        "input_tokens_details": {
            "cached_tokens": finish.n_cached,
            "cache_write_tokens": 0,  # that cost extra: none do
        },
        "output_tokens": finish.n_decoded,
        "output_tokens_details": {"reasoning_tokens": reasoning_tokens},
        "total_tokens": finish.n_prompt + finish.n_decoded,
    }
