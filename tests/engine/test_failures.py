"""Decodes that fail: what they cost, how they are counted, and when the engine gives up."""

import pytest
from llamaserver.engine.failures import MOST, Failures
from llamaserver.interfaces.backend import Status
from llamaserver.interfaces.output import Failed

from tests.support.engine.driver import Driver, make, tokens
from tests.support.engine.toy import Failure

ALWAYS = range(1000)


def failing(driver: Driver, calls: range, status: Status = Status.FATAL) -> None:
    """Let these calls of decode fail."""
    start = len(driver.backend.history)
    driver.backend.failures.update({start + call: Failure(status) for call in calls})


def run_out(driver: Driver) -> None:
    """Step until nothing moves, as the thread does, or until the engine gives up."""
    while driver.unfinished() and not driver.core.failures.verdict:
        driver.step()
    while driver.core.failures.failing and not driver.core.failures.verdict:
        driver.step()


@pytest.mark.parametrize("status", [Status.FATAL, Status.INVALID])
def test_one_bad_batch_ends_its_request_only(status: Status) -> None:
    driver = make()
    good = driver.submit(tokens(20), n_predict=30)
    driver.steps(3)
    bad = driver.submit(tokens(9, 5))
    failing(driver, range(1, 2), status)  # the prompt's decode comes after the row of the other
    run_out(driver)
    driver.run()
    assert isinstance(driver.last(bad), Failed)
    assert driver.finish(good).n_decoded == 30
    failures = driver.core.failures
    assert failures.totals == {"invalid": 0, "fatal": 0, "defect": 0, status.name.lower(): 1}
    assert not failures.failing
    assert not failures.verdict
    counters = driver.core.snapshot().counters
    assert counters.decode_failures_total == failures.totals
    assert counters.requests_failed_total == {"500": 1}


def test_bad_requests_one_after_the_other_do_not_end_the_engine() -> None:
    driver = make()
    for _ in range(3 * MOST):
        failing(driver, range(1))
        bad = driver.submit(tokens(9))
        run_out(driver)
        assert isinstance(driver.last(bad), Failed)
        assert not driver.core.failures.verdict  # the test of one row went well
    assert driver.core.failures.totals["fatal"] == 3 * MOST
    assert driver.answer(tokens(20)).n_decoded == 8
    driver.check_idle()


@pytest.mark.parametrize("partial_reuse", [True, False])
@pytest.mark.parametrize("unified", [True, False])
def test_a_library_that_always_fails_ends_the_engine_after_one_request(unified: bool, partial_reuse: bool) -> None:
    driver = make(unified=unified, backend={"partial_reuse": partial_reuse})
    driver.answer(tokens(30))
    failing(driver, ALWAYS)
    bad = driver.submit(tokens(9, 5))
    run_out(driver)
    assert isinstance(driver.last(bad), Failed)
    assert driver.core.failures.totals["fatal"] == MOST
    assert driver.core.failures.verdict == "3 decodes in a row have failed: llama_decode returned status FATAL"


def test_an_encoder_is_tested_too() -> None:
    driver = make(backend={"causal": False})
    failing(driver, range(1))
    bad = driver.submit(tokens(9), kind="embedding")
    run_out(driver)
    assert isinstance(driver.last(bad), Failed)
    assert not driver.core.failures.failing


def test_requests_that_wait_are_not_all_tried_first() -> None:
    driver = make(n_slots=1)
    failing(driver, ALWAYS)
    requests = [driver.submit(tokens(9, seed)) for seed in range(5)]
    run_out(driver)
    assert driver.core.failures.verdict
    assert len(driver.backend.history) <= MOST + 1
    assert len([request for request in requests if driver.last(request)]) < MOST


def test_no_room_and_aborts_are_no_failures() -> None:
    failures = Failures()
    for status in (Status.NO_ROOM, Status.ABORTED) * MOST:
        failures.decoded(status)
    assert not failures.verdict
    assert set(failures.totals.values()) == {0}


def test_defects_are_counted_until_a_request_is_evaluated() -> None:
    failures = Failures()
    failures.defect(ValueError("x"))
    failures.decoded(Status.OK)
    for _ in range(MOST):
        assert not failures.verdict
        failures.tested(Status.OK)  # says nothing about the step
        failures.defect(ValueError("x"))
    assert failures.verdict == "3 steps in a row have failed: ValueError: x"
    assert failures.totals["defect"] == MOST + 1
