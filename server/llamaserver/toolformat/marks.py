"""Texts as pieces: tags, words and white space. Formats differ in whole pieces, not in letters."""

import re
from itertools import takewhile

_PIECE = re.compile(r"\s+|<[^<>]*>?|\[[A-Z_]+\]|[^\s<\[]+|\[")


def pieces(text: str) -> list[str]:
    """The pieces of a text. Together they are the text."""
    return _PIECE.findall(text)


def first_piece(text: str) -> str:
    """The first piece that is no white space, "" if there is none."""
    return next(iter(pieces(text.strip())), "")


def common_prefix(first: str, second: str) -> str:
    """The pieces that both texts begin with."""
    return "".join(_same(pieces(first), pieces(second)))


def common_suffix(first: str, second: str) -> str:
    """The pieces that both texts end with."""
    return "".join(reversed(_same(pieces(first)[::-1], pieces(second)[::-1])))


def _same(first: list[str], second: list[str]) -> list[str]:
    return [piece for piece, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))]
