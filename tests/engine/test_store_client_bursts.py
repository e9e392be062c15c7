"""Many requests at once evict many conversations, which are saved first. No request waits for ever."""

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from llamaserver.engine.stats import Stats
from llamaserver.interfaces.tenant import Tenant
from llamaserver.kvstore import disk as kvdisk
from llamaserver.kvstore.messages import Lookup, Offer
from llamaserver.scheduling.client_flow import MAX_BACKLOG
from llamaserver.scheduling.request import ActiveRequest, Phase

from tests.support.engine.driver import Driver, same_as_alone, tokens
from tests.support.engine.kv import files
from tests.support.engine.kv_driver import engine, evaluated, quiet, store_of
from tests.support.polling import until

SLOTS = 8
LAYOUTS = pytest.mark.parametrize("unified", [False, True], ids=["split", "unified"])
TIERS = pytest.mark.parametrize("kept", [{"mode": "shutdown"}, {"ram_bytes": -1, "mode": "off"}], ids=["disk", "ram"])
SHARED = tokens(60, 99)


def full(driver: Driver) -> list[list[int]]:
    """A conversation on every slot, saved nowhere. Their prompts."""
    prompts = [tokens(90, seed) for seed in range(SLOTS)]
    for seed, prompt in enumerate(prompts):
        driver.answer(prompt, n_predict=1, id_slot=seed)
    assert store_of(driver).stats().saves == 0
    return prompts


def burst(kind: str) -> list[list[int]]:
    prompts = [tokens(100, 10 + seed) for seed in range(SLOTS)]
    return [[*SHARED, *prompt[60:]] for prompt in prompts] if kind == "shared" else prompts


