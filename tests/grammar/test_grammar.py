"""GBNF text, and the matcher that follows it, on a vocabulary small enough to see through."""

import contextlib
import itertools
import math
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llamaserver.errors import EngineFailure, InvalidRequest
from llamaserver.grammar import gbnf
from llamaserver.grammar.compiler import Compiler
from llamaserver.grammar.matcher import DeadEndError, Matcher
from llamaserver.grammar.tokens import token_named
from llamaserver.interfaces.backend import AnswerCompleteError
from llamaserver.interfaces.params import SamplingParams
from llamaserver.sampling.sampler import ChainSamplerFactory

from tests.support.engine.vocab import ListVocab

EURO = "€".encode()
PIECES = [
    b"<end>",
    b"<tool>",
    *(bytes([c]) for c in b'abcx{}":, 0123456789\n'),
    b"ab",
    b"abc",
    b'{"',
    b'": ',
    b"aa",
    EURO,
    EURO[:1],
    EURO[1:2],
    EURO[2:],
    EURO[1:],
    b"a" + EURO[:2],
    b"",
    b"\0",
]
VOCAB = ListVocab(PIECES, eog=[0], special=[1])
NAMED = partial(token_named, VOCAB)
COMPILER = Compiler(VOCAB)


def compiled(text: str) -> Matcher:
    return COMPILER(text, lambda gbnf_text: gbnf.to_lark(gbnf_text, NAMED)).copy()


def follow(text: str, *pieces: bytes) -> Matcher:
    result = compiled(text)
    for piece in pieces:
        token = PIECES.index(piece)
        assert result.allows(token), piece
        result.accept(token)
    return result


def next_pieces(matcher: Matcher) -> set[bytes]:
    found = set(matcher.allowed().tolist())
    assert found == {token for token in range(len(PIECES)) if matcher.allows(token)}
    return {PIECES[token] for token in found}


# ---- the language


def generates(text: str, word: str) -> bool:
    """Whether the grammar generates the word, told from single-byte tokens."""
    matcher = compiled(text)
    for byte in word.encode():
        token = PIECES.index(bytes([byte]))
        if not matcher.allows(token):
            return False
        matcher.accept(token)
    return matcher.allows(0)


# A grammar and the regular expression for the same words.
SAME = [
    ('root ::= "ab" | "c"', "ab|c"),
    ('root ::= "ab"*', "(ab)*"),
    ("root ::= [a-b]+", "[ab]+"),
    ('root ::= "a"? "b"', "a?b"),
    ('root ::= "a"{2}', "a{2}"),
    ('root ::= "a"{2,} "b"', "a{2,}b"),
    ('root ::= "a"{1,3}', "a{1,3}"),
    ('root ::= "a"{0}', ""),
    ('root ::= ("a" | "b" "c"?){2,3} "x"', "(a|bc?){2,3}x"),
    ('root ::= "a"{1,2}{2}', "(a{1,2}){2}"),
    ("root ::= [^abx]", "[^abx]"),
    ("root ::= . .", ".."),
    ('root ::= [\\x61-b] "\\u0063"', "[ab]c"),
    ("root ::= a-b # remark\na-b ::=\n  [a]\n  # more", "a"),
    ('root ::= (\n "a"\n |\n "b"\n)\n', "a|b"),
    ('root ::= "a" |', "a|"),
    ('root ::= "x"\nroot ::= "a"', "a"),
    ('root ::= "" "a" []', "a"),
    ('root ::= ("a"?)* "b"', "(a?)*b"),
    ('root ::= a root | "x"\na ::= b?\nb ::= "b"?', "b*x"),
]
WORDS = ["".join(word) for n in range(5) for word in itertools.product("abcx", repeat=n)]


@pytest.mark.parametrize(("text", "expression"), SAME)
def test_a_grammar_generates_what_the_regular_expression_matches(text: str, expression: str) -> None:
    wanted = {word for word in WORDS if re.fullmatch(expression, word)}
    assert {word for word in WORDS if generates(text, word)} == wanted


# A grammar with left recursion, and the regular expression for the same words.
LEFT = [
    ('root ::= root "a" | "b"', "ba*"),
    ('root ::= a "b"\na ::= root | "c"', "cb+"),
    ('root ::= a root "z" | "x"\na ::= b?\nb ::= "c"?', "x"),
    ('root ::= (root "a")? "b"', "b|bab|babab"),
]


