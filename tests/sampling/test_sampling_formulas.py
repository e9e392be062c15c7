"""Every sampler's arithmetic against llama.cpp's own, and tail-free sampling against a table worked by hand."""

import math
from collections.abc import Callable

import llama_cpp.llama_cpp as lib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llamaserver.sampling import chain as ours
from llamaserver.sampling.adaptive import Adaptive
from llamaserver.sampling.chain import Candidates
from llamaserver.sampling.dry import Dry, DryParams, find_breakers
from llamaserver.sampling.mersenne import Twister
from llamaserver.sampling.mirostat import MirostatOne, MirostatTwo
from llamaserver.sampling.penalties import Penalties

from tests.support.engine.native_samplers import NativeArray, applied, chain
from tests.support.engine.vocab import ListVocab

SLACK = 1e-4  # the library computes in single precision: thresholds may fall this much to either side
rows = st.tuples(st.integers(0, 2**32 - 1), st.sampled_from([2, 3, 5, 40, 300, 1500, 20_000]), st.floats(0.3, 8.0))
shares = st.floats(0.02, 0.98)
keeps = st.integers(1, 5)
few = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def logits_of(row: tuple[int, int, float]) -> np.ndarray:
    seed, size, spread = row
    return (np.random.default_rng(seed).standard_normal(size) * spread).astype(np.float32)


def whole(logits: np.ndarray) -> Candidates:
    return Candidates(None, logits.copy(), False)


def ids_of(c: Candidates) -> set[int]:
    return set(range(len(c.logits))) if c.ids is None else set(c.ids.tolist())


def shares_of(c: Candidates) -> dict[int, float]:
    values = ours.probabilities(c)
    return {ours.token_at(c, place): float(values[place]) for place in range(len(values))}


def between(low: Candidates, native: NativeArray, high: Candidates) -> bool:
    """Whether the native choice lies between ours at slightly smaller and slightly larger thresholds."""
    return ids_of(low) <= set(native.logits()) <= ids_of(high)


@few
@given(rows, st.integers(1, 600))
def test_top_k(row: tuple[int, int, float], k: int) -> None:
    logits = logits_of(row)
    native = applied(lib.llama_sampler_init_top_k(k), logits)
    mine = ours.top_k(k)(whole(logits))
    assert mine.ranked
    assert mine.logits.tolist() == sorted(native.logits().values(), reverse=True)
    assert all(logits[token] == logit for token, logit in zip(mine.ids, mine.logits, strict=True))


@few
@given(rows, shares, keeps)
def test_top_p(row: tuple[int, int, float], p: float, keep: int) -> None:
    logits = logits_of(row)
    native = applied(lib.llama_sampler_init_top_p(p, keep), logits)
    assert between(ours.top_p(p - SLACK, keep)(whole(logits)), native, ours.top_p(p + SLACK, keep)(whole(logits)))
    ranked = ours.rank(whole(logits))
    assert ids_of(ours.top_p(p, keep)(ranked)) == ids_of(ours.top_p(p, keep)(whole(logits)))


@few
@given(rows, shares, keeps)
def test_min_p(row: tuple[int, int, float], p: float, keep: int) -> None:
    logits = logits_of(row)
    native = applied(lib.llama_sampler_init_min_p(p, keep), logits)
    low, high = ours.min_p(p * (1 + SLACK), keep), ours.min_p(p * (1 - SLACK), keep)
    assert between(low(whole(logits)), native, high(whole(logits)))
    assert between(low(ours.rank(whole(logits))), native, high(ours.rank(whole(logits))))


@few
@given(rows, shares, keeps)
def test_typical_p(row: tuple[int, int, float], p: float, keep: int) -> None:
    logits = logits_of(row)
    native = applied(lib.llama_sampler_init_typical(p, keep), logits)
    kept = set(native.logits())
    # The library's single-precision sums over many candidates drift: its last few may be others.
    slack = SLACK if len(logits) < 1000 else 5e-3
    low, high = (ids_of(ours.typical_p(q, keep)(whole(logits))) for q in (p - slack, min(p + slack, 0.9999)))
    strays = (low - kept) | (kept - high)
    weight = ours.probabilities(whole(logits))
    assert sum(weight[token] for token in strays) <= slack
    assert len(strays) <= 0.01 * len(logits)


@few
@given(rows, st.floats(0.1, 3.0))
def test_temperature(row: tuple[int, int, float], value: float) -> None:
    logits = logits_of(row)
    native = applied(lib.llama_sampler_init_temp(value), logits).shares()
    mine = shares_of(ours.temperature(value)(whole(logits)))
    assert mine == pytest.approx(native, abs=1e-5)


@few
@given(rows, st.floats(0.5, 2.0), st.floats(0.05, 0.45), st.floats(0.2, 3.0))
def test_dynamic_temperature(row: tuple[int, int, float], value: float, spread: float, exponent: float) -> None:
    logits = logits_of((row[0], min(row[1], 1500), row[2]))
    native = applied(lib.llama_sampler_init_temp_ext(value, spread, exponent), logits).shares()
    mine = shares_of(ours.dynamic_temperature(value, spread, exponent)(whole(logits)))
    assert mine == pytest.approx(native, abs=2e-4)


