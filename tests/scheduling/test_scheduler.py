"""What one step decodes: budget, turns, continuous batching, limits of the library, and what failures change."""

import pytest
from llamaserver.errors import EngineFailure
from llamaserver.interfaces.backend import Status
from llamaserver.interfaces.output import Failed
from llamaserver.scheduling.client_flow import MAX_BACKLOG
from llamaserver.scheduling.request import Phase

from tests.support.engine.driver import make, same_as_alone, tokens
from tests.support.engine.toy import Failure

# ---- prompts beside generation


def test_a_running_stream_gets_a_token_each_step_while_a_long_prompt_comes_in() -> None:
    driver = make(n_slots=2, slot_ctx=256, prompt_budget=16, backend={"n_batch": 256, "n_ubatch": 128})
    stream = driver.submit(tokens(4), n_predict=100)
    driver.step()
    long = driver.submit(tokens(160, 1), n_predict=1)
    before, steps = stream.n_decoded, 0
    while long.phase is not Phase.DONE:
        driver.step()
        steps += 1
        assert stream.n_decoded == before + steps
    prompt_rows = [one.rows[1] for one in driver.backend.history if 1 in one.rows]
    assert prompt_rows == [16] * 10


def test_a_prompt_alone_takes_whole_micro_batches() -> None:
    driver = make(n_slots=2, slot_ctx=256, prompt_budget=16, backend={"n_batch": 256, "n_ubatch": 64})
    driver.answer(tokens(128), n_predict=1)
    assert driver.rows() == [{0: 64}, {0: 64}]


def test_no_chunk_leaves_a_single_row_behind() -> None:
    driver = make(n_slots=1, slot_ctx=256, backend={"n_batch": 64, "n_ubatch": 64})
    driver.answer(tokens(65), n_predict=1)
    assert driver.rows() == [{0: 63}, {0: 2}]


def test_prompts_take_turns() -> None:
    driver = make(n_slots=4, slot_ctx=256, prompt_budget=16, backend={"n_batch": 256, "n_ubatch": 64})
    driver.submit(tokens(4), n_predict=100)
    driver.step()
    long = [driver.submit(tokens(100, seed), n_predict=1) for seed in (1, 2, 4)]
    progress = []
    for _ in range(12):
        driver.step()
        progress.append([request.n_past for request in long])
    assert all(max(done) - min(done) <= 16 for done in progress)
    assert progress[-1] == [64, 64, 64]


def test_budget_that_a_short_prompt_leaves_goes_to_the_next() -> None:
    driver = make(n_slots=3, slot_ctx=128, prompt_budget=16)
    driver.submit(tokens(4), n_predict=100)
    driver.step()
    short, long = driver.submit(tokens(6, 1)), driver.submit(tokens(60, 2))
    driver.step()
    assert (short.n_past, long.n_past) in ((6, 10), (0, 16))
    driver.step()
    assert short.n_past >= 6


def test_a_budget_is_not_spent_on_a_chunk_of_one_row() -> None:
    driver = make(n_slots=3, slot_ctx=128, prompt_budget=9)
    driver.submit(tokens(4), n_predict=100)
    driver.step()
    driver.submit(tokens(8, 1))
    driver.submit(tokens(60, 2))
    for _ in range(8):
        driver.step()
    chunks = [rows for work in driver.works if work.kind == "prompt" for rows in (len(work.batch),)]
    assert 1 not in chunks


def test_without_continuous_batching_prompts_wait_until_nothing_generates() -> None:
    driver = make(n_slots=2, cont_batching=False)
    first = driver.submit(tokens(8), n_predict=5)
    driver.step()
    second = driver.submit(tokens(8, 1), n_predict=5)
    while first.phase is not Phase.DONE:
        assert second.n_past == 0
        driver.step()
    driver.run()
    assert same_as_alone(driver, second, tokens(8, 1))


