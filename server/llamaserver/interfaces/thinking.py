"""How a model thinks before it answers. A sampler follows it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mark:
    """What a model writes where a thought begins or ends: its text, and the tokens that make it."""

    text: bytes
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Thinking:
    """The marks around a thought, and its limit.

    `begun` says that the prompt has begun a thought. `budget` is the most tokens that all thoughts of the answer have
    between their marks, -1 is no limit. When it is used up, the tokens of `message` follow, and then the mark.
    A grammar restricts what follows the first thought and the tokens of `answer`, which are forced then. With
    `in_grammar`, it has the thoughts in it.
    """

    begin: Mark
    end: Mark
    begun: bool = False
    budget: int = -1
    message: tuple[int, ...] = ()
    answer: tuple[int, ...] = ()
    in_grammar: bool = False
