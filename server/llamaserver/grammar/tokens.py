"""The vocabulary as llguidance needs it. Control tokens match by their names only, all others by their bytes."""

from collections.abc import Sequence
from typing import cast

import llguidance

from ..interfaces.backend import Vocab

_MOST_DIGITS = 9  # of a token id
_LONGEST_NAME = 256  # characters of a token's text


class _Tokens:
    """What `LLTokenizer` reads of a tokenizer. It calls it to tokenize text that is forced, which is switched off."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, vocab: Vocab) -> None:
        every = range(vocab.n_vocab)
        pieces = [vocab.piece(token) for token in every]
        names = [b"" if pieces[token] else vocab.special_piece(token) for token in every]
        self.eos_token_id = min(vocab.eog, default=None)
        self.special_token_ids = sorted({token for token in every if names[token]} | vocab.eog)
        self.tokens = [piece or name for piece, name in zip(pieces, names, strict=True)]

    def __call__(self, _text: bytes | str) -> Sequence[int]:
        return ()


def tokenizer(vocab: Vocab) -> llguidance.LLTokenizer:
    """The tokenizer object of a vocabulary. It takes half a second and 20 MB for 150,000 tokens."""
    return llguidance.LLTokenizer(
        cast(llguidance.TokenizerWrapper, _Tokens(vocab)),
        eos_token=sorted(vocab.eog) or None,
        slices=llguidance.LLTokenizer.json_slices(),
    )


def token_named(vocab: Vocab, text: str) -> int | None:
    """The token that a grammar names by `<[id]>`, or by its text with the brackets. None if there is none."""
    number = text[2:-2]
    if text.startswith("<[") and text.endswith("]>") and number.isdecimal():
        token = int(number) if len(number) <= _MOST_DIGITS else -1
        return token if 0 <= token < vocab.n_vocab else None
    if len(text) > _LONGEST_NAME:
        return None
    tokens = vocab.tokenize(text, add_special=False, parse_special=True)
    return tokens[0] if len(tokens) == 1 else None
