"""The pushdown automaton of one grammar: which states there are, and how bytes and tokens lead from one to another.

A state is a set of stacks. Each transition is computed once and remembered, so most bytes cost one look-up. All
requests with the same grammar share the automaton, and each keeps only its own state (matcher.py). The work for
each token has a limit. So an ambiguous grammar ends only its own request, never the engine. Pure.
"""

from array import array
from typing import Final
from weakref import ReferenceType, ref

import numpy as np
import numpy.typing as npt

from ..errors import EngineFailure
from ..interfaces.grammar import END, NOT_TOKEN, RULE, TOKEN, Grammar
from .matcher import DeadEndError
from .vocabulary import PieceIndex

Ids = npt.NDArray[np.intp]

_BUDGET = 100_000  # stacks that may be made or tried for one token of output, about 50 ms
_MOST_REMEMBERED = 200_000  # cells, states and their stacks that are added before the automaton is replaced
_OF_A_STATE = 8  # what a state costs beside its stacks, in stacks
_MOST_MASKS = 16  # remembered sets of allowed tokens
_EMPTY = 0  # the empty stack: nothing is left to match


class TooCostlyError(DeadEndError):
    """The grammar takes so long that it would delay other requests."""


class State:
    """A set of stacks, possibly inside a multi-byte character.

    `value` holds the bits of the character so far, `missing` the number of bytes to come. A state inside a
    character shares the stacks of `whole`, which is the state before the character.
    """

    __slots__ = ("_base", "exact", "missing", "next", "ranged", "stacks", "tokens", "value")

    def __init__(self, stacks: tuple[int, ...], base: "State | None" = None, value: int = 0, missing: int = 0) -> None:
        self.stacks = stacks
        self._base = base
        self.value = value
        self.missing = missing
        self.next: dict[int, State] = {}
        self.exact: dict[int, list[int]] | None = None  # code point -> stacks that expect only this code point
        self.ranged: list[int] = []  # stacks that expect one of several code points
        self.tokens: list[int] = []  # stacks that expect a whole token

    @property
    def whole(self) -> "State":
        """The state before the character that has begun, or this one."""
        return self._base or self

    @property
    def finished(self) -> bool:
        """Whether the text so far is complete."""
        return self.missing == 0 and self.stacks[:1] == (_EMPTY,)


DEAD: Final = State(())  # nothing matches any more