def slow_to_evaluate(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost keys take long to compute again. The store has written by the end of any decode."""
    store = store_of(driver)
    monkeypatch.setattr(Stats, "prompt_token_seconds", lambda stats: 1.0)
    driver.backend.on_decode = lambda batch: until(lambda: not store.waiting, "the store has written")


def answered(driver: Driver, request: ActiveRequest) -> None:
    """The store has been asked for this prompt."""
    driver.core.store_client.look_up([request])
    until(lambda: not request.awaits_store, "the store answers")


def idle_ones_saved(driver: Driver) -> None:
    client = driver.core.store_client

    def saved() -> bool:
        driver.step()
        return not client.candidates() and not client.store.waiting

    until(saved, "what is idle is saved")


def lost(driver: Driver) -> dict[str, int]:
    reasons = ("unsettled", "queue_full", "paused")
    return {reason: n for reason, n in store_of(driver).stats().discards.items() if reason in reasons}


@LAYOUTS
@TIERS
@pytest.mark.parametrize("kind", ["shared", "apart"])
def test_a_burst_loses_no_conversation(
    tmp_path: Path, unified: bool, kept: dict[str, Any], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = {"n_slots": SLOTS, "slot_ctx": 256, "unified": unified, "n_ctx": 4096 if unified else 0, "spare": 0}
    with engine(tmp_path if "ram_bytes" not in kept else None, **where, **kept) as driver:
        old = full(driver)
        slow_to_evaluate(driver, monkeypatch)
        asked = [(driver.submit(prompt, n_predict=4), prompt) for prompt in burst(kind)]
        driver.run()
        assert all(same_as_alone(driver, one, prompt) for one, prompt in asked)
        assert lost(driver) == {}
        for prompt in old:
            assert evaluated(driver, [*prompt, 7]) <= 5
            until(lambda: not store_of(driver).waiting, "what has left is kept")
        assert lost(driver) == {}


@pytest.mark.parametrize("kind", ["shared", "apart"])
def test_no_request_waits_long_when_the_store_hangs(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with engine(tmp_path, n_slots=SLOTS, mode="shutdown") as driver:
        full(driver)
        monkeypatch.setattr(Stats, "prompt_token_seconds", lambda stats: 1.0)
        store, gate = store_of(driver), threading.Event()
        keep = store.writer.keep
        store.writer.keep = lambda save: (gate.wait(30), keep(save))[1]  # type: ignore[method-assign,func-returns-value]
        asked = [driver.submit(prompt, n_predict=100) for prompt in burst(kind)]
        driver.backend.on_decode = lambda batch: until(
            lambda: not any(one.awaits_store for one in asked), "it can still read"
        )
        try:
            phases = {Phase.DECODE: 2, Phase.FOLLOWING: SLOTS - 2}  # two are being saved
            driver.run(until=lambda: Counter(one.phase for one in asked) == phases or bool(lost(driver)))
            assert lost(driver) == {}
            waiting = [one for one in asked if one.phase is Phase.FOLLOWING]
            driver.clock.now += 2
            driver.run(until=lambda: all(one.phase is not Phase.FOLLOWING for one in waiting))
            assert lost(driver) == {"queue_full": len(waiting)}  # none has waited a second time
        finally:
            gate.set()
        driver.run()


def paused(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvdisk.DiskTier, "paused", lambda disk, urgent=False: True)


def without_a_stream(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    (stream,) = driver.core.scheduler.running()
    driver.core.cancel(stream)


def with_one_that_nobody_reads(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    (stream,) = driver.core.scheduler.running()
    stream.client.taken = stream.client.emitted - MAX_BACKLOG - 1


@pytest.mark.parametrize(
    ("state", "waits"),
    [
        (lambda *_: None, True),
        (paused, False),
        (without_a_stream, False),
        (with_one_that_nobody_reads, False),
    ],
    ids=["a stream", "paused", "no stream", "a stream that nobody reads"],
)
@pytest.mark.parametrize("obstacle", ["unsettled", "queue"])
def test_an_admission_waits_for_a_save_only_while_a_stream_runs(
    tmp_path: Path,
    state: Callable[[Driver, pytest.MonkeyPatch], None],
    waits: bool,
    obstacle: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with engine(tmp_path, n_slots=2, mode="shutdown") as driver:
        driver.answer(tokens(100, 1), n_predict=1, id_slot=1)
        stream = driver.submit(tokens(60, 2), n_predict=150, id_slot=0)
        driver.run(until=lambda: stream.phase is Phase.DECODE)
        monkeypatch.setattr(Stats, "prompt_token_seconds", lambda stats: 1.0)
        residents, store = driver.core.residents, store_of(driver)
        other = driver.submit(tokens(90, 3), n_predict=1)
        answered(driver, other)
        state(driver, monkeypatch)
        if obstacle == "unsettled":
            residents.unsettled = True
        else:
            monkeypatch.setattr(store.writer, "_waiting", 2)
        driver.core.scheduler.admit()
        assert other.phase is (Phase.FOLLOWING if waits else Phase.PREFILL)
        monkeypatch.setattr(store.writer, "_waiting", 0)
        driver.core.cache.settled()
        driver.core.scheduler.admit()
        assert other.phase is Phase.PREFILL
        until(lambda: not store.waiting, "it is written")
        assert bool(files(tmp_path)) is waits


def test_a_saved_or_continued_conversation_delays_no_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with engine(tmp_path, n_slots=2) as driver:
        driver.answer(tokens(100, 1), n_predict=1, id_slot=1)
        quiet(driver)  # saved as it ended
        stream = driver.submit(tokens(60, 2), n_predict=150, id_slot=0)
        driver.run(until=lambda: stream.phase is Phase.DECODE)
        residents = driver.core.residents
        for prompt in (tokens(90, 3), [*tokens(90, 3), *tokens(9, 4)]):  # another conversation, and its next turn
            other = driver.submit(prompt, n_predict=1)
            answered(driver, other)
            residents.unsettled = True
            driver.core.scheduler.admit()
            assert other.phase is Phase.PREFILL
            residents.unsettled = False
            while other.phase is not Phase.DONE:
                driver.step()
            idle_ones_saved(driver)


def test_an_offer_that_cannot_be_taken_empties_no_slot(tmp_path: Path) -> None:
    with engine(tmp_path, n_slots=1, mode="shutdown") as driver:
        driver.answer(tokens(100, 1), n_predict=1)
        residents = driver.core.residents
        (resident,) = residents
        one = driver.submit([*tokens(100, 1)[:50], *tokens(100, 2)], n_predict=1)
        driver.core.scheduler.queue.clear()
        one.lookup = Lookup(one.keys, (), (), done=True)
        one.lookup.offer = Offer(120, driver.backend.state_export(resident.seq), "disk", 0.0)
        driver.core.scheduler.queue.append(one)
        residents.unsettled = True
        driver.core.scheduler.admit()
        assert one.n_cached == 50
        assert list(resident.keys) == tokens(100, 1)[:50]
        assert one.cached_from == "slot"
        assert store_of(driver).stats().discards == {"not_now": 1, "unsettled": 1}


def test_waiting_requests_start_in_the_order_of_arrival(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with engine(tmp_path, n_slots=4, mode="shutdown") as driver:
        for slot in range(4):
            driver.answer(tokens(90, slot), n_predict=1, id_slot=slot)
        leader = driver.submit([*SHARED, *tokens(40, 5)], n_predict=100, id_slot=3)
        later = [driver.submit([*SHARED, *tokens(40, 6 + slot)], n_predict=100, id_slot=slot) for slot in (2, 1, 0)]
        monkeypatch.setattr(Stats, "prompt_token_seconds", lambda stats: 1.0)
        driver.backend.on_decode = lambda batch: until(lambda: not store_of(driver).waiting, "the store has written")
        begun: list[int] = []
        while len(begun) < 4:
            driver.step()
            begun += [one.task.id_task for one in (leader, *later) if one.resident and one.task.id_task not in begun]
        assert begun == sorted(begun)
        assert lost(driver) == {}


def test_a_key_at_its_limit_takes_no_lookup_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    limited, other = Tenant("limited", b"limited", most_running=1), Tenant("other", b"other")
    limits = {"n_batch": 128, "n_ubatch": 64}
    with engine(None, ram_bytes=1 << 24, mode="continuous", n_slots=3, slot_ctx=512, backend=limits) as driver:
        prompts = [[*tokens(1, seed), *tokens(200, 2)] for seed in range(8)]
        for prompt in prompts:  # the slots lose most of them, the store has them all
            driver.submit(prompt, n_predict=1, tenant=limited)
            driver.run()
            quiet(driver)
        monkeypatch.setattr(Stats, "prompt_token_seconds", lambda stats: 0.01)
        driver.core.scheduler._shares._served = {other.key: 900}
        driver.core.scheduler._shares._most = 900
        running = driver.submit(tokens(5, 40), n_predict=300, tenant=limited)
        driver.run(until=lambda: running.phase is Phase.DECODE)
        waiting = [driver.submit([*prompt, *tokens(8, 41)], n_predict=1, tenant=limited) for prompt in prompts]
        driver.steps(2)
        request = driver.submit(tokens(20, 42), n_predict=2, tenant=other)
        driver.run(until=lambda: request.phase is Phase.DONE or running.phase is Phase.DONE)
        assert running.phase is Phase.DECODE
        assert all(one.lookup is None for one in waiting)
        driver.run()


def test_a_key_that_reaches_its_limit_gives_its_offers_back(monkeypatch: pytest.MonkeyPatch) -> None:
    limited = Tenant("limited", b"limited", most_running=1)
    with engine(None, ram_bytes=1 << 24, mode="continuous", n_slots=3, slot_ctx=512) as driver:
        prompts = [[*tokens(1, seed), *tokens(200, 2)] for seed in range(8)]
        for prompt in prompts:
            driver.submit(prompt, n_predict=1, tenant=limited)
            driver.run()
            quiet(driver)
        monkeypatch.setattr(Stats, "prompt_token_seconds", lambda stats: 0.01)
        first, second = (
            driver.submit([*prompt, *tokens(8, 41)], n_predict=9, tenant=limited) for prompt in prompts[:2]
        )
        driver.core.store_client.look_up(driver.core.scheduler.queue)
        until(lambda: first.offer is not None and second.offer is not None, "the store answers")
        driver.core.scheduler.admit()
        assert first.phase is Phase.PREFILL
        assert second.lookup is None
        driver.run()
