"""Engine and KV store when something fails: no request waits for long, and no wrong state is saved."""

import errno
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from llamaserver.kvstore import disk as kvdisk
from llamaserver.kvstore.messages import Lookup, Shape, StoreOptions
from llamaserver.kvstore.store import KVStore
from llamaserver.scheduling.client_flow import MAX_BACKLOG
from llamaserver.scheduling.request import Phase

from tests.support.engine.driver import make, same_as_alone, tokens
from tests.support.engine.kv import files
from tests.support.engine.kv_driver import engine, evaluated, quiet, store_of
from tests.support.engine.toy import ToyCodec
from tests.support.polling import until


def test_clients_that_do_not_read_delay_no_request(tmp_path: Path) -> None:
    with engine(tmp_path, n_slots=3, unified=True, n_ctx=256) as driver:
        slow = [driver.submit(tokens(60, seed), n_predict=40) for seed in (1, 2)]
        driver.run(until=lambda: all(one.n_decoded > 20 for one in slow))
        for one in slow:
            one.client.taken = one.client.emitted - MAX_BACKLOG - 1
            one.client.rest()
            driver.core.scheduler.preempt(one)
        until(lambda: not store_of(driver).waiting, "their states are written")
        other = driver.submit(tokens(30, 9), n_predict=2)
        driver.run(until=lambda: other.phase is Phase.DONE)
        assert [one.phase for one in slow] == [Phase.QUEUED, Phase.QUEUED]
        for one in slow:
            one.client.taken = one.client.emitted
        driver.run()


def test_a_state_restored_by_hand_is_used_but_never_saved(tmp_path: Path) -> None:
    with engine(tmp_path, mode="shutdown") as driver:
        driver.answer(tokens(100, 1), n_predict=1)
        slots = driver.core.residents.slots
        state = driver.core.slot_states.save(slots[0])
        saved = state.tokens
        driver.core.slot_states.erase(slots[0])
        driver.core.slot_states.restore(slots[1], replace(state, lora=()))
        driver.core.store_client.draining = True
        quiet(driver)
        assert files(tmp_path) == []
        # Neither by a turn that goes on there, nor does it spoil what comes after it.
        assert driver.answer([*saved, 3, 4, 5], n_predict=3, id_slot=1).n_cached == len(saved)
        quiet(driver)
        assert files(tmp_path) == []
        driver.answer([saved[0], *tokens(80, 2)], n_predict=1, id_slot=1)
        quiet(driver)
        assert len(files(tmp_path)) == 2


def test_a_short_restored_prefix_decides_no_slot(tmp_path: Path) -> None:
    """It is not reused, because what follows it could not be saved. So it stays where it is."""
    with engine(tmp_path, mode="shutdown") as driver:
        driver.answer(tokens(12), n_predict=1, id_slot=1)
        slots = driver.core.residents.slots
        state = driver.core.slot_states.save(slots[1])
        driver.answer(tokens(100, 1), n_predict=1, id_slot=0)
        driver.core.slot_states.restore(slots[1], replace(state, lora=()))
        end = driver.answer([*tokens(12), *tokens(50, 2)], n_predict=1)
        assert (end.id_slot, end.n_cached) == (0, 0)
        assert slots[1].resident is not None
        assert list(slots[1].resident.keys) == tokens(12)


def test_a_context_shift_spoils_no_later_conversation(tmp_path: Path) -> None:
    with engine(tmp_path, n_slots=1, slot_ctx=128) as driver:
        driver.answer([5, *tokens(99)], n_predict=60, n_keep=1)
        second = [5, *tokens(90, 7)]
        driver.answer(second, n_predict=1)
        assert driver.answer([*second, 9], n_predict=1).n_cached == 90
        quiet(driver)
        driver.answer(tokens(100, 1), n_predict=1)
        assert driver.answer([*second, 8], n_predict=1).timings.cache_source == "disk"


def test_the_questions_of_clients_that_have_gone_are_not_answered(tmp_path: Path) -> None:
    with engine(tmp_path) as driver:
        store, gate, answered = store_of(driver), threading.Event(), list[Lookup]()
        answer = store.reader.answer
        store.reader.answer = lambda lookup: (answered.append(lookup), gate.wait(30), answer(lookup))[2]  # type: ignore[method-assign]
        for _ in range(50):
            request = driver.submit(tokens(100), n_predict=1)
            driver.core.step()
            driver.core.cancel(request)
            assert request.lookup is None
        gate.set()
        evaluated(driver, tokens(100, 1))
        assert len(answered) <= 2