def test_without_continuous_batching_a_stream_that_nobody_reads_holds_no_prompt_back() -> None:
    driver = make(n_slots=2, cont_batching=False)
    first = driver.submit(tokens(8), n_predict=8)
    driver.step()
    first.client.taken = -MAX_BACKLOG
    second = driver.submit(tokens(8, 1), n_predict=2)
    driver.run(until=lambda: second.phase is Phase.DONE)
    assert first.n_decoded == 1
    first.client.taken = first.client.emitted
    driver.run()
    assert same_as_alone(driver, first, tokens(8))


@pytest.mark.parametrize("unified", [False, True])
def test_no_decode_is_larger_than_a_batch(unified: bool) -> None:
    driver = make(n_slots=6, slot_ctx=64, n_ctx=512, unified=unified, backend={"n_batch": 4, "n_ubatch": 4})
    requests = [driver.submit(tokens(10, seed), n_predict=6) for seed in range(6)]
    driver.run()  # the backend asserts the limit
    assert max(one.total for one in driver.backend.history) == 4
    for seed, request in enumerate(requests):
        assert same_as_alone(driver, request, tokens(10, seed))


def test_a_unified_cache_takes_prompts_and_generation_in_one_decode_a_split_one_apart() -> None:
    kinds = {}
    for unified in (True, False):
        driver = make(n_slots=2, n_ctx=256, unified=unified)
        driver.submit(tokens(4), n_predict=20)
        driver.step()
        driver.submit(tokens(40, 1), n_predict=2)
        seen = len(driver.works)
        driver.step()
        kinds[unified] = [work.kind for work in driver.works[seen:]]
    assert kinds == {True: ["mixed"], False: ["generate", "prompt"]}


def test_each_set_of_lora_scales_is_a_decode_of_its_own_and_no_request_starves() -> None:
    driver = make(n_slots=3, backend={"n_lora": 1})
    plain, scaled, other = (driver.submit(tokens(6), lora=(scale,), n_predict=6) for scale in (0.0, 0.5, 0.0))
    driver.run()
    assert {work.lora for work in driver.works} == {(0.0,), (0.5,)}
    assert driver.text(plain) == driver.text(other) != driver.text(scaled)
    assert scaled.n_decoded == 6


# ---- the queue


def test_more_requests_than_slots_wait_in_order() -> None:
    driver = make(n_slots=2)
    requests = [driver.submit(tokens(6, seed), n_predict=4) for seed in range(7)]
    driver.step()
    assert driver.core.snapshot().requests_deferred == 5
    assert driver.core.snapshot().requests_processing == 2
    finished = []
    while driver.unfinished():
        driver.step()
        finished += [s.task.id_task for s in requests if s.phase is Phase.DONE and s.task.id_task not in finished]
    assert finished == sorted(finished)


def test_a_request_for_a_busy_slot_does_not_hold_up_the_others() -> None:
    driver = make(n_slots=2)
    busy = driver.submit(tokens(6), id_slot=0, n_predict=30)
    driver.step()
    waiting = driver.submit(tokens(6, 1), id_slot=0, n_predict=1)
    other = driver.submit(tokens(6, 2), n_predict=1)
    driver.run(until=lambda: other.phase is Phase.DONE)
    assert waiting.phase is Phase.QUEUED
    driver.run()
    assert driver.finish(waiting).id_slot == 0
    assert driver.finish(busy).n_decoded == 30


@pytest.mark.parametrize("steps", [0, 1, 4], ids=["queued", "prefill", "decode"])
def test_cancelling_frees_the_place_and_leaves_the_others_alone(steps: int) -> None:
    driver = make(n_slots=1, slot_ctx=128, backend={"n_ubatch": 16})
    before = driver.submit(tokens(4), n_predict=2) if steps == 0 else None
    victim = driver.submit(tokens(40, 1), n_predict=50)
    after = driver.submit(tokens(12, 2), n_predict=5)
    driver.steps(steps or 1)
    assert victim.phase.name == {0: "QUEUED", 1: "PREFILL", 4: "DECODE"}[steps]
    driver.core.cancel(victim)
    driver.run()
    assert driver.last(victim) is None
    assert same_as_alone(driver, after, tokens(12, 2))
    assert before is None or same_as_alone(driver, before, tokens(4))
    assert driver.core.stats.cancelled == 1
    driver.check_idle()