def test_dynamic_temperature_of_one_certain_candidate_is_greedy() -> None:
    logits = np.array([0.0, 500.0, 1.0], np.float32)
    kept = ours.dynamic_temperature(0.5, 0.5, 1.0)(whole(logits))
    assert ids_of(kept) == {1}


@few
@given(rows, st.floats(0.1, 3.0))
def test_top_n_sigma(row: tuple[int, int, float], n: float) -> None:
    logits = logits_of(row)
    native = applied(lib.llama_sampler_init_top_n_sigma(n), logits)
    assert between(ours.top_n_sigma(n - SLACK)(whole(logits)), native, ours.top_n_sigma(n + SLACK)(whole(logits)))


@few
@given(rows, st.floats(0.05, 1.0), st.floats(0.01, 0.5), keeps, st.integers(0, 2**32 - 2))
def test_xtc(row: tuple[int, int, float], probability: float, threshold: float, keep: int, seed: int) -> None:
    logits = logits_of((row[0], min(row[1], 300), row[2]))
    native = chain([lib.llama_sampler_init_xtc(probability, threshold, keep, seed)])
    mine = ours.xtc(probability, threshold, keep, seed)
    for _ in range(5):  # the same chances fall in the same order
        kept = set(NativeArray(logits).apply(native).logits())
        assert ids_of(mine(whole(logits))) == kept
    lib.llama_sampler_free(native)


@few
@given(rows, st.integers(0, 2**32 - 2))
def test_draw_takes_the_tokens_llama_cpp_takes(row: tuple[int, int, float], seed: int) -> None:
    logits = logits_of((row[0], min(row[1], 300), row[2]))
    native = lib.llama_sampler_init_dist(seed)
    random = Twister(seed)
    for _ in range(20):
        expected = NativeArray(logits).apply(native).selected
        assert ours.draw(whole(logits), random) == expected
    lib.llama_sampler_free(native)


