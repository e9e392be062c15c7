"""Engine and KV store when something goes wrong: nobody waits for long, and nothing false is kept."""

import threading
from pathlib import Path

from llamaserver.engine.kvterms import Lookup
from llamaserver.engine.sequence import MAX_BACKLOG, Phase

from tests.support.driver import tokens
from tests.support.kv import files
from tests.support.kv_driver import engine, evaluated, quiet, store_of
from tests.support.polling import until


def test_clients_that_do_not_read_hold_nobody_up(tmp_path: Path) -> None:
    with engine(tmp_path, n_slots=3, unified=True, n_ctx=256) as driver:
        slow = [driver.submit(tokens(60, seed), n_predict=40) for seed in (1, 2)]
        driver.run(until=lambda: all(one.n_decoded > 20 for one in slow))
        for one in slow:
            one.taken = one.emitted - MAX_BACKLOG - 1
            one.rest()
            driver.core.scheduler.preempt(one)
        until(lambda: not store_of(driver).waiting, "their states are written")
        other = driver.submit(tokens(30, 9), n_predict=2)
        driver.run(until=lambda: other.phase is Phase.DONE)
        assert [one.phase for one in slow] == [Phase.QUEUED, Phase.QUEUED]
        for one in slow:
            one.taken = one.emitted
        driver.run()


def test_a_state_restored_by_hand_is_used_but_never_kept(tmp_path: Path) -> None:
    with engine(tmp_path, mode="shutdown") as driver:
        driver.answer(tokens(100, 1), n_predict=1)
        slots = driver.core.scheduler.placement.slots
        saved, state = driver.core.save(slots[0])
        driver.core.erase(slots[0])
        driver.core.restore(slots[1], saved, state, ())
        assert driver.core.keeper is not None
        driver.core.keeper.draining = True
        quiet(driver)
        assert files(tmp_path) == []
        # Neither by a turn that goes on there, nor does it spoil what comes after it.
        assert driver.answer([*saved, 3, 4, 5], n_predict=3, id_slot=1).n_cached == len(saved)
        quiet(driver)
        assert files(tmp_path) == []
        driver.answer([saved[0], *tokens(80, 2)], n_predict=1, id_slot=1)
        quiet(driver)
        assert len(files(tmp_path)) == 2


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
        answer = store._answer
        store._answer = lambda lookup: (answered.append(lookup), gate.wait(30), answer(lookup))[2]  # type: ignore[method-assign]
        for _ in range(50):
            sequence = driver.submit(tokens(100), n_predict=1)
            driver.core.step()
            driver.core.cancel(sequence)
            assert sequence.lookup is None
        gate.set()
        evaluated(driver, tokens(100, 1))
        assert len(answered) <= 2
