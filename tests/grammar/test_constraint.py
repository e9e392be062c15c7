"""Constraints as Lark texts, on a vocabulary small enough to see through."""

import gc
import random
import re
import weakref

import numpy as np
import pytest
from llamaserver.errors import InvalidRequest
from llamaserver.grammar.compiler import Compiler
from llamaserver.grammar.json_schema import json_value
from llamaserver.grammar.matcher import DeadEndError, Matcher
from llamaserver.grammar.rules import GrammarError
from llamaserver.interfaces.grammar import Constraint
from llamaserver.interfaces.params import SamplingParams
from llamaserver.sampling.sampler import ChainSamplerFactory
from llguidance import LLParserLimits

from tests.support.engine.vocab import ListVocab

PIECES = [b"<end>", b"<|tool|>", b"<done>", *(bytes([c]) for c in b'abcx{}":, 0123456789\n'), b"ab", b'{"', b'": ', b""]
VOCAB = ListVocab(PIECES, eog=[0, 2], special=[1])
END, TOOL, DONE = 0, 1, 2
COMPILER = Compiler(VOCAB)


def at(lark: str, *pieces: bytes) -> Matcher:
    """The matcher after these pieces."""
    matcher = COMPILER(lark).copy()
    for piece in pieces:
        token = PIECES.index(piece)
        assert matcher.allows(token), piece
        matcher.accept(token)
    return matcher


def allowed(matcher: Matcher) -> set[bytes]:
    return {PIECES[token] for token in matcher.allowed().tolist()}


def test_one_token_is_checked_as_the_mask_says() -> None:
    matcher = at('start: ("ab" | "x") ("a" | "b")*', b"ab")
    mask = set(matcher.allowed().tolist())
    assert mask == {token for token in range(len(PIECES)) if matcher.allows(token)}
    assert allowed(matcher) == {b"a", b"b", b"ab", b"<end>", b"<done>"}


def test_a_control_token_matches_by_its_name_only() -> None:
    assert allowed(at('start: "a" <|tool|> "b"', b"a")) == {b"<|tool|>"}
    assert allowed(at('start: "a" <[1]> "b"', b"a", b"<|tool|>")) == {b"b"}
    assert allowed(at('start: "a" <[3]> "b"', b"a")) == {b"a"}
    assert b"<|tool|>" not in allowed(at("start: /(.|\\n)*/"))


def test_text_is_free_until_a_trigger() -> None:
    lark = 'start: (call)* TEXT\ncall: free /[0-9]/\nfree[lazy]: TEXT "{"\nTEXT: /(.|\\n)*/'
    assert at(lark, b"a", b"\n", b"}").allows(END)
    assert allowed(at(lark, b"a", b"{")) == {bytes([c]) for c in b"0123456789"}
    assert at(lark, b"a", b"{", b"7", b"b").allows(DONE)


def test_nothing_but_the_end_follows_a_complete_answer() -> None:
    matcher = at('start: "a"', b"a")
    assert allowed(matcher) == {b"<end>", b"<done>"}
    assert [token for token in range(len(PIECES)) if matcher.allows(token)] == [END, DONE]


def test_a_copy_goes_its_own_way() -> None:
    first = at('start: "a" "b" | "x"')
    second = first.copy()
    first.accept(PIECES.index(b"a"))
    assert allowed(second) == {b"a", b"ab", b"x"}
    assert allowed(first) == {b"b"}


@pytest.mark.parametrize(
    "lark",
    ["", "start: nothing", 'start: "a', 'start: <|unknown|> "a"', "start: %json {", 'start: %json {"not": {}}', "x: y"],
)
def test_a_wrong_text_is_an_error_of_the_request(lark: str) -> None:
    with pytest.raises(GrammarError):
        COMPILER(lark)


@pytest.mark.parametrize("count", [1_000, 1_900, 100_000])
def test_a_long_chain_of_rules_leaves_the_process_alone(count: int) -> None:
    chain = "start: r0\n" + "\n".join(f"r{i}: r{i + 1}" for i in range(count)) + f'\nr{count}: "a"'
    if count > 1_900:
        with pytest.raises(GrammarError, match=r"more than|longer than"):
            COMPILER(chain)
    else:
        assert allowed(at(chain)) == {b"a"}


