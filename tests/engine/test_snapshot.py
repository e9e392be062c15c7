"""Snapshots for monitoring: immutable values that are right at every moment."""

from dataclasses import FrozenInstanceError, fields, is_dataclass

import pytest
from llamaserver.engine.snapshot import Histogram, SlotView, Snapshot

from tests.support.engine.driver import make, tokens


def test_every_value_is_frozen() -> None:
    driver = make()
    driver.submit(tokens(20))
    driver.steps(2)
    snapshot = driver.core.snapshot()
    for value in (snapshot, snapshot.slots[0], snapshot.counters, snapshot.counters.inter_token):
        assert is_dataclass(value)
        for field in fields(value):
            with pytest.raises(FrozenInstanceError):
                setattr(value, field.name, None)


def test_a_snapshot_does_not_change_while_the_engine_goes_on() -> None:
    driver = make(slot_ctx=32)
    driver.submit(tokens(20), n_predict=60)  # shifts its context on the way
    driver.steps(3)
    snapshot = driver.core.snapshot()
    before = repr(snapshot)
    driver.run()
    assert repr(snapshot) == before
    assert driver.core.snapshot() != snapshot


def test_a_fresh_engine_is_loading_and_a_fresh_core_is_idle() -> None:
    assert (Snapshot().state, Snapshot().load_progress, Snapshot().slots) == ("loading", 0.0, ())
    snapshot = make(n_slots=3, slot_ctx=40).core.snapshot()
    assert snapshot.state == "ready"
    assert snapshot.slots == tuple(SlotView(i, 40) for i in range(3))
    assert (snapshot.requests_processing, snapshot.requests_deferred, snapshot.kv_cells_used) == (0, 0, 0)
    assert snapshot.kv_cells_total == 120


def test_a_slot_shows_its_request_from_prompt_to_end() -> None:
    driver = make(n_slots=1, slot_ctx=64, backend={"n_ubatch": 16})
    driver.submit(tokens(40), n_predict=3, tag="mine")
    views = []
    while driver.unfinished():
        driver.step()
        views.append(driver.core.snapshot().slots[0])
    shown = [(v.state, v.n_prompt_processed, v.n_decoded, v.n_remain, v.has_next_token) for v in views]
    assert shown == [
        (1, 16, 0, 3, True),
        (1, 32, 0, 3, True),
        (1, 40, 1, 2, True),
        (1, 40, 2, 1, True),
        (0, 40, 3, 0, False),
    ]
    assert {(v.id_task, v.tag, v.n_prompt) for v in views} == {(1, "mine", 40)}
    assert views[-1].stopped_reason == "limit"
    assert views[-1].n_past == 42


def test_cells_are_counted_once_in_a_unified_cache_and_for_each_copy_in_a_split_one() -> None:
    used = {}
    for unified in (True, False):
        driver = make(n_slots=2, slot_ctx=64, n_ctx=128, unified=unified)
        driver.answer(tokens(40), n_predict=1, id_slot=0)
        driver.answer([*tokens(40), 5, 6], n_predict=1, id_slot=1)
        snapshot = driver.core.snapshot()
        used[unified] = snapshot.kv_cells_used
        assert snapshot.kv_cells_used == driver.backend.cells_used
        assert snapshot.kv_cells_total == 128
    assert used == {True: 42, False: 82}


def test_counters_add_up() -> None:
    driver = make(n_slots=2)
    driver.answer(tokens(30), n_predict=5)
    driver.answer([*tokens(30), 5, 6], n_predict=4)
    counters = driver.core.snapshot().counters
    assert counters.prompt_tokens_total == 32
    assert counters.prompt_tokens_cached_total == 30
    assert counters.prompt_tokens_total + counters.tokens_predicted_total - 2 == driver.backend.evaluated
    assert counters.tokens_predicted_total == 9
    assert counters.requests_total == 2
    assert counters.decode_total == len(driver.backend.history) == counters.busy_slots_total
    assert counters.n_tokens_max == 35
    assert counters.step_seconds_total > counters.decode_seconds_total > 0
    assert counters.prompt_tokens_seconds > 0
    assert counters.predicted_tokens_seconds > 0
    assert isinstance(counters.time_to_first_token, Histogram)
    assert (counters.time_to_first_token.count, counters.inter_token.count) == (2, 7)


def test_busy_slots_are_counted_for_each_decode() -> None:
    driver = make(n_slots=3)
    for seed in range(3):
        driver.submit(tokens(5, seed), n_predict=10)
    driver.run()
    counters = driver.core.snapshot().counters
    assert counters.busy_slots_total == 3 + 3 * 9
    assert counters.decode_total == 3 + 9
