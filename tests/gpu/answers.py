"""Offload, and whether a GPU answers what the CPU answers.

Kernels of a GPU add in another order and partly in 16 bits, so logits differ in their last digits. Held to a
tolerance are the likeliest tokens' log probabilities at each place, as long as both texts are the same. Where
the texts part, both tokens must have been about as likely to the CPU. How far the CPU is from itself with
another kernel, without flash attention, is measured as well (0.6 and, in the mean, 0.1 for the default model): twice
that is allowed where it is more.
"""

import json
import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.prompts import words
from tests.bench.sides import Shape

from . import hardware
from .report import NotRun, Report
from .session import Session, complete, post, readyz

SHARED = 0.8  # least share of the likeliest tokens that both sides must name
TOP = 10
_LENGTH = 24  # tokens of each answer
_CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
# Questions, and a word that the default model's answer has.
_QUESTIONS = {
    "What is the capital of England?": "london",
    "Name the seven days of the week.": "monday",
    "Who wrote Romeo and Juliet?": "shakespeare",
    "What is water made of?": "hydrogen",
}


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Of log probabilities: the largest difference, and the mean one."""

    most: float = 1.0
    mean: float = 0.15


PLAIN = Tolerance()
Place = tuple[int, dict[int, float]]  # the chosen token; the likeliest tokens' log probabilities


def _prompts(real: bool) -> list[str]:
    """One is longer than a micro-batch: it takes the kernels for many rows."""
    texts = [_CHAT.format(question) for question in _QUESTIONS] if real else [words(f"say {i}", 24) for i in range(4)]
    return [*texts, words("a long one", 600)]


def _models(session: Session) -> dict[str, Path]:
    real = session.real_model
    found = {"real": real} if real else {}
    return {**found, "small": session.random_model(session.sizes.small)}


def _shape(session: Session, path: Path) -> Shape:
    return session.shape(path, 1, 1024)


def _ask(session: Session, name: str, path: Path, *options: str, **how: Any) -> list[list[Place]]:
    found = []
    with session.ours(_shape(session, path), *options, **how) as side:
        for prompt in _prompts(name == "real"):
            answer = complete(side, prompt, _LENGTH, n_probs=TOP, cache_prompt=False)
            found.append(places(answer))
    return found


def places(answer: dict[str, Any]) -> list[Place]:
    """Every place of an answer that was asked for with `n_probs`."""
    return [
        (item["id"], {each["id"]: each["logprob"] for each in item["top_logprobs"]})
        for item in answer["completion_probabilities"]
    ]


# ---- the CPU's side


def reference(session: Session, report: Report) -> None:
    """What the CPU answers; taken while the module is being compiled."""
    for name, path in _models(session).items():
        answers = _ask(session, name, path, libraries=session.cpu_libraries)
        other = _ask(session, name, path, "--flash-attn", "off", libraries=session.cpu_libraries)
        itself = compare(other, answers)
        report.figure(f"{name}: the CPU without flash attention", itself.as_json())
        kept = [[[token, list(top.items())] for token, top in answer] for answer in answers]
        content = {"answers": kept, "most": itself.most, "mean": itself.mean}
        (session.work / f"reference-{name}.json").write_text(json.dumps(content))
        report.check(f"the CPU answers ({name})", all(len(answer) == _LENGTH for answer in answers), len(answers))


def read_reference(session: Session, name: str) -> tuple[list[list[Place]], Tolerance]:
    """What `reference` kept, and what to allow."""
    path = session.work / f"reference-{name}.json"
    if not path.exists():
        raise NotRun(f"the CPU's answers are missing ({path.name})")
    content = json.loads(path.read_text())
    answers = [[(token, {int(i): p for i, p in top}) for token, top in answer] for answer in content["answers"]]
    return answers, Tolerance(max(PLAIN.most, 2 * content["most"]), max(PLAIN.mean, 2 * content["mean"]))


# ---- the comparison


@dataclass(slots=True)
class Comparison:
    """Differences over all places of all answers."""

    tolerance: Tolerance = PLAIN
    differences: list[float] = field(default_factory=list)
    named: int = 0  # tokens that the CPU named as likeliest
    partings: list[float] = field(default_factory=list)  # what the CPU gave its own token over the other one
    equal: int = 0  # answers that are the same to the end

    def add(self, ours: list[Place], other: list[Place]) -> None:
        """One answer against the CPU's `other`."""
        for (token, top), (expected, likeliest) in zip(ours, other, strict=True):
            self.named += len(likeliest)
            self.differences += [abs(top[i] - likeliest[i]) for i in likeliest if i in top]
            if token != expected:
                self.partings.append(likeliest[expected] - likeliest.get(token, -math.inf))
                return
        self.equal += 1

    @property
    def within(self) -> bool:
        """Whether that is what rounding explains."""
        allowed = self.tolerance
        if len(self.differences) < SHARED * self.named:
            return False
        close = self.most <= allowed.most and self.mean <= allowed.mean
        return close and all(parting <= allowed.most for parting in self.partings)

    @property
    def most(self) -> float:
        """The largest difference."""
        return max(self.differences, default=0.0)

    @property
    def mean(self) -> float:
        """The mean one."""
        return statistics.fmean(self.differences or [0.0])

    def as_json(self) -> dict[str, Any]:
        """For the report."""
        return {
            "compared": len(self.differences),
            "named": self.named,
            "largest": round(self.most, 4),
            "mean": round(self.mean, 5),
            "allowed": [round(self.tolerance.most, 3), round(self.tolerance.mean, 3)],
            "answers_equal_to_the_end": self.equal,
            "answers_that_part": [round(parting, 4) for parting in self.partings],
        }


