"""Which slot and which cached prefix a request gets, and when it waits. Shown by counting evaluated tokens."""

from array import array
from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llamaserver.interfaces.keys import common_prefix
from llamaserver.interfaces.params import Media
from llamaserver.scheduling.admission import WORTH_WAITING
from llamaserver.scheduling.cells import CellLedger
from llamaserver.scheduling.placement import How
from llamaserver.scheduling.request import ActiveRequest, Phase
from llamaserver.scheduling.residents import Resident

from tests.support.engine.driver import Driver, make, same_as_alone, tokens
from tests.support.engine.toy import picture_keys

LAYOUTS = pytest.mark.parametrize("unified", [False, True], ids=["split", "unified"])


def evaluated(driver: Driver, prompt: list[int], **fields: object) -> int:
    """Rows that one more request costs."""
    before = driver.backend.evaluated
    driver.answer(prompt, n_predict=1, **fields)
    return driver.backend.evaluated - before


# ---- choosing a slot


def test_the_requested_slot_is_used_whatever_it_holds() -> None:
    driver = make(n_slots=3)
    driver.answer(tokens(20), id_slot=0)
    assert driver.answer(tokens(20), id_slot=2).id_slot == 2
    assert driver.answer(tokens(20, 1), id_slot=0).id_slot == 0


def test_the_slot_with_the_longest_common_prefix_is_chosen() -> None:
    driver = make(n_slots=3)
    for seed in range(3):
        driver.answer(tokens(20, seed), n_predict=2)
    assert driver.answer([*tokens(20, 1), 5], n_predict=2).id_slot == 1
    assert driver.answer([*tokens(20, 0), 5], n_predict=2).id_slot == 0
    assert driver.answer([*tokens(20, 2), 5], n_predict=2).id_slot == 2


@LAYOUTS
def test_without_a_common_prefix_empty_slots_come_first_then_the_least_recently_used(unified: bool) -> None:
    driver = make(n_slots=3, n_ctx=512, unified=unified)
    assert [driver.answer(tokens(9, seed), n_predict=1).id_slot for seed in (0, 1, 2)] == [0, 1, 2]
    driver.answer(tokens(9, 0), n_predict=1)
    assert driver.answer(tokens(9, 4), n_predict=1).id_slot == 1
    assert driver.answer(tokens(9, 5), n_predict=1).id_slot == 2
    assert driver.answer(tokens(9, 6), n_predict=1).id_slot == 0


@LAYOUTS
def test_a_short_common_prefix_does_not_cost_a_long_cached_sequence(unified: bool) -> None:
    driver = make(n_slots=2, slot_ctx=128, n_ctx=512, unified=unified)
    driver.answer(tokens(100), n_predict=1)
    assert driver.answer([*tokens(20), *tokens(10, 1)], n_predict=1).id_slot == 1
    assert driver.answer(tokens(100), n_predict=1).n_cached == 98


# ---- deciding (that a plan is carried out to the letter is checked by the driver, for every request)


@LAYOUTS
def test_deciding_changes_nothing(unified: bool) -> None:
    driver = make(n_slots=2, slot_ctx=128, n_ctx=256, unified=unified, spare=0)
    for seed in range(3):
        driver.answer(tokens(40, seed), n_predict=1)
    request = driver.submit([*tokens(30, 1), 5, 6], n_predict=1)
    placement, history = driver.core.scheduler.placement, len(driver.backend.history)
    before = [(r.seq, r.slot, list(r.keys), r.last_used) for r in driver.core.residents]
    plan = placement.decide(request)
    assert plan is not None
    assert placement.decide(request) == placement.decide_on(plan.slot, request) == plan
    assert [(r.seq, r.slot, list(r.keys), r.last_used) for r in driver.core.residents] == before
    assert len(driver.backend.history) == history
    driver.check()


@pytest.mark.parametrize(("shared", "how"), [(0, How.EMPTY), (8, How.COPY), (30, How.TAKE_OVER)])
def test_most_of_a_prefix_is_taken_over_a_part_is_copied(shared: int, how: How) -> None:
    driver = make(n_slots=2, slot_ctx=128)
    driver.answer(tokens(40), n_predict=1)
    (source,) = driver.core.residents
    request = driver.submit([*tokens(shared), *tokens(40, 1)], n_predict=1)
    plan = driver.core.scheduler.placement.decide(request)
    assert plan is not None
    assert (plan.how, plan.length, plan.source) == (how, shared, source if shared else None)
    assert plan.victim is (source if how is How.TAKE_OVER else None)
    assert (plan.slot is source.slot) == (how is How.TAKE_OVER)
    with pytest.raises(FrozenInstanceError):
        plan.length = 7  # type: ignore[misc]


