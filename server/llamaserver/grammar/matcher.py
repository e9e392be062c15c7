"""Follows a constraint during one generation, and says which tokens may come next."""

from collections.abc import Iterable

import llguidance
import numpy as np
import numpy.typing as npt

from ..errors import EngineFailure

Ids = npt.NDArray[np.intp]
_SHOWN = 200  # characters of an error


class DeadEndError(EngineFailure):
    """The answer cannot go on under the grammar of its request. The request is at fault."""

    status = 400
    kind = "invalid_request_error"


class Matcher:
    """The state of one request in its constraint."""

    def __init__(self, matcher: llguidance.LLMatcher, eog: frozenset[int]) -> None:
        self._matcher = matcher
        self._eog = eog
        self._end_ids = np.array(sorted(eog), np.intp)

    def copy(self) -> "Matcher":
        """Another matcher in the same state."""
        return Matcher(self._matcher.deep_copy(), self._eog)

    def begin(self) -> None:
        """Do nothing: llguidance limits the work of each token."""

    def allows(self, token: int) -> bool:
        """Whether `token` may come next. A token that ends the answer may come where the answer is complete."""
        if token in self._eog:
            return self._matcher.is_accepting()
        return self._matcher.validate_tokens([token]) == 1

    def allowed(self) -> Ids:
        """All tokens that may come next, in ascending order. Raises DeadEndError when the grammar is too costly."""
        matcher = self._matcher
        bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
        self._check()
        ids = np.flatnonzero(np.unpackbits(bits, bitorder="little"))
        ids = np.setdiff1d(ids, self._end_ids, assume_unique=True)
        return np.union1d(ids, self._end_ids) if matcher.is_accepting() else ids

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
            self._check()
            raise EngineFailure("a token was accepted that the grammar forbids")

    def _check(self) -> None:
        if self._matcher.is_error():
            raise DeadEndError(f"the grammar cannot go on: {self._matcher.get_error()[:_SHOWN]}", field="grammar")
