"""Where an answer stands in its thought: what must come next, and what no grammar restricts.

llama.cpp does the same (common/reasoning-budget.cpp) with tokens. Here, the marks are found in the text, since a model
can write a mark with other tokens than the tokenizer.
"""

import codecs
from collections import deque
from enum import Enum

from ..interfaces.backend import Vocab
from ..interfaces.thinking import Thinking

_MOST_SPACES = 2  # tokens of white space between a thought and an answer with a grammar
_EXTRA_FOR_CHARACTER = 8  # tokens that may follow the last one of a budget to complete a multi-byte character


class _State(Enum):
    BEFORE = "before"  # nothing but white space and the begin of a mark has come, after earlier thoughts if any
    THINKING = "thinking"
    ENDING = "ending"  # the budget is used up, and the end of the thought is forced
    ANSWERING = "answering"  # what comes between a thought and the answer is forced
    OVER = "over"  # the answer has begun


class Thought:
    """The thoughts of one answer. With `constrained`, a grammar restricts what follows them.

    `n_tokens` counts the tokens of thoughts with their marks.
    """

    def __init__(self, thinking: Thinking, vocab: Vocab, *, constrained: bool) -> None:
        self.n_tokens = 0
        self.to_end = False  # another thread may set it
        self._thinking = thinking
        self._vocab = vocab
        self._constrained = constrained
        self._forced: deque[int] = deque()
        self._left = thinking.budget
        self._state = _State.BEFORE
        self._seen = b""
        self._pending = 0  # tokens since the last thought
        if thinking.begun:
            self._begin()

    @property
    def forced(self) -> int:
        """The token that must come next, -1 if any may."""
        return self._forced[0] if self._forced else -1

    @property
    def lasts(self) -> bool:
        """Whether the model thinks, and the end is not forced yet."""
        return self._state is _State.THINKING

    def end(self) -> None:
        """End the thought now: its message and its mark are forced."""
        self.to_end = False
        if self._state is _State.THINKING:
            self._state = _State.ENDING
            self._forced.extend((*self._thinking.message, *self._thinking.end.tokens))

    def free(self, token: int) -> bool:
        """Whether a token may come although the grammar of the answer does not allow it."""
        if not self._constrained or self._state is _State.OVER:
            return False
        return self._state is not _State.BEFORE or token == self._thinking.begin.tokens[0] or self._is_space(token)

    def accept(self, token: int) -> bool:
        """Take the next token. Returns whether it comes before the answer that a grammar restricts."""
        if self._state is _State.OVER:
            return False
        if self._forced:
            self._forced.popleft()
        elif self._state is _State.BEFORE and self._constrained:
            if not self.free(token):
                self._state = _State.OVER
                return False
            if token == self._thinking.begin.tokens[0]:
                self._forced.extend(self._thinking.begin.tokens[1:])  # what has begun is completed
        piece = self._vocab.special_piece(token)
        if self._state is _State.BEFORE:
            self._look_for_begin(piece)
        elif self._state is not _State.ANSWERING:
            self._think(piece)
        elif not self._forced:
            self._state = _State.OVER
        return self._constrained

    def _is_space(self, token: int) -> bool:
        return self.n_tokens > 0 and self._pending < _MOST_SPACES and self._vocab.piece(token).isspace()

    def _end(self) -> None:
        """The thought has ended. Another one may follow, unless the answer has been begun."""
        self._state = _State.BEFORE
        self._seen = b""
        self._pending = 0
        if self._constrained and self._thinking.answer:
            self._state = _State.ANSWERING
            self._forced.extend(self._thinking.answer)

    def _begin(self) -> None:
        self._state = _State.THINKING
        self._seen = b""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        if self._left == 0:
            self.end()

    def _look_for_begin(self, piece: bytes) -> None:
        self._seen = (self._seen + piece).lstrip()
        self._pending += 1
        mark = self._thinking.begin.text
        if self._seen.startswith(mark):
            self.n_tokens += self._pending
            self._begin()
        elif not mark.startswith(self._seen):
            self._state = _State.OVER

    def _think(self, piece: bytes) -> None:
        self.n_tokens += 1
        if self._state is _State.ENDING:
            if not self._forced:
                self._end()
            return
        mark = self._thinking.end.text
        self._seen += piece
        if mark in self._seen:
            self._end()
            return
        self._seen = self._seen[-len(mark) :]
        self._spend(piece)

    def _spend(self, piece: bytes) -> None:
        """Count a token. A character that is not complete is waited for."""
        if self._thinking.budget < 0:
            return
        self._left = max(self._left - 1, -_EXTRA_FOR_CHARACTER)
        self._decoder.decode(piece)
        mid_character = bool(self._decoder.getstate()[0])
        if self._left <= 0 and not (mid_character and self._left > -_EXTRA_FOR_CHARACTER):
            self._left = 0
            self.end()