@few
@given(
    rows,
    st.lists(st.integers(0, 30), max_size=60),
    st.integers(1, 40),
    st.floats(0.5, 2.0),
    st.sampled_from([0.0, 0.3, -0.2]),
    st.sampled_from([0.0, 0.5]),
)
def test_penalties(
    row: tuple[int, int, float], tokens: list[int], last_n: int, repeat: float, frequency: float, presence: float
) -> None:
    logits = logits_of((row[0], 40, row[2]))
    native = applied(lib.llama_sampler_init_penalties(40, last_n, repeat, frequency, presence), logits, tokens)
    window = Penalties(40, last_n, repeat, frequency, presence)
    window.extend(tokens[: len(tokens) // 2])
    for token in tokens[len(tokens) // 2 :]:
        window.add(token)
    mine = logits.copy()
    window.apply(mine)
    assert dict(enumerate(mine.tolist())) == pytest.approx(native.logits(), abs=1e-5)


BREAKABLE = ListVocab([b"end", *(bytes([c]) for c in b"abcdef:\n"), b"ab", b"a:", b": ", b"f\n\n"], eog=[0])


@few
@given(
    st.lists(st.integers(1, 8), max_size=120),
    st.floats(0.1, 3.0),
    st.sampled_from([1.0, 1.3, 1.75, 30.0]),
    st.integers(0, 4),
    st.sampled_from([4, 30, 200]),
)
def test_dry_without_breakers(tokens: list[int], multiplier: float, base: float, allowed: int, last_n: int) -> None:
    logits = logits_of((7, 12, 2.0))
    native = lib.llama_sampler_init_dry(None, multiplier, base, allowed, last_n, None, 0)
    expected = applied(native, logits, tokens).logits()
    mine = Dry(DryParams(multiplier, base, allowed, last_n), {})
    mine.extend(tokens[: len(tokens) // 2])
    for token in tokens[len(tokens) // 2 :]:
        mine.add(token)
    got = mine(whole(logits)).logits
    finite = {token: value for token, value in enumerate(got.tolist()) if math.isfinite(value)}
    assert finite == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_dry_breakers_are_found_inside_and_across_pieces() -> None:
    assert find_breakers(BREAKABLE, ":") == {7: ((),), 10: ((),), 11: ((),)}
    # "f" begins "f\n\n"; the rest is two newlines, unless the piece holds them already.
    assert find_breakers(BREAKABLE, "f\n\n") == {6: ((8, 8),), 12: ((),)}


def test_dry_stops_matching_at_a_breaker() -> None:
    a, b, colon = 1, 2, 7
    text = [a, b, colon, a, b, colon]
    params = DryParams(1.0, 1.75, 1, 100)
    assert Dry(params, {}).penalties() == {}
    free, broken = Dry(params, {}), Dry(params, find_breakers(BREAKABLE, ":"))
    free.extend(text)
    broken.extend(text)
    assert free.penalties() == {a: pytest.approx(1.75**2)}
    assert broken.penalties() == {}


def test_dry_survives_a_long_monotonous_text() -> None:
    dry = Dry(DryParams(1.0, 1.75, 2, 8192), {})
    dry.extend([5] * 8192)
    for _ in range(3):
        assert math.isfinite(dry.penalties()[5])
        dry.add(5)


def learned(make: Callable[[], object], native: object, logits: np.ndarray, steps: int) -> None:
    mirostat = make()
    for step in range(steps):
        row = np.roll(logits, step)
        result = NativeArray(row).apply(native)
        kept, place = mirostat.choose(ours.rank(whole(row)))  # type: ignore[attr-defined]
        assert result.selected == ours.token_at(kept, place)


@few
@given(rows, st.floats(0.5, 8.0), st.floats(0.01, 0.5), st.integers(0, 2**32 - 2))
def test_mirostat_two(row: tuple[int, int, float], tau: float, eta: float, seed: int) -> None:
    logits = logits_of((row[0], min(row[1], 300), row[2]))
    native = lib.llama_sampler_init_mirostat_v2(seed, tau, eta)
    learned(lambda: MirostatTwo(tau, eta, Twister(seed)), native, logits, 12)
    lib.llama_sampler_free(native)


@few
@given(rows, st.floats(0.5, 4.0), st.floats(0.01, 0.5), st.integers(0, 2**32 - 2))
def test_mirostat_one(row: tuple[int, int, float], tau: float, eta: float, seed: int) -> None:
    size = max(40, min(row[1], 100))  # more are kept in another order, so that the same draw takes another token
    logits = logits_of((row[0], size, max(row[2], 3.0)))
    native = lib.llama_sampler_init_mirostat(size, seed, tau, eta, 100)
    learned(lambda: MirostatOne(tau, eta, Twister(seed), size), native, logits, 12)
    lib.llama_sampler_free(native)


@few
@given(rows, st.one_of(st.just(-0.5), st.floats(0.01, 1.0)), st.floats(0.0, 0.99), st.integers(0, 2**32 - 2))
def test_adaptive_p(row: tuple[int, int, float], target: float, decay: float, seed: int) -> None:
    logits = logits_of((row[0], min(row[1], 300), row[2]))
    native = lib.llama_sampler_init_adaptive_p(target, decay, seed)
    mine = Adaptive((), 0, Twister(seed), target=target, decay=decay)
    for step in range(12):
        shifted = np.roll(logits, step)
        expected = NativeArray(shifted).apply(native).selected
        lib.llama_sampler_accept(native, expected)
        kept, place = mine.choose(whole(shifted))
        assert ours.token_at(kept, place) == expected
    lib.llama_sampler_free(native)


def test_mirostat_one_on_even_logits_keeps_them_all() -> None:
    # The estimate exceeds every integer here; llama.cpp's conversion overflows and keeps one.
    logits = logits_of((0, 5000, 0.3))
    kept = MirostatOne(8.0, 0.1, Twister(0), 5000).narrow(whole(logits))
    assert len(kept.logits) == 5000


# p = .4 .3 .15 .1 .05: first differences -.1 -.15 -.05 -.05, second -.05 .1 0, absolute .05 .1 0,
# normalised 1/3 2/3 0, summed 1/3 1 1. Kept is the number of sums before the first above z.
TAIL_FREE = [(0.2, 1, 1), (0.3, 1, 1), (0.5, 1, 1), (0.34, 1, 1), (0.2, 2, 2), (0.9, 1, 1), (0.99, 2, 2), (0.2, 3, 5)]


@pytest.mark.parametrize(("z", "keep", "expected"), TAIL_FREE)
def test_tail_free_by_hand(z: float, keep: int, expected: int) -> None:
    logits = np.log(np.array([0.1, 0.4, 0.05, 0.3, 0.15])).astype(np.float32)
    kept = ours.tfs_z(z, keep)(whole(logits))
    assert kept.ids is not None
    assert kept.ids.tolist() == [1, 3, 4, 0, 2][:expected]


# p = .3 .25 .2 .15 .1 falls evenly: no curvature, so weight 1/3 for each of three, sums 1/3 2/3 1.
@pytest.mark.parametrize(("z", "expected"), [(0.1, 1), (0.4, 1), (0.7, 2), (0.99, 2)])
def test_tail_free_of_an_even_slope(z: float, expected: int) -> None:
    logits = np.log(np.array([0.3, 0.25, 0.2, 0.15, 0.1]))
    assert len(ours.tfs_z(z, 1)(whole(logits)).logits) == expected


@pytest.mark.parametrize("size", [1, 2])
def test_tail_free_leaves_one_or_two_alone(size: int) -> None:
    assert len(ours.tfs_z(0.1, 1)(whole(np.zeros(size, np.float32))).logits) == size


def test_dry_compares_a_bounded_number_of_tokens_for_each_new_one() -> None:
    window = 1 << 15
    dry = Dry(DryParams(1.0, 1.05, 0, window), {})
    dry.extend([5] * window)
    measured = math.log(dry.penalties()[5], 1.05)
    assert 30 <= measured <= (1 << 20) / window + 1
