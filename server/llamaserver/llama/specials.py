"""Finds the special tokens in a text, in time that grows with the length of the text.

The library's own search (`tokenizer_st_partition` of llama-vocab.cpp) walks a linked list for each special token
that it finds, so its time grows with the square of their number. This one gives the same pieces.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import llama_cpp.llama_cpp as lib

_SPACES = b" \t\n\v\f\r"  # isspace of C
_SPECIAL = lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_USER_DEFINED | lib.LLAMA_TOKEN_ATTR_UNKNOWN
_ONLY_PARSED = lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_UNKNOWN


@dataclass(frozen=True, slots=True)
class _Special:
    """One special token. `strips_left` and `strips_right`: it takes the white space beside it."""

    id: int
    text: bytes
    only_parsed: bool  # found with parse_special only
    strips_left: bool
    strips_right: bool


class Specials:
    """The special tokens of a vocabulary."""

    def __init__(self, handle: Any, n_vocab: int) -> None:
        found = [one for token in range(n_vocab) if (one := _special(handle, token)) is not None]
        self._all = sorted(found, key=lambda one: -len(one.text))  # longer ones come first, as in the library
        texts = [one.text for one in found]
        self.exact = all(texts) and not _overlap(texts)  # whether `pieces` surely gives what the library gives

    def pieces(self, data: bytes, *, parse_special: bool, check: Callable[[], None]) -> Iterator[bytes | int]:
        """The texts between special tokens, and the ids of these, in order. Calls `check` now and then."""
        taken = bytearray(len(data))  # 1: part of a special token, or stripped white space
        starts: dict[int, _Special] = {}
        for special in self._all:
            if parse_special or not special.only_parsed:
                check()
                _find(special, data, taken, starts)
        return _between(data, taken, starts)


def _special(handle: Any, token: int) -> _Special | None:
    attributes = lib.llama_vocab_get_attr(handle, token)
    if not attributes & _SPECIAL:
        return None
    return _Special(
        token,
        lib.llama_vocab_get_text(handle, token) or b"",
        bool(attributes & _ONLY_PARSED),
        bool(attributes & lib.LLAMA_TOKEN_ATTR_LSTRIP),
        bool(attributes & lib.LLAMA_TOKEN_ATTR_RSTRIP),
    )


def _overlap(texts: list[bytes]) -> bool:
    """Whether two texts of the same length are equal, or the end of one is the beginning of the other.

    The library sorts by length only. So it is not known which of the two it would look for first.
    """
    beginnings: dict[tuple[int, bytes], set[bytes]] = {}
    for text in texts:
        for size in range(1, len(text)):
            beginnings.setdefault((len(text), text[:size]), set()).add(text)
    ends = ((text, text[size:]) for text in texts for size in range(1, len(text)))
    return len(set(texts)) < len(texts) or any(beginnings.get((len(text), end), {text}) != {text} for text, end in ends)


def _find(special: _Special, data: bytes, taken: bytearray, starts: dict[int, _Special]) -> None:
    """Take all places of one token that are free, from left to right."""
    text, at = special.text, 0
    while (at := data.find(text, at)) >= 0:
        end = at + len(text)
        used = taken.rfind(1, at, end)
        if used >= 0:
            free = taken.find(0, used)
            if free < 0:
                return
            at = max(at + 1, free)
            continue
        taken[at:end] = b"\1" * len(text)
        starts[at] = special
        if special.strips_left:
            _strip(data, taken, range(at - 1, -1, -1))
        if special.strips_right:
            _strip(data, taken, range(end, len(data)))
        at = end


def _strip(data: bytes, taken: bytearray, places: range) -> None:
    for place in places:
        if taken[place] or data[place] not in _SPACES:
            return
        taken[place] = 1


def _between(data: bytes, taken: bytearray, starts: dict[int, _Special]) -> Iterator[bytes | int]:
    at = 0
    for start in sorted(starts):
        yield from _free(data, taken, at, start)
        yield starts[start].id
        at = start + len(starts[start].text)
    yield from _free(data, taken, at, len(data))


def _free(data: bytes, taken: bytearray, start: int, end: int) -> Iterator[bytes]:
    """What is free between two special tokens. White space can be taken at both ends only."""
    first = taken.find(0, start, end)
    if first >= 0:
        yield data[first : taken.rfind(0, first, end) + 1]
