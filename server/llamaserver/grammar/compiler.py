"""Compiles constraints with llguidance, within bounds on time and memory.

llguidance follows chains of rules by recursion. So a compilation runs on a thread of its own with a large stack, and
the number of rules has a limit.
"""

import re
import threading
from collections import OrderedDict
from hashlib import blake2b
from typing import Final

import llguidance

from ..interfaces.backend import Vocab
from ..interfaces.grammar import Constraint
from .matcher import Matcher
from .rules import GrammarError
from .tokens import tokenizer

MAX_TEXT = 256 * 1024  # characters of a Lark text: that of a GBNF or JSON text of 64 KB may be longer
MAX_RULES = 2_000  # and references of JSON schemas
_HEAD = '%llguidance {"no_forcing": true}\n'  # all ways to write a text in tokens are allowed
_STACK = 64 << 20
_LIMITS = llguidance.LLParserLimits(
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=500_000,
    step_max_items=500_000,
    max_lexer_states=20_000,
    max_grammar_size=200_000,
    verbose_errors=False,
)
_MOST_KEPT = 1 << 20  # characters of the texts of all kept grammars
_SHOWN = 300  # characters of an error
_RULE = re.compile(r"^[ \t]*[?!]?[A-Za-z_][\w-]*(?:\[[^\]]*\])?[ \t]*:", re.MULTILINE)
_REF = re.compile(r'"\$ref"')


class Compiler:
    """Compiles constraints for one vocabulary, and keeps the results that were used last. Thread-safe."""

    def __init__(self, vocab: Vocab) -> None:
        self._vocab: Final = vocab
        self._lock = threading.Lock()
        self._tokenizer: llguidance.LLTokenizer | None = None
        self._kept: OrderedDict[bytes, Matcher] = OrderedDict()
        self._size: dict[bytes, int] = {}

    def __call__(self, constraint: Constraint) -> Matcher:
        """A matcher at the start of the answer, to be copied for each request. Raises GrammarError."""
        text = constraint.lark
        if len(text) > MAX_TEXT:
            raise GrammarError(f"longer than {MAX_TEXT} characters")
        if len(_RULE.findall(text)) + len(_REF.findall(text)) > MAX_RULES:
            raise GrammarError(f"more than {MAX_RULES} rules and references")
        key = blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            if self._tokenizer is None:
                self._tokenizer = tokenizer(self._vocab)
        made = Matcher(_compiled(self._tokenizer, text), self._vocab.eog)
        with self._lock:
            self._kept[key], self._size[key] = made, len(text)
            while sum(self._size.values()) > _MOST_KEPT and len(self._kept) > 1:
                del self._size[self._kept.popitem(last=False)[0]]
        return made


_starting = threading.Lock()  # the size of a stack is a setting of the process


def _compiled(tokens: llguidance.LLTokenizer, text: str) -> llguidance.LLMatcher:
    """Compile on a thread with a large stack."""
    made: list[llguidance.LLMatcher] = []

    def compile_text() -> None:
        grammar = llguidance.LLMatcher.grammar_from_lark(_HEAD + text)
        made.append(llguidance.LLMatcher(tokens, grammar, log_level=0, limits=_LIMITS))

    thread = threading.Thread(target=compile_text, name="grammar", daemon=True)
    with _starting:
        before = threading.stack_size(_STACK)
        try:
            thread.start()
        finally:
            threading.stack_size(before)
    thread.join()
    if not made:
        raise GrammarError("it could not be compiled")
    matcher = made[0]
    if matcher.is_error():
        raise GrammarError(matcher.get_error()[:_SHOWN])
    return matcher
