"""Full slots: prompt truncation, context shift and self-extend, which disturb no other request."""

from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llamaserver.errors import EngineFailure
from llamaserver.interfaces.backend import Status
from llamaserver.interfaces.params import Media
from llamaserver.scheduling.batches import Work
from llamaserver.scheduling.overflow import MARGIN, truncated_prompt
from llamaserver.scheduling.request import ActiveRequest, Phase

from tests.support.engine.driver import Driver, make, same_as_alone, tokens
from tests.support.engine.toy import Failure, picture_keys

# ---- prompts that are too long


@settings(deadline=None)
@given(st.integers(8, 60), st.integers(0, 200), st.one_of(st.just(-1), st.integers(0, 70)))
def test_truncation_cuts_whole_half_blocks_after_the_kept_ones(n_ctx: int, longer: int, n_keep: int) -> None:
    keys = array("q", range(n_ctx + longer))
    cut = truncated_prompt(keys, n_ctx, n_keep)
    keep = min(len(keys) if n_keep < 0 else n_keep, n_ctx - MARGIN)
    block = (n_ctx - keep) // 2
    assert len(cut) < n_ctx
    assert cut[:keep] == keys[:keep]
    assert cut[keep:] == keys[len(keys) - (len(cut) - keep) :]
    assert (len(keys) - len(cut)) % block == 0
    assert len(cut) - keep >= block


# ---- context shift


def history(driver: Driver, request: ActiveRequest, prompt: list[int]) -> list[int]:
    """All tokens of a request so far, the last one not yet in the cache."""
    said = [token for event in driver.events[request] for token in event.tokens]
    return [*prompt, *said, *request.answer.pending_tokens]


