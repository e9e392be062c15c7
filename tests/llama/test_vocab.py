"""Long texts are split at their special tokens here, and give the same ids as the library gives for the whole text."""

import random
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import llama_cpp.llama_cpp as lib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llamaserver.llama import specials, vocab
from llamaserver.llama.vocab import LlamaVocab

from tests.support.models import Models
from tests.support.paths import model_path

pytestmark = pytest.mark.model
KINDS = ("default", "llama", "fim", "bert", "t5", "phi", "mask")
BETWEEN = st.one_of(
    st.text(alphabet=" \n\t\r\vab é▁<|>[/s]😀", max_size=8),
    st.sampled_from([" ", "  ", "\n", "", "hello world", "<|im_start", "<s", "[MAS", "<|end|", "¡¡"]),
)


@contextmanager
def opened(path: Path) -> Iterator[LlamaVocab]:
    params = lib.llama_model_default_params()
    params.vocab_only = True
    loaded = lib.llama_model_load_from_file(str(path).encode(), params)
    assert loaded, path
    try:
        yield LlamaVocab(lib.llama_model_get_vocab(loaded))
    finally:
        lib.llama_model_free(loaded)


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, LlamaVocab]]:
    models = Models(tmp_path_factory.mktemp("vocabularies"))
    quiet = lib.llama_log_callback(lambda *_: None)
    lib.llama_log_set(quiet, None)
    paths = {kind: model_path() if kind == "default" else getattr(models, kind)() for kind in KINDS}
    found = {}
    stack = []
    for kind, path in paths.items():
        one = opened(path)
        found[kind] = one.__enter__()
        stack.append(one)
    yield found
    for one in stack:
        one.__exit__(None, None, None)
    lib.llama_log_set(lib.llama_log_callback(), None)


def special_texts(one: LlamaVocab) -> list[str]:
    return [special.text.decode() for special in one._specials._all]


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_the_same_ids_as_the_library(vocabularies: dict[str, LlamaVocab], kind: str, data: st.DataObject) -> None:
    one = vocabularies[kind]
    assert one._specials.exact
    special = st.sampled_from(special_texts(one))
    text = "".join(data.draw(st.lists(st.one_of(special, BETWEEN), max_size=14)))
    add, parse = data.draw(st.booleans()), data.draw(st.booleans())
    expected = one._by_library(text.encode(), add, parse)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocab, "_LARGE", 0)
        assert one.tokenize(text, add_special=add, parse_special=parse) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_ids_for_long_texts(vocabularies: dict[str, LlamaVocab], kind: str) -> None:
    one = vocabularies[kind]
    draw = random.Random(kind)
    parts = [*special_texts(one)[:40], " ", "\n", "word", "é ", "  ▁"]
    text = "".join(draw.choice(parts) for _ in range(5000))
    for add in (False, True):
        for parse in (False, True):
            assert one.tokenize(text, add_special=add, parse_special=parse) == one._by_library(
                text.encode(), add, parse
            )


def test_special_tokens_that_take_white_space_are_among_them(vocabularies: dict[str, LlamaVocab]) -> None:
    def strips(kind: str, side: str) -> bool:
        return any(getattr(special, side) for special in vocabularies[kind]._specials._all)

    assert strips("phi", "strips_right")
    assert strips("mask", "strips_left")


def test_a_long_row_of_special_tokens_takes_a_moment(vocabularies: dict[str, LlamaVocab]) -> None:
    """The library alone takes more than a minute."""
    one, count = vocabularies["default"], 116_000
    began = monotonic()
    tokens = one.tokenize("<|im_start|>" * count, add_special=False, parse_special=True)
    assert tokens == [tokens[0]] * count
    assert monotonic() - began < 20


def test_a_long_text_is_given_up_soon(vocabularies: dict[str, LlamaVocab]) -> None:
    one, asked = vocabularies["default"], 0

    def cancelled() -> bool:
        nonlocal asked
        asked += 1
        return asked > 30

    with pytest.raises(CancelledError):
        one.tokenize("<|im_start|>a" * 100_000, add_special=False, parse_special=True, cancelled=cancelled)
    assert asked == 31


@pytest.mark.parametrize(
    ("texts", "overlap"),
    [
        (["<a>", "<b>"], False), (["ab", "bc"], True), (["ab", "ba"], True), (["aa", "bb"], False),
        (["ab", "bcd"], False), (["x", "x"], True), ([], False), (["aab", "baa", "ccc"], True),
    ],
)  # fmt: skip
def test_texts_whose_order_matters_are_left_to_the_library(texts: list[str], overlap: bool) -> None:
    assert specials._overlap([text.encode() for text in texts]) == overlap
