"""Engine and KV store together, over the toy backend: answers stay equal, and reused tokens are not evaluated."""

import threading
from array import array
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llamaserver.errors import Unavailable
from llamaserver.interfaces.backend import Status
from llamaserver.interfaces.output import Failed
from llamaserver.scheduling.request import Phase

from tests.support.engine.driver import Driver, same_as_alone, tokens
from tests.support.engine.kv import files
from tests.support.engine.kv_driver import engine, evaluated, quiet, store_of
from tests.support.engine.toy import Failure, picture_keys
from tests.support.polling import until

LAYOUTS = pytest.mark.parametrize("unified", [False, True], ids=["split", "unified"])


DECLINED = ("too_short", "slower_than_prefill", "slow_volume", "overtaken", "not_now", "unwanted", "other_layout")


def all_counted(driver: Driver) -> bool:
    """Whether each question was a hit, a miss or declined, and nothing twice."""
    stats = store_of(driver).stats()
    declined = sum(stats.discards.get(reason, 0) for reason in DECLINED)
    return stats.lookups == sum(stats.hits.values()) + min(stats.misses.values()) + declined


# ---- conversations go on


@LAYOUTS
def test_a_conversation_goes_on_in_another_process(tmp_path: Path, unified: bool) -> None:
    with engine(tmp_path, unified=unified) as first:
        first.answer(tokens(150), n_predict=10)
        quiet(first)
    with engine(tmp_path, unified=not unified, n_slots=3) as second:
        assert evaluated(second, [*tokens(150), *tokens(5, 1)]) <= 7
        end = second.finish(list(second.events)[-1])
        assert end.timings.cache_source == "disk"
        assert end.n_cached >= 148
        # The restored one is cache like any other.
        assert evaluated(second, [*tokens(150), *tokens(5, 2)]) <= 7
        assert second.finish(list(second.events)[-1]).timings.cache_source == "slot"


def test_a_recurrent_model_goes_on_where_it_stopped(tmp_path: Path) -> None:
    model: dict[str, Any] = {"backend": {"partial_reuse": False}, "shape": {"whole": True}}
    with engine(tmp_path, **model) as first:
        one = first.submit(tokens(100), n_predict=5, return_tokens=True)
        first.run()
        said = [token for event in first.events[one] for token in event.tokens]
        quiet(first)
    with engine(tmp_path, **model) as second:
        assert evaluated(second, [*tokens(100), *said, 7, 8]) == 3
        assert evaluated(second, tokens(100)) == 100


@LAYOUTS
def test_an_evicted_sequence_comes_back_from_memory(unified: bool) -> None:
    with engine(None, unified=unified, ram_bytes=-1, n_slots=1, spare=0, n_ctx=256) as driver:
        for seed in range(3):
            assert evaluated(driver, tokens(200, seed)) == 200
            until(lambda: not store_of(driver).waiting, "what has left is kept")
        assert evaluated(driver, tokens(200, 0)) == 2
        assert driver.finish(list(driver.events)[-1]).timings.cache_source == "ram"
        assert store_of(driver).stats().tokens_restored == {"ram": 198}


def test_mode_shutdown_writes_when_a_slot_is_taken_and_at_the_end(tmp_path: Path) -> None:
    with engine(tmp_path, mode="shutdown", n_slots=1) as driver:
        driver.answer(tokens(100), n_predict=1)
        quiet(driver)
        assert files(tmp_path) == []
        driver.answer(tokens(100, 1), n_predict=1)
        quiet(driver)
        assert len(files(tmp_path)) == 2
        driver.core.store_client.draining = True
        quiet(driver)
        assert len(files(tmp_path)) == 4


def test_a_preempted_request_leaves_its_state_to_the_store() -> None:
    """The state may be written before or after the request comes back. The answer does not depend on that."""
    with engine(None, unified=True, ram_bytes=-1, n_slots=2, spare=0, n_ctx=220, slot_ctx=220) as driver:
        prompts = [tokens(90), tokens(90, 1)]
        both = [driver.submit(prompt, n_predict=60) for prompt in prompts]
        driver.run()
        assert driver.core.scheduler.preemptions > 0
        assert all(same_as_alone(driver, one, prompt) for one, prompt in zip(both, prompts, strict=True))
        until(lambda: store_of(driver).stats().saves > 0, "it is written")


def test_images_are_part_of_what_is_saved(tmp_path: Path) -> None:
    with engine(tmp_path) as first:
        assert first.backend.media is not None
        prompt = first.backend.media.build(["abcd" * 10, b"a picture", "efgh" * 10], add_special=True)
        first.answer(list(prompt.keys), media=prompt.media, n_predict=1)
        quiet(first)
    with engine(tmp_path) as second:
        assert second.backend.media is not None
        other = second.backend.media.build(["abcd" * 10, b"b picture", "efgh" * 10], add_special=True)
        assert other.keys[40:49] == array("q", picture_keys(b"b picture")) != prompt.keys[40:49]
        before = len(prompt.keys) - second.answer(list(prompt.keys), media=prompt.media, n_predict=1).n_cached
        assert before == 2
        changed = second.answer(list(other.keys), media=other.media, n_predict=1, id_slot=1)
        assert changed.n_cached == 40