def test_the_sampler_follows_it() -> None:
    factory = ChainSamplerFactory(VOCAB)
    sampler = factory(SamplingParams(temperature=0.0, constraint=Constraint('start: <|tool|> "ab"')), 64)
    sampler.prime([])
    chosen = [sampler.sample(np.arange(len(PIECES), dtype=np.float32))[0] for _ in range(3)]
    assert b"".join(PIECES[token] for token in chosen) == b"<|tool|>ab<done>"


def test_errors_name_the_field_that_the_client_sent() -> None:
    params = SamplingParams(constraint=Constraint("start: nothing", field="tools"))
    with pytest.raises(InvalidRequest, match=re.escape("Failed to parse grammar")) as caught:
        ChainSamplerFactory(VOCAB)(params, 64)
    assert caught.value.field == "tools"


def test_a_json_value_stands_inside_a_text() -> None:
    value = json_value({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
    matcher = at(f"start: <|tool|> {value.lark} <|tool|>", b"<|tool|>", b'{"', b"a", b'": ', b"1", b"}")
    assert allowed(matcher) == {b"<|tool|>"}


def test_a_vocabulary_without_an_end() -> None:
    compiler = Compiler(ListVocab([b"a", b"b", b""]))
    matcher = compiler('start: "a"').copy()
    assert matcher.allowed().tolist() == [0]
    matcher.accept(0)
    assert matcher.allowed().tolist() == []


# Each text that begins differently takes other states of the lexer, more than there may be.
STATES = "start: /[ab]*a[ab]{16}x/"


def write(matcher: Matcher, count: int, seed: int) -> None:
    """Write random letters as long as the grammar takes them, with a mask before each."""
    draw = random.Random(seed)
    for _ in range(count):
        allowed = matcher.allowed().tolist()
        assert set(allowed) == {token for token in range(len(PIECES)) if matcher.allows(token)}
        matcher.accept(draw.choice([token for token in allowed if PIECES[token] in (b"a", b"b", b"ab")]))


@pytest.fixture
def small_lexer(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    limits = LLParserLimits(initial_lexer_fuel=1_000_000, step_lexer_fuel=500_000, max_lexer_states=2_000)
    monkeypatch.setattr("llamaserver.grammar.compiler._LIMITS", limits)
    return Compiler(VOCAB)


def test_an_answer_that_uses_up_the_lexer_leaves_others_alone(
    small_lexer: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    neighbour, greedy = small_lexer(STATES).copy(), small_lexer(STATES).copy()
    write(neighbour, 20, seed=0)
    monkeypatch.setattr("llamaserver.grammar.matcher._MOST_RENEWING", 0)
    with pytest.raises(DeadEndError, match="too many states"):
        write(greedy, 3_000, seed=1)
    with pytest.raises(DeadEndError, match="too many states"):
        write(neighbour.copy(), 1, seed=2)
    monkeypatch.setattr("llamaserver.grammar.matcher._MOST_RENEWING", 60)
    write(neighbour, 20, seed=2)
    write(small_lexer(STATES).copy(), 20, seed=3)


def test_answers_together_may_take_more_states_than_a_lexer_has(small_lexer: Compiler) -> None:
    start = small_lexer(STATES)
    for seed in range(12):
        write(start.copy(), 300, seed)


def test_a_token_that_uses_up_the_lexer_is_accepted(small_lexer: Compiler) -> None:
    """Without masks, the lexer gets no fuel, and its states have no limit until a mask is made."""
    start, draw = small_lexer(STATES), random.Random(1)
    for _ in range(2):
        matcher = start.copy()
        for _ in range(1_500):
            matcher.accept(PIECES.index(draw.choice([b"a", b"b", b"ab"])))
        assert allowed(matcher) >= {b"a", b"b", b"ab"}


def test_few_grammars_are_kept() -> None:
    compiler = Compiler(VOCAB)
    kept = [weakref.ref(compiler(f'start: "a"{{1,{count}}}')) for count in range(1, 41)]
    gc.collect()
    assert [number for number, one in enumerate(kept) if one() is not None] == list(range(9, 40))
    assert compiler('start: "a"{1,40}') is kept[-1]()
