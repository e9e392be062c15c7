"""What the warm-up evaluates, on a backend that is as strict as the library."""

from dataclasses import replace

import numpy as np
import pytest
from llamaserver.errors import ModelLoadError
from llamaserver.interfaces.backend import Status
from llamaserver.llama.warmup_steps import Served, WarmUp

from tests.support.engine.toy import Failure, ToyBackend

TOKENS = (3, 4, 5, 6, 7)
SPLIT = {"n_ctx": 512, "n_seq_max": 4}
ONE = {"n_ctx": 128, "n_seq_max": 1}
UNIFIED = {"n_ctx": 128, "n_seq_max": 12, "unified": True}


def served(backend, **changes):
    return Served(**{"tokens": TOKENS, "slots": min(4, backend.info.n_seq_max), **changes})


def warmed(backend, **changes):
    """The decodes of a warm-up, which has left nothing behind."""
    WarmUp(backend, served(backend, **changes)).run()
    assert backend.cells_used == 0
    assert all(backend.pos_max(seq) == -1 for seq in range(backend.info.n_seq_max))
    return [decode.rows for decode in backend.history]


@pytest.mark.parametrize("layout", [ONE, SPLIT, UNIFIED], ids=["one slot", "split", "unified"])
@pytest.mark.parametrize("kind", [{}, {"can_shift": False}, {"partial_reuse": False, "can_shift": False}])
def test_a_whole_micro_batch_a_single_row_and_all_slots_at_once(layout, kind):
    backend = ToyBackend(**layout, **kind)
    decodes = warmed(backend)
    assert decodes[0] == {0: backend.info.n_ubatch}
    assert {0: 1} in decodes
    if layout is not ONE:
        assert any(set(rows) == {0, 1, 2, 3} for rows in decodes)


def test_a_unified_cache_also_mixes_a_prompt_with_single_rows():
    assert warmed(ToyBackend(**UNIFIED))[-1] == {0: 1, 1: 1, 2: 1, 3: 8}
    assert warmed(ToyBackend(**SPLIT))[-1] == {0: 1, 1: 1, 2: 1, 3: 1}


@pytest.mark.parametrize("layout", [ONE, SPLIT, UNIFIED], ids=["one slot", "split", "unified"])
@pytest.mark.parametrize("kind", [{}, {"partial_reuse": False, "can_shift": False}], ids=["cuts", "recurrent"])
@pytest.mark.parametrize("n_ubatch", [1, 2, 31, 32, 33, 127, 128, 512])
def test_a_context_smaller_than_the_micro_batch_is_filled(layout, kind, n_ubatch):
    backend = ToyBackend(**layout, **kind, n_batch=512, n_ubatch=n_ubatch)
    assert warmed(backend)[0] == {0: min(n_ubatch, 128)}


def test_positions_that_the_model_has_not_learned_are_not_used():
    backend = ToyBackend(**SPLIT, n_ubatch=64)
    backend.info = replace(backend.info, n_ctx_train=40)
    highest = []
    backend.on_decode = lambda batch: highest.append(max(batch.positions))
    assert warmed(backend)[0] == {0: 40}
    assert max(highest) == 39


@pytest.mark.parametrize("n_batch", [1, 2, 3])
def test_a_batch_that_cannot_hold_all_slots_is_cut(n_batch):
    for layout in (SPLIT, UNIFIED):
        decodes = warmed(ToyBackend(**layout, n_batch=n_batch, n_ubatch=n_batch))
        assert {seq for rows in decodes for seq in rows} == {0, 1, 2, 3}
        assert max(sum(rows.values()) for rows in decodes) == n_batch


def test_more_slots_than_a_unified_cache_has_room_for():
    warmed(ToyBackend(n_ctx=64, n_seq_max=60, unified=True, n_batch=64), slots=60)


def test_a_shift_and_a_copy_are_carried_out():
    backend, shifts, copies = ToyBackend(**SPLIT), [], []
    add, copy = backend.seq_add, backend.seq_cp
    backend.seq_add = lambda *args: (shifts.append(len(backend.history)), add(*args))
    backend.seq_cp = lambda *args: (copies.append(len(backend.history)), copy(*args))
    warmed(backend)
    for when in (shifts, copies):
        assert [number for number in when if number < len(backend.history)]


def test_nothing_is_shifted_where_no_request_may():
    backend = ToyBackend(**SPLIT)
    backend.seq_add = lambda *_: pytest.fail("shifted")
    warmed(backend, shifts=False)


@pytest.mark.parametrize("pooling", ["mean", "none"])
def test_embeddings_fill_a_micro_batch_too(pooling):
    backend = ToyBackend(**SPLIT, pooling=pooling)
    decodes = warmed(backend, embeds=True)
    assert decodes[0] == {0: backend.info.n_ubatch}
    assert len(decodes) > 3


def test_an_encoder_embeds_and_does_nothing_else():
    assert warmed(ToyBackend(**ONE, causal=False), embeds=True) == [{0: 32}]
    assert warmed(ToyBackend(**ONE, causal=False)) == []


def test_an_image():
    backend = ToyBackend(**SPLIT)
    assert warmed(backend, image=b"picture")[-1] == {0: 7}
    assert sum(rows == {0: 7} for rows in warmed(ToyBackend(**SPLIT))) == 0


def test_an_image_that_no_slot_has_room_for(caplog):
    warmed(ToyBackend(**SPLIT), image=b"x" * 128)
    assert "an image takes 128 tokens and a slot has 128: no image fits" in caplog.text


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("status", [Status.FATAL, Status.NO_ROOM, Status.INVALID])
def test_a_decode_that_fails(number, status):
    backend = ToyBackend(**SPLIT)
    backend.failures[number] = Failure(status)
    with pytest.raises(ModelLoadError, match=rf"cannot be evaluated \({status.name}\)"):
        warmed(backend)


SPOILS = {
    "one NaN": (lambda row: row.__setitem__(5, np.nan), False),
    "infinite": (lambda row: row.__setitem__(5, np.inf), False),
    "all forbidden": (lambda row: row.fill(-np.inf), False),
    "some forbidden": (lambda row: row.__setitem__(slice(3), -np.inf), True),
}


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize(("spoil", "sound"), SPOILS.values(), ids=SPOILS)
def test_logits_that_are_no_numbers(number, spoil, sound):
    backend = ToyBackend(**SPLIT)
    logits, seen = backend.logits, []

    def spoilt(row):
        found = logits(row)
        if len(seen) == number:
            spoil(found)
        seen.append(row)
        return found

    backend.logits = spoilt
    if sound:
        warmed(backend)
    else:
        with pytest.raises(ModelLoadError, match=r"the logits of .* are not finite numbers"):
            warmed(backend)


def test_embeddings_that_are_no_numbers():
    backend = ToyBackend(**SPLIT)
    backend.embeddings = lambda seq, rows: np.array([[1.0, np.nan]], np.float32)
    with pytest.raises(ModelLoadError, match="the embedding of an input of 32 tokens has numbers that are not finite"):
        warmed(backend, embeds=True)