# ---- sharing a prefix


@LAYOUTS
def test_the_same_prompt_again_costs_two_rows(unified: bool) -> None:
    driver = make(n_slots=2, slot_ctx=128, n_ctx=256, unified=unified)
    assert evaluated(driver, tokens(60)) == 60
    assert evaluated(driver, tokens(60)) == 2


@LAYOUTS
def test_a_conversation_goes_on_where_it_stopped(unified: bool) -> None:
    driver = make(n_slots=2, slot_ctx=128, n_ctx=256, unified=unified)
    first = driver.submit(tokens(40), n_predict=10, return_tokens=True)
    driver.run()
    said = [token for event in driver.events[first] for token in event.tokens]
    assert len(said) == 10
    assert evaluated(driver, [*tokens(40), *said, *tokens(6, 1)]) == 7  # the last token said was never evaluated


@LAYOUTS
def test_a_prefix_is_shared_with_a_busy_sequence_without_computing_it_again(unified: bool) -> None:
    driver = make(n_slots=2, slot_ctx=128, n_ctx=256, unified=unified)
    busy = driver.submit(tokens(60), n_predict=40)
    driver.steps(6)
    assert busy.phase is Phase.DECODE
    prompt = [*tokens(50), *tokens(10, 1)]
    other = driver.submit(prompt, n_predict=5)
    driver.run()
    assert other.n_cached == 50
    for request, keys in ((busy, tokens(60)), (other, prompt)):
        assert same_as_alone(driver, request, keys)


@LAYOUTS
def test_cache_prompt_off_reuses_nothing(unified: bool) -> None:
    driver = make(n_slots=2, slot_ctx=128, n_ctx=256, unified=unified)
    driver.answer(tokens(60), n_predict=1)
    assert evaluated(driver, tokens(60), cache_prompt=False) == 60


def test_a_shared_prefix_takes_its_cells_once_in_a_unified_cache() -> None:
    driver = make(n_slots=4, slot_ctx=128, n_ctx=128, unified=True)
    driver.answer(tokens(60), n_predict=1, id_slot=0)
    running = [driver.submit([*tokens(58), 4 + i, 5], n_predict=6, id_slot=i) for i in (1, 2, 3)]
    driver.steps(4)
    assert all(request.slot for request in running)
    assert driver.backend.cells_used < 60 + 3 * 8
    driver.run()
    for i, request in enumerate(running, 1):
        assert same_as_alone(driver, request, [*tokens(58), 4 + i, 5])
    assert driver.core.scheduler.preemptions == 0


# ---- in flight


def burst(driver: Driver, count: int, length: int = 60, **fields: object) -> list[ActiveRequest]:
    return [driver.submit([*tokens(length), 2 + i], n_predict=4, **fields) for i in range(count)]


@LAYOUTS
def test_of_many_that_arrive_together_one_computes_the_prefix(unified: bool) -> None:
    driver = make(n_slots=6, slot_ctx=128, n_ctx=1024, unified=unified)
    requests = burst(driver, 6)
    driver.step()
    assert [s.phase for s in requests] == [Phase.PREFILL] + [Phase.FOLLOWING] * 5
    driver.run()
    assert driver.backend.evaluated <= 61 + 5 * WORTH_WAITING + 6 * 3
    assert sum(s.n_prompt - s.n_cached for s in requests) == driver.core.snapshot().counters.prompt_tokens_total
    for i, request in enumerate(requests):
        assert same_as_alone(driver, request, [*tokens(60), 2 + i])


@LAYOUTS
@pytest.mark.parametrize("steps", [1, 2])
def test_when_the_leader_is_cancelled_the_followers_finish(unified: bool, steps: int) -> None:
    backend = {"n_ubatch": 16}
    driver = make(n_slots=4, slot_ctx=128, n_ctx=1024, unified=unified, backend=backend)
    requests = burst(driver, 4, 100)
    driver.steps(steps)
    assert requests[0].phase is Phase.PREFILL
    assert requests[1].phase is Phase.FOLLOWING
    driver.core.cancel(requests[0])
    driver.run()
    assert driver.last(requests[0]) is None
    for i, request in enumerate(requests[1:], 1):
        assert same_as_alone(driver, request, [*tokens(100), 2 + i])
    assert requests[1].n_cached >= 16 * steps  # what the leader had computed was not lost
    assert driver.backend.evaluated < 2 * 100 + 4 * WORTH_WAITING