@pytest.mark.parametrize(("text", "expression"), LEFT)
def test_left_recursion_generates_its_words(text: str, expression: str) -> None:
    wanted = {word for word in WORDS if re.fullmatch(expression, word)}
    assert {word for word in WORDS if generates(text, word)} == wanted


def test_counts_beyond_regular_expressions() -> None:
    balanced = 'root ::= "a" root "b" | ""'
    assert [word for word in WORDS if generates(balanced, word)] == ["", "ab", "aabb"]


@settings(max_examples=150, deadline=None)
@given(st.recursive(st.sampled_from("abcx"), lambda inner: st.tuples(st.sampled_from("*+?|&"), inner, inner)))
def test_random_grammars_agree_with_regular_expressions(tree: object) -> None:
    def write(node: object, quote: str) -> str:
        if isinstance(node, str):
            return f"{quote}{node}{quote}"
        operator, left, right = node  # type: ignore[misc]
        if operator in "*+?":
            return f"({write(left, quote)}){operator}"
        between = "|" if operator == "|" else " " if quote else ""
        return f"({write(left, quote)}{between}{write(right, quote)})"

    text, expression = "root ::= " + write(tree, '"'), write(tree, "")
    sample = WORDS[:85] + WORDS[::37]
    assert [generates(text, w) for w in sample] == [re.fullmatch(expression, w) is not None for w in sample]


REFUSED = {
    "empty": "",
    "no root": 'start ::= "a"',
    "undefined": "root ::= missing",
    "unclosed literal": 'root ::= "a',
    "unclosed set": "root ::= [a",
    "unclosed range": "root ::= [a-",
    "unclosed group": 'root ::= ("a"',
    "unclosed count": 'root ::= "a"{2',
    "stray bracket": 'root ::= "a")',
    "no definition": "root",
    "bad name": 'roo_t ::= "a"',
    "bad escape": 'root ::= "\\q"',
    "short escape": 'root ::= "\\u12"',
    "escape at the end": 'root ::= "\\',
    "nothing to repeat": "root ::= *",
    "nothing in the literal": 'root ::= ""*',
    "counts reversed": 'root ::= "a"{3,2}',
    "count too large": 'root ::= "a"{2001}',
    "count enormous": 'root ::= "a"{99999999999999999999}',
    "count missing": 'root ::= "a"{,3}',
    "no way out": "root ::= a\na ::= a",
    "nested too deeply": "root ::= " + "(" * 201 + '"a"' + ")" * 201,
    "nested beyond all measure": "root ::= " + "(" * 20_000 + '"a"' + ")" * 20_000,
    "too long": 'root ::= "' + "a" * 70_000 + '"',
    "a hundred thousand rules": "root ::= r0\n" + "".join(f"r{i} ::= r{i + 1}\n" for i in range(100_000)),
    "a long literal very often": 'root ::= "' + "a" * 30_000 + '"{2000}',
    "unknown token": "root ::= <nothing>",
    "token number": "root ::= <[99999999999999999999]>",
    "negation of nothing": 'root ::= !"a"',
    "unclosed token": "root ::= <tool",
    "NUL": 'root ::= "a\0"',
}


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_grammar_or_too_much_is_refused(text: str) -> None:
    if text == "":
        with pytest.raises(gbnf.GrammarError):
            gbnf.to_lark(text, NAMED)
        return
    with pytest.raises(InvalidRequest) as refused:
        ChainSamplerFactory(VOCAB)(SamplingParams(grammar=text), 512)
    assert refused.value.message == "Failed to parse grammar"
    assert refused.value.field == "grammar"
    assert refused.value.body()["error"]["reason"]


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet='root:= "abc[]^-|()*+?{}<>!.\\#\n19,', max_size=60))
def test_no_text_breaks_the_parser(text: str) -> None:
    try:
        gbnf.to_lark("root ::= " + text, NAMED)
    except gbnf.GrammarError:
        return


def test_lone_surrogates_are_characters_like_others() -> None:
    assert not generates('root ::= "\ud800" | "b"', "a")


# ---- tokens


def test_tokens_of_many_bytes_are_followed_to_their_end() -> None:
    assert next_pieces(compiled('root ::= "abc"')) == {b"a", b"ab", b"abc"}
    assert next_pieces(follow('root ::= "abc"', b"ab")) == {b"c"}
    assert next_pieces(follow('root ::= "abc"', b"abc")) == {b"<end>"}


