"""Follows a constraint during one generation, and says which tokens may come next."""

from collections.abc import Iterable
from typing import NoReturn

import llguidance
import numpy as np
import numpy.typing as npt

from ..errors import EngineFailure

Ids = npt.NDArray[np.intp]
_SHOWN = 200  # characters of an error
_NOTHING_FITS = "NoExtension"  # what an error begins with, if no token of the vocabulary fits


class DeadEndError(EngineFailure):
    """The answer cannot go on under the grammar of its request. The request is at fault."""

    status = 400
    kind = "invalid_request_error"


class Matcher:
    """The state of one request in its constraint.

    `field` is the field of the request that errors name. `weight` tells how large the grammar is.
    """

    def __init__(
        self,
        matcher: llguidance.LLMatcher,
        eog: frozenset[int],
        n_vocab: int,
        field: str = "grammar",
        weight: int = 0,
    ) -> None:
        self._n_vocab = n_vocab
        self.field = field
        self.weight = weight
        self._matcher = matcher
        self._eog = eog
        self._end_ids = np.array(sorted(eog), np.intp)

    def copy(self, field: str = "grammar") -> "Matcher":
        """Another matcher in the same state."""
        return Matcher(self._matcher.deep_copy(), self._eog, self._n_vocab, field)

    def allows(self, token: int) -> bool:
        """Whether `token` may come next. A token that ends the answer may come where the answer is complete."""
        if token in self._eog:
            return self._matcher.is_accepting()
        return self._matcher.validate_tokens([token]) == 1

    def allowed(self) -> Ids:
        """All tokens that may come next, in ascending order. Raises DeadEndError when the grammar is too costly."""
        matcher = self._matcher
        accepting = matcher.is_accepting()
        bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
        if matcher.is_error():
            if matcher.get_error().startswith(_NOTHING_FITS):
                return self._end_ids if accepting else self._end_ids[:0]
            self._fail()
        # Without a token that ends texts, llguidance adds one behind the vocabulary.
        flags = np.unpackbits(bits, count=self._n_vocab, bitorder="little")
        flags[self._end_ids] = accepting
        return np.flatnonzero(flags)

    def first_allowed(self, ranked: Iterable[int], count: int) -> list[int]:
        """Places in `ranked` of the first `count` tokens that may come next. Fewer if there are not enough."""
        places: list[int] = []
        for place, token in enumerate(ranked):
            if self.allows(token):
                places.append(place)
                if len(places) == count:
                    break
        return places

    def accept(self, token: int) -> None:
        """Advance by `token`, which must be allowed."""
        if token not in self._eog and not self._matcher.consume_token(token):
            self._fail()

    def _fail(self) -> NoReturn:
        reason = self._matcher.get_error().partition("\n")[0][:_SHOWN]
        raise DeadEndError(f"the answer cannot go on under the grammar: {reason}", field=self.field)
