"""Constraints as Lark texts, on a vocabulary small enough to see through."""

import re

import numpy as np
import pytest
from llamaserver.errors import InvalidRequest
from llamaserver.grammar.compiler import Compiler
from llamaserver.grammar.json_schema import json_value
from llamaserver.grammar.matcher import Matcher
from llamaserver.grammar.rules import GrammarError
from llamaserver.interfaces.grammar import Constraint
from llamaserver.interfaces.params import SamplingParams
from llamaserver.sampling.sampler import ChainSamplerFactory

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
