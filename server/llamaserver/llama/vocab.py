"""The model's vocabulary over llama.cpp: token ids to bytes and back, from any thread.

The ids are checked here. The library would end the process for a wrong id.
"""

import ctypes
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from typing import Any

import llama_cpp.llama_cpp as lib

from ..errors import InvalidRequest
from ..interfaces.backend import never
from .specials import Specials

_LARGE = 8192  # bytes of a text: in larger ones, special tokens are found here and not by the library
_CHECK_EVERY = 256  # pieces of a text
_SHORT = 64  # bytes of a piece whose tokens are remembered
_MOST_SHORT = 1024


class LlamaVocab:
    """Tokenizer of one model (protocol: interfaces/backend.py). Reads are thread-safe."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self.n_vocab = int(lib.llama_vocab_n_tokens(handle))
        self.bos = self._id(lib.llama_vocab_bos)
        self.eos = self._id(lib.llama_vocab_eos)
        self.eot = self._id(lib.llama_vocab_eot)
        self.nl = self._id(lib.llama_vocab_nl)
        self.sep = self._id(lib.llama_vocab_sep)
        self.fim_pre = self._id(lib.llama_vocab_fim_pre)
        self.fim_suf = self._id(lib.llama_vocab_fim_suf)
        self.fim_mid = self._id(lib.llama_vocab_fim_mid)
        self.fim_rep = self._id(lib.llama_vocab_fim_rep)
        self.fim_sep = self._id(lib.llama_vocab_fim_sep)
        self.add_bos = bool(lib.llama_vocab_get_add_bos(handle))
        self.add_eos = bool(lib.llama_vocab_get_add_eos(handle))
        self.add_sep = bool(lib.llama_vocab_get_add_sep(handle))
        self.eog = frozenset(i for i in range(self.n_vocab) if lib.llama_vocab_is_eog(handle, i))
        self._pieces: list[bytes | None] = [None] * self.n_vocab
        self._special_pieces: list[bytes | None] = [None] * self.n_vocab
        self._specials = Specials(handle, self.n_vocab)

    def _id(self, call: Callable[[Any], int]) -> int:
        token = int(call(self._handle))
        return token if 0 <= token < self.n_vocab else -1

    def tokenize(
        self, text: str, *, add_special: bool, parse_special: bool, cancelled: Callable[[], bool] = never
    ) -> list[int]:
        """Token ids of `text`. Raises CancelledError soon after `cancelled` returns True."""

        def check() -> None:
            if cancelled():
                raise CancelledError

        check()
        data = text.encode("utf-8", "replace")
        if len(data) < _LARGE or not self._specials.exact:
            return self._by_library(data, add_special, parse_special)
        before, after = self._added() if add_special else ([], [])
        tokens, short = before, dict[bytes, list[int]]()
        for number, piece in enumerate(self._specials.pieces(data, parse_special=parse_special, check=check)):
            if number % _CHECK_EVERY == 0:
                check()
            if isinstance(piece, int):
                tokens.append(piece)
            elif piece in short:
                tokens += short[piece]
            else:
                found = self._by_library(piece, False, False)
                tokens += found
                if len(piece) <= _SHORT and len(short) < _MOST_SHORT:
                    short[piece] = found
        return tokens + after

    def _added(self) -> tuple[list[int], list[int]]:
        """What add_special puts before and after the tokens of a text."""
        whole, text = self._by_library(b"a", True, False), self._by_library(b"a", False, False)
        start = next(at for at in range(len(whole)) if whole[at : at + len(text)] == text)
        return whole[:start], whole[start + len(text) :]

    def _by_library(self, data: bytes, add_special: bool, parse_special: bool) -> list[int]:
        capacity = len(data) + 16
        tokens = (ctypes.c_int32 * capacity)()
        count = lib.llama_tokenize(self._handle, data, len(data), tokens, capacity, add_special, parse_special)
        if count < 0:
            tokens = (ctypes.c_int32 * -count)()
            count = lib.llama_tokenize(self._handle, data, len(data), tokens, -count, add_special, parse_special)
        return tokens[: max(count, 0)]

    def piece(self, token: int) -> bytes:
        """Bytes of one token, as in generated text. Control tokens have no bytes."""
        found = self._pieces[token]
        if found is None:
            found = self._pieces[token] = self._read(token, special=False)
        return found

    def special_piece(self, token: int) -> bytes:
        """Bytes of one token. A control token gives its text."""
        found = self._special_pieces[token]
        if found is None:
            found = self._special_pieces[token] = self._read(token, special=True)
        return found

    def _read(self, token: int, *, special: bool) -> bytes:
        if not 0 <= token < self.n_vocab:
            raise InvalidRequest(f"token id {token} is not in the vocabulary [0, {self.n_vocab})")
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            count = lib.llama_token_to_piece(self._handle, token, buffer, size, 0, special)
            if count >= 0:
                return buffer.raw[:count]
            size = -count

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Text of the ids, with the text of special tokens. Invalid UTF-8 is replaced."""
        return b"".join(map(self.special_piece, tokens)).decode("utf-8", "replace")
