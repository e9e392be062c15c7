"""Plans for the load generator, and what its answers mean."""

import itertools
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

# Every sampling field is said, none is left to a server's default. Greedy: both sides decode the same tokens.
SAMPLING: dict[str, Any] = {
    "samplers": ["top_k", "typ_p", "top_p", "min_p", "temperature"],
    "temperature": 0.0,
    "dynatemp_range": 0.0,
    "dynatemp_exponent": 1.0,
    "top_k": 40,
    "top_p": 0.95,
    "min_p": 0.05,
    "typical_p": 1.0,
    "tfs_z": 1.0,
    "top_n_sigma": -1.0,
    "xtc_probability": 0.0,
    "xtc_threshold": 0.1,
    "repeat_last_n": 64,
    "repeat_penalty": 1.0,
    "penalize_nl": False,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "dry_multiplier": 0.0,
    "dry_base": 1.75,
    "dry_allowed_length": 2,
    "dry_penalty_last_n": 0,
    "mirostat": 0,
    "mirostat_tau": 5.0,
    "mirostat_eta": 0.1,
    "min_keep": 0,
    "n_probs": 0,
    "n_keep": 0,
    "logit_bias": [],
    "stop": [],
    "seed": 42,
    "ignore_eos": True,
    "cache_prompt": True,
    "stream": True,
}

Call = tuple[int, dict[str, Any]]  # port, body


def call(port: int, prompt: str, n_predict: int, **more: Any) -> Call:
    """One request that generates exactly `n_predict` tokens."""
    return port, {"prompt": prompt, "n_predict": n_predict, **SAMPLING, **more}


def chat(port: int, message: str, n_predict: int, **more: Any) -> Call:
    """One chat whose answer has exactly `n_predict` tokens."""
    return port, {"messages": [{"role": "user", "content": message}], "n_predict": n_predict, **SAMPLING, **more}


@dataclass(frozen=True, slots=True)
class Answer:
    """Times in seconds of the client's clock; `ended` and `predicted` are None for one that was left."""

    sent: float
    times: list[float]
    tokens: list[int]
    text: str
    ended: float | None
    predicted: int | None
    evaluated: int | None

    @property
    def first(self) -> float:
        """Seconds from the request to its first token."""
        return self.times[0] - self.sent

    @property
    def whole(self) -> float:
        """Seconds from the request to the end of its answer."""
        assert self.ended is not None
        return self.ended - self.sent

    @property
    def rate(self) -> float:
        """Tokens/s from the first token to the last: what decoding over HTTP gives, without the prompt."""
        assert self.predicted is not None
        return (self.predicted - 1) / (self.times[-1] - self.times[0])

    def longest_gap(self, start: float, end: float) -> float:
        """Longest wait between two events of which a part lies between `start` and `end`."""
        pairs = itertools.pairwise(self.times)
        return max((after - before for before, after in pairs if after > start and before < end), default=0.0)


def together(calls: Sequence[Call]) -> list[Answer]:
    """All at once, all to their ends."""
    answers = _run({"kind": "together", "runners": calls})
    _expect(calls, answers)
    return answers


def intrusion(runners: Sequence[Call], intruder: Call, *, after: int) -> tuple[Answer, list[Answer]]:
    """Once each runner has sent `after` events, one more arrives; runners are left when it has answered."""
    answers = _run({"kind": "intrusion", "runners": runners, "extra": intruder, "after": after})
    _expect([intruder], answers[:1])
    return answers[0], answers[1:]


def desertion(
    follower: Call, *, runners: Sequence[Call] = (), deserted: Call | None = None, after: int = 0, seconds: float = 0.0
) -> tuple[Answer, list[Answer]]:
    """Beside runners, `deserted` is left unanswered after `seconds`, and `follower` is sent at once."""
    plan = {"kind": "desertion", "runners": runners, "extra": follower, "after": after, "seconds": seconds}
    answers = _run({**plan, "deserted": deserted})
    _expect([follower, *runners], answers[: 1 + len(runners)])
    if deserted is not None and answers[-1].times:
        raise RuntimeError("the prompt that was to be left had been evaluated already: make it longer")
    return answers[0], answers[1 : 1 + len(runners)]


def metronome(stream: Call, beats: Sequence[Call], *, after: int, seconds: float) -> tuple[Answer, list[Answer]]:
    """Beside `stream`, from `after` events on, one of `beats` is sent every `seconds` until the stream has ended."""
    answers = _run({"kind": "metronome", "runners": [stream, *beats], "after": after, "seconds": seconds})
    _expect([stream, *beats[: len(answers) - 1]], answers)
    return answers[0], answers[1:]


def _run(plan: dict[str, Any]) -> list[Answer]:
    command = [sys.executable, "-m", "tests.bench.client"]
    done = subprocess.run(
        command, cwd=ROOT, input=json.dumps(plan), stdout=subprocess.PIPE, text=True, check=False, timeout=900
    )
    if done.returncode != 0:
        raise RuntimeError(f"the load generator failed with status {done.returncode}")
    return [_answer(item) for item in json.loads(done.stdout)]


def _answer(item: dict[str, Any]) -> Answer:
    if item["error"]:
        raise RuntimeError(f"a request failed: {item['status']} {item['error']}")
    final = item["final"] or {}
    return Answer(
        sent=item["sent"],
        times=item["times"] or ([item["ended"]] if item["ended"] else []),
        tokens=item["tokens"],
        text=item["text"],
        ended=item["ended"],
        predicted=final.get("tokens_predicted"),
        evaluated=final.get("tokens_evaluated"),
    )


def _expect(calls: Sequence[Call], answers: Sequence[Answer]) -> None:
    """Both sides must have done the same work: exactly the tokens that were asked for."""
    for (_, body), answer in zip(calls, answers, strict=True):
        if answer.predicted != body["n_predict"]:
            raise RuntimeError(f"{body['n_predict']} tokens were asked for, {answer.predicted} came")
