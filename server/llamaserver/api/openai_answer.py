"""What OpenAI's answers to chats and to completions share, and the answers to completions."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..interfaces.output import Delta, Event, Finish, TokenProbs
from .answer import Answer, join, size_of, stream_json, timings_json
from .body import dumps
from .jobs import Job
from .native_answer import native_json
from .openai_logprobs import TextLogprobs, joined


@dataclass(frozen=True, slots=True)
class Head:
    """What every part of an answer repeats, and how it is to be sent."""

    stream: bool
    verbose: bool  # with `__verbose` of the first choice
    usage: bool  # a last chunk with usage
    ping_after: float | None  # seconds, as in EventStream
    id: str
    created: int
    model: str

    def json(self, kind: str) -> dict[str, Any]:
        """The first fields of an object of that kind."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": "llamaserver",
        }


class Chunks(ABC):
    """Encodes the events of one call as chunks. The last event of all choices adds usage, if it was asked for."""

    empty: bytes  # the text of a chunk without any

    def __init__(self, call: "Call", kind: str) -> None:
        head, choices = call.head, len(call.jobs)
        self._verbose = call.jobs[0] if head.verbose else None
        self._usage = head.usage
        self._left = choices
        self._finishes: list[Finish] = []
        self._head = dumps(head.json(kind))[:-1]  # open object: choices follow
        self._before = [b"data: " + self._head + b',"choices":[{"index":%d,' % i for i in range(choices)]

    @abstractmethod
    def begin(self) -> bytes:
        """The start of a stream."""

    @abstractmethod
    def encode(self, index: int, event: Event) -> bytes:
        """Encode one event."""

    def held(self) -> int:
        """Characters that the end of an answer may have to read again."""
        return 0

    def also(self, chunk: bytes, delta: Delta) -> bytes:
        """The chunk with what was asked for beside the text."""
        more = stream_json(delta)
        return chunk.removesuffix(b"}\n\n") + b"," + dumps(more)[1:] + b"\n\n" if more else chunk

    def end(self, index: int, finish: Finish, reason: str) -> bytes:
        """The last chunk of a choice."""
        self._finishes.append(finish)
        self._left -= 1
        more = b',"timings":' + dumps(timings_json(finish.timings))
        if self._verbose is not None and index == 0:
            more += b',"__verbose":' + dumps(native_json(self._verbose, join([finish]), index))
        chunk = self._before[index] + self.empty + b',"finish_reason":' + dumps(reason) + b"}]" + more + b"}\n\n"
        if self._left == 0 and self._usage:
            chunk += b"data: " + self._head + b',"choices":[],"usage":' + dumps(usage(self._finishes)) + b"}\n\n"
        return chunk


class Call(ABC):
    """One request of this dialect, ready for the engine."""

    head: Head
    jobs: list[Job]

    @abstractmethod
    def whole(self, answers: Sequence[Answer]) -> bytes:
        """The answer in one piece, as JSON."""

    def cost(self, answers: Sequence[Answer]) -> int:
        """What `whole` costs, in bytes to be encoded."""
        return size_of(answers)

    @abstractmethod
    def chunks(self) -> Chunks:
        """The encoder of a stream."""


def whole_json(call: Call, kind: str, choices: list[dict[str, Any]], answers: Sequence[Answer]) -> bytes:
    """An answer in one piece, as JSON."""
    value = call.head.json(kind)
    if call.head.verbose:
        value["__verbose"] = native_json(call.jobs[0], answers[0], 0)
    value["choices"] = choices
    value["usage"] = usage([answer.finish for answer in answers])
    value["timings"] = timings_json(answers[0].finish.timings)
    return dumps(value)


def usage(finishes: Sequence[Finish]) -> dict[str, Any]:
    """The counts of tokens of all choices."""
    prompt = sum(finish.n_prompt for finish in finishes)
    completion = sum(finish.n_decoded for finish in finishes)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(finish.n_cached for finish in finishes)},
        "completion_tokens_details": {"reasoning_tokens": sum(finish.n_reasoning for finish in finishes)},
    }