def test_the_end_is_allowed_exactly_when_the_text_is_complete() -> None:
    matcher = compiled('root ::= "a"*')
    assert next_pieces(matcher) == {b"<end>", b"a", b"aa"}
    matcher.accept(0)
    assert next_pieces(matcher) == {b"<end>", b"a", b"aa"}
    assert b"<end>" not in next_pieces(compiled('root ::= "a"+'))


def test_characters_may_be_split_over_tokens() -> None:
    text = 'root ::= "a"? "€" "x"'
    whole, lead, middle, rest = EURO, EURO[:1], EURO[1:2], EURO[2:]
    assert next_pieces(compiled(text)) == {b"a", b"a" + EURO[:2], whole, lead}
    assert next_pieces(follow(text, lead)) == {middle, EURO[1:]}
    assert next_pieces(follow(text, lead, middle)) == {rest}
    assert next_pieces(follow(text, b"a" + EURO[:2])) == {rest}
    assert next_pieces(follow(text, lead, EURO[1:])) == {b"x"}


def test_a_part_of_a_character_must_still_be_able_to_match() -> None:
    assert EURO[:1] in next_pieces(compiled("root ::= [^a]"))
    assert EURO[:1] in next_pieces(compiled("root ::= [\\u2000-\\u20ff]"))
    assert EURO[:1] not in next_pieces(compiled("root ::= [\\u3000-\\u30ff]"))
    assert EURO[:1] not in next_pieces(compiled("root ::= [\\x00-\\x7f]"))
    assert b"<end>" not in next_pieces(follow('root ::= "a" .*', b"a", EURO[:1]))


def test_tokens_without_text_are_never_allowed() -> None:
    allowed = next_pieces(compiled("root ::= [^a]*"))
    assert not allowed & {b"", b"\0", b"<tool>"}


def test_a_rule_may_name_a_token() -> None:
    text = 'root ::= "a" (<tool> | <[2]>) "b"'
    assert next_pieces(follow(text, b"a")) == {b"<tool>", b"a"}
    assert next_pieces(follow(text, b"a", b"<tool>")) == {b"b"}
    assert next_pieces(follow(text, b"a", b"a")) == {b"b"}


def test_a_rule_may_exclude_a_token() -> None:
    text = 'root ::= !<tool> "b"'
    assert next_pieces(compiled(text)) == set(PIECES) - {b"<tool>", b"<end>"}
    assert next_pieces(follow(text, b"x")) == {b"b"}


# ---- bounds while generating


def test_a_limit_is_for_one_token() -> None:
    matcher = compiled('root ::= ("a" | "b")*')
    for _ in range(2000):
        matcher.accept(PIECES.index(b"ab"))


def test_ambiguity_that_doubles_with_every_character_does_not_cost_more_and_more() -> None:
    matcher = compiled('root ::= "a" root "b" | "a" root "c" | "a"')
    for _ in range(100):
        matcher.accept(PIECES.index(b"a"))
    assert next_pieces(matcher) == {b"a", b"aa", b"ab", b"abc", b"b", b"c"}


DOUBLING = "".join(f'r{i} ::= r{i + 1} "x" | r{i + 1} "y"\n' for i in range(40)) + 'r40 ::= "a"\nroot ::= r0'
HOSTILE = [
    DOUBLING,
    *(text for text in REFUSED.values() if text),
    'root ::= "a" root "b" | "a" root "c" | "a"',
    'root ::= (("a"{0,2000}){0,2000}){0,2000}',
    'root ::= [ab]{0,2000} [abc]{0,2000} "x"',
    "root ::= " + '("a" | "b" | ' * 200 + '"c"' + ")" * 200,
    "root ::= " + " | ".join(f'"a" r{i}' for i in range(900)) + "".join(f'\nr{i} ::= "a"{{0,9}}' for i in range(900)),
    "root ::= " + " | ".join(['"aaaa"'] * 5000),
    'root ::= (("a"?)*)*',
]


def generate_under_hostile_grammars() -> None:
    """Print a line for each that leaves the process alive; run by the test below."""
    row = np.zeros(len(PIECES), np.float32)
    row[PIECES.index(b"aa")] = 9
    for text in HOSTILE:
        with contextlib.suppress(InvalidRequest, EngineFailure):
            sampler = ChainSamplerFactory(VOCAB)(SamplingParams(grammar=text, seed=1), 512)
            for _ in range(64):
                sampler.sample(row.copy())
        print("survived")


def test_hostile_grammars_neither_kill_nor_stall_a_process() -> None:
    """A process of its own, so that a crash or a hang is a failure and not the end of the tests."""
    script = "from tests.grammar import test_grammar; test_grammar.generate_under_hostile_grammars()"
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("survived") == len(HOSTILE)