def test_short_sequences_are_not_saved(tmp_path: Path) -> None:
    with engine(tmp_path, min_tokens=100) as driver:
        driver.answer(tokens(90), n_predict=1)
        driver.answer(tokens(120, 1), n_predict=1)
        quiet(driver)
        assert len(files(tmp_path)) == 2
        assert store_of(driver).stats().saves == 1


def test_a_shifted_context_is_saved_up_to_the_shift(tmp_path: Path) -> None:
    with engine(tmp_path, slot_ctx=128, n_slots=1) as driver:
        driver.answer(tokens(100), n_predict=60, n_keep=70)
        quiet(driver)
    with engine(tmp_path, slot_ctx=128, n_slots=1) as driver:
        assert evaluated(driver, tokens(100)) == 30  # what follows was computed after tokens that are gone


# ---- when things do not go well


def test_a_store_that_hangs_holds_the_first_request_up_and_no_other(tmp_path: Path) -> None:
    with engine(tmp_path) as driver:
        store, begun, gate = store_of(driver), threading.Event(), threading.Event()
        answer = store.reader.answer
        store.reader.answer = lambda lookup: (begun.set(), gate.wait(30), answer(lookup))[2]  # type: ignore[method-assign,func-returns-value]
        request = driver.submit(tokens(100), n_predict=3)
        assert not driver.core.step()
        assert request.awaits_store
        assert begun.wait(30)
        driver.clock.now += 60
        driver.run()
        assert same_as_alone(driver, request, tokens(100))
        assert evaluated(driver, tokens(80, 1)) == 80  # at once
        assert store.stats().discards == {"slow_volume": 1, "not_asked": 1}
        gate.set()
        until(lambda: driver.core.store_client._overdue and driver.core.store_client._overdue.done, "an answer")
        assert store.stats().misses == {"disk": 0}
        assert evaluated(driver, tokens(90, 2)) == 90
        assert store.stats().misses == {"disk": 1}  # asked again


def test_an_offer_that_is_not_used_is_counted_by_its_reason(tmp_path: Path) -> None:
    with engine(tmp_path) as first:
        first.answer(tokens(100), n_predict=1)
        quiet(first)
    with engine(tmp_path) as second:
        gone = second.submit(tokens(100), n_predict=1)
        second.step()
        until(lambda: gone.offered, "an offer")
        second.core.cancel(gone)
        assert store_of(second).stats().discards == {"unwanted": 1}
        late = second.submit(tokens(100), n_predict=1)
        second.step()
        until(lambda: late.offered, "an offer")
        residents = second.core.residents
        residents.unsettled = True  # as after a copy whose request has gone
        second.step()
        residents.unsettled = False
        second.run()
        assert second.finish(late).n_cached == 0
        assert store_of(second).stats().discards == {"unwanted": 1, "not_now": 1}
        assert store_of(second).stats().hits == {"disk": 0}
        assert all_counted(second)


def test_an_offer_that_comes_too_late_is_counted(tmp_path: Path) -> None:
    with engine(tmp_path) as first:
        first.answer(tokens(60), n_predict=1)
        quiet(first)
    with engine(tmp_path) as second:
        long, same = (second.submit(tokens(200), n_predict=1) for _ in range(2))
        second.step()
        until(lambda: long.offered and same.offered, "offers")
        second.run()
        assert second.finish(long).n_cached == 60
        assert second.finish(same).n_cached > 160
        assert store_of(second).stats().discards == {"overtaken": 1}
        assert all_counted(second)


def test_few_states_are_in_memory_at_once(tmp_path: Path) -> None:
    with engine(tmp_path, n_slots=4) as first:
        for seed in range(4):
            first.answer(tokens(100, seed), n_predict=1)
        quiet(first)
    with engine(tmp_path, n_slots=4) as second:
        many = [second.submit(tokens(100, seed), n_predict=1) for seed in range(4)]

        def outstanding() -> int:
            return sum(one.awaits_store or one.offer is not None for one in many)

        second.run(until=lambda: outstanding() > 2 or all(one.phase is Phase.DONE for one in many))
        assert [second.finish(one).n_cached for one in many] == [98] * 4


def test_requests_for_a_busy_slot_do_not_block_the_lookups_of_others(tmp_path: Path) -> None:
    with engine(tmp_path, n_slots=2) as driver:
        long = driver.submit(tokens(60), n_predict=150, id_slot=0)
        driver.run(until=lambda: long.phase is Phase.DECODE)
        patient = [driver.submit(tokens(80, seed), n_predict=1, id_slot=0) for seed in range(3)]
        other = driver.submit(tokens(100, 1), n_predict=1)
        driver.step()
        assert other.lookup is not None or other.phase is not Phase.QUEUED  # the store may have answered already
        until(lambda: not other.awaits_store, "the store answers")
        driver.run(until=lambda: other.phase is Phase.DONE)
        assert long.phase is Phase.DECODE
        assert all(one.phase is Phase.QUEUED for one in patient)
        driver.run()


