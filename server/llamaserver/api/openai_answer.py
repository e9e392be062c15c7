"""OpenAI's answers to a call: whole, or in chunks."""

from dataclasses import dataclass
from typing import Any

from ..interfaces.output import Delta, Event, Finish, TokenProbs
from .answer import Answer, timings_json
from .body import dumps
from .jobs import Job
from .openai_logprobs import ChatLogprobs, Logprobs, TextLogprobs


@dataclass(frozen=True, slots=True)
class Call:
    """One request of this dialect, ready for the engine."""

    jobs: list[Job]
    stream: bool
    usage: bool  # a last chunk with usage
    chat: bool
    logprobs: int | None  # number of alternatives for each token; None: no logprobs
    echoes: list[str]  # the text that each choice begins with
    id: str
    created: int
    model: str


def whole(call: Call, answers: list[Answer]) -> bytes:
    """The answer in one piece, as JSON."""
    value = _head(call, "chat.completion" if call.chat else "text_completion")
    value["choices"] = [_choice(call, i, answer) for i, answer in enumerate(answers)]
    value["usage"] = _usage([answer.finish for answer in answers])
    value["timings"] = timings_json(answers[0].finish.timings)
    return dumps(value)


def _head(call: Call, kind: str) -> dict[str, Any]:
    return {
        "id": call.id,
        "object": kind,
        "created": call.created,
        "model": call.model,
        "system_fingerprint": "llamaserver",
    }


def _choice(call: Call, index: int, answer: Answer) -> dict[str, Any]:
    logprobs = of(answer.probs) if (of := _logprobs(call, index)) else None
    reason = _finish_reason(answer.finish)
    if call.chat:
        message = {"role": "assistant", "content": answer.content, "refusal": None}
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}
    return {"index": index, "text": call.echoes[index] + answer.content, "logprobs": logprobs, "finish_reason": reason}


def _logprobs(call: Call, index: int) -> Logprobs | None:
    """The form of the probabilities of a choice, None if they were not asked for."""
    if call.logprobs is None:
        return None
    return ChatLogprobs(call.logprobs) if call.chat else TextLogprobs(call.logprobs, len(call.echoes[index]))


def _finish_reason(finish: Finish) -> str:
    return "length" if finish.reason == "limit" else "stop"


def _usage(finishes: list[Finish]) -> dict[str, Any]:
    prompt = sum(finish.n_prompt for finish in finishes)
    completion = sum(finish.n_decoded for finish in finishes)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(finish.n_cached for finish in finishes)},
    }


class Chunks:
    """Encodes the events of one call as chunks."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._left = len(call.jobs)
        self._finishes: list[Finish] = []
        self._logprobs = [_logprobs(call, i) for i in range(len(call.jobs))]
        kind = "chat.completion.chunk" if call.chat else "text_completion"
        self._head = dumps(_head(call, kind))[:-1]  # open object: choices follow
        self._before = [self._head + b',"choices":[{"index":%d,' % i for i in range(len(call.jobs))]
        self._field = b'"delta":{"content":' if call.chat else b'"text":'
        self._after = b'},"finish_reason":null}]}\n\n' if call.chat else b',"finish_reason":null}]}\n\n'

    def head(self) -> bytes:
        """The start of a stream: the role of each choice in a chat, or the prompt where `echo` is set."""
        if not self._call.chat:
            return b"".join(self._text(i, text, []) for i, text in enumerate(self._call.echoes) if text)
        delta = b'"delta":{"role":"assistant","content":null,"refusal":null},"finish_reason":null}]}\n\n'
        return b"".join(b"data: " + before + delta for before in self._before)

    def encode(self, index: int, event: Event) -> bytes:
        """Encode one event. The last event of all choices adds usage, if it was asked for."""
        if isinstance(event, Delta):
            return self._text(index, event.content, event.probs)
        assert isinstance(event, Finish)
        text = self._text(index, event.content, list(event.probs)) if event.content or event.probs else b""
        return text + self._end(index, event)

    def _text(self, index: int, content: str, probs: list[TokenProbs]) -> bytes:
        start = b"data: " + self._before[index]
        if of := self._logprobs[index]:
            start += b'"logprobs":' + dumps(of(probs) if probs else None) + b","
        return start + self._field + dumps(content) + self._after

    def _end(self, index: int, finish: Finish) -> bytes:
        self._finishes.append(finish)
        self._left -= 1
        reason = dumps(_finish_reason(finish))
        empty = b'"delta":{}' if self._call.chat else b'"text":""'
        timings = b',"timings":' + dumps(timings_json(finish.timings))
        chunk = b"data: " + self._before[index] + empty + b',"finish_reason":' + reason + b"}]" + timings + b"}\n\n"
        if self._left == 0 and self._call.usage:
            chunk += b"data: " + self._head + b',"choices":[],"usage":' + dumps(_usage(self._finishes)) + b"}\n\n"
        return chunk
