"""A vocabulary from a list of pieces, for tests of what sits above tokens and below a model."""

from collections.abc import Callable, Sequence

from llamaserver.interfaces.backend import never


class ListVocab:
    """Token i is piece i. Tokenizing takes the longest piece that fits."""

    def __init__(self, pieces: Sequence[bytes], *, eog: Sequence[int] = (), special: Sequence[int] = ()) -> None:
        self._pieces = list(pieces)
        self._special = frozenset(special) | frozenset(eog)
        self.n_vocab = len(self._pieces)
        self.eog = frozenset(eog)
        self.bos = -1
        self.eos = min(eog, default=-1)
        self.nl = self._pieces.index(b"\n") if b"\n" in self._pieces else -1
        self.sep = -1
        self.eot = self.fim_pre = self.fim_suf = self.fim_mid = self.fim_rep = self.fim_sep = -1
        self.add_bos = self.add_eos = self.add_sep = False

    def tokenize(
        self, text: str, *, add_special: bool, parse_special: bool, cancelled: Callable[[], bool] = never
    ) -> list[int]:
        """Greedy. Bytes without a piece are dropped."""
        data = text.encode()
        tokens = []
        while data:
            fits = [
                (len(piece), token)
                for token, piece in enumerate(self._pieces)
                if piece and data.startswith(piece) and (parse_special or token not in self._special)
            ]
            length, token = max(fits, default=(1, -1))
            if token >= 0:
                tokens.append(token)
            data = data[length:]
        return tokens

    def piece(self, token: int) -> bytes:
        """Bytes of one token, nothing for special ones."""
        return b"" if token in self._special else self._pieces[token]

    def special_piece(self, token: int) -> bytes:
        """Bytes of one token."""
        return self._pieces[token]

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Text of the tokens."""
        return b"".join(self._pieces[token] for token in tokens).decode("utf-8", "replace")


def numbered(size: int) -> ListVocab:
    """`size` tokens, the first of which ends a text. Token 1 is a newline."""
    return ListVocab([b"<end>", b"\n", *(f"w{i} ".encode() for i in range(2, size))], eog=[0])
