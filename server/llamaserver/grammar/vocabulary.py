"""The vocabulary for grammars: the pieces in sorted order, so that a common prefix is tested once.

The first grammar builds it. All requests share it. It never changes afterwards.
"""

from collections.abc import Callable

import numpy as np

from ..interfaces.backend import Vocab

_MOST_DIGITS = 9  # of a token id
_LONGEST_NAME = 256  # characters of a token's text


class PieceIndex:
    """The bytes of all tokens, sorted. Tokens without bytes and tokens that end a text are left out.

    `shared[i]` is the length of the prefix that piece i has in common with piece i - 1. `jump[i]` is the next
    place with a smaller `shared`. A search that fails inside the prefix continues at that place.
    """

    def __init__(self, vocab: Vocab) -> None:
        self.n_vocab = vocab.n_vocab
        self.eog = vocab.eog
        self.piece: Callable[[int], bytes] = vocab.piece
        self.end_ids = np.array(sorted(vocab.eog), np.intp)
        inner = (token for token in range(vocab.n_vocab) if token not in vocab.eog)
        usable = sorted((piece, token) for token in inner if (piece := vocab.piece(token)))
        self.pieces = [piece for piece, _ in usable]
        self.ids = np.array([token for _, token in usable], np.intp)
        self.longest = max(map(len, self.pieces), default=0)
        self.shared = _shared(self.pieces)
        self.jump = _jump(self.shared)


def _shared(pieces: list[bytes]) -> list[int]:
    result = []
    before = b""
    for piece in pieces:
        limit = min(len(before), len(piece))
        length = limit if before[:limit] == piece[:limit] else _common(before, piece)
        result.append(length)
        before = piece
    return result


def _common(left: bytes, right: bytes) -> int:
    length = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        length += 1
    return length


def _jump(shared: list[int]) -> list[int]:
    """For each place, the next place to its right with a smaller value, or the end."""
    size = len(shared)
    result = [size] * size
    stack: list[int] = []
    for at, value in enumerate(shared):
        while stack and shared[stack[-1]] > value:
            result[stack.pop()] = at
        stack.append(at)
    return result


def token_named(vocab: Vocab, text: str) -> int | None:
    """The token that a grammar names by `<[id]>`, or by its text with the brackets. None if there is none."""
    number = text[2:-2]
    if text.startswith("<[") and text.endswith("]>") and number.isdecimal():
        token = int(number) if len(number) <= _MOST_DIGITS else -1
        return token if 0 <= token < vocab.n_vocab else None
    if len(text) > _LONGEST_NAME:
        return None
    tokens = vocab.tokenize(text, add_special=False, parse_special=True)
    return tokens[0] if len(tokens) == 1 else None
