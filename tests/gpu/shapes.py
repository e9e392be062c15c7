"""Tiny models of other shapes on the GPU: sliding windows, recurrent and hybrid states; answers and slot files."""

from pathlib import Path
from typing import Any

from tests.bench.sides import Side
from tests.support.models import Models

from .answers import TOP, compare, places
from .report import Report
from .session import Session, complete, post

_SHAPES = ("llama", "gemma2", "mamba", "jamba")
_PROMPT = "the llama and one image of the world, " * 12
_NEXT = " two llama"
_LENGTH = 16  # tokens
_FILE = "shape.bin"


def shapes(session: Session, report: Report) -> None:
    """Each shape: the CPU's answer within tolerance, and the same answer after its slot was saved and restored."""
    folder = session.work / "models" / "shapes"
    folder.mkdir(exist_ok=True)
    for name in _SHAPES:
        path: Path = getattr(Models(folder), name)()
        shape = session.shape(path, 2, 2048)
        with session.ours(shape, libraries=session.cpu_libraries) as side:
            expected = _turn(side, _tokens(side, _PROMPT))
        with session.ours(shape, "--slot-save-path", str(session.work / "slots")) as side:
            question = _tokens(side, _PROMPT)
            first = _turn(side, question)
            found = compare([places(first)], [places(expected)])
            report.check(f"{name}: the CPU's answer within tolerance", found.within, found.as_json())
            post(side, "/slots/0?action=save", {"filename": _FILE})
            history = [*question, *first["tokens"], *_tokens(side, _NEXT)]
            going_on = _turn(side, history)
            post(side, "/slots/0?action=erase", {})
            post(side, "/slots/0?action=restore", {"filename": _FILE})
            again = _turn(side, history)
            found = compare([places(again)], [places(going_on)])
            report.check(f"{name}: the same answer after a restore", found.within, found.as_json())
            evaluated = again["timings"]["prompt_n"]
            report.check(f"{name}: nothing is evaluated twice", evaluated < len(question), f"{evaluated} tokens")


def _tokens(side: Side, text: str) -> list[int]:
    return list(post(side, "/tokenize", {"content": text})["tokens"])


def _turn(side: Side, tokens: list[int]) -> dict[str, Any]:
    return complete(side, tokens, _LENGTH, id_slot=0, n_probs=TOP)