def test_a_follower_can_be_cancelled() -> None:
    driver = make(n_slots=3, slot_ctx=128, backend={"n_ubatch": 16})
    requests = burst(driver, 3)
    driver.step()
    driver.core.cancel(requests[1])
    driver.run()
    assert driver.last(requests[1]) is None
    assert driver.finish(requests[2]).n_decoded == 4


def test_a_short_common_prefix_is_not_waited_for() -> None:
    driver = make(n_slots=2, slot_ctx=128, backend={"n_ubatch": 16})
    driver.submit([*tokens(WORTH_WAITING - 4), *tokens(60, 1)])
    other = driver.submit([*tokens(WORTH_WAITING - 4), *tokens(60, 2)])
    driver.step()
    assert other.phase is Phase.PREFILL


def test_others_are_not_waited_for_across_adapters_pictures_or_with_the_cache_off() -> None:
    driver = make(n_slots=4, slot_ctx=256, backend={"n_ubatch": 16, "n_lora": 1})
    driver.submit(tokens(100))
    others = [
        driver.submit(tokens(100), lora=(0.5,)),
        driver.submit(tokens(100), cache_prompt=False),
        driver.submit([*picture_keys(b"cat"), *tokens(100)], media=(Media(0, 3, 3, b"cat"),)),
    ]
    driver.step()
    assert [other.phase for other in others] == [Phase.PREFILL] * 3


# ---- what must be a miss


def test_other_lora_scales_are_a_miss() -> None:
    driver = make(n_slots=2, backend={"n_lora": 1})
    driver.answer(tokens(40), n_predict=1, lora=(0.5,))
    assert evaluated(driver, tokens(40), lora=(1.0,)) == 40
    assert evaluated(driver, tokens(40), lora=(0.5,)) == 2
    assert evaluated(driver, tokens(40), lora=(1.0,)) == 2


@LAYOUTS
def test_another_picture_is_a_miss_and_a_picture_is_never_cut(unified: bool) -> None:
    driver = make(n_slots=2, slot_ctx=128, n_ctx=256, unified=unified)

    def ask(picture: bytes, rest: list[int]) -> int:
        keys = [5, 6, 7, *picture_keys(picture), *rest]
        media = (Media(3, len(picture), len(picture), picture),)
        return driver.answer(keys, n_predict=2, media=media).n_cached

    assert ask(b"a cat" * 4, tokens(20)) == 0
    assert ask(b"a dog" * 4, tokens(20)) == 3
    assert ask(b"a cat" * 4, tokens(20)) == 3 + 20 + 18
    assert ask(b"a cat" * 4, tokens(20, 1)) == 3 + 20
    assert ask(b"a cat" * 4, []) == 3  # the last two positions would lie inside the picture


def test_a_recurrent_state_is_reused_only_at_its_exact_position() -> None:
    driver = make(n_slots=2, slot_ctx=128, backend={"partial_reuse": False})
    first = driver.submit(tokens(40), n_predict=3, return_tokens=True)
    driver.run()
    said = [token for event in driver.events[first] for token in event.tokens]
    assert evaluated(driver, tokens(40)) == 40  # one token less than the state has: a miss
    assert evaluated(driver, [*tokens(40), *said[:2], 9, 10], id_slot=0) == 2
    assert evaluated(driver, [*tokens(30), *tokens(10, 1)]) == 40


def test_recurrent_requests_that_arrive_together_do_not_wait_for_each_other() -> None:
    driver = make(n_slots=3, slot_ctx=128, backend={"partial_reuse": False, "n_ubatch": 16})
    requests = burst(driver, 3)
    driver.step()
    assert [s.phase for s in requests] == [Phase.PREFILL] * 3
    driver.run()
    for i, request in enumerate(requests):
        assert same_as_alone(driver, request, [*tokens(60), 2 + i])


# ---- sequences that ended, beside the slots


