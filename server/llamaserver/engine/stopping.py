"""From token pieces to text that may be shown: whole UTF-8 characters, no part of a stop string.

A plain state machine without engine or model. Text is released as soon as it is certain that it
neither breaks a character nor begins a stop string.
"""

import codecs


class TextStream:
    """The text of one completion, released step by step."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopping_word = ""

    def push(self, piece: bytes) -> str:
        """Add a token's bytes; return the text that is now certain.

        Once a stop string is complete `stopping_word` names it and the rest is discarded.
        """
        text = self._decoder.decode(piece)
        if not self._stops:
            return text
        self._held += text
        found = self._first_stop()
        if found is not None:
            at, self.stopping_word = found
            released, self._held = self._held[:at], ""
            return released
        keep = self._possible_stop_length()
        cut = len(self._held) - keep
        released, self._held = self._held[:cut], self._held[cut:]
        return released

    @property
    def mid_character(self) -> bool:
        """Whether the last piece ended inside a multi-byte character."""
        return bool(self._decoder.getstate()[0])

    def finish(self) -> str:
        """Return what was held back; a broken character becomes U+FFFD."""
        text = self._held + ("" if self.stopping_word else self._decoder.decode(b"", True))
        self._held = ""
        return text

    def _first_stop(self) -> tuple[int, str] | None:
        hits = [(at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        return min(hits, default=None)

    def _possible_stop_length(self) -> int:
        """Length of the longest tail of the held text with which a stop string begins."""
        longest = 0
        for stop in self._stops:
            for size in range(min(len(stop) - 1, len(self._held)), longest, -1):
                if self._held.endswith(stop[:size]):
                    longest = size
                    break
        return longest