# ---- sampling under a grammar


def sampled(text: str, logits: dict[bytes, float], params: SamplingParams, count: int) -> list[bytes]:
    sampler = ChainSamplerFactory(VOCAB)(replace(params, grammar=text, repeat_penalty=1.0), 512)
    result = []
    for _ in range(count):
        row = np.zeros(len(PIECES), np.float32)
        for piece, logit in logits.items():
            row[PIECES.index(piece)] = logit
        result.append(PIECES[sampler.sample(row)[0]])
    return result


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0.0),
        SamplingParams(),
        SamplingParams(top_k=0),
        SamplingParams(top_k=1),
        SamplingParams(mirostat=1),
        SamplingParams(mirostat=2),
        SamplingParams(samplers=("typical_p", "tfs_z"), typical_p=0.5, tfs_z=0.5),
    ],
    ids=["greedy", "default", "all", "one", "mirostat", "mirostat 2", "odd"],
)
def test_only_what_the_grammar_allows_is_chosen(params: SamplingParams) -> None:
    liked = {b"x": 30.0, b"b": 5.0, b"<end>": 20.0}
    assert sampled('root ::= "ab"{3}', liked, params, 7)[-1] == b"<end>"
    for seed in range(5):
        chosen = sampled('root ::= "a" [bc] "c"', liked, replace(params, seed=seed), 4)
        assert re.fullmatch(b"a[bc]c(<end>)+", b"".join(chosen))


def test_greedy_takes_the_best_that_is_allowed() -> None:
    liked = {b"x": 9.0, b"c": 5.0, b"b": 4.0}
    assert sampled("root ::= [abc]+", liked, SamplingParams(temperature=0.0), 2) == [b"c", b"c"]


def test_a_grammar_that_fits_changes_nothing() -> None:
    free = ChainSamplerFactory(VOCAB)
    params = SamplingParams(seed=5)
    bound = replace(params, grammar="root ::= (. | !<[0]>)*")
    rows = np.random.default_rng(0).standard_normal((40, len(PIECES))).astype(np.float32)
    # Parts of characters: in their middle the grammar allows less.
    rows[:, [0, *(token for token, piece in enumerate(PIECES) if not piece.isascii())]] = -math.inf
    one, other = free(params, 512), free(bound, 512)
    assert [one.sample(row.copy())[0] for row in rows] == [other.sample(row.copy())[0] for row in rows]


def test_a_dead_end_fails_the_request_alone() -> None:
    with pytest.raises(EngineFailure, match="allows no token"):
        sampled('root ::= "a" "z"', {}, SamplingParams(), 2)


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(ignore_eos=True),
        SamplingParams(temperature=0.0, ignore_eos=True),
        SamplingParams(mirostat=2, ignore_eos=True),
        SamplingParams(logit_bias=tuple((token, -math.inf) for token in VOCAB.eog)),
    ],
    ids=["ignore_eos", "greedy", "mirostat", "logit_bias"],
)
def test_a_complete_answer_ends_although_its_end_is_forbidden(params: SamplingParams) -> None:
    assert sampled('root ::= "a"', {}, params, 1) == [b"a"]
    with pytest.raises(AnswerCompleteError):
        sampled('root ::= "a"', {}, params, 2)


def test_an_answer_that_is_not_complete_does_not_end() -> None:
    ban = ((PIECES.index(b"c"), -math.inf),)
    with pytest.raises(DeadEndError, match="allows no token"):
        sampled('root ::= "x" "c"', {}, SamplingParams(logit_bias=ban), 2)


def test_an_answer_ends_without_a_token_that_ends_it() -> None:
    sampler = ChainSamplerFactory(ListVocab([b"a", b"b", b""]))(SamplingParams(grammar='root ::= "a"'), 512)
    assert sampler.sample(np.zeros(3, np.float32))[0] == 0
    with pytest.raises(AnswerCompleteError):
        sampler.sample(np.zeros(3, np.float32))


def test_a_search_that_takes_long_gives_way_to_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = sampled("root ::= [bc]+", {b"x": 9.0}, SamplingParams(), 4)
    monkeypatch.setattr("llamaserver.grammar.matcher._LONGEST_SEARCH", -1.0)
    assert sampled("root ::= [bc]+", {b"x": 9.0}, SamplingParams(), 4) == expected
    assert compiled("root ::= [bc]+").first_allowed([PIECES.index(b"x"), PIECES.index(b"b")], 1) == []
