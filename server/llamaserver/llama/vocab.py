"""The model's vocabulary over llama.cpp: token ids to bytes and back, from any thread.

The ids are checked here. The library would end the process for a wrong id.
"""

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import llama_cpp.llama_cpp as lib

from ..errors import InvalidRequest


class LlamaVocab:
    """Tokenizer of one model (protocol: interfaces/backend.py). Reads are thread-safe."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self.n_vocab = int(lib.llama_vocab_n_tokens(handle))
        self.bos = self._id(lib.llama_vocab_bos)
        self.eos = self._id(lib.llama_vocab_eos)
        self.nl = self._id(lib.llama_vocab_nl)
        self.fim_pre = self._id(lib.llama_vocab_fim_pre)
        self.fim_suf = self._id(lib.llama_vocab_fim_suf)
        self.fim_mid = self._id(lib.llama_vocab_fim_mid)
        self.add_bos = bool(lib.llama_vocab_get_add_bos(handle))
        self.eog = frozenset(i for i in range(self.n_vocab) if lib.llama_vocab_is_eog(handle, i))
        self._pieces: list[bytes | None] = [None] * self.n_vocab
        self._special_pieces: list[bytes | None] = [None] * self.n_vocab

    def _id(self, call: Callable[[Any], int]) -> int:
        token = int(call(self._handle))
        return token if 0 <= token < self.n_vocab else -1

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of `text`. With `parse_special`, the time grows faster than the length of the text."""
        data = text.encode("utf-8", "replace")
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
