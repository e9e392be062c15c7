"""The control tokens that a parser must see in the text of an answer."""

from functools import lru_cache

from ..interfaces.backend import Vocab


@lru_cache(maxsize=8)
def shown_tokens(marks: tuple[str, ...], vocab: Vocab) -> frozenset[int]:
    """The control tokens in the marks of a format.

    Tokens that end an answer are not among them: the end of an answer closes whatever is open.
    """
    tokens = {token for mark in marks for token in vocab.tokenize(mark, add_special=False, parse_special=True)}
    return frozenset(token for token in tokens - vocab.eog if not vocab.piece(token))