def test_cancelling_twice_or_after_the_end_counts_once() -> None:
    driver = make()
    request = driver.submit(tokens(4), n_predict=1)
    driver.run()
    driver.core.cancel(request)
    gone = driver.submit(tokens(4))
    driver.core.cancel(gone)
    driver.core.cancel(gone)
    assert driver.core.stats.cancelled == 1


def test_a_client_that_leaves_during_the_last_chunk_of_its_prompt_disturbs_no_other() -> None:
    """The flag is up before the engine hears of it: the sequence must not be planned again until then."""
    driver = make(n_slots=2)
    other = driver.submit(tokens(8, 1), n_predict=20)
    driver.step()
    gone = driver.submit(tokens(8), n_predict=20)
    driver.backend.on_decode = lambda batch: setattr(gone.client, "cancelled", True)
    driver.steps(5)
    assert gone.n_past == 0 or gone.remaining == 0
    driver.core.cancel(gone)
    driver.run()
    assert same_as_alone(driver, other, tokens(8, 1))


def test_a_client_that_does_not_read_rests_alone_and_goes_on_when_it_has_read() -> None:
    driver = make(n_slots=2, slot_ctx=1024)
    driver.reading = False
    resting = driver.submit(tokens(4), n_predict=MAX_BACKLOG + 100)
    driver.run(until=lambda: resting.client.backlog >= MAX_BACKLOG)
    count = resting.n_decoded
    driver.reading = True
    other = driver.submit(tokens(4, 1), n_predict=50)
    driver.run(until=lambda: other.phase is Phase.DONE)
    assert resting.n_decoded == count
    assert resting.client.resting
    assert not driver.step()  # nothing to do but wait for the reader
    resting.client.taken = resting.client.emitted
    driver.run()
    assert same_as_alone(driver, resting, tokens(4))


# ---- preemption in a unified cache


def test_four_requests_of_three_quarters_of_the_cache_all_finish_with_full_answers() -> None:
    driver = make(n_slots=4, slot_ctx=128, unified=True, spare=4)
    requests = [driver.submit(tokens(32, seed), n_predict=64) for seed in range(4)]
    driver.run()
    for seed, request in enumerate(requests):
        assert driver.finish(request).n_decoded == 64
        assert not driver.finish(request).truncated
        assert same_as_alone(driver, request, tokens(32, seed))
    assert driver.core.snapshot().counters.preemptions_total > 0
    assert all(one.status is Status.OK for one in driver.backend.history)
    driver.check_idle()


def test_prompts_of_three_quarters_of_the_cache_come_one_after_the_other() -> None:
    driver = make(n_slots=4, slot_ctx=128, unified=True)
    requests = [driver.submit(tokens(96, seed), n_predict=16) for seed in range(4)]
    driver.run()
    for seed, request in enumerate(requests):
        assert same_as_alone(driver, request, tokens(96, seed))
    assert driver.core.scheduler.preemptions == 0  # admission has seen that they do not fit together
    assert driver.backend.evaluated == 4 * (96 + 15)


def test_the_youngest_is_preempted_and_is_the_first_to_come_back() -> None:
    driver = make(n_slots=3, slot_ctx=96, unified=True)
    old, young = driver.submit(tokens(8), n_predict=70), driver.submit(tokens(8, 1), n_predict=70)
    driver.run(until=lambda: driver.core.scheduler.preemptions == 1)
    later = driver.submit(tokens(8, 2), n_predict=1)
    assert young.phase is Phase.QUEUED
    assert old.phase is Phase.DECODE
    assert list(driver.core.scheduler.queue) == [young, later]
    driver.run()
    assert same_as_alone(driver, young, tokens(8, 1))
    assert young.n_prompt == 8


