"""Compiled grammars by their text: those that were used last."""

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock

from ..interfaces.grammar import Grammar

_MOST_WEIGHT = 200_000  # of all grammars together, in items. An item takes up to 50 bytes
_CHARACTERS = 50  # of a text that weigh as much as an item


class Kept:
    """Compiles texts, and keeps the latest results, so that requests with the same text share one. Thread-safe."""

    def __init__(self, compile_text: Callable[[str], Grammar]) -> None:
        self._compile = compile_text
        self._grammars: OrderedDict[str, Grammar] = OrderedDict()
        self._weight = 0
        self._lock = Lock()

    def __call__(self, text: str) -> Grammar:
        """The grammar of a text. Raises what the compiler raises."""
        with self._lock:
            if text in self._grammars:
                self._grammars.move_to_end(text)
                return self._grammars[text]
        grammar = self._compile(text)  # not under the lock: it may take long
        with self._lock:
            if text not in self._grammars:
                self._grammars[text] = grammar
                self._weight += _weight(grammar)
            while self._weight > _MOST_WEIGHT and len(self._grammars) > 1:
                self._weight -= _weight(self._grammars.popitem(last=False)[1])
        return grammar


def _weight(grammar: Grammar) -> int:
    return len(grammar.kinds) + len(grammar.text) // _CHARACTERS + 1
