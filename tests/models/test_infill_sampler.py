"""The sampler for filling in the middle, against llama.cpp's own over a real vocabulary."""

from collections.abc import Iterator
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
import pytest
from llamaserver.llama.vocab import LlamaVocab
from llamaserver.sampling import chain as ours
from llamaserver.sampling.chain import Candidates
from llamaserver.sampling.infill import Infill

from tests.support.engine.native_samplers import NativeArray, chain
from tests.support.models import Models

pytestmark = pytest.mark.model

SEEDS = range(150)
TEXT = range(340, 395)  # letters, words and their beginnings


@pytest.fixture(scope="module")
def handle(models: Models) -> Iterator[Any]:
    params = lib.llama_model_default_params()
    params.vocab_only = True
    loaded = lib.llama_model_load_from_file(str(models.fim()).encode(), params)
    yield lib.llama_model_get_vocab(loaded)
    lib.llama_model_free(loaded)


@pytest.fixture(scope="module")
def vocab(handle: Any) -> LlamaVocab:
    return LlamaVocab(handle)


def row(vocab: LlamaVocab, seed: int) -> np.ndarray:
    """Logits with some likely texts that begin alike, and ends of the text with a chance."""
    random = np.random.default_rng(seed)
    logits = random.standard_normal(vocab.n_vocab).astype(np.float32)
    logits[random.choice(TEXT, 6, replace=False)] += random.uniform(2, 9, 6).astype(np.float32)
    for end in vocab.eog:
        logits[end] = random.uniform(-12, 6)
    return logits


@pytest.mark.parametrize("k", [3, 5, 40])
def test_it_keeps_what_llama_cpp_keeps(handle: Any, vocab: LlamaVocab, k: int) -> None:
    step, native = Infill(vocab, restricted=False), chain([lib.llama_sampler_init_top_k(k), _native(handle)])
    ends = 0
    for seed in SEEDS:
        logits = row(vocab, seed)
        expected = NativeArray(logits).apply(native).logits()
        kept = step(ours.top_k(k)(Candidates(None, logits, False)))
        assert kept.ids is not None
        assert kept.ids.tolist() == sorted(expected, key=lambda token: (-expected[token], token)), seed
        ends += vocab.eot in kept.ids.tolist()
    assert 0 < ends < len(SEEDS)
    lib.llama_sampler_free(native)


def _native(handle: Any) -> Any:
    return lib.llama_sampler_init_infill(handle)


def test_nothing_is_added_under_a_grammar(vocab: LlamaVocab) -> None:
    even = Candidates(np.arange(300, 320), np.zeros(20), True)
    assert Infill(vocab, restricted=False)(even).ids.tolist() == [vocab.eot]  # type: ignore[union-attr]
    assert Infill(vocab, restricted=True)(even).ids.tolist() == [300]  # type: ignore[union-attr]


def test_a_whole_vocabulary_takes_little_time_although_pieces_are_compared(vocab: LlamaVocab) -> None:
    many = Candidates(np.tile(np.arange(300, 350), 1000), np.zeros(50_000), True)
    assert len(Infill(vocab, restricted=False)(many).logits) == 1
