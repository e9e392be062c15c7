"""Texts as pieces: tags, words and white space. Formats differ in whole pieces, not in letters."""

import re
from itertools import takewhile

_PIECE = re.compile(r"\s+|<\|(?:open|close)\|>\w+<\|sep\|>|<[^<>]*>?|\[[A-Z_]+\]|[^\s<\[]+|\[")


def pieces(text: str) -> list[str]:
    """The pieces of a text. Together they are the text."""
    return _PIECE.findall(text)


def first_piece(text: str) -> str:
    """The first piece that is no white space, "" if there is none."""
    return next(iter(pieces(text.strip())), "")


def is_tag(piece: str) -> bool:
    """Whether a piece is a tag, whole."""
    return piece[:1] + piece[-1:] in ("<>", "[]")


def trigger(mark: str) -> str:
    """What a mark is recognised by: all up to its first tag. Other pieces can be in any text."""
    parts = pieces(mark)
    end = next((place for place, piece in enumerate(parts) if is_tag(piece)), len(parts))
    return "".join(parts[: end + 1])


def common_prefix(first: str, second: str) -> str:
    """The pieces that both texts begin with."""
    return "".join(_same(pieces(first), pieces(second)))


def common_suffix(first: str, second: str) -> str:
    """The pieces that both texts end with."""
    return "".join(reversed(_same(pieces(first)[::-1], pieces(second)[::-1])))


def same_letters(first: str, second: str) -> str:
    """The letters that both texts begin with."""
    return "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


def without_begin_of(mark: str, text: str) -> str:
    """A text without the pieces at its end that a mark begins with: they are a part of the mark that follows."""
    parts, begin = pieces(text.rstrip()), pieces(mark.strip())
    shared = next((n for n in range(min(len(parts), len(begin)), 0, -1) if parts[-n:] == begin[:n]), 0)
    return "".join(parts[: len(parts) - shared])


def _same(first: list[str], second: list[str]) -> list[str]:
    return [piece for piece, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))]
