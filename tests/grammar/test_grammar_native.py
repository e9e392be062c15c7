"""The matcher of GBNF texts against llama.cpp's own, token by token over a real vocabulary."""

import ctypes
import random
from collections.abc import Iterator
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
import pytest
from llama_cpp.llama_grammar import ARITHMETIC_GBNF, C_GBNF, JSON_ARR_GBNF, JSON_GBNF
from llamaserver.grammar import gbnf
from llamaserver.grammar.compiler import Compiler
from llamaserver.grammar.tokens import token_named
from llamaserver.llama.vocab import LlamaVocab

from tools import model

pytestmark = pytest.mark.model

GRAMMARS = {
    "json": JSON_GBNF,
    "json array": JSON_ARR_GBNF,
    "arithmetic": ARITHMETIC_GBNF,
    "c": C_GBNF,
    "counts": 'root ::= ([a-zé]{2,5} " "){1,30} "\\u00e9"? .+ "x"',
    "words": 'root ::= ("yes" | "no" | "maybe" | "perhaps, " root) "."?',
    "scripts": 'root ::= [\\u0400-\\u04ff]+ [一-龯]* "€"?',
}


@pytest.fixture(scope="module")
def handle() -> Iterator[Any]:
    quiet = lib.llama_log_callback(lambda *_: None)
    lib.llama_log_set(quiet, None)
    params = lib.llama_model_default_params()
    params.vocab_only = True
    loaded = lib.llama_model_load_from_file(str(model.ensure()).encode(), params)
    yield lib.llama_model_get_vocab(loaded)
    lib.llama_model_free(loaded)
    lib.llama_log_set(lib.llama_log_callback(), None)


@pytest.fixture(scope="module")
def vocab(handle: Any) -> LlamaVocab:
    return LlamaVocab(handle)


@pytest.fixture(scope="module")
def compiler(vocab: LlamaVocab) -> Compiler:
    return Compiler(vocab)


class NativeGrammar:
    """llama.cpp's grammar sampler, asked only what cannot abort it."""

    def __init__(self, handle: Any, text: str, n_vocab: int) -> None:
        self._sampler = lib.llama_sampler_init_grammar(handle, text.encode(), b"root")
        self._rows = np.zeros(n_vocab, np.dtype([("id", "i4"), ("logit", "f4"), ("p", "f4")]))

    def allowed(self) -> set[int]:
        self._rows["id"] = np.arange(len(self._rows))
        self._rows["logit"] = 0
        pointer = ctypes.cast(self._rows.ctypes.data, ctypes.POINTER(lib.llama_token_data))
        lib.llama_sampler_apply(
            self._sampler, ctypes.byref(lib.llama_token_data_array(pointer, len(self._rows), -1, False))
        )
        return set(np.flatnonzero(np.isfinite(self._rows["logit"])).tolist())

    def accept(self, token: int) -> None:
        lib.llama_sampler_accept(self._sampler, token)

    def close(self) -> None:
        lib.llama_sampler_free(self._sampler)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("text", GRAMMARS.values(), ids=GRAMMARS.keys())
def test_both_allow_the_same_tokens_all_along_a_random_text(
    text: str, seed: int, handle: Any, vocab: LlamaVocab, compiler: Compiler
) -> None:
    chance = random.Random(seed)
    mine = compiler(text, lambda gbnf_text: gbnf.to_lark(gbnf_text, lambda name: token_named(vocab, name))).copy()
    native = NativeGrammar(handle, text, vocab.n_vocab)
    # Control tokens show no text in an answer, so ours matches none; the library matches their names.
    textless = {token for token in range(vocab.n_vocab) if not vocab.piece(token)} - vocab.eog
    for _ in range(25):
        allowed = set(mine.allowed().tolist())
        assert allowed == native.allowed() - textless
        inner = sorted(allowed - vocab.eog)
        if not inner:
            break
        token = chance.choice(inner)
        assert mine.allows(token)
        mine.accept(token)
        native.accept(token)
    native.close()
