"""Sequence states cut into parts, joined and loaded into contexts of other layouts: the same logits, bit for bit."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import numpy as np
import pytest
from llamaserver.interfaces.backend import Batch, ByteArray, FloatArray, Status
from llamaserver.llama.backend import LlamaBackend

from tests.support.engine.options import load_options
from tests.support.models import SWA_WINDOW, Models

pytestmark = pytest.mark.model
Load = Callable[..., LlamaBackend]
TOKENS = [3 + (7 * i * i + 11 * i) % 250 for i in range(300)]


@pytest.fixture
def load(models: Models) -> Iterator[Load]:
    """Make a backend; all of them are closed at the end."""
    with ExitStack() as stack:

        def make(kind: str, **options: object) -> LlamaBackend:
            path = getattr(models, kind)()
            fields = {"ctx_size": 1024, "n_seq_max": 2, "flash_attn": "off", **options}
            backend = LlamaBackend(load_options(path, **fields), lambda _: True)
            stack.callback(backend.close)
            return backend

        yield make


def evaluate(backend: LlamaBackend, tokens: list[int], start: int, seq: int) -> FloatArray:
    """Decode in chunks of 50; the last row's logits."""
    for at in range(0, len(tokens), 50):
        batch = Batch()
        part = tokens[at : at + 50]
        for i, token in enumerate(part):
            batch.add(token, start + at + i, seq, at + i == len(tokens) - 1)
        assert backend.decode(batch) is Status.OK
    return backend.logits(len(part) - 1).copy()


def parts(backend: LlamaBackend, state: ByteArray, length: int, size: int) -> list[tuple[ByteArray, int, int]]:
    assert backend.codec is not None
    parsed = backend.codec.parse(state)
    assert parsed.length == length
    spans = [(at, min(at + size, length)) for at in range(0, length, size)]
    return [(parsed.cut(a, b), b - a, b - a) for a, b in spans]


@pytest.mark.parametrize("kind", ["llama", "qwen2vl", "gemma2"])
@pytest.mark.parametrize("flash", ["off", "on"])
def test_state_goes_to_every_layout(load: Load, kind: str, flash: str) -> None:
    layouts = [
        {"n_seq_max": 2},
        {"n_seq_max": 5, "ctx_size": 5120},
        {"n_seq_max": 1},
        {"n_seq_max": 3, "kv_unified": True},
    ]
    first = load(kind, flash_attn=flash)
    evaluate(first, TOKENS[:200], 0, 1)
    pieces = parts(first, first.state_export(1), 200, 64)
    wanted = evaluate(first, TOKENS[200:], 200, 1)
    for layout in layouts:
        other = load(kind, flash_attn=flash, **layout)
        assert other.codec is not None
        seq = other.info.n_seq_max - 1
        assert other.state_import(seq, other.codec.join(pieces))
        assert other.pos_max(seq) == 199
        got = evaluate(other, TOKENS[200:], 200, seq)
        if other.info.unified:
            np.testing.assert_allclose(got, wanted, atol=1e-4)
        else:
            np.testing.assert_array_equal(got, wanted)


def test_part_of_the_last_block_is_enough(load: Load) -> None:
    first, other = load("llama"), load("llama")
    evaluate(first, TOKENS[:200], 0, 0)
    pieces = parts(first, first.state_export(0), 200, 64)[:2]
    pieces[1] = (pieces[1][0], 64, 36)
    assert other.codec is not None
    assert other.state_import(1, other.codec.join(pieces))
    assert other.pos_max(1) == 99
    got = evaluate(other, TOKENS[100:200], 100, 1)
    first.seq_rm(0, 100)
    np.testing.assert_array_equal(got, evaluate(first, TOKENS[100:200], 100, 0))


def test_cells_in_any_order(load: Load) -> None:
    """A unified cache with holes: later tokens lie before earlier ones."""
    first, other = load("llama", kv_unified=True, n_seq_max=3, ctx_size=512), load("llama")
    evaluate(first, TOKENS[:100], 0, 0)
    evaluate(first, TOKENS[:250], 0, 1)
    first.seq_rm(0, 0)
    evaluate(first, TOKENS[:230], 0, 2)
    pieces = parts(first, first.state_export(2), 230, 64)
    assert other.codec is not None
    assert other.state_import(0, other.codec.join(pieces))
    got = evaluate(other, TOKENS[230:], 230, 0)
    np.testing.assert_allclose(got, evaluate(load("llama"), TOKENS, 0, 0), atol=1e-4)


def test_sliding_window_has_its_rows_at_the_end_only(load: Load) -> None:
    backend = load("gemma2")
    evaluate(backend, TOKENS[:200], 0, 0)
    assert backend.codec is not None
    parsed = backend.codec.parse(backend.state_export(0))
    assert parsed.length == 200
    assert [parsed.rows(at, min(at + 64, 200)) for at in range(0, 200, 64)] == [0, 0, 192 - (200 - SWA_WINDOW), 8]
    pieces = parts(backend, backend.state_export(0), 200, 64)
    with pytest.raises(ValueError, match="rows"):
        backend.codec.join(pieces[:2])


def test_recurrent_states_are_not_cut(load: Load) -> None:
    for kind in ("mamba", "jamba"):
        assert load(kind).codec is None


@pytest.mark.parametrize("kind", ["mamba", "jamba"])
def test_recurrent_states_go_whole(load: Load, kind: str) -> None:
    first, other = load(kind), load(kind)
    evaluate(first, TOKENS[:200], 0, 0)
    state = first.state_export(0)
    wanted = evaluate(first, TOKENS[200:], 200, 0)
    assert other.state_import(1, state)
    assert other.pos_max(1) == 199
    np.testing.assert_array_equal(evaluate(other, TOKENS[200:], 200, 1), wanted)


def test_other_bytes_are_refused(load: Load) -> None:
    backend = load("llama")
    evaluate(backend, TOKENS[:100], 0, 0)
    state = backend.state_export(0)
    assert backend.codec is not None
    for wrong in (state[:-1], state[: len(state) // 2], np.zeros(1000, np.uint8), np.full(1000, 255, np.uint8)):
        with pytest.raises(ValueError, match="cannot be cut"):
            backend.codec.parse(wrong)
        with pytest.raises(ValueError, match="part"):
            backend.codec.join([(wrong, 64, 64)])
