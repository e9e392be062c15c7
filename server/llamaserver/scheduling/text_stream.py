"""From token pieces to text that may be shown: whole UTF-8 characters, no part of a stop string.

Text is released once it can neither break a character nor begin a stop string.
"""

import codecs


class _Partial:
    """How much of one stop string ends the text so far (Knuth, Morris and Pratt 1977)."""

    def __init__(self, stop: str) -> None:
        self._stop = stop
        self.matched = 0
        self._fallback = [0] * len(stop)
        for at in range(1, len(stop)):
            self._fallback[at] = self._advance(self._fallback[at - 1], stop[at])

    def read(self, text: str) -> None:
        """Read more text, which does not complete the stop string."""
        for character in text:
            self.matched = self._advance(self.matched, character)

    def _advance(self, matched: int, character: str) -> int:
        while matched and self._stop[matched] != character:
            matched = self._fallback[matched - 1]
        return matched + (self._stop[matched] == character)


class TextStream:
    """The text of one completion, released step by step."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._partial = [_Partial(stop) for stop in self._stops]
        self._held = ""
        self.stopping_word = ""

    def push(self, piece: bytes) -> str:
        """Add the bytes of a token. Returns the text that may be shown now.

        Once a stop string is complete, `stopping_word` names it, and the rest is discarded.
        """
        text = self._decoder.decode(piece)
        if not self._stops:
            return text
        self._held += text
        stop_at = self._first_stop()
        if stop_at is not None:
            cut, self.stopping_word = stop_at
            released, self._held = self._held[:cut], ""
            return released
        for stop in self._partial:
            stop.read(text)
        cut = len(self._held) - max(stop.matched for stop in self._partial)
        released, self._held = self._held[:cut], self._held[cut:]
        return released

    @property
    def mid_character(self) -> bool:
        """Whether the last piece ended inside a multi-byte character."""
        return bool(self._decoder.getstate()[0])

    def finish(self) -> str:
        """Return the rest of the text. A broken character becomes U+FFFD."""
        text = self._held + ("" if self.stopping_word else self._decoder.decode(b"", True))
        self._held = ""
        return text

    def _first_stop(self) -> tuple[int, str] | None:
        hits = [(at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        return min(hits, default=None)
