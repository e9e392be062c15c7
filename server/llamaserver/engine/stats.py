"""Counters of the engine thread, and their immutable copy for monitoring."""

from bisect import bisect_left
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from .snapshot import Counters, Histogram

_TTFT = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_INTER = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_WINDOW = 32  # finished requests, or decodes, over which the rates are averaged


class Observations:
    """A histogram under construction."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._total += seconds

    def freeze(self) -> Histogram:
        """The cumulative form of Prometheus."""
        cumulative, seen = [], 0
        for count in self._counts:
            seen += count
            cumulative.append(seen)
        return Histogram(self._bounds, tuple(cumulative), self._total, seen)


@dataclass(slots=True)
class Stats:
    """Totals since start, in tokens and seconds."""

    prompt_tokens: int = 0
    prompt_seconds: float = 0.0
    prompt_cached: int = 0
    predicted_tokens: int = 0
    predicted_seconds: float = 0.0
    decodes: int = 0
    decode_seconds: float = 0.0
    step_seconds: float = 0.0
    busy_slots: int = 0
    requests: int = 0
    cancelled: int = 0
    most_tokens: int = 0
    failures: dict[int, int] = field(default_factory=dict)  # requests that ended with an error, by its HTTP status
    first_token: Observations = field(default_factory=lambda: Observations(_TTFT))
    inter_token: Observations = field(default_factory=lambda: Observations(_INTER))
    _prompt_window: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    _predict_window: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    _prompt_decodes: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    _media_decodes: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=_WINDOW))

    def prompt_done(self, evaluated: int, cached: int, seconds: float) -> None:
        """One prompt has been evaluated."""
        self.prompt_tokens += evaluated
        self.prompt_cached += cached
        self.prompt_seconds += seconds
        self._prompt_window.append((evaluated, seconds))

    def decoded(self, kind: str, tokens: int, seconds: float) -> None:
        """One decode of this kind (see Work) has succeeded."""
        self.decodes += 1
        if kind == "media":
            self._media_decodes.append((tokens, seconds))
        elif kind != "generate":
            self._prompt_decodes.append((tokens, seconds))

    def prompt_token_seconds(self) -> float:
        """Seconds inside decodes that a prompt token has taken lately, 0 while unknown."""
        return _token_seconds(self._prompt_decodes)

    def usual_seconds(self, tokens: int = 1, kind: str = "generate") -> float:
        """Seconds that a decode of `tokens` tokens usually takes, 0 while nothing like it was measured."""
        mean = self.decode_seconds / self.decodes if self.decodes else 0.0
        if kind != "media":
            return max(mean, tokens * self.prompt_token_seconds())
        return max(mean, tokens * _token_seconds(self._media_decodes)) if self._media_decodes else 0.0

    def answer_done(self, tokens: int, seconds: float) -> None:
        """One answer has ended. Its tokens were counted one by one."""
        self.predicted_seconds += seconds
        self._predict_window.append((tokens, seconds))

    def failed(self, code: int) -> None:
        """A request has ended with an error of this HTTP status."""
        self.failures[code] = self.failures.get(code, 0) + 1

    def freeze(self, preemptions: int, decode_failures: Mapping[str, int]) -> Counters:
        """An immutable copy."""
        return Counters(
            prompt_tokens_total=self.prompt_tokens,
            prompt_seconds_total=self.prompt_seconds,
            prompt_tokens_cached_total=self.prompt_cached,
            tokens_predicted_total=self.predicted_tokens,
            tokens_predicted_seconds_total=self.predicted_seconds,
            decode_total=self.decodes,
            decode_seconds_total=self.decode_seconds,
            step_seconds_total=self.step_seconds,
            busy_slots_total=self.busy_slots,
            preemptions_total=preemptions,
            requests_total=self.requests,
            requests_cancelled_total=self.cancelled,
            requests_failed_total={str(code): count for code, count in self.failures.items()},
            decode_failures_total=dict(decode_failures),
            prompt_tokens_seconds=_rate(self._prompt_window),
            predicted_tokens_seconds=_rate(self._predict_window),
            n_tokens_max=self.most_tokens,
            time_to_first_token=self.first_token.freeze(),
            inter_token=self.inter_token.freeze(),
        )


def _token_seconds(window: deque[tuple[int, float]]) -> float:
    tokens = sum(count for count, _ in window)
    return sum(seconds for _, seconds in window) / tokens if tokens else 0.0


def _rate(window: deque[tuple[int, float]]) -> float:
    seconds = sum(s for _, s in window)
    return sum(n for n, _ in window) / seconds if seconds > 0 else 0.0
