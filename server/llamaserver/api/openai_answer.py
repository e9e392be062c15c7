"""What OpenAI's answers to chats and to completions share, and the answers to completions."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..interfaces.output import Delta, Event, Finish, TokenProbs
from .answer import Answer, join, stream_json, timings_json
from .body import dumps
from .jobs import Job
from .native_answer import native_json
from .openai_logprobs import TextLogprobs


@dataclass(frozen=True, slots=True)
class Head:
    """What every part of an answer repeats, and how it is to be sent."""

    stream: bool
    verbose: bool  # with `__verbose` of the first choice
    usage: bool  # a last chunk with usage
    ping_after: float  # seconds, as in EventStream
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
    extra = 0  # characters of the answer in one piece that the model does not write

    @abstractmethod
    def whole(self, answers: Sequence[Answer]) -> bytes:
        """The answer in one piece, as JSON."""

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


class TextCall(Call):
    """A completion. `echoes` has the text that each choice begins with, `logprobs` the number of alternatives."""

    def __init__(self, head: Head, jobs: list[Job], logprobs: int | None, echoes: list[str]) -> None:
        self.head, self.jobs, self.echoes = head, jobs, echoes
        self.extra = sum(map(len, echoes))
        self._logprobs = logprobs

    def whole(self, answers: Sequence[Answer]) -> bytes:
        """The answer in one piece, as JSON."""
        choices = [self._choice(i, answer) for i, answer in enumerate(answers)]
        return whole_json(self, "text_completion", choices, answers)

    def chunks(self) -> Chunks:
        """The encoder of a stream."""
        return _TextChunks(self)

    def logprobs(self, index: int) -> TextLogprobs | None:
        """The form of the probabilities of a choice, None if they were not asked for."""
        return None if self._logprobs is None else TextLogprobs(self._logprobs, len(self.echoes[index]))

    def _choice(self, index: int, answer: Answer) -> dict[str, Any]:
        logprobs = of(answer.probs) if (of := self.logprobs(index)) else None
        text, reason = self.echoes[index] + answer.content, _finish_reason(answer.finish)
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


class _TextChunks(Chunks):
    empty = b'"text":""'

    def __init__(self, call: TextCall) -> None:
        super().__init__(call, "text_completion")
        self._call = call
        self._logprobs = [call.logprobs(i) for i in range(len(call.jobs))]

    def begin(self) -> bytes:
        """The prompts where `echo` is set."""
        return b"".join(self._text(i, text, ()) for i, text in enumerate(self._call.echoes) if text)

    def encode(self, index: int, event: Event) -> bytes:
        """Encode one event."""
        if isinstance(event, Delta):
            return self.also(self._text(index, event.content, event.probs), event)
        assert isinstance(event, Finish)
        text = self._text(index, event.content, event.probs) if event.content or event.probs else b""
        return text + self.end(index, event, _finish_reason(event))

    def _text(self, index: int, content: str, probs: Sequence[TokenProbs]) -> bytes:
        start = self._before[index]
        if of := self._logprobs[index]:
            start += b'"logprobs":' + dumps(of(probs) if probs else None) + b","
        return start + b'"text":' + dumps(content) + b',"finish_reason":null}]}\n\n'


def _finish_reason(finish: Finish) -> str:
    return "length" if finish.reason == "limit" else "stop"
