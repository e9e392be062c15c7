"""The lines of an answer: whether it has more than one, and where its indentation ends."""

_BLANKS = " \t"


class Lines:
    """Reads a text piece by piece. Lines after the first have to begin with `n_indent` blanks, as in llama-server."""

    def __init__(self, n_indent: int = 0) -> None:
        self._n_indent = n_indent
        self._blanks = -1  # at the begin of the line so far. -1: the line goes on after them
        self.several = False  # whether there was the end of a line

    def read(self, text: str) -> int | None:
        """Read more text. Returns where a line with too few blanks goes on after them, None if there is none."""
        self.several = self.several or "\n" in text
        at = 0
        while self._n_indent and at < len(text):
            if self._blanks >= 0:
                rest = text[at:].lstrip(_BLANKS)
                self._blanks += len(text) - at - len(rest)
                at = len(text) - len(rest)
                if not rest:
                    return None
                if self._blanks < self._n_indent:
                    return at
            at, self._blanks = text.find("\n", at) + 1, 0
            if not at:
                self._blanks = -1
                return None
        return None
