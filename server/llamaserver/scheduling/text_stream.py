"""From token pieces to text that may be shown: whole UTF-8 characters, no part of a stop string.

Text is released once it can neither break a character nor begin a stop string.
"""

import codecs
from bisect import bisect_left
from collections.abc import Iterable


class Stops:
    """The stop strings of a request, in the order that a search needs. Its answers share them."""

    def __init__(self, stops: Iterable[str]) -> None:
        self.ordered = tuple(sorted({stop for stop in stops if stop}))

    def first_in(self, text: str, known: int) -> tuple[int, str] | None:
        """Where the first whole stop string begins, and which. None is within the first `known` characters."""
        hits = [(at, stop) for stop in self.ordered if (at := text.find(stop, max(0, known - len(stop) + 1))) >= 0]
        return min(hits, default=None)

    def part_in(self, text: str) -> int:
        """Where the longest end of `text` begins that begins a stop string, or the length of the text."""
        for at in range(len(text)):
            end = text[at:]
            place = bisect_left(self.ordered, end)
            if place < len(self.ordered) and self.ordered[place].startswith(end):
                return at
        return len(text)


class TextStream:
    """The text of one completion, released step by step."""

    def __init__(self, stops: Stops) -> None:
        self._stops = stops
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopping_word = ""

    def push(self, piece: bytes) -> str:
        """Add the bytes of a token. Returns the text that may be shown now.

        Once a stop string is complete, `stopping_word` names it, and the rest is discarded.
        """
        text = self._decoder.decode(piece)
        if not self._stops.ordered:
            return text
        known = len(self._held)
        self._held += text
        stop_at = self._stops.first_in(self._held, known)
        if stop_at is not None:
            cut, self.stopping_word = stop_at
            released, self._held = self._held[:cut], ""
            return released
        cut = self._stops.part_in(self._held)
        released, self._held = self._held[:cut], self._held[cut:]
        return released

    @property
    def mid_character(self) -> bool:
        """Whether the last piece ended inside a multi-byte character."""
        return bool(self._decoder.getstate()[0])

    def discard(self) -> None:
        """Forget the text that was not released."""
        self._held = ""
        self._decoder.reset()

    def finish(self) -> str:
        """Return the rest of the text. A broken character becomes U+FFFD."""
        text = self._held + ("" if self.stopping_word else self._decoder.decode(b"", True))
        self._held = ""
        return text
