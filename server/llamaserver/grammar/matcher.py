"""Follows a grammar during a generation and computes which tokens may come next.

The grammar is a pushdown automaton. A state is the set of its possible stacks. Each transition is computed once
and remembered, so most bytes cost one look-up. The work for each token has a limit. So an ambiguous grammar
ends only its own request, never the engine. Pure.
"""

from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

from ..errors import EngineFailure
from ..interfaces.grammar import END, NOT_TOKEN, RULE, TOKEN, Grammar
from .vocabulary import PieceIndex

Ids = npt.NDArray[np.intp]

_BUDGET = 100_000  # stacks that may be made or tried for one token of output, about 50 ms
_MOST_STATES = 20_000  # states that are remembered before the matcher forgets them
_MOST_CELLS = 200_000  # stack cells before the matcher drops the unused ones
_MOST_MASKS = 16  # remembered sets of allowed tokens
_EMPTY = 0  # the empty stack: nothing is left to match


class TooCostlyError(EngineFailure):
    """The grammar takes so long that it would delay other requests."""


class _State:
    """A set of stacks, possibly inside a multi-byte character.

    `value` holds the bits of the character so far, `missing` the number of bytes to come. A state inside a
    character shares the stacks of `base`, which is the state before the character.
    """

    __slots__ = ("base", "exact", "missing", "next", "ranged", "stacks", "tokens", "value")

    def __init__(self, stacks: tuple[int, ...], base: "_State | None" = None, value: int = 0, missing: int = 0) -> None:
        self.stacks = stacks
        self.base = self if base is None else base
        self.value = value
        self.missing = missing
        self.next: dict[int, _State] = {}
        self.exact: dict[int, list[int]] | None = None  # code point -> stacks that expect only this code point
        self.ranged: list[int] = []  # stacks that expect one of several code points
        self.tokens: list[int] = []  # stacks that expect a whole token

    @property
    def finished(self) -> bool:
        """Whether the text so far is complete."""
        return self.missing == 0 and self.stacks[:1] == (_EMPTY,)


_DEAD: Final = _State(())  # nothing matches any more