@pytest.mark.parametrize(("n_keep", "n_discard"), [(0, 0), (5, 0), (10, 0), (5, 3), (0, 100), (31, 0)])
def test_a_shift_drops_n_discard_or_half_of_what_follows_the_kept_ones(n_keep: int, n_discard: int) -> None:
    driver = make(n_slots=1, slot_ctx=32)
    prompt = tokens(10)
    request = driver.submit(prompt, n_predict=100, n_keep=n_keep, n_discard=n_discard, return_tokens=True)
    driver.run(until=lambda: request.truncated or request.phase is Phase.DONE)
    if n_keep == 31:  # nothing can go
        assert driver.finish(request).reason == "limit"
        assert driver.finish(request).n_decoded == 32 - 10 + 1
        return
    everything = history(driver, request, prompt)
    dropped = min(n_discard or (32 - n_keep) // 2, 32 - n_keep)
    assert list(request.resident.keys) == everything[:n_keep] + everything[n_keep + dropped : -1]
    assert driver.backend.positions(request.resident.seq) == list(range(len(request.resident.keys)))
    driver.run()
    assert driver.finish(request).n_decoded == 100
    assert driver.finish(request).truncated


def test_the_whole_prompt_can_be_kept() -> None:
    driver = make(n_slots=1, slot_ctx=32)
    request = driver.submit(tokens(20), n_predict=60, n_keep=20)
    driver.run(until=lambda: request.n_decoded == 50)
    assert list(request.resident.keys)[:20] == tokens(20)
    driver.run()
    assert driver.finish(request).n_decoded == 60


@pytest.mark.parametrize("why", ["switched off", "the model cannot"])
def test_without_context_shift_the_answer_ends_where_the_slot_does(why: str) -> None:
    off = why == "switched off"
    driver = make(n_slots=1, slot_ctx=32, context_shift=not off, backend={"can_shift": off})
    end = driver.answer(tokens(10), n_predict=100)
    assert (end.reason, end.truncated, end.n_decoded) == ("limit", True, 32 - 10 + 1)


@pytest.mark.parametrize("kept", [False, True])
def test_a_picture_is_kept_whole_or_ends_the_answer(kept: bool) -> None:
    driver = make(n_slots=1, slot_ctx=32)
    keys = [5, *picture_keys(b"picture"), *tokens(6)]
    media = (Media(1, 7, 7, b"picture"),)
    end = driver.answer(keys, media=media, n_predict=60, n_keep=8 if kept else 4)
    assert end.n_decoded == (60 if kept else 32 - 14 + 1)
    assert end.reason == "limit"


def test_a_shifted_recurrent_state_is_no_cache() -> None:
    """It still knows what was dropped, so it is not what its keys say."""
    driver = make(n_slots=1, slot_ctx=32, backend={"partial_reuse": False})
    request = driver.submit(tokens(10), n_predict=40)
    driver.run(until=lambda: request.truncated)
    held = list(request.resident.keys)
    driver.core.cancel(request)
    assert driver.answer([*held, 3], n_predict=1).n_cached == 0


@pytest.mark.parametrize("cont_batching", [False, True])
def test_a_recurrent_state_that_would_have_to_go_back_is_evaluated_anew(cont_batching: bool) -> None:
    backend = {"partial_reuse": False}
    driver = make(n_slots=2, slot_ctx=32, cont_batching=cont_batching, backend=backend)
    first, second = (driver.submit(tokens(10, i), n_predict=80, n_keep=4, n_discard=99) for i in (0, 1))
    driver.run()
    assert same_as_alone(driver, first, tokens(10))
    assert same_as_alone(driver, second, tokens(10, 1))


def test_many_slots_shift_at_their_own_time() -> None:
    driver = make(n_slots=4, slot_ctx=32)
    requests = [driver.submit(tokens(8 + 3 * i, i), n_predict=90, n_keep=i) for i in range(4)]
    driver.run()
    for i, request in enumerate(requests):
        assert same_as_alone(driver, request, tokens(8 + 3 * i, i))


# ---- shift of cells that others share


class Reads:
    """Counts the times a state was read: how sequences get cells of their own."""

    def __init__(self, driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        original = driver.backend.state_get

        def counted(seq: int) -> bytes:
            self.count += 1
            return original(seq)

        monkeypatch.setattr(driver.backend, "state_get", counted)


def test_a_sequence_gets_cells_of_its_own_before_shared_ones_are_shifted(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = make(n_slots=2, slot_ctx=48, n_ctx=256, unified=True)
    reads = Reads(driver, monkeypatch)
    first = driver.submit(tokens(30), n_predict=60)
    driver.steps(3)
    second = driver.submit([*tokens(28), 3, 4], n_predict=60)
    driver.run()
    assert second.n_cached == 28
    assert reads.count == 1  # after that neither shares
    assert same_as_alone(driver, first, tokens(30))
    assert same_as_alone(driver, second, [*tokens(28), 3, 4])


def test_a_shared_prefix_below_n_keep_stays_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = make(n_slots=2, slot_ctx=48, n_ctx=256, unified=True)
    reads = Reads(driver, monkeypatch)
    first = driver.submit(tokens(30), n_predict=60, n_keep=30)
    driver.steps(3)
    second = driver.submit([*tokens(28), 3, 4], n_predict=60, n_keep=30)
    driver.run()
    assert reads.count == 0
    assert same_as_alone(driver, first, tokens(30))
    assert same_as_alone(driver, second, [*tokens(28), 3, 4])


def test_cached_sequences_make_room_for_cells_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = make(n_slots=2, slot_ctx=48, n_ctx=110, unified=True, spare=4)
    driver.answer(tokens(40, 4), n_predict=1)
    driver.answer(tokens(40, 5), n_predict=1)
    reads = Reads(driver, monkeypatch)
    first = driver.submit(tokens(30), n_predict=30)
    driver.steps(3)
    second = driver.submit([*tokens(28), 3, 4], n_predict=1)
    before = driver.backend.evaluated
    driver.run()
    assert reads.count == 1
    assert driver.backend.evaluated - before < 30 + 4
    assert same_as_alone(driver, first, tokens(30))
    assert same_as_alone(driver, second, [*tokens(28), 3, 4])


def test_without_room_for_own_cells_the_context_is_evaluated_again(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = make(n_slots=2, slot_ctx=48, n_ctx=72, unified=True)
    reads = Reads(driver, monkeypatch)
    first = driver.submit(tokens(30), n_predict=60)
    driver.steps(3)
    second = driver.submit([*tokens(28), 3, 4], n_predict=60)
    driver.run()
    assert reads.count == 0
    assert same_as_alone(driver, first, tokens(30))
    assert same_as_alone(driver, second, [*tokens(28), 3, 4])


def test_a_request_that_is_preempted_with_a_full_slot_comes_back() -> None:
    """Its tokens must fit the slot again: it shifts before another request can take its cells."""
    driver = make(n_slots=2, slot_ctx=48, unified=True)
    older = driver.submit(tokens(20), n_predict=30)
    older.client.taken = -600  # reads nothing
    driver.run(until=lambda: older.phase is Phase.DECODE)
    younger = driver.submit([*tokens(20), 3, 4], n_predict=60)
    driver.run(until=lambda: younger.n_past == 48)
    assert older.n_past == 20
    older.client.taken = older.client.emitted
    driver.run()
    assert same_as_alone(driver, older, tokens(20))
    assert same_as_alone(driver, younger, [*tokens(20), 3, 4])


# ---- shifts and the decode that carries them out


@pytest.mark.parametrize("unified", [False, True])
def test_an_aborted_decode_may_have_shifted_half_of_the_cells(unified: bool) -> None:
    driver = make(n_slots=2, slot_ctx=32, n_ctx=128, unified=unified)
    request = driver.submit(tokens(10), n_predict=60, n_keep=2)
    driver.run(until=lambda: request.n_past == 32)
    driver.backend.failures[len(driver.backend.history)] = Failure(Status.ABORTED)
    driver.run()
    assert same_as_alone(driver, request, tokens(10))


def test_a_failed_decode_of_another_request_may_have_shifted_half_of_the_cells() -> None:
    driver = make(n_slots=2, slot_ctx=32, backend={"n_lora": 1})
    doomed = driver.submit(tokens(8, 1), n_predict=60, lora=(0.5,))
    request = driver.submit(tokens(10), n_predict=60, n_keep=2, lora=(0.0,))
    driver.run(until=lambda: request.n_past == 32)
    driver.backend.failures[len(driver.backend.history)] = Failure(Status.FATAL)
    driver.run()
    assert isinstance(driver.error(doomed), EngineFailure)
    assert same_as_alone(driver, request, tokens(10))


@pytest.mark.parametrize("unified", [False, True])
def test_a_copy_of_a_shifted_sequence_may_have_half_of_its_cells_shifted(
    unified: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = make(n_slots=2, slot_ctx=32, n_ctx=128, unified=unified)
    gone = driver.submit(tokens(20), n_predict=60)
    driver.run(until=lambda: gone.n_past == 32)
    scheduler, source = driver.core.scheduler, gone.resident

    def plan_and_leave() -> list[Work]:
        works = plan()
        gone.client.cancelled = True
        return works

    plan = scheduler.plan
    with monkeypatch.context() as patch:
        patch.setattr(scheduler, "plan", plan_and_leave)
        driver.step()  # it was shifted, then its decode was not worth while
    assert scheduler.residents.shifted == [source]
    driver.core.cancel(gone)
    prompt = [*source.keys, 3, 4]
    follower = driver.submit(prompt, n_predict=3, id_slot=1)
    driver.backend.failures[len(driver.backend.history)] = Failure(Status.ABORTED)
    driver.run()
    assert same_as_alone(driver, follower, prompt)


# ---- self-extend


def extended(count: int, factor: int, width: int) -> list[int]:
    """Positions of `count` tokens by the April 2024 recipe, one token at a time."""
    positions: list[int] = []
    past = group = 0
    for _ in range(count):
        while past >= group + width:
            offset = (factor * group // width) * ((width // factor) * (factor - 1))
            shrink = (width // factor) * (factor - 1)
            positions = [p + offset if group <= p < past else p for p in positions]
            low, high = group + offset, group + offset + width
            moved = width // factor - offset - width
            positions = [
                p // factor if low <= p < high else p + moved if high <= p < past + offset else p for p in positions
            ]
            past -= shrink
            group += width // factor
        positions.append(past)
        past += 1
    return positions


@pytest.mark.parametrize(("factor", "width"), [(2, 16), (4, 16), (4, 32), (2, 4)])
@pytest.mark.parametrize("chunk", [4, 16, 64])
def test_self_extend_compresses_positions_however_the_prompt_is_cut(factor: int, width: int, chunk: int) -> None:
    backend = {"n_ubatch": chunk}
    driver = make(n_slots=1, slot_ctx=128, grp_attn_n=factor, grp_attn_w=width, backend=backend)
    request = driver.submit(tokens(70), n_predict=40, cache_prompt=False)
    driver.run(until=lambda: request.phase is Phase.DECODE)
    assert driver.backend.positions(request.resident.seq) == extended(70, factor, width)
    driver.run(until=lambda: request.n_past == 100)
    assert driver.backend.positions(request.resident.seq) == extended(100, factor, width)
    driver.run()
    assert not driver.core.residents.cells_used  # no request may start from compressed positions


@pytest.mark.parametrize("unified", [False, True])
def test_self_extended_answers_do_not_depend_on_the_company(unified: bool) -> None:
    fields = {"slot_ctx": 96, "grp_attn_n": 4, "grp_attn_w": 16}
    alone = make(n_slots=1, **fields)
    expected = [alone.answer(tokens(30, seed), n_predict=50, cache_prompt=False).content for seed in range(3)]
    driver = make(n_slots=3, n_ctx=110, unified=unified, **fields)
    requests = [driver.submit(tokens(30, seed), n_predict=50, cache_prompt=False) for seed in range(3)]
    for at in (5, 9, 30):
        driver.backend.failures[at] = Failure(Status.ABORTED)
    driver.run()
    assert [driver.finish(request).content for request in requests] == expected
    assert [driver.text(request) for request in requests] == [
        alone.text(request) for request in alone.events if request.phase is Phase.DONE
    ]
    assert unified == bool(driver.core.scheduler.preemptions)


def test_self_extend_ends_where_the_cells_of_the_slot_do() -> None:
    driver = make(n_slots=1, slot_ctx=64, grp_attn_n=4, grp_attn_w=16)
    end = driver.answer(tokens(30), n_predict=100, cache_prompt=False)
    assert (end.reason, end.truncated, end.n_decoded) == ("limit", True, 64 - 30 + 1)