def test_ended_sequences_stay_as_cache_beside_the_slots_and_go_oldest_first() -> None:
    driver = make(n_slots=1, slot_ctx=128, n_ctx=512, unified=True, spare=2)
    for seed in range(4):
        driver.answer(tokens(20, seed), n_predict=1)
    assert evaluated(driver, tokens(20, 3)) == 2
    assert evaluated(driver, tokens(20, 2)) == 2
    assert evaluated(driver, tokens(20, 1)) == 2
    assert evaluated(driver, tokens(20, 0)) == 20  # three ids: the oldest of four had to go
    assert evaluated(driver, tokens(20, 2)) == 2


def test_ended_sequences_go_when_cells_are_needed() -> None:
    driver = make(n_slots=1, slot_ctx=64, unified=True, spare=6)
    for seed in range(3):
        driver.answer(tokens(20, seed), n_predict=1)
    assert driver.backend.cells_used == 60
    driver.answer(tokens(30, 5), n_predict=1)
    assert driver.backend.cells_used <= 64
    assert evaluated(driver, tokens(20, 2)) == 2
    assert evaluated(driver, tokens(20, 0)) == 20


@pytest.mark.parametrize("emptied_by", ["erase", "embedding", "failure"])
def test_no_sequence_id_is_lost_when_an_emptied_slot_takes_over_a_cached_sequence(emptied_by: str) -> None:
    driver = make(n_slots=1, slot_ctx=64, n_ctx=512, unified=True, spare=3)
    for _ in range(6):  # the books are checked after each step
        driver.answer(tokens(20), n_predict=1)
        driver.answer(tokens(20, 1), n_predict=1)
        if emptied_by == "erase":
            driver.core.slot_states.erase(driver.core.residents.slots[0])
        elif emptied_by == "embedding":
            driver.submit(tokens(9, 2), kind="embedding", cache_prompt=False)
            driver.run()
        else:
            driver.core.fail_all(RuntimeError())
            driver.answer(tokens(20), n_predict=1)
            driver.core.cache.clear(driver.core.residents.slots[0].resident)
        driver.answer(tokens(20), n_predict=1)


def test_the_last_spare_sequence_id_may_be_the_source_itself() -> None:
    driver = make(n_slots=2, slot_ctx=64, n_ctx=256, unified=True, spare=0)
    driver.answer(tokens(40), n_predict=1, id_slot=0)
    driver.answer(tokens(40, 1), n_predict=1, id_slot=0)
    assert driver.answer([*tokens(10), 3, 4], n_predict=3, id_slot=1).n_cached == 10


# ---- plain bookkeeping


@settings(deadline=None)
@given(st.lists(st.integers(-3, 3), max_size=20), st.lists(st.integers(-3, 3), max_size=20))
def test_common_prefix(left: list[int], right: list[int]) -> None:
    expected = 0
    while expected < min(len(left), len(right)) and left[expected] == right[expected]:
        expected += 1
    assert common_prefix(array("q", left), array("q", right)) == expected


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["extend", "share", "cut"]), st.integers(0, 3), st.integers(0, 9))))
def test_the_ledger_counts_each_cell_once(actions: list[tuple[str, int, int]]) -> None:
    ledger, residents = CellLedger(), [Resident(i) for i in range(4)]
    for action, index, count in actions:
        resident = residents[index]
        if action == "extend":
            ledger.extend(resident.cells, count)
        elif action == "share":
            ledger.release(resident.cells)
            resident.cells = ledger.share(residents[(index + 1) % 4].cells[:count])
        else:
            ledger.release(resident.cells[count:])
            del resident.cells[count:]
        held = [cell for one in residents for cell in one.cells]
        assert ledger.used == len(set(held))
        for one in residents:
            assert ledger.shared(one.cells) == any(held.count(cell) > 1 for cell in one.cells)


def test_a_prefix_cut_before_an_image_has_its_whole_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """The window of what is left must be there, not that of what was cut off."""
    driver = make(n_slots=1, slot_ctx=128)
    picture = bytes(range(1, 9))
    prompt, media = [*tokens(40, 1), *picture_keys(picture), 5], (Media(40, 8, 8, picture),)
    driver.answer(prompt, n_predict=1, media=media)
    placement = driver.core.scheduler.placement
    monkeypatch.setattr(placement, "_info", replace(driver.backend.info, n_swa=12))
    request = driver.submit(prompt, n_predict=1, media=media)
    for first_whole, reused in ((28, 40), (29, 0), (35, 0)):
        monkeypatch.setattr(driver.backend, "pos_min", lambda seq, first=first_whole: first)
        assert placement.best_source(request)[0] == reused