class GrammarMatcher:
    """The state of one request in its grammar."""

    def __init__(self, grammar: Grammar, index: PieceIndex) -> None:
        self._grammar: Final = grammar
        self._index: Final = index
        self._reset()
        self._spent = 0
        self._state = self._intern(self._expand(self._alternatives(_EMPTY, grammar.root)))
        if self._state is _DEAD:
            raise EngineFailure("the grammar matches no text", field="grammar")

    def _reset(self) -> None:
        # A stack is the number of its top cell. A cell refers to a position in the grammar and to the stack below.
        self._tops: list[int] = [END]
        self._below: list[int] = [_EMPTY]
        self._cells: dict[int, int] = {}
        self._states: dict[tuple[int, ...], _State] = {}
        self._masks: dict[_State, Ids] = {}

    # ---- interface for the sampler

    def begin(self) -> None:
        """Start the work limit of one token."""
        self._spent = 0
        if len(self._states) > _MOST_STATES or len(self._tops) > _MOST_CELLS:
            self._forget()

    def allows(self, token: int) -> bool:
        """Whether `token` may come next."""
        if token in self._index.eog:
            return self._state.finished
        return bool(self._after(token))

    def allowed(self) -> Ids:
        """All tokens that may come next."""
        found = self._masks.get(self._state)
        if found is None:
            found = self._walk()
            if len(self._masks) >= _MOST_MASKS:
                del self._masks[next(iter(self._masks))]
            self._masks[self._state] = found
        return found

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
        if token in self._index.eog:
            return
        after = self._after(token)
        if not after:
            raise EngineFailure("a token was accepted that the grammar forbids")
        if len(after) == 1 or after[0].missing:
            self._state = after[0]
        else:
            self._state = self._intern({stack for state in after for stack in state.stacks})

    # ---- tokens

    def _after(self, token: int) -> list[_State]:
        """The states after `token`. It may match by its bytes, or by rules that name the whole token."""
        state = through = self._state
        found: list[_State] = []
        piece = self._index.piece(token)
        for byte in piece:
            through = through.next.get(byte) or self._step(through, byte)
            if through is _DEAD:
                break
        if piece and through is not _DEAD:
            found.append(through)
        if state.missing == 0 and self._dispatch(state).tokens:
            self._pay(len(state.tokens))
            named = [self._pop(stack) for stack in state.tokens if self._names(stack, token)]
            following = self._intern(self._expand(named))
            if following is not _DEAD:
                found.append(following)
        return found

    def _names(self, stack: int, token: int) -> bool:
        top = self._tops[stack]
        return (self._grammar.values[top] == token) == (self._grammar.kinds[top] == TOKEN)

    def _walk(self) -> Ids:
        """All tokens that may come next: by their bytes, by their names, or because they end the text."""
        state, index = self._state, self._index
        ids = index.ids[self._reachable(state)]
        if state.missing == 0 and self._dispatch(state).tokens:
            ids = np.union1d(ids, np.setdiff1d(self._named(state), index.end_ids))
        return np.union1d(ids, index.end_ids) if state.finished else ids

    def _named(self, state: _State) -> list[int]:
        """Ids of the whole tokens that may come next."""
        self._pay(len(state.tokens))
        tops = [self._tops[stack] for stack in state.tokens]
        named = {self._grammar.values[top] for top in tops if self._grammar.kinds[top] == TOKEN}
        refused = {self._grammar.values[top] for top in tops if self._grammar.kinds[top] != TOKEN}
        if not refused:
            return sorted(named)
        kept = refused - named if len(refused) == 1 else set()  # another rule allows the refused token
        return [token for token in range(self._index.n_vocab) if token not in kept]

    def _reachable(self, start: _State) -> list[int]:
        """Places of the pieces that match. The pieces are sorted, so a common prefix is followed only once."""
        pieces, shared, jump = self._index.pieces, self._index.shared, self._index.jump
        states = [start] * (self._index.longest + 1)
        found: list[int] = []
        at, end = 0, len(pieces)
        while at < end:
            piece = pieces[at]
            depth = shared[at]
            state = states[depth]
            while depth < len(piece):
                state = state.next.get(piece[depth]) or self._step(state, piece[depth])
                if state is _DEAD:
                    break
                depth += 1
                states[depth] = state
            if state is _DEAD:
                at += 1
                while at < end and shared[at] > depth:
                    at = jump[at]
            else:
                found.append(at)
                at += 1
        return found

    # ---- bytes

    def _step(self, state: _State, byte: int) -> _State:
        """The state after one more byte. The result is remembered."""
        if state.missing:
            following = self._continue(state, byte)
        elif 0 < byte < 0x80:
            following = self._consume(state, byte)
        elif 0xC2 <= byte < 0xE0:
            following = self._partial(state, byte & 0x1F, 1)
        elif 0xE0 <= byte < 0xF0:
            following = self._partial(state, byte & 0x0F, 2)
        elif 0xF0 <= byte < 0xF5:
            following = self._partial(state, byte & 0x07, 3)
        else:
            following = _DEAD
        state.next[byte] = following
        return following

    def _continue(self, state: _State, byte: int) -> _State:
        if byte >> 6 != 2:
            return _DEAD
        value = state.value << 6 | byte & 0x3F
        if state.missing == 1:
            return _DEAD if 0xD800 <= value < 0xE000 else self._consume(state.base, value)
        return self._partial(state.base, value, state.missing - 1)

    def _partial(self, base: _State, value: int, missing: int) -> _State:
        """A state inside a character. It is dead if no character with these first bytes can match."""
        low = value << 6 * missing
        high = low | (1 << 6 * missing) - 1
        low = max(low, (0, 0x80, 0x800, 0x10000)[missing] if value == 0 else 0)
        grammar = self._grammar
        dispatch = self._dispatch(base)
        assert dispatch.exact is not None
        self._pay(len(base.stacks))
        if any(low <= code_point <= high for code_point in dispatch.exact) or any(
            grammar.chars[grammar.values[self._tops[stack]]].meets(low, high) for stack in dispatch.ranged
        ):
            return _State(base.stacks, base, value, missing)
        return _DEAD

    def _consume(self, state: _State, code_point: int) -> _State:
        dispatch = self._dispatch(state)
        assert dispatch.exact is not None
        grammar = self._grammar
        after = [self._pop(stack) for stack in dispatch.exact.get(code_point, ())]
        self._pay(len(dispatch.ranged) + len(after))
        for stack in dispatch.ranged:
            if code_point in grammar.chars[grammar.values[self._tops[stack]]]:
                after.append(self._pop(stack))
        return self._intern(self._expand(after))

    def _dispatch(self, state: _State) -> _State:
        """Sort the stacks of a state by the kind of their next item."""
        if state.exact is None:
            grammar = self._grammar
            state.exact = {}
            for stack in state.stacks:
                if stack == _EMPTY:
                    continue
                top = self._tops[stack]
                kind = grammar.kinds[top]
                if kind in (TOKEN, NOT_TOKEN):
                    state.tokens.append(stack)
                    continue
                single = grammar.chars[grammar.values[top]].single
                if single >= 0:
                    state.exact.setdefault(single, []).append(stack)
                else:
                    state.ranged.append(stack)
        return state

    # ---- stacks

    def _push(self, below: int, position: int) -> int:
        key = below * len(self._grammar.kinds) + position
        cell = self._cells.get(key)
        if cell is None:
            cell = self._cells[key] = len(self._tops)
            self._tops.append(position)
            self._below.append(below)
        return cell

    def _pop(self, stack: int) -> int:
        """The stack after its top item has matched."""
        following = self._grammar.nexts[self._tops[stack]]
        below = self._below[stack]
        return below if following == END else self._push(below, following)

    def _alternatives(self, below: int, rule: int) -> list[int]:
        return [below if first == END else self._push(below, first) for first in self._grammar.rules[rule]]

    def _expand(self, todo: list[int]) -> set[int]:
        """Replace the rules on top by their alternatives, until characters or tokens are on top."""
        kinds, values, tops = self._grammar.kinds, self._grammar.values, self._tops
        seen: set[int] = set()
        found: set[int] = set()
        while todo:
            stack = todo.pop()
            if stack in seen:
                continue
            seen.add(stack)
            if stack != _EMPTY and kinds[tops[stack]] == RULE:
                expanded = self._alternatives(self._pop(stack), values[tops[stack]])
                self._pay(len(expanded))
                todo.extend(expanded)
            else:
                found.add(stack)
        self._pay(len(seen))
        return found

    def _intern(self, stacks: set[int]) -> _State:
        if not stacks:
            return _DEAD
        key = tuple(sorted(stacks))
        state = self._states.get(key)
        if state is None:
            state = self._states[key] = _State(key)
        return state

    def _pay(self, steps: int) -> None:
        self._spent += steps
        if self._spent > _BUDGET:
            raise TooCostlyError("the grammar is too ambiguous to follow", field="grammar")

    def _forget(self) -> None:
        """Forget the remembered states. Only the current state and its stacks stay."""
        state, tops, below = self._state, self._tops, self._below
        chains = []
        for stack in state.stacks:
            chain = []
            while stack != _EMPTY:
                chain.append(tops[stack])
                stack = below[stack]  # noqa: PLW2901
            chains.append(chain)
        self._reset()
        stacks = set()
        for chain in chains:
            stack = _EMPTY
            for position in reversed(chain):
                stack = self._push(stack, position)
            stacks.add(stack)
        base = self._intern(stacks)
        self._state = _State(base.stacks, base, state.value, state.missing) if state.missing else base
