"""Thoughts before an answer: their limits, what is forced at their end, and the grammar that waits for it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from llamaserver.interfaces.params import SamplingParams
from llamaserver.interfaces.thinking import Mark, Thinking
from llamaserver.sampling.sampler import ChainSampler, ChainSamplerFactory
from llamaserver.sampling.thought import Thought

from tests.support.engine.vocab import ListVocab

PIECES = ["<end>", "\n", "<think>", "</think>", "a", "b", " ", "</", "think", ">", "<", "yes", "no", ".", "\n\n"]
BYTES = [*(piece.encode() for piece in PIECES), b"\xc3", b"\xa9"]
VOCAB = ListVocab(BYTES, eog=[0], special=[2, 3])
FACTORY = ChainSamplerFactory(VOCAB)
GREEDY = SamplingParams(temperature=0.0, repeat_penalty=1.0)
YES = replace(GREEDY, grammar='root ::= "yes" | "no"')


def ids(*pieces: str | bytes) -> list[int]:
    return [BYTES.index(piece if isinstance(piece, bytes) else piece.encode()) for piece in pieces]


def mark(*pieces: str) -> Mark:
    return Mark("".join(pieces).encode(), tuple(ids(*pieces)))


THINKING = Thinking(mark("<think>"), mark("</think>"), begun=True)
SPELLED = Thinking(mark("<", "think", ">"), mark("</", "think", ">"))


def sampler(params: SamplingParams, thinking: Thinking) -> ChainSampler:
    return FACTORY(replace(params, thinking=thinking), 512)


def said(one: ChainSampler, wanted: Sequence[str | bytes]) -> str:
    """What comes of a model that wants to say these tokens."""
    text = b""
    for token in ids(*wanted):
        logits = np.zeros(len(BYTES), np.float32)
        logits[token] = 5
        chosen, _ = one.sample(logits)
        text += BYTES[chosen]
    return text.decode("utf-8", "replace")


@pytest.mark.parametrize("budget", [0, 1, 3])
def test_a_budget_ends_the_thought_with_the_message_and_the_mark(budget: int) -> None:
    one = sampler(GREEDY, replace(THINKING, budget=budget, message=tuple(ids(".", "\n"))))
    assert said(one, "a" * 7) == "a" * budget + ".\n</think>" + "a" * (4 - budget)
    assert one.reasoning_tokens == budget + 3


def test_the_model_can_end_its_thought_itself() -> None:
    one = sampler(GREEDY, replace(THINKING, budget=9))
    assert said(one, ["a", "</", "think", ">", *"ab"]) == "a</think>ab"  # in other tokens than the tokenizer's
    assert one.reasoning_tokens == 4


def test_a_budget_does_not_cut_a_character() -> None:
    one = sampler(GREEDY, replace(THINKING, budget=2))
    assert said(one, ["a", b"\xc3", b"\xa9", "b", "b"]) == "aé</think>b"
    one = sampler(GREEDY, replace(THINKING, budget=2))
    assert said(one, [b"\xc3"] * 12).endswith("</think>\ufffd")  # a character that never ends is not waited for


def test_a_budget_counts_from_the_mark_and_over_all_thoughts() -> None:
    one = sampler(GREEDY, replace(THINKING, begun=False, budget=3))
    wanted = ["\n", "<think>", "a", "</think>", "\n", "<think>", "b", "b", "b", "b", "b"]
    assert said(one, wanted) == "\n<think>a</think>\n<think>bb</think>bb"
    assert one.reasoning_tokens == 9


def test_an_answer_without_a_thought_has_no_reasoning_tokens() -> None:
    one = sampler(GREEDY, replace(THINKING, begun=False, budget=1))
    assert said(one, ["a", "<think>", "b", "b"]) == "a<think>bb"
    assert one.reasoning_tokens == 0
    assert FACTORY(GREEDY, 512).reasoning_tokens == 0


def test_a_grammar_restricts_what_follows_the_thought() -> None:
    one = sampler(YES, THINKING)
    assert said(one, [*"ab", "</think>", "\n\n", "no"]) == "ab</think>\n\nno"
    one = sampler(YES, THINKING)
    assert said(one, [*"ab", "</think>", "a"]) in ("ab</think>yes", "ab</think>no")


def test_white_space_before_the_answer_has_an_end() -> None:
    one = sampler(YES, THINKING)
    text = said(one, ["</think>", "\n", "\n", "\n"])
    assert text in ("</think>\n\nyes", "</think>\n\nno")


def test_a_grammar_restricts_an_answer_without_a_thought() -> None:
    for wanted in ("a", "\n", "</think>"):
        assert said(sampler(YES, replace(THINKING, begun=False)), [wanted]) in ("yes", "no")


def test_a_thought_that_has_begun_under_a_grammar_is_a_thought() -> None:
    one = sampler(YES, SPELLED)
    assert said(one, ["<", "a", "a", "a", "</", "think", ">", "yes"]) == "<think>a</think>yes"
    assert one.reasoning_tokens == 7


def test_an_answer_with_a_grammar_does_not_end_in_its_thought() -> None:
    one = sampler(YES, replace(THINKING, message=tuple(ids("."))))
    assert said(one, ["a", "<end>", "<end>", "yes", "<end>"]) == "a.</think>yes<end>"
    assert said(sampler(GREEDY, THINKING), ["a", "<end>"]) == "a<end>"


def test_a_budget_works_with_a_grammar() -> None:
    one = sampler(YES, replace(THINKING, budget=1))
    assert said(one, ["a", "a", "yes", "<end>"]) == "a</think>yes<end>"


def test_what_comes_between_a_thought_and_a_constrained_answer_is_forced() -> None:
    thinking = replace(THINKING, budget=2, answer=tuple(ids("a", "<", "\n")))
    one = sampler(YES, thinking)
    assert said(one, [*"bbbbbb", "yes", "<end>"]) == "bb</think>a<\nyes<end>"
    assert one.reasoning_tokens == 3
    assert said(sampler(GREEDY, thinking), "bbbb") == "bb</think>b"


def test_a_grammar_that_has_the_thought_in_it_holds_from_the_start() -> None:
    params = replace(GREEDY, grammar='root ::= "a</" "think>yes"')
    one = sampler(params, replace(THINKING, in_grammar=True))
    assert said(one, ["b", "b", "b", "b", "b"]) == "a</think>yes"
    assert one.reasoning_tokens == 4


def test_forced_tokens_have_their_own_probabilities() -> None:
    one = sampler(replace(GREEDY, n_probs=2), replace(THINKING, budget=0))
    logits = np.zeros(len(BYTES), np.float32)
    logits[4] = 5
    token, probs = one.sample(logits)
    assert probs is not None
    assert (BYTES[token], probs.chosen.piece, probs.top[0].piece) == (b"</think>", b"</think>", b"a")
    assert 0 < probs.chosen.prob < 0.01


def test_much_white_space_before_a_thought() -> None:
    """Each piece of it was once looked at together with all before it."""
    one = Thought(replace(THINKING, begun=False), VOCAB, constrained=False)
    for _ in range(100_000):
        one.accept(ids("\n\n")[0])
    one.accept(ids("<think>")[0])
    assert one.lasts
