"""Finds the tokens of each text of an answer. Its other tokens make marks, which no text has."""

from collections import deque
from collections.abc import Iterable

from ..interfaces.output import TokenProbs


class TextTokens:
    """The tokens of one answer, in their order. Texts are asked for in their order, too."""

    def __init__(self) -> None:
        self._bytes = bytearray()  # of all tokens
        self._tokens: deque[tuple[int, TokenProbs]] = deque()  # that are not found yet, with their places in the bytes
        self._end = 0  # of the last text that was found

    def put(self, tokens: Iterable[TokenProbs]) -> None:
        """Add the next tokens."""
        for token in tokens:
            self._tokens.append((len(self._bytes), token))
            self._bytes += token.chosen.piece

    def of(self, text: str) -> list[TokenProbs]:
        """The tokens of the next text. A token that makes parts of two texts belongs to the first.

        A text that is not there literally has all tokens that are left: half a character is U+FFFD in a text.
        """
        wanted = text.encode()
        place = self._bytes.find(wanted, self._end)
        self._end = len(self._bytes) if place < 0 else place + len(wanted)
        found = []
        while self._tokens and self._tokens[0][0] < self._end:
            start, token = self._tokens.popleft()
            if start + len(token.chosen.piece) > place:
                found.append(token)
        return found
