"""Follows a constraint during one generation, and says which tokens may come next."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NoReturn

import llguidance
import numpy as np
import numpy.typing as npt

from ..errors import EngineFailure
from .rules import GrammarError

Ids = npt.NDArray[np.intp]
_SHOWN = 200  # characters of an error
_NOTHING_FITS = "NoExtension"  # what an error begins with, if no token of the vocabulary fits
_USED_UP = ("lexer error", "panic")  # what one begins with, if the lexer is of no use any more
_MOST_RENEWING = 0.5  # seconds that one answer may spend on compiling its grammar anew
_LONGEST_SEARCH = 0.005  # seconds
_REPLAYED = 256  # tokens after which the lexer gets fuel again


class DeadEndError(EngineFailure):
    """The answer cannot go on under the grammar of its request. The request is at fault."""

    status = 400
    kind = "invalid_request_error"


@dataclass(frozen=True, slots=True)
class Grammar:
    """What the matchers of a grammar have in common. `weight` tells how large it is, like a number of characters."""

    eog: frozenset[int]
    n_vocab: int
    weight: int
    cost: float  # seconds of processor time to compile it
    compiled_anew: Callable[[], llguidance.LLMatcher]  # raises GrammarError


class Matcher:
    """The state of one request in its constraint.

    Copies share a lexer that grows with each new text, up to a limit. When it is used up, each copy goes on with a
    lexer of its own. `field` is the field of the request that errors name. `complete` tells what `allowed` has found
    last: whether the answer may end.
    """

    def __init__(self, grammar: Grammar, matcher: llguidance.LLMatcher, field: str = "grammar") -> None:
        self.field = field
        self.complete = False
        self._grammar = grammar
        self._matcher = matcher
        self._end_ids = np.array(sorted(grammar.eog), np.intp)
        self._accepted: list[int] = []
        self._spent = 0.0  # seconds of compiling anew

    @property
    def weight(self) -> int:
        """How large the grammar is."""
        return self._grammar.weight

    def copy(self, field: str = "grammar") -> "Matcher":
        """Another matcher in the same state."""
        twin = Matcher(self._grammar, self._matcher.deep_copy(), field)
        twin._accepted = self._accepted.copy()
        return twin

    def is_usable(self) -> bool:
        """Whether copies can begin an answer. Gives the lexer of all copies fuel for more texts."""
        probe = self._matcher.deep_copy()
        probe.compute_bitmask()
        return not probe.is_error() or not probe.get_error().startswith(_USED_UP)

    def allows(self, token: int) -> bool:
        """Whether `token` may come next. A token that ends the answer may come where the answer is complete."""
        if token in self._grammar.eog:
            return self._matcher.is_accepting()
        return self._matcher.validate_tokens([token]) == 1

    def allowed(self) -> Ids:
        """All tokens that may come next, in ascending order. Raises DeadEndError when the grammar is too costly."""
        bits = self._mask()
        if self._is_used_up() and self._renew():
            bits = self._mask()
        if self._matcher.is_error():
            if self._matcher.get_error().startswith(_NOTHING_FITS):
                return self._end_ids if self.complete else self._end_ids[:0]
            self._fail()
        # Without a token that ends texts, llguidance adds one behind the vocabulary.
        flags = np.unpackbits(bits, count=self._grammar.n_vocab, bitorder="little")
        flags[self._end_ids] = self.complete
        return np.flatnonzero(flags)

    def first_allowed(self, ranked: Iterable[int], count: int) -> list[int]:
        """Places in `ranked` of the first `count` tokens that may come next.

        Fewer if there are not enough, or if the search takes longer than one for all tokens mostly does.
        """
        places: list[int] = []
        deadline = time.perf_counter() + _LONGEST_SEARCH
        for place, token in enumerate(ranked):
            if self.allows(token):
                places.append(place)
            if len(places) == count or time.perf_counter() > deadline:
                break
        return places

    def accept(self, token: int) -> None:
        """Advance by `token`, which must be allowed."""
        if token in self._grammar.eog:
            return
        self._accepted.append(token)
        if not self._matcher.consume_token(token) and not self._renew():
            self._fail()

    def _mask(self) -> npt.NDArray[np.uint8]:
        self.complete = self._matcher.is_accepting()
        return np.frombuffer(self._matcher.compute_bitmask(), np.uint8)

    def _is_used_up(self) -> bool:
        return self._matcher.is_error() and self._matcher.get_error().startswith(_USED_UP)

    def _renew(self) -> bool:
        """Go on with a lexer of its own: compile the grammar anew, and follow the answer so far.

        Returns False if that has cost too much already, or if it fails.
        """
        if self._spent + self._grammar.cost > _MOST_RENEWING:
            return False
        begun = time.perf_counter()
        try:
            matcher = self._grammar.compiled_anew()
        except GrammarError:
            return False
        for at in range(0, len(self._accepted), _REPLAYED):
            matcher.compute_bitmask()
            matcher.consume_tokens(self._accepted[at : at + _REPLAYED])
        self._spent += time.perf_counter() - begun
        self._matcher = matcher
        return not matcher.is_error()

    def _fail(self) -> NoReturn:
        reason = self._matcher.get_error().partition("\n")[0][:_SHOWN]
        raise DeadEndError(f"the answer cannot go on under the grammar: {reason}", field=self.field)
