"""States of a sequence that lies in a GPU's memory: saved to slot files and to the KV store, and back."""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench.prompts import words
from tests.bench.sides import Shape, Side
from tests.support.polling import until

from .answers import TOP, compare, places
from .report import Report
from .session import Session, complete, post

_TURN = 12  # tokens of an answer
_NEXT = 8  # words of the next question
_FILE = "conversation.bin"
_FEW = 64  # tokens that a conversation that was kept may cost at most


def _shape(session: Session) -> Shape:
    ctx = 2 * (session.sizes.conversation + 256)
    return session.shape(session.random_model(session.sizes.small), 2, ctx)


def _turn(side: Side, history: list[int], slot: int) -> dict[str, Any]:
    return complete(side, history, _TURN, id_slot=slot, n_probs=TOP)


def _tokens(side: Side, text: str) -> list[int]:
    return list(post(side, "/tokenize", {"content": text})["tokens"])


def _timed(call: Callable[[], dict[str, Any]]) -> tuple[float, dict[str, Any]]:
    began = time.monotonic()
    answer = call()
    return round(time.monotonic() - began, 4), answer


def slot_files(session: Session, report: Report) -> None:
    """Save, forget, restore, go on: the same answer as without, and nothing evaluated twice. Then on the CPU."""
    folder = session.work / "slots"
    options = ("--slot-save-path", str(folder))
    with session.ours(_shape(session), *options) as side:
        history = _tokens(side, words("a conversation", session.sizes.conversation))
        cold, first = _timed(lambda: _turn(side, history, 0))
        history += [*first["tokens"], *_tokens(side, words("next", _NEXT))]
        saved = post(side, "/slots/0?action=save", {"filename": _FILE})
        report.figure("save", {"ms": saved["timings"]["save_ms"], "bytes": saved["n_written"]})
        _, expected = _timed(lambda: _turn(side, history, 0))
        post(side, "/slots/0?action=erase", {})
        restored = post(side, "/slots/1?action=restore", {"filename": _FILE})
        report.figure("restore", {"ms": restored["timings"]["restore_ms"], "tokens": restored["n_restored"]})
        warm, answer = _timed(lambda: _turn(side, history, 1))
        report.figure("seconds", {"cold": cold, "restored": warm})
        _check(report, "a slot file restored into another slot", answer, expected)
    with session.ours(_shape(session), *options, libraries=session.cpu_libraries) as side:
        post(side, "/slots/0?action=restore", {"filename": _FILE})
        _, elsewhere = _timed(lambda: _turn(side, history, 0))
        evaluated = elsewhere["timings"]["prompt_n"]
        report.check("the same file serves on the CPU", evaluated <= _FEW, f"{evaluated} tokens evaluated")
        report.figure("cpu", compare([places(elsewhere)], [places(expected)]).as_json())


def kv_store(session: Session, report: Report) -> None:
    """A conversation outlives its server: SIGTERM, another server on the same folder, the next turn."""
    shape, kept = _shape(session), ("--kv-store", str(session.work / "kv-store"), "--drain-delay", "0")
    with session.ours(shape, *kept) as side:
        question = _tokens(side, words("kept", session.sizes.conversation))
        cold, first = _timed(lambda: _turn(side, question, 0))
        history = [*question, *first["tokens"], *_tokens(side, words("after", _NEXT))]
        began = time.monotonic()
        code = side.server.stop(signal.SIGTERM, timeout=60)
        report.figure("seconds_to_save_and_end", round(time.monotonic() - began, 3))
        report.check("it ends with 0 after SIGTERM", code == 0, code)
    report.figure("bytes", sum(path.stat().st_size for path in Path(kept[1]).rglob("*") if path.is_file()))
    with session.ours(shape, *kept) as side:
        until(lambda: "kv_store" in side.status(), "the store is open")
        complete(side, words("warm up", 16), 2)
        warm, answer = _timed(lambda: _turn(side, history, 1))
        report.figure("seconds", {"cold": cold, "restored": warm})
    with session.ours(shape) as side:
        _turn(side, question, 0)
        expected = _turn(side, history, 0)
    _check(report, "a conversation out of the KV store", answer, expected)


def _check(report: Report, what: str, answer: dict[str, Any], expected: dict[str, Any]) -> None:
    evaluated = answer["timings"]["prompt_n"]
    report.check(f"{what}: nothing is evaluated twice", evaluated <= _FEW, f"{evaluated} tokens evaluated")
    found = compare([places(answer)], [places(expected)])
    report.check(f"{what}: the same answer within tolerance", found.within, found.as_json())