def compare(ours: list[list[Place]], other: list[list[Place]], tolerance: Tolerance = PLAIN) -> Comparison:
    """All answers."""
    found = Comparison(tolerance)
    for mine, theirs in zip(ours, other, strict=True):
        found.add(mine, theirs)
    return found


def exact(session: Session, report: Report) -> None:
    """The library under test against the CPU, with flash attention and without."""
    for name, path in _models(session).items():
        expected, tolerance = read_reference(session, name)
        answers = _ask(session, name, path)
        found = compare(answers, expected, tolerance)
        report.figure(name, found.as_json())
        report.check(f"answers equal the CPU's within tolerance ({name})", found.within, found.as_json())
        without = compare(_ask(session, name, path, "--flash-attn", "off"), expected, tolerance)
        report.figure(f"{name}, --flash-attn off", without.as_json())
        report.check(f"and without flash attention ({name})", without.within, without.as_json())


# ---- offload


def offload(session: Session, report: Report) -> None:
    """All layers, some layers, and what --require-offload and /status say."""
    if session.card is None:
        raise NotRun("no GPU")
    path = session.random_model(session.sizes.large)
    before = hardware.memory_used_mib()
    with session.ours(_shape(session, path), "--require-offload") as side:
        told, used = side.status()["accelerator"], hardware.memory_used_mib() - before
        report.figure("accelerator", told)
        report.figure("gpu_memory_mib", used)
        report.check("all layers are on the GPU", told["layers_offloaded"] == told["layers_total"] > 1, told)
        report.check("/status names the card", session.card.name in told["device"], told["device"])
        size = path.stat().st_size >> 20
        if before:  # some machines do not tell
            report.check("the weights are in the GPU's memory", used > 0.9 * size, f"{used} MiB of {size} MiB")
        report.check("ready with --require-offload", readyz(side)[0] == 200, readyz(side))
        report.check("it answers", len(complete(side, words("offload", 20), 8)["tokens"]) == 8)
    few = session.sizes.large.layers // 4
    shape = Shape(path, 1, 1024, session.threads, str(few))
    with session.ours(shape) as side:
        told = side.status()["accelerator"]
        report.check(f"{few} layers with -ngl {few}", told["layers_offloaded"] == few, told)
        report.check("it answers from both", len(complete(side, words("both", 20), 8)["tokens"]) == 8)


def chat(session: Session, report: Report) -> None:
    """A real conversation, for people to read."""
    if session.real_model is None:
        raise NotRun("the default model is not here")
    with session.ours(session.shape(session.real_model, 2, 4096)) as side:
        for question, word in _QUESTIONS.items():
            body = {"messages": [{"role": "user", "content": question}], "max_tokens": 48, "temperature": 0}
            answer = post(side, "/v1/chat/completions", body)
            text = answer["choices"][0]["message"]["content"]
            report.figure(question, text)
            report.check(f"{question} Its answer has the word {word}", word in text.lower(), text)