def test_a_preempted_request_is_primed_once_and_counted_once() -> None:
    driver = make(n_slots=2, slot_ctx=64, unified=True)
    driver.submit(tokens(8), n_predict=50)
    young = driver.submit(tokens(8, 1), n_predict=50)
    driver.run()
    assert driver.core.scheduler.preemptions == 1
    assert driver.finish(young).n_prompt == 8
    counters = driver.core.snapshot().counters
    assert counters.prompt_tokens_total == 16
    assert counters.tokens_predicted_total == 100


def test_cached_sequences_make_room_before_a_request_is_preempted() -> None:
    driver = make(n_slots=2, slot_ctx=128, unified=True, spare=3)
    for seed in range(3):
        driver.answer(tokens(30, seed), n_predict=4)
    driver.answer(tokens(60, 5), n_predict=60)
    assert driver.core.scheduler.preemptions == 0


def test_a_prompt_does_not_wait_for_room_that_only_idle_slots_hold() -> None:
    driver = make(n_slots=3, slot_ctx=128, unified=True, spare=0)
    driver.answer(tokens(90), n_predict=1, id_slot=0)
    running = driver.submit(tokens(10, 1), n_predict=25, id_slot=1)
    driver.step()
    late = driver.submit(tokens(60, 2), n_predict=2, id_slot=2)
    driver.run(until=lambda: late.phase is Phase.DONE)
    assert running.phase is Phase.DECODE
    assert same_as_alone(driver, late, tokens(60, 2))


# ---- failures


def test_no_room_drops_cached_sequences_then_tries_again() -> None:
    driver = make(n_slots=2, n_ctx=256, unified=True)
    driver.answer(tokens(20), n_predict=1)
    request = driver.submit(tokens(20, 1), n_predict=6)
    driver.backend.failures[len(driver.backend.history)] = Failure(Status.NO_ROOM)
    driver.run()
    assert same_as_alone(driver, request, tokens(20, 1))


def test_no_room_preempts_rather_than_fails() -> None:
    driver = make(n_slots=2, n_ctx=256, unified=True)
    requests = [driver.submit(tokens(20, seed), n_predict=6) for seed in (1, 2)]
    driver.steps(2)
    driver.backend.failures[len(driver.backend.history)] = Failure(Status.NO_ROOM)
    driver.run()
    assert driver.core.scheduler.preemptions == 1
    for seed, request in enumerate(requests, 1):
        assert same_as_alone(driver, request, tokens(20, seed))


@pytest.mark.parametrize("unified", [False, True])
def test_no_room_for_the_only_request_ends_it(unified: bool) -> None:
    driver = make(n_slots=2, n_ctx=256, unified=unified)
    driver.backend.failures[0] = Failure(Status.NO_ROOM)
    request = driver.submit(tokens(20), n_predict=6)
    driver.run()
    assert isinstance(driver.error(request), EngineFailure)
    assert driver.answer(tokens(20), n_predict=6).n_decoded == 6


def test_no_room_in_a_split_cache_costs_no_other_slot_its_cache() -> None:
    driver = make(n_slots=2)
    driver.answer(tokens(20), n_predict=1)
    driver.backend.failures[len(driver.backend.history)] = Failure(Status.NO_ROOM)
    driver.submit(tokens(20, 1), n_predict=1)
    driver.run()
    assert driver.answer(tokens(20), n_predict=1).n_cached == 18