class Automaton:
    """The states of one grammar that have been reached so far.

    A worker thread makes it and its first state. Then only the engine thread uses it.
    """

    def __init__(self, grammar: Grammar, index: PieceIndex) -> None:
        self._grammar: Final = grammar
        self._index: Final = index
        # A stack is the number of its top cell. A cell refers to a position in the grammar and to the stack below.
        self._tops = array("i", [END])
        self._below = array("i", [_EMPTY])
        self._cells: dict[int, int] = {}
        self._states: dict[tuple[int, ...], State] = {}
        self._masks: dict[State, Ids] = {}
        self._spent = 0
        self._remembered = self._needed = 0
        self._start: State | None = None
        self._successor: ReferenceType[Automaton] | None = None

    def __del__(self) -> None:
        for state in self._states.values():  # they refer to each other in circles
            state.next.clear()

    @property
    def weight(self) -> int:
        """What it holds: items of the grammar, and remembered cells and stacks. Each takes up to 150 bytes."""
        return len(self._grammar.kinds) + self._remembered

    # ---- interface for the matcher

    def start(self) -> State:
        """The state of an empty text. Raises EngineFailure if the grammar matches no text or is too ambiguous."""
        if self._start is None:
            self._start = self._intern(self._expand(self._alternatives(_EMPTY, self._grammar.root)))
            self._needed = self._remembered
        if self._start is DEAD:
            raise EngineFailure("the grammar matches no text", field="grammar")
        return self._start

    def begin(self) -> None:
        """Start the work limit of one token."""
        self._spent = 0

    @property
    def full(self) -> bool:
        """Whether so much is remembered that a new automaton should replace this one."""
        return self._remembered > self._needed + _MOST_REMEMBERED

    def successor(self) -> "Automaton":
        """The automaton that replaces this one, the same for all requests. It remembers no more than a new one."""
        found = self._successor() if self._successor is not None else None
        if found is None:
            found = Automaton(self._grammar, self._index)
            self._successor = ref(found)
        return found

    def adopt(self, state: State, owner: "Automaton") -> State:
        """The same state as `state` of another automaton of this grammar."""
        before = self._remembered
        stacks = set()
        for top in state.stacks:
            chain = []
            stack = top
            while stack != _EMPTY:
                chain.append(owner._tops[stack])
                stack = owner._below[stack]
            for position in reversed(chain):
                stack = self._push(stack, position)
            stacks.add(stack)
        whole = self._intern(stacks)
        self._needed += self._remembered - before
        return State(whole.stacks, whole, state.value, state.missing) if state.missing else whole

    def is_end(self, token: int) -> bool:
        """Whether a token ends the text."""
        return token in self._index.eog

    def allowed(self, state: State) -> Ids:
        """All tokens that may come after `state`."""
        found = self._masks.get(state)
        if found is None:
            found = self._walk(state)
            if len(self._masks) >= _MOST_MASKS:
                del self._masks[next(iter(self._masks))]
            self._masks[state] = found
        return found

    def joined(self, states: list[State]) -> State:
        """One state for several ways to read the text."""
        return states[0] if len(states) == 1 else self._intern({stack for state in states for stack in state.stacks})

    # ---- tokens

    def after(self, state: State, token: int) -> list[State]:
        """The states after `token`. It may match by its bytes, or by rules that name the whole token."""
        through = state
        found: list[State] = []
        piece = self._index.piece(token)
        for byte in piece:
            through = through.next.get(byte) or self._step(through, byte)
            if through is DEAD:
                break
        if piece and through is not DEAD:
            found.append(through)
        if state.missing == 0 and self._dispatch(state).tokens:
            self._pay(len(state.tokens))
            named = [self._pop(stack) for stack in state.tokens if self._names(stack, token)]
            following = self._intern(self._expand(named))
            if following is not DEAD:
                found.append(following)
        return found

    def _names(self, stack: int, token: int) -> bool:
        top = self._tops[stack]
        return (self._grammar.values[top] == token) == (self._grammar.kinds[top] == TOKEN)

    def _walk(self, state: State) -> Ids:
        """All tokens that may come next: by their bytes, by their names, or because they end the text."""
        index = self._index
        ids = index.ids[self._reachable(state)]
        if state.missing == 0 and self._dispatch(state).tokens:
            ids = np.union1d(ids, np.setdiff1d(self._named(state), index.end_ids))
        return np.union1d(ids, index.end_ids) if state.finished else ids

    def _named(self, state: State) -> list[int]:
        """Ids of the whole tokens that may come next."""
        self._pay(len(state.tokens))
        tops = [self._tops[stack] for stack in state.tokens]
        named = {self._grammar.values[top] for top in tops if self._grammar.kinds[top] == TOKEN}
        refused = {self._grammar.values[top] for top in tops if self._grammar.kinds[top] != TOKEN}
        if not refused:
            return sorted(named)
        kept = refused - named if len(refused) == 1 else set()  # another rule allows the refused token
        return [token for token in range(self._index.n_vocab) if token not in kept]

    def _reachable(self, start: State) -> list[int]:
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
                if state is DEAD:
                    break
                depth += 1
                states[depth] = state
            if state is DEAD:
                at += 1
                while at < end and shared[at] > depth:
                    at = jump[at]
            else:
                found.append(at)
                at += 1
        return found

    # ---- bytes

    def _step(self, state: State, byte: int) -> State:
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
            following = DEAD
        state.next[byte] = following
        return following

    def _continue(self, state: State, byte: int) -> State:
        if byte >> 6 != 2:
            return DEAD
        value = state.value << 6 | byte & 0x3F
        if state.missing == 1:
            return DEAD if 0xD800 <= value < 0xE000 else self._consume(state.whole, value)
        return self._partial(state.whole, value, state.missing - 1)

    def _partial(self, base: State, value: int, missing: int) -> State:
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
            return State(base.stacks, base, value, missing)
        return DEAD

    def _consume(self, state: State, code_point: int) -> State:
        dispatch = self._dispatch(state)
        assert dispatch.exact is not None
        grammar = self._grammar
        after = [self._pop(stack) for stack in dispatch.exact.get(code_point, ())]
        self._pay(len(dispatch.ranged) + len(after))
        for stack in dispatch.ranged:
            if code_point in grammar.chars[grammar.values[self._tops[stack]]]:
                after.append(self._pop(stack))
        return self._intern(self._expand(after))

    def _dispatch(self, state: State) -> State:
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
            self._remembered += 1
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

    def _intern(self, stacks: set[int]) -> State:
        if not stacks:
            return DEAD
        key = tuple(sorted(stacks))
        state = self._states.get(key)
        if state is None:
            self._remembered += len(key) + _OF_A_STATE
            state = self._states[key] = State(key)
        return state

    def _pay(self, steps: int) -> None:
        self._spent += steps
        if self._spent > _BUDGET:
            raise TooCostlyError("the grammar is too ambiguous to follow", field="grammar")
