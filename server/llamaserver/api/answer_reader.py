"""Reads the answer to a chat: from text to reasoning, content and calls of functions. One reader for each choice."""

import secrets
from dataclasses import dataclass, field, replace
from typing import Literal

from ..interfaces.output import Delta, Finish
from ..toolformat.events import Arguments, Call, Content, End, Event, Reasoning
from ..toolformat.parser import Parser
from .answer import Answer
from .thoughts import Thoughts

_READING = 8  # times the cost of encoding a text is that of reading it
StopReason = Literal["stop", "length", "tool_calls"]


@dataclass(slots=True)
class ToolCall:
    """One whole call. `arguments` is JSON, unless the answer was cut off in it."""

    id: str
    name: str
    arguments: str = ""


@dataclass(slots=True)
class Message:
    """One whole answer."""

    reasoning: str = ""
    content: str = ""
    calls: list[ToolCall] = field(default_factory=list)


class AnswerReader:
    """Turns the engine's events of one answer into what a client sees. Without a parser, all text is content."""

    finish: Finish  # once it has come

    def __init__(self, parser: Parser | None, thoughts: Thoughts | None = None, *, short_ids: bool = False) -> None:
        self._parser = parser
        self._thoughts = thoughts or Thoughts()
        self._short_ids = short_ids
        self._called = self._calling = False
        self.reasoning_tokens = 0  # with the marks around thoughts

    @property
    def plain(self) -> bool:
        """Whether all text is content, so that writers can pass it through."""
        return self._parser is None

    @property
    def held(self) -> int:
        """Characters that the end of the answer may have to read again."""
        return self._parser.held if self._parser else 0

    def cost(self, size: int) -> int:
        """The cost of an answer of `size` bytes that comes in one piece, in bytes that only have to be encoded."""
        return size if self._parser is None else size * _READING

    def feed(self, event: Delta | Finish) -> list[Event]:
        """What is certain after this event of the engine. After the Finish, that is everything."""
        if self._parser is None:
            found: list[Event] = [Content(event.content)] if event.content else []
        else:
            found = self._parser.feed(event.content) if event.content else []
            if isinstance(event, Finish):
                found += self._parser.close()
            found = [self._seen(placed) for one in found for placed in self._thoughts.placed(one)]
        if isinstance(event, Finish):
            self.finish, self.reasoning_tokens = event, event.n_reasoning
        return found

    @property
    def stop_reason(self) -> StopReason:
        """Why the answer has ended. A call that is not complete was cut off."""
        if self.finish.reason == "limit" or self._calling:
            return "length"
        return "tool_calls" if self._called else "stop"

    @property
    def stopping_word(self) -> str:
        """The stop string that has ended the answer, "" if none has."""
        return self.finish.stopping_word

    def message(self, answer: Answer) -> Message:
        """Read a whole answer at once."""
        message = Message()
        texts: dict[type[Event], list[str]] = {Content: [], Reasoning: []}
        arguments: list[list[str]] = []
        for event in self.feed(Delta(answer.content)) + self.feed(replace(answer.finish, content="")):
            match event:
                case Content(text) | Reasoning(text):
                    texts[type(event)].append(text)
                case Call(name, call_id):
                    message.calls.append(ToolCall(call_id, name))
                    arguments.append([])
                case Arguments(text):
                    arguments[-1].append(text)
        message.content, message.reasoning = "".join(texts[Content]), "".join(texts[Reasoning])
        for call, parts in zip(message.calls, arguments, strict=True):
            call.arguments = "".join(parts)
        self.finish = answer.finish
        return message

    def _seen(self, event: Event) -> Event:
        """Keep account of calls, and give each an id."""
        if isinstance(event, End):
            self._calling = False
        elif isinstance(event, Call):
            self._called = self._calling = True
            if not event.id:
                return Call(event.name, _short_id() if self._short_ids else f"call_{secrets.token_hex(12)}")
        return event


def _short_id() -> str:
    """Nine letters or digits: Mistral's templates take no other ids."""
    return secrets.token_hex(5)[:9]
