"""The probability of a token by the logits alone: without penalties, samplers or grammar."""

import math

import numpy as np

from ..interfaces.backend import FloatArray, Vocab
from ..interfaces.output import TokenProb, TokenProbs
from .chain import best


def score(vocab: Vocab, logits: FloatArray, token: int, count: int) -> TokenProbs:
    """The softmax of the logits at `token`, and at the `count` largest. What is no number has the probability 0."""
    if not math.isfinite(highest := float(logits.max())):
        logits = np.nan_to_num(logits, nan=-math.inf, posinf=1e30, neginf=-math.inf)
        highest = float(logits.max())
    total = float(np.exp(logits - np.float32(highest)).sum(dtype=np.float64))

    def prob(one: int) -> TokenProb:
        return TokenProb(one, vocab.special_piece(one), math.exp(float(logits[one]) - highest) / total)

    likely = best(logits, count).tolist() if count else ()
    return TokenProbs(prob(token), tuple(prob(one) for one in likely))