@dataclass(frozen=True, slots=True)
class Echo:
    """The prompt that begins an answer. `first` is the piece of its first token, if that is to have a null logprob."""

    text: str = ""
    scored: bool = False  # with logprobs
    first: bytes | None = None


class TextCall(Call):
    """A completion. `echoes` has the prompt that each choice begins with, `logprobs` the number of alternatives."""

    def __init__(self, head: Head, jobs: list[Job], logprobs: int | None, echoes: list[Echo]) -> None:
        self.head, self.jobs, self.echoes = head, jobs, echoes
        self._logprobs = logprobs

    def whole(self, answers: Sequence[Answer]) -> bytes:
        """The answer in one piece, as JSON."""
        choices = [self._choice(i, answer) for i, answer in enumerate(answers)]
        return whole_json(self, "text_completion", choices, answers)

    def chunks(self) -> Chunks:
        """The encoder of a stream."""
        return _TextChunks(self)

    def cost(self, answers: Sequence[Answer]) -> int:
        """What `whole` costs, in bytes to be encoded."""
        return size_of(answers) + sum(len(echo.text) for echo in self.echoes)

    def logprobs(self) -> TextLogprobs | None:
        """The form of the probabilities of a choice, None if they were not asked for."""
        return None if self._logprobs is None else TextLogprobs(self._logprobs)

    def _choice(self, index: int, answer: Answer) -> dict[str, Any]:
        echo, found = self.echoes[index], None
        if of := self.logprobs():
            before = of.prompt(echo.text, echo.first, answer.scores) if echo.scored else None
            found = joined(before, of(answer.probs)) if before is not None else of(answer.probs)
        text, reason = echo.text + answer.content, _finish_reason(answer.finish)
        return {"index": index, "text": text, "logprobs": found, "finish_reason": reason}


class _TextChunks(Chunks):
    empty = b'"text":""'

    def __init__(self, call: TextCall) -> None:
        super().__init__(call, "text_completion")
        self._echoes = call.echoes
        self._logprobs = [call.logprobs() for _ in call.jobs]
        self._waiting = {i: echo for i, echo in enumerate(call.echoes) if echo.scored}  # for their scores

    def begin(self) -> bytes:
        """The prompts where `echo` is set. Those with logprobs follow when they are evaluated."""
        echoes = enumerate(self._echoes)
        return b"".join(self._text(i, echo.text, ()) for i, echo in echoes if echo.text and not echo.scored)

    def encode(self, index: int, event: Event) -> bytes:
        """Encode one event."""
        assert isinstance(event, Delta | Finish)
        if index in self._waiting and not (isinstance(event, Delta) and event.progress):
            scores = event.scores if isinstance(event, Delta) else ()
            echo = self._prompt(index, self._waiting.pop(index), scores)
            return echo if scores else echo + self.encode(index, event)
        if isinstance(event, Delta):
            return self.also(self._text(index, event.content, event.probs), event)
        text = self._text(index, event.content, event.probs) if event.content or event.probs else b""
        return text + self.end(index, event, _finish_reason(event))

    def _prompt(self, index: int, echo: Echo, scores: Sequence[TokenProbs]) -> bytes:
        of = self._logprobs[index]
        return self._chunk(index, echo.text, of.prompt(echo.text, echo.first, scores) if of else None)

    def _text(self, index: int, content: str, probs: Sequence[TokenProbs]) -> bytes:
        of = self._logprobs[index]
        return self._chunk(index, content, of(probs) if of and probs else None)

    def _chunk(self, index: int, content: str, logprobs: dict[str, Any] | None) -> bytes:
        start = self._before[index]
        if self._logprobs[index]:
            start += b'"logprobs":' + dumps(logprobs) + b","
        return start + b'"text":' + dumps(content) + b',"finish_reason":null}]}\n\n'


def _finish_reason(finish: Finish) -> str:
    return "length" if finish.reason == "limit" else "stop"