@pytest.mark.parametrize("draining", [False, True])
def test_a_sequence_refused_by_a_full_disk_is_saved_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, draining: bool
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(kvdisk, "_PAUSE_AT_END" if draining else "_PAUSE", 0.1)
    with engine(tmp_path) as driver:
        client = driver.core.store_client
        with monkeypatch.context() as patched:
            patched.setattr(kvdisk.DiskTier, "_write", full)
            driver.answer(tokens(100, 1), n_predict=1)
            until(lambda: not driver.step() and store_of(driver).stats().discards.get("disk_full"), "a failure")
            until(lambda: not client.store.waiting, "the store gives up")
            assert client.unsaved == 1
            assert client.store.stats().saves == 0
        client.draining = draining
        until(lambda: driver.core.step() or client.postponed or not client.unsaved, "it is postponed or tried")
        quiet(driver)
        assert client.unsaved == 0
        assert len(files(tmp_path)) == 2
        assert client.store.stats().saves == 1


def test_a_failing_disk_is_left_alone_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(kvdisk.DiskTier, "_write", broken)
    with engine(tmp_path, n_slots=1) as driver:
        exported = []
        export = driver.backend.state_export
        monkeypatch.setattr(driver.backend, "state_export", lambda seq: (exported.append(seq), export(seq))[1])
        driver.answer(tokens(100), n_predict=1)
        until(lambda: store_of(driver).stats().discards.get("io_error"), "a failure")
        for seed in range(1, 20):
            driver.answer(tokens(100, seed), n_predict=1)
        assert len(exported) <= 3  # those on their way when it failed
        assert driver.core.waits_for_store
        assert store_of(driver).stats().discards["paused"] >= 17


def test_a_store_whose_folder_hangs_delays_no_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, opening, opened = threading.Event(), threading.Event(), list[bool]()
    really = kvdisk.DiskTier.open

    def slowly(disk: kvdisk.DiskTier) -> None:
        opening.set()
        opened.append(gate.wait(30))
        really(disk)

    monkeypatch.setattr(kvdisk.DiskTier, "open", slowly)
    store = KVStore(StoreOptions(folder=tmp_path / "kv"), Shape(b"toy" + bytes(13), codec=ToyCodec()))
    seen: list[bool] = []
    store.start(lambda: seen.append(store.stats().opening))
    driver = make(store=store, slot_ctx=256)
    assert opening.wait(30)
    assert driver.answer(tokens(100), n_predict=1).n_decoded == 1
    assert not opened
    assert store.stats().opening
    woken = len(seen)
    gate.set()
    assert until(lambda: seen[woken:], "whoever waits is told")[0] is False
    quiet(driver)
    assert len(files(tmp_path)) == 2
    store.stop()
    store.join()


def test_an_offer_without_room_holds_up_no_request_that_a_copy_would_start(tmp_path: Path) -> None:
    """A restored state shares no cells. Beside a long answer, only the copy of its prefix may fit."""
    begin = tokens(60, 1)
    whole = [*begin, *tokens(40, 2)]
    layout: dict[str, Any] = {"unified": True, "n_slots": 3, "slot_ctx": 128, "n_ctx": 128}
    with engine(tmp_path, **layout) as driver:
        evaluated(driver, whole)
        quiet(driver)
    with engine(tmp_path, **layout) as driver:
        long = driver.submit(begin, n_predict=60)
        driver.run(until=lambda: long.n_decoded > 2)
        second = driver.submit(whole, n_predict=2)
        third = driver.submit(tokens(5, 3), n_predict=2)
        driver.step()
        until(lambda: not second.awaits_store, "the store answers before the long answer ends")
        driver.run(until=lambda: long.phase is Phase.DONE or second.phase is third.phase is Phase.DONE)
        assert long.phase is Phase.DECODE
        assert driver.finish(second).n_cached >= len(begin) - 2
        assert same_as_alone(driver, second, whole)
        assert store_of(driver).stats().discards["not_now"] == 1
