"""Compiles grammars with llguidance, within bounds on time and memory.

llguidance follows chains of rules by recursion. So a compilation runs on a thread of its own with a large stack, and
the number of rules has a limit.
"""

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from typing import Final
from weakref import WeakValueDictionary

import llguidance

from ..errors import Unavailable
from ..interfaces.backend import Vocab
from .matcher import Grammar, Matcher
from .rules import GrammarError
from .tokens import tokenizer

MAX_TEXT = 1 << 20  # characters of a Lark text. That of a GBNF text of 64 KB is longer
MAX_RULES = 2_000  # and references of JSON schemas
_HEAD = '%llguidance {"no_forcing": true}\n'  # all ways to write a text in tokens are allowed
_STACK = 64 << 20
_LIMITS = llguidance.LLParserLimits(
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=500_000,
    max_items_in_row=4_000,  # an object with 600 properties needs more than 1,000
    step_max_items=100_000,  # more take 0.2 s and longer for a token, while all other requests wait
    max_lexer_states=20_000,
    max_grammar_size=200_000,
    verbose_errors=False,
)
# The weight of a grammar is the length of its Lark text and this, in units of about 80 bytes. A lexer takes mostly less
# than 1 MB. It grows with the texts that it reads: to 15 MB with as many states as _LIMITS allow.
_FIXED_WEIGHT = 12_500
_MOST_KEPT = 400_000  # weight of all kept grammars: 32 of them at most
MOST_IN_USE = 2_000_000  # weight of those that requests use or that are kept, about 160 MB
_SHOWN = 300  # characters of an error
_RULE = re.compile(r"^[ \t]*[?!]?[A-Za-z_][\w-]*(?:\[[^\]]*\])?[ \t]*:", re.MULTILINE)
_REFERENCE = re.compile(r'"\$ref"')


class Compiler:
    """Compiles Lark texts for one vocabulary, and keeps the results that were used last. Thread-safe."""

    def __init__(self, vocab: Vocab) -> None:
        self._vocab: Final = vocab
        self._lock = threading.Lock()
        self._tokenizer: llguidance.LLTokenizer | None = None
        self._kept: OrderedDict[bytes, Matcher] = OrderedDict()
        self._in_use: WeakValueDictionary[bytes, Matcher] = WeakValueDictionary()

    def __call__(self, text: str, to_lark: Callable[[str], str] | None = None) -> Matcher:
        """A matcher at the start of an answer, to be copied for each request.

        `to_lark` translates a text in another language, unless the result has been kept. Raises GrammarError, and
        Unavailable while the grammars of others take too much memory.
        """
        kind = b"lark" if to_lark is None else b"other"
        key = blake2b(text.encode("utf-8", "replace"), digest_size=16, person=kind).digest()
        with self._lock:
            found = self._in_use.get(key)
        if found is not None and found.is_usable():
            with self._lock:
                self._keep(key, found)
            return found
        with self._lock:
            if sum(one.weight for one in self._in_use.values()) > MOST_IN_USE:
                raise Unavailable("the grammars of other requests take too much memory", retry_after=1)
            if self._tokenizer is None:
                self._tokenizer = tokenizer(self._vocab)
        lark = text if to_lark is None else to_lark(text)
        _check_size(lark)
        made = self._made(key, self._tokenizer, lark)
        with self._lock:
            self._keep(key, made)
            self._in_use[key] = made
        return made

    def _made(self, key: bytes, tokens: llguidance.LLTokenizer, lark: str) -> Matcher:
        matcher, cost = _compiled(tokens, lark)

        def anew() -> llguidance.LLMatcher:
            with self._lock:
                self._kept.pop(key, None)  # its lexer is used up
                self._in_use.pop(key, None)
            return _compiled(tokens, lark)[0]

        vocab = self._vocab
        return Matcher(Grammar(vocab.eog, vocab.n_vocab, len(lark) + _FIXED_WEIGHT, cost, anew), matcher)

    def _keep(self, key: bytes, matcher: Matcher) -> None:
        self._kept[key] = matcher
        self._kept.move_to_end(key)
        while sum(one.weight for one in self._kept.values()) > _MOST_KEPT and len(self._kept) > 1:
            self._kept.popitem(last=False)


def _check_size(lark: str) -> None:
    if len(lark) > MAX_TEXT:
        raise GrammarError(f"longer than {MAX_TEXT} characters")
    if len(_RULE.findall(lark)) + len(_REFERENCE.findall(lark)) > MAX_RULES:
        raise GrammarError(f"more than {MAX_RULES} rules and references")


_starting = threading.Lock()  # the size of a stack is a setting of the process


def _compiled(tokens: llguidance.LLTokenizer, text: str) -> tuple[llguidance.LLMatcher, float]:
    """Compile on a thread with a large stack. Returns the seconds of processor time that it took, too."""
    made: list[tuple[llguidance.LLMatcher, float]] = []

    def compile_text() -> None:
        grammar = llguidance.LLMatcher.grammar_from_lark(_HEAD + text)
        matcher = llguidance.LLMatcher(tokens, grammar, log_level=0, limits=_LIMITS)
        made.append((matcher, time.thread_time()))

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
    if made[0][0].is_error():
        raise GrammarError(made[0][0].get_error()[:_SHOWN])
    return made[0]
