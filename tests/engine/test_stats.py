"""Counters and histograms of the engine thread."""

from hypothesis import given, settings
from hypothesis import strategies as st
from llamaserver.engine.stats import _WINDOW, Observations, Stats

BOUNDS = (0.1, 1.0, 5.0)


@settings(deadline=None)
@given(st.lists(st.floats(0, 10)))
def test_a_histogram_is_cumulative(durations: list[float]) -> None:
    seen = Observations(BOUNDS)
    for seconds in durations:
        seen.observe(seconds)
    frozen = seen.freeze()
    assert frozen.bounds == BOUNDS
    assert frozen.counts == (*(sum(d <= bound for d in durations) for bound in BOUNDS), len(durations))
    assert frozen.count == len(durations)
    assert abs(frozen.total - sum(durations)) < 1e-6


def test_freezing_makes_a_copy() -> None:
    stats = Stats()
    stats.prompt_done(10, 5, 2.0)
    before = stats.freeze(0, {})
    stats.prompt_done(1, 0, 1.0)
    stats.first_token.observe(1)
    assert before.prompt_tokens_total == 10
    assert before.time_to_first_token.count == 0
    assert stats.freeze(3, {}).preemptions_total == 3


def test_rates_are_averages_over_the_latest_requests() -> None:
    stats = Stats()
    assert stats.freeze(0, {}).prompt_tokens_seconds == 0.0
    stats.prompt_done(1000, 0, 1.0)
    for _ in range(_WINDOW):
        stats.prompt_done(10, 0, 2.0)
        stats.answer_done(30, 2.0)
    assert stats.freeze(0, {}).prompt_tokens_seconds == 5.0
    assert stats.freeze(0, {}).predicted_tokens_seconds == 15.0
    assert stats.freeze(0, {}).prompt_tokens_total == 1000 + 10 * _WINDOW
    assert stats.freeze(0, {}).tokens_predicted_seconds_total == 2.0 * _WINDOW


def test_requests_without_duration_divide_by_nothing() -> None:
    stats = Stats()
    stats.prompt_done(10, 0, 0.0)
    assert stats.freeze(0, {}).prompt_tokens_seconds == 0.0


def test_the_usual_time_is_that_of_decodes_whatever_a_request_waits() -> None:
    stats = Stats()
    assert stats.usual_seconds(512) == 0.0
    stats.decoded("prompt", 100, 1.0)
    for _ in range(_WINDOW):
        stats.decoded("mixed", 10, 0.1)
        stats.prompt_done(1, 500, 30.0)  # a chat from the cache that had to wait for its turn
        stats.decoded("generate", 1, 0.5)
    assert abs(stats.usual_seconds(512) - 5.12) < 1e-9
    assert abs(stats.prompt_token_seconds() - 0.01) < 1e-9


def test_an_image_takes_an_unknown_time_until_one_was_evaluated() -> None:
    stats = Stats()
    stats.decoded("prompt", 100, 1.0)
    assert stats.usual_seconds(256, "media") == 0.0
    stats.decoded("media", 256, 64.0)
    assert stats.usual_seconds(128, "media") == 32.0
    assert stats.usual_seconds(128, "prompt") == 1.28, "an image tells nothing about text"