def test_a_state_that_does_not_fit_is_a_miss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with engine(tmp_path) as first:
        first.answer(tokens(100), n_predict=1)
        quiet(first)
    with engine(tmp_path) as second:
        monkeypatch.setattr(second.backend, "state_import", lambda seq, data: False)
        assert evaluated(second, tokens(100)) == 100
        assert store_of(second).stats().discards["other_layout"] == 1


def test_a_full_queue_is_a_count(tmp_path: Path) -> None:
    with engine(tmp_path, mode="shutdown", n_slots=1) as driver:
        store, gate = store_of(driver), threading.Event()
        keep = store.writer.keep
        store.writer.keep = lambda save: (gate.wait(30), keep(save))[1]  # type: ignore[method-assign,func-returns-value]
        for seed in range(5):
            assert evaluated(driver, tokens(100, seed)) == 100
        assert store.stats().discards["queue_full"] == 2
        assert store.waiting == 2
        gate.set()


def test_a_failed_decode_leaves_nothing_to_save(tmp_path: Path) -> None:
    with engine(tmp_path) as driver:
        driver.backend.failures[1] = Failure(Status.FATAL)
        request = driver.submit(tokens(100), n_predict=5)
        driver.run()
        assert isinstance(driver.last(request), Failed)
        quiet(driver)
        assert files(tmp_path) == []


# ---- draining


def test_a_drain_saves_idle_ones_first_and_running_ones_when_they_end(tmp_path: Path) -> None:
    with engine(tmp_path, mode="shutdown", n_slots=3) as driver:
        driver.answer(tokens(70, 1), n_predict=1, id_slot=1)
        driver.answer(tokens(200, 2), n_predict=1, id_slot=2)
        running = driver.submit(tokens(50), n_predict=100, id_slot=0)
        driver.run(until=lambda: running.phase is Phase.DECODE)
        client = driver.core.store_client
        client.draining = True
        assert client.unsaved == 2
        assert sorted(r.savable for r in client.candidates()) == [70, 200]
        order: list[int] = []
        save = client.store.save
        client.store.save = lambda keys, *rest, **more: (order.append(len(keys)), save(keys, *rest, **more))[1]  # type: ignore[method-assign]
        driver.step()
        assert order == [200, 70]  # the longer one first, both while the stream runs
        assert client.candidates() == []
        assert running.phase is Phase.DECODE
        driver.run()
        quiet(driver)
        assert client.unsaved == 0
    with engine(tmp_path, n_slots=3) as second:
        for prompt in (tokens(50), tokens(70, 1), tokens(200, 2)):
            assert evaluated(second, prompt) == 2


def test_requests_that_are_cut_off_keep_what_they_have(tmp_path: Path) -> None:
    with engine(tmp_path, mode="shutdown") as driver:
        running = driver.submit(tokens(100), n_predict=100)
        driver.run(until=lambda: running.n_decoded > 10)
        waiting = [driver.submit(tokens(30, seed), n_predict=5) for seed in (1, 2, 3)]
        driver.core.cut_off(Unavailable("no more"))
        driver._deliver()
        assert all(isinstance(driver.last(one), Failed) for one in (running, *waiting))
        driver.core.store_client.draining = True
        quiet(driver)
        driver.check_idle()
    with engine(tmp_path) as second:
        assert evaluated(second, tokens(100)) == 2


# ---- all at once


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_answers_never_depend_on_the_store(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Restarts, evictions, shifts, preemptions, aborts: every answer is that of the same request alone."""
    folder = tmp_path_factory.mktemp("kv")
    for _ in range(data.draw(st.integers(1, 3))):
        unified = data.draw(st.booleans())
        ram, mode = data.draw(st.sampled_from([0, 6000, -1])), data.draw(st.sampled_from(["shutdown", "continuous"]))
        with engine(
            folder, unified=unified, ram_bytes=ram, mode=mode, slot_ctx=128, n_ctx=200 if unified else 0, n_slots=2
        ) as driver:
            asked = []
            for _ in range(data.draw(st.integers(1, 7))):
                base = tokens(data.draw(st.integers(1, 100)), data.draw(st.integers(0, 2)))
                prompt = [*base, *tokens(data.draw(st.integers(1, 20)), data.draw(st.integers(0, 3)))]
                asked.append((driver.submit(prompt, n_predict=data.draw(st.integers(1, 40))), prompt))
                if data.draw(st.integers(0, 3)) == 0:
                    driver.backend.failures[len(driver.backend.history)] = Failure(Status.ABORTED)
                for _ in range(data.draw(st.integers(0, 12))):
                    driver.step()
            driver.run()
            for request, prompt in asked:
                assert same_as_alone(driver, request, prompt)
            driver.check_idle()
            assert all_counted(driver)
            driver.core.store_client.draining = True
            quiet(driver)
