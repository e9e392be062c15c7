"""Follows a grammar during one generation, and says which tokens may come next. Pure."""

from collections.abc import Iterable

from ..errors import EngineFailure
from .automaton import Automaton, Ids


class GrammarMatcher:
    """The state of one request in its grammar."""

    def __init__(self, automaton: Automaton) -> None:
        self._automaton = automaton
        self._state = automaton.start()

    def begin(self) -> None:
        """Start the work limit of one token."""
        old = self._automaton
        if old.full:
            self._automaton = old.successor()
            self._state = self._automaton.adopt(self._state, old)
        self._automaton.begin()

    def allows(self, token: int) -> bool:
        """Whether `token` may come next."""
        if self._automaton.is_end(token):
            return self._state.finished
        return bool(self._automaton.after(self._state, token))

    def allowed(self) -> Ids:
        """All tokens that may come next."""
        return self._automaton.allowed(self._state)

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
        if self._automaton.is_end(token):
            return
        after = self._automaton.after(self._state, token)
        if not after:
            raise EngineFailure("a token was accepted that the grammar forbids")
        self._state = after[0] if after[0].missing else self._automaton.joined(after)
