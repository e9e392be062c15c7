"""Fair turns of API keys: who gets the slots and the steps when several want more than there is.

Time is counted in steps. The bound of the tests is the one of docs/how-to/tenants.md: a key that sends a hundred
times as much changes the steps to another key's first token by a fifth of what they are alone, and one step.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from llamaserver.interfaces.tenant import Tenant
from llamaserver.scheduling.client_flow import MAX_BACKLOG
from llamaserver.scheduling.request import ActiveRequest, Phase

from tests.support.engine.driver import Driver, make, same_as_alone, tokens

HEAVY, LIGHT = Tenant("heavy"), Tenant("light")
SLOTS, SLOT_CTX = 4, 256
ROUNDS, EVERY = 20, 40  # requests of the light key, and the steps between them on each slot


def machine(*, unified: bool, n_slots: int = SLOTS) -> Driver:
    limits = {"n_batch": 128, "n_ubatch": 64}
    room = {"n_ctx": SLOT_CTX * n_slots} if unified else {}
    return make(n_slots=n_slots, slot_ctx=SLOT_CTX, prompt_budget=16, unified=unified, backend=limits, **room)


def prompts() -> Iterator[list[int]]:
    """Prompts without a common beginning, of 20 to 119 tokens."""
    number = 0
    while True:
        number += 1
        yield tokens(1, number) + tokens(19 + number * 37 % 100, number // 50)


def steps_to_first_token(driver: Driver, *, load: int) -> list[int]:
    """Steps of each request of the light key, beside `load` waiting or running ones of the heavy key."""
    heavy, light = prompts(), prompts()
    running: list[ActiveRequest] = []
    waits: list[int] = []
    every = EVERY * SLOTS // driver.settings.n_slots  # less than its share, which is half of the slots
    for number in range(ROUNDS * every):
        running = [request for request in running if request.phase is not Phase.DONE]
        while len(running) < load:
            running.append(driver.submit(next(heavy), n_predict=30 + number % 90, tenant=HEAVY))
        if number % every == 0:
            asked, begun = driver.submit(next(light), n_predict=12, tenant=LIGHT), number
            waits.append(0)
        if asked.n_decoded == 0 and asked.phase is not Phase.DONE:
            waits[-1] = number - begun + 1
        driver.step()
    return waits


def p95(values: list[int]) -> int:
    return sorted(values)[int(len(values) * 0.95) - 1]


@pytest.mark.parametrize("n_slots", [1, 4])
@pytest.mark.parametrize("unified", [False, True], ids=["split", "unified"])
def test_a_key_with_a_hundred_times_the_load_hardly_moves_another(unified: bool, n_slots: int) -> None:
    alone = steps_to_first_token(machine(unified=unified, n_slots=n_slots), load=0)
    beside = steps_to_first_token(machine(unified=unified, n_slots=n_slots), load=100)
    assert p95(beside) <= 1.2 * p95(alone) + 1
    assert max(beside[1:]) <= 1.2 * max(alone) + 1  # the first one comes when neither key has been served


def test_a_key_that_used_an_idle_server_does_not_wait_for_one_that_comes_later() -> None:
    driver = machine(unified=False)
    alone = steps_to_first_token(driver, load=0)
    beside = steps_to_first_token(driver, load=100)
    assert max(beside) <= 1.2 * max(alone) + 1


@pytest.mark.parametrize("unified", [False, True], ids=["split", "unified"])
def test_answers_stay_the_same_when_keys_make_room_for_each_other(unified: bool) -> None:
    driver = machine(unified=unified, n_slots=2)
    source = prompts()
    pairs = []
    for number in range(24):
        prompt = next(source)
        pairs.append((driver.submit(prompt, n_predict=60, tenant=LIGHT if number % 6 == 5 else HEAVY), prompt))
        driver.steps(5)
    driver.run()
    assert driver.core.scheduler.preemptions > 0
    assert all(same_as_alone(driver, request, prompt) for request, prompt in pairs)
    driver.check_idle()


def test_two_keys_that_always_want_more_get_the_same() -> None:
    driver = machine(unified=False)
    source, served = prompts(), {HEAVY: 0, LIGHT: 0}
    queued: dict[Tenant, list[ActiveRequest]] = {HEAVY: [], LIGHT: []}
    for _ in range(1500):
        for tenant, wanted, length in ((HEAVY, 20, 90), (LIGHT, 5, 20)):
            requests = queued[tenant] = [r for r in queued[tenant] if r.phase is not Phase.DONE]
            while len(requests) < wanted:
                requests.append(driver.submit(next(source), n_predict=length, tenant=tenant))
        driver.step()
    for request in driver.events:
        served[request.task.tenant] += request.client.evaluated + request.client.generated
    assert 0.8 < served[HEAVY] / served[LIGHT] < 1.25


def test_requests_of_one_key_start_in_their_order() -> None:
    driver = machine(unified=False, n_slots=1)
    source = prompts()
    for number in range(12):
        driver.submit(next(source), n_predict=4, tenant=HEAVY if number % 3 else LIGHT)
    begun: list[ActiveRequest] = []
    while driver.unfinished():
        driver.step()
        begun += [r for r in driver.core.scheduler.running() if r not in begun]
    for tenant in (HEAVY, LIGHT):
        order = [r.task.id_task for r in begun if r.task.tenant == tenant]
        assert order == sorted(order)


def test_a_key_with_endless_answers_makes_room() -> None:
    driver = machine(unified=False)
    endless = [driver.submit(tokens(30, seed), n_predict=-1, tenant=HEAVY) for seed in range(SLOTS)]
    driver.steps(2 * SLOT_CTX)
    first = driver.submit(tokens(20, 9), n_predict=4, tenant=LIGHT)
    driver.steps(3)
    assert first.n_decoded > 0
    driver.run(until=lambda: first.phase is Phase.DONE)
    driver.run(until=lambda: all(r.phase is Phase.DECODE for r in endless))


def test_one_slot_is_shared_by_two_endless_answers() -> None:
    driver = machine(unified=False, n_slots=1)
    both = [driver.submit(tokens(30, seed), n_predict=-1, tenant=t) for seed, t in enumerate((HEAVY, LIGHT))]
    driver.steps(8 * SLOT_CTX)
    assert all(request.n_decoded > 1.5 * SLOT_CTX for request in both)


def test_a_running_request_costs_no_more_than_the_limit_of_its_key() -> None:
    driver = machine(unified=False)
    limited = Tenant("limited", most_running=2)
    requests = [driver.submit(tokens(10, seed), n_predict=20, tenant=limited) for seed in range(4)]
    other = driver.submit(tokens(10, 9), n_predict=2, tenant=LIGHT)
    most = 0
    while driver.unfinished():
        driver.step()
        most = max(most, sum(r in requests for r in driver.core.scheduler.running()))
    assert most == 2
    assert driver.finish(other).n_decoded == 2


def test_a_client_that_does_not_read_gives_its_slot_to_one_that_waits() -> None:
    driver = make(n_slots=1, slot_ctx=2 * MAX_BACKLOG)
    driver.reading = False
    resting = driver.submit(tokens(4), n_predict=MAX_BACKLOG + 50)
    driver.run(until=lambda: resting.client.backlog >= MAX_BACKLOG)
    driver.step()
    driver.reading = True
    other = driver.submit(tokens(4, 1), n_predict=5)
    driver.run(until=lambda: other.phase is Phase.DONE)
    assert resting.phase is Phase.QUEUED
    resting.client.taken, resting.client.resting = resting.client.emitted, False
    driver.run()
    assert same_as_alone(driver, resting, tokens(4))


@pytest.mark.parametrize("every", [6, 10])
def test_many_short_requests_do_not_stop_the_answer_of_another_key(every: int) -> None:
    driver = make(n_slots=1, slot_ctx=1024, prompt_budget=16, backend={"n_batch": 128, "n_ubatch": 64})
    for seed in range(3):
        driver.submit(tokens(900, 77 + seed), n_predict=60, tenant=HEAVY)
    driver.run()
    long = driver.submit(tokens(700, 3), n_predict=250, tenant=HEAVY)
    driver.steps(60)
    for number in range(1500):
        if number % every == 0:
            driver.submit([*tokens(1, number), *tokens(7, number % 40)], n_predict=3, tenant=LIGHT)
        driver.step()
    assert long.phase is Phase.DONE


def test_nothing_is_preempted_for_a_prompt_that_still_would_not_fit() -> None:
    limits = {"n_batch": 128, "n_ubatch": 64}
    driver = make(n_slots=4, slot_ctx=1024, n_ctx=1024, unified=True, prompt_budget=64, backend=limits)
    third = Tenant("third")
    stays = driver.submit(tokens(500, 1), n_predict=300, tenant=third)
    short = [driver.submit(tokens(100, seed), n_predict=150, tenant=HEAVY) for seed in (2, 3)]
    driver.steps(25)
    shares = driver.core.scheduler._shares
    shares._served = {HEAVY.key: 1000, third.key: 750, LIGHT.key: 600}  # only HEAVY is far enough ahead
    shares._most = 1000
    large = driver.submit(tokens(700, 5), n_predict=20, tenant=LIGHT)
    driver.steps(50)
    assert large.phase is Phase.QUEUED
    assert stays.phase is Phase.DECODE
    assert all(request.n_decoded > 50 for request in short)
    assert driver.core.scheduler.preemptions == 0
    driver.run()


def test_what_waits_for_the_limit_of_its_own_key_costs_nobody() -> None:
    driver = machine(unified=False)
    limited = Tenant("limited", most_running=1)
    for seed in range(2):
        driver.submit(tokens(10, seed), n_predict=20, tenant=limited)
    driver.run()
    assert driver.core.scheduler._shares.served(limited.key) == driver.core.scheduler._shares.served(LIGHT.key)


@pytest.mark.parametrize("blocked_by", ["limit", "slot"])
def test_a_step_does_not_try_every_request_of_a_long_queue(blocked_by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = machine(unified=False)
    tenant = Tenant("many", most_running=1) if blocked_by == "limit" else HEAVY
    for seed in range(200):
        driver.submit(tokens(10, seed % 50), n_predict=100, tenant=tenant, id_slot=0 if blocked_by == "slot" else -1)
    driver.steps(5)
    scheduler, tried = driver.core.scheduler, 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal tried
            tried += 1
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(scheduler.roster, "running", counted(scheduler.roster.running))
    monkeypatch.setattr(scheduler.placement, "decide", counted(scheduler.placement.decide))
    scheduler.admit()
    assert 0 < tried < 10


def test_a_prompt_that_is_preempted_before_its_answer_counts_once() -> None:
    driver = make(n_slots=1, slot_ctx=SLOT_CTX, prompt_budget=16, backend={"n_batch": 32, "n_ubatch": 32})
    request = driver.submit(tokens(100), n_predict=4, tenant=HEAVY)
    driver.run(until=lambda: request.n_past >= 64)
    driver.core.scheduler.preempt(request)
    driver.run()
    assert driver.backend.evaluated > 100 + 3
    assert request.client.evaluated == 100


def test_prompts_of_one_key_take_turns_beside_another_key() -> None:
    limits = {"n_batch": 32, "n_ubatch": 32}
    driver = make(n_slots=4, slot_ctx=1024, prompt_budget=32, backend=limits)
    pairs = [
        [driver.submit(tokens(900, 2 * n + m), n_predict=1, tenant=t) for m in (0, 1)]
        for n, t in enumerate((HEAVY, LIGHT))
    ]
    driver.steps(30)
    for one, other in pairs:
        assert abs(one.n_past - other.n_past) <= 32


@pytest.mark.parametrize(("ahead", "phase"), [(20, Phase.FOLLOWING), (1000, Phase.PREFILL)])
def test_no_request_waits_for_a_common_prefix_that_comes_late(ahead: int, phase: Phase) -> None:
    driver = make(n_slots=4, slot_ctx=1024, prompt_budget=16, backend={"n_batch": 32, "n_ubatch": 32})
    driver.submit(tokens(400), n_predict=1, tenant=HEAVY)
    driver.steps(1)
    driver.core.scheduler._shares._served = {HEAVY.key: ahead, LIGHT.key: 0}
    driver.core.scheduler._shares._most = ahead
    request = driver.submit([*tokens(400), 5], n_predict=1, tenant=LIGHT)
    driver.core.scheduler.admit()
    assert request.phase is phase
    driver.run()
