"""The probabilities of the tokens of a prompt: each once, in order, from the row before it."""

import math

import pytest
from llamaserver.interfaces.backend import SCORED_ROWS, Status
from llamaserver.interfaces.output import Delta, TokenProbs
from llamaserver.sampling.score import score
from llamaserver.scheduling.request import ActiveRequest

from tests.support.engine.driver import GREEDY, Driver, make, tokens
from tests.support.engine.toy import VOCAB, Failure

PROMPT = tokens(80)


def expected(count: int) -> list[TokenProbs]:
    """What each prefix of the prompt says about the token after it."""
    found = []
    for length in range(len(PROMPT) - count, len(PROMPT)):
        driver = make(slot_ctx=128)
        request = driver.submit(PROMPT[:length], n_predict=1)
        driver.run(lambda driver=driver, length=length: driver.backend.evaluated == length)
        found.append(score(VOCAB, driver.backend.logits(driver.works[-1].samples[0][1]), PROMPT[length], 0))
        assert request.n_prompt == length
    return found


def scores(driver: Driver, request: ActiveRequest) -> list[TokenProbs]:
    told = [event.scores for event in driver.events[request] if isinstance(event, Delta) and event.scores]
    assert len(told) == 1
    return told[0]


def ask(driver: Driver, count: int = 79, n_predict: int = 3) -> ActiveRequest:
    return driver.submit(PROMPT, n_predict=n_predict, n_scored=count, cache_prompt=False, sampling=GREEDY)


@pytest.mark.parametrize("unified", [False, True])
@pytest.mark.parametrize("count", [79, 5])
def test_each_token_has_the_score_that_its_prefix_gives_it(unified: bool, count: int) -> None:
    driver = make(slot_ctx=128, unified=unified)
    others = [driver.submit(tokens(50, 7), n_predict=20), driver.submit(tokens(9, 3), n_predict=20)]
    alone = make(slot_ctx=128, unified=unified).answer(PROMPT, n_predict=3)
    request = ask(driver, count)
    driver.run()
    assert scores(driver, request) == expected(count)
    assert driver.finish(request).n_decoded == alone.n_decoded == 3
    assert all(driver.finish(other).n_decoded == 20 for other in others)
    assert max(sum(work.batch.wants) for work in driver.works) <= SCORED_ROWS
    assert all(len({part.request for part in work.parts}) == 1 for work in driver.works if work.scores)


def test_what_is_evaluated_again_is_scored_once() -> None:
    driver = make(slot_ctx=128)
    driver.backend.failures = {1: Failure(Status.ABORTED, micro_batches=1)}
    request = ask(driver)
    driver.run(lambda: request.answer.n_scored > SCORED_ROWS)
    driver.core.scheduler.preempt(request)
    driver.run()
    assert scores(driver, request) == expected(79)


def test_a_prompt_can_be_scored_without_an_answer() -> None:
    driver = make(slot_ctx=128)
    request = ask(driver, n_predict=0)
    driver.run()
    assert len(scores(driver, request)) == 79
    assert driver.text(request) == ""


def test_a_score_is_the_softmax() -> None:
    driver = make(slot_ctx=128)
    driver.answer(PROMPT, n_predict=1)
    logits = driver.backend.logits(driver.works[-1].samples[0][1])
    before = logits.copy()
    found = score(VOCAB, logits, 5, 3)
    weights = [math.exp(float(value)) for value in logits]
    assert found.chosen.prob == pytest.approx(weights[5] / sum(weights), rel=1e-5)
    assert [one.prob for one in found.top] == pytest.approx(sorted(w / sum(weights) for w in weights)[:-4:-1], rel=1e-5)
    assert (logits == before).all()
    logits[7] = math.nan
    assert score(VOCAB, logits, 7, 3).chosen.prob == 0