@pytest.mark.parametrize("status", [Status.FATAL, Status.INVALID])
@pytest.mark.parametrize("unified", [False, True])
def test_a_failed_decode_ends_only_its_own_sequences(status: Status, unified: bool) -> None:
    driver = make(n_slots=3, n_ctx=256, unified=unified, backend={"n_lora": 1})
    doomed = driver.submit(tokens(10), n_predict=10, lora=(0.5,))
    other = driver.submit(tokens(10, 1), n_predict=10, lora=(0.0,))
    driver.steps(3)
    driver.backend.failures[len(driver.backend.history)] = Failure(status)
    driver.run()
    assert isinstance(driver.error(doomed), EngineFailure)
    assert same_as_alone(driver, other, tokens(10, 1))
    assert driver.answer(tokens(10), n_predict=4).n_decoded == 4


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("unified", [False, True])
@pytest.mark.parametrize("micro_batches", [0, 1, 2])
def test_an_aborted_decode_changes_no_answer(micro_batches: int, unified: bool, recurrent: bool) -> None:
    backend = {"n_ubatch": 8, "n_batch": 64, "partial_reuse": not recurrent}
    driver = make(n_slots=2, slot_ctx=128, n_ctx=256, unified=unified, prompt_budget=32, backend=backend)
    stream = driver.submit(tokens(6), n_predict=20)
    driver.steps(3)
    prompt = driver.submit(tokens(60, 1), n_predict=5)
    for at in (1, 2, 4, 7):
        driver.backend.failures[len(driver.backend.history) + at] = Failure(Status.ABORTED, micro_batches)
    driver.run()
    assert same_as_alone(driver, stream, tokens(6))
    assert same_as_alone(driver, prompt, tokens(60, 1))
    assert any(one.status is Status.ABORTED for one in driver.backend.history)


def test_after_a_failure_the_rest_of_the_plan_is_made_anew() -> None:
    """Work for other adapters in the same step may hold rows of a sequence that was just preempted."""
    driver = make(n_slots=2, slot_ctx=64, n_ctx=128, unified=True, backend={"n_lora": 1})
    first = driver.submit(tokens(10), n_predict=10, lora=(0.5,))
    second = driver.submit(tokens(10, 1), n_predict=10, lora=(0.0,))
    driver.steps(3)
    driver.backend.failures[len(driver.backend.history)] = Failure(Status.NO_ROOM)
    driver.run()
    for request, seed in ((first, 0), (second, 1)):
        assert same_as_alone(driver, request, tokens(10, seed))


# ---- embeddings


def test_embeddings_do_not_depend_on_the_company_and_leave_nothing_behind() -> None:
    alone_driver = make(n_slots=1)
    reference = alone_driver.submit(tokens(12), kind="embedding", cache_prompt=False)
    alone_driver.run()
    driver = make(n_slots=3)
    stream = driver.submit(tokens(6), n_predict=10)
    driver.step()
    embeddings = [driver.submit(tokens(12), kind="embedding", cache_prompt=False) for _ in range(4)]
    driver.run()
    expected = alone_driver.last(reference)
    for request in embeddings:
        assert (driver.last(request).vectors == expected.vectors).all()
        assert driver.last(request).n_prompt == 12
    assert same_as_alone(driver, stream, tokens(6))
    assert driver.core.residents.cells_used == stream.n_prompt + stream.n_decoded - 1


def test_an_embedding_drops_cached_sequences_instead_of_running_into_a_full_cache() -> None:
    driver = make(n_slots=2, slot_ctx=64, unified=True, spare=3)
    driver.answer(tokens(50), n_predict=4)
    embedding = driver.submit(tokens(30, 1), kind="embedding", cache_prompt=False)
    driver.run()
    assert not isinstance(driver.last(embedding), Failed)
    assert all(one.status is Status.OK for one in driver.backend.history)


def test_an_abort_after_a_shift_that_no_decode_carried_out_harms_no_later_request() -> None:
    """The shifted sequence was evicted meanwhile, and its id belongs to another request."""
    driver = make(n_slots=2, slot_ctx=64, n_ctx=256, unified=True, spare=1)
    prefix = tokens(40, 1)
    driver.answer(prefix, n_predict=1)
    full = driver.submit(tokens(50, 2), n_predict=100)
    driver.run(until=lambda: full.resident is not None and len(full.resident.keys) == 64)
    full.client.emitted += 10_000  # its client stops to read: it shifts, and rests before the decode
    driver.step()
    assert driver.core.residents.shifted
    driver.core.cancel(full)
    driver.submit(tokens(30, 3), n_predict=2, id_slot=1)
    prompt = [*prefix[:16], *tokens(20, 4)]
    last = driver.submit(prompt, n_predict=4)
    driver.backend.failures[len(driver.backend.history)] = Failure(Status.ABORTED, 0)
    driver.run()
    assert same_as_alone(driver, last, prompt)
