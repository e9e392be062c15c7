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
