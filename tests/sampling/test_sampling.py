"""The sampler of one request: order of its parts, reproducibility, reported probabilities, bad logits."""

import math
from dataclasses import replace

import llama_cpp.llama_cpp as lib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llamaserver.errors import EngineFailure, InvalidRequest
from llamaserver.interfaces.params import SamplingParams
from llamaserver.sampling.chain import best
from llamaserver.sampling.sampler import ChainSampler, ChainSamplerFactory

from tests.support.engine.native_samplers import NativeArray, chain
from tests.support.engine.vocab import numbered

SIZE = 64
VOCAB = numbered(SIZE)
FACTORY = ChainSamplerFactory(VOCAB)
PLAIN = SamplingParams(repeat_penalty=1.0, samplers=(), temperature=1.0)


def make(params: SamplingParams, prompt: tuple[int, ...] = ()) -> ChainSampler:
    sampler = FACTORY(params, 512)
    sampler.prime(prompt)
    return sampler


def row(seed: int = 0, size: int = SIZE) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(size) * 3).astype(np.float32)


def peaks(**logits: float) -> np.ndarray:
    """A row of zeros but for `t5=2.0`: token 5 has logit 2."""
    result = np.zeros(SIZE, np.float32)
    for name, value in logits.items():
        result[int(name[1:])] = value
    return result


def run(sampler: ChainSampler, count: int, seed: int = 0) -> list[int]:
    return [sampler.sample(row(seed + step))[0] for step in range(count)]


# ---- the largest k


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 2**31), st.sampled_from([5, 1000, 8192, 8193, 10_000, 49_152]), st.integers(1, 700), st.booleans()
)
def test_best_finds_exactly_the_largest(seed: int, size: int, k: int, ties: bool) -> None:
    logits = row(seed, size)
    if ties:
        logits = np.round(logits)
    expected = sorted(range(size), key=lambda i: (-logits[i], i))[:k]
    assert best(logits, k).tolist() == expected


def test_best_of_a_row_where_nearly_all_is_forbidden() -> None:
    logits = np.full(20_000, -math.inf, np.float32)
    logits[[7, 19_999, 300]] = [1.0, 3.0, 2.0]
    assert best(logits, 40).tolist() == [19_999, 300, 7]


# ---- greedy, bias, penalties


def test_temperature_zero_takes_the_best_whatever_the_samplers_say() -> None:
    sampler = make(
        SamplingParams(temperature=0.0, repeat_penalty=1.0, mirostat=2, samplers=("xtc",), xtc_probability=1.0)
    )
    assert [sampler.sample(peaks(t9=5.0, t8=4.9))[0] for _ in range(3)] == [9, 9, 9]


def test_bias_comes_before_penalties() -> None:
    # 5 has logit 0 + 2, and the penalty halves what the bias made: 1 < 1.5.
    greedy = SamplingParams(temperature=0.0, repeat_penalty=2.0, logit_bias=((5, 2.0),))
    assert make(greedy, prompt=(5,)).sample(peaks(t6=1.5))[0] == 6
    assert make(greedy, prompt=(4,)).sample(peaks(t6=1.5))[0] == 5


def test_bias_of_one_token_given_twice_adds_up() -> None:
    greedy = replace(PLAIN, temperature=0.0, logit_bias=((5, 1.0), (5, 1.0)))
    assert make(greedy).sample(peaks(t6=1.5))[0] == 5


def test_minus_infinity_forbids() -> None:
    params = replace(PLAIN, logit_bias=((9, -math.inf), (9, 50.0)))
    assert make(replace(params, temperature=0.0)).sample(peaks(t9=5.0, t3=1.0))[0] == 3
    assert 9 not in [make(replace(params, seed=seed)).sample(peaks(t9=5.0))[0] for seed in range(50)]


def test_ignore_eos_forbids_every_end() -> None:
    greedy = replace(PLAIN, temperature=0.0, ignore_eos=True)
    assert make(greedy).sample(peaks(t0=9.0, t3=1.0))[0] == 3


def test_suppressed_tokens_are_never_chosen() -> None:
    sampler = ChainSamplerFactory(VOCAB, suppressed=[9])(replace(PLAIN, temperature=0.0), 512)
    assert sampler.sample(peaks(t9=5.0, t3=1.0))[0] == 3


def test_the_window_slides_over_prompt_and_answer() -> None:
    sampler = make(replace(PLAIN, temperature=0.0, repeat_penalty=4.0, repeat_last_n=2), prompt=(3, 4))
    logits = {"t3": 2.0, "t4": 1.9, "t5": 1.8}
    # 3 and 4 pay; then 4 and 5; then 5 and 3; then 3 and 4 again.
    assert [sampler.sample(peaks(**logits))[0] for _ in range(4)] == [5, 3, 4, 5]


def test_penalty_prompt_stands_in_for_the_prompt() -> None:
    greedy = replace(PLAIN, temperature=0.0, repeat_penalty=4.0)
    logits = {"t3": 2.0, "t4": 1.9}
    assert make(greedy, prompt=(3,)).sample(peaks(**logits))[0] == 4
    assert make(replace(greedy, penalty_prompt=()), prompt=(3,)).sample(peaks(**logits))[0] == 3
    assert make(replace(greedy, penalty_prompt=(4,)), prompt=(3,)).sample(peaks(**logits))[0] == 3


def test_newline_can_be_spared() -> None:
    greedy = replace(PLAIN, temperature=0.0, repeat_penalty=4.0)
    logits = {"t1": 2.0, "t4": 1.9}
    assert make(greedy, prompt=(1,)).sample(peaks(**logits))[0] == 4
    assert make(replace(greedy, penalize_nl=False), prompt=(1,)).sample(peaks(**logits))[0] == 1


def test_a_window_of_minus_one_is_the_context_and_zero_is_none() -> None:
    greedy = replace(PLAIN, temperature=0.0, repeat_penalty=4.0)
    prompt = (3, *[9] * 200)
    logits = {"t3": 2.0, "t4": 1.9}
    assert make(replace(greedy, repeat_last_n=64), prompt).sample(peaks(**logits))[0] == 3
    assert make(replace(greedy, repeat_last_n=-1), prompt).sample(peaks(**logits))[0] == 4
    assert make(replace(greedy, repeat_last_n=0), prompt).sample(peaks(**logits))[0] == 3


# ---- the chain


def native_default_chain(params: SamplingParams, size: int) -> object:
    keep = max(1, params.min_keep)
    return chain(
        [
            lib.llama_sampler_init_penalties(size, params.repeat_last_n, params.repeat_penalty, 0.0, 0.0),
            lib.llama_sampler_init_top_k(params.top_k),
            lib.llama_sampler_init_typical(params.typical_p, keep),
            lib.llama_sampler_init_top_p(params.top_p, keep),
            lib.llama_sampler_init_min_p(params.min_p, keep),
            lib.llama_sampler_init_temp_ext(params.temperature, params.dynatemp_range, params.dynatemp_exponent),
            lib.llama_sampler_init_dist(params.seed),
        ]
    )


@pytest.mark.parametrize("typical", [1.0, 0.7])
@pytest.mark.parametrize("spread", [0.0, 0.4])
@pytest.mark.parametrize("size", [300, 12_000])
def test_the_default_chain_says_what_llama_cpp_says(size: int, spread: float, typical: float) -> None:
    params = SamplingParams(seed=42, typical_p=typical, dynatemp_range=spread, repeat_penalty=1.3)
    native = native_default_chain(params, size)
    mine = ChainSamplerFactory(numbered(size))(params, 512)
    for step in range(60):
        logits = row(step % 7, size)  # rows come again, so that penalties bite
        expected = NativeArray(logits).apply(native).selected
        lib.llama_sampler_accept(native, expected)
        assert mine.sample(logits)[0] == expected
    lib.llama_sampler_free(native)


def test_the_same_seed_gives_the_same_tokens_whatever_runs_beside() -> None:
    params = SamplingParams(seed=7)
    alone = run(make(params), 30)
    one, other = make(params), make(replace(params, seed=8))
    beside = []
    for step in range(30):
        other.sample(row(100 + step))
        beside.append(one.sample(row(step))[0])
    assert beside == alone
    assert run(make(replace(params, seed=8)), 30) != alone


@pytest.mark.parametrize("mirostat", [0, 1, 2])
def test_seeds_reproduce_in_every_mode(mirostat: int) -> None:
    params = SamplingParams(seed=3, mirostat=mirostat)
    assert run(make(params), 20) == run(make(params), 20)


def candidates(params: SamplingParams, logits: np.ndarray) -> list[int]:
    """Which tokens are left at the end of the chain, best first."""
    report = make(replace(params, n_probs=SIZE)).sample(logits)[1]
    assert report is not None
    assert len(report.top) == SIZE
    return [one.id for one in report.top if one.prob > 0]


def test_samplers_run_in_the_order_asked_for() -> None:
    logits = np.log(np.array([0.4, 0.3, 0.2, 0.1] + [1e-9] * (SIZE - 4))).astype(np.float32)
    base = replace(PLAIN, top_k=3, top_p=0.75)
    # 0.4 + 0.3 is short of 0.75 of all, but not of 0.75 of the first three.
    assert candidates(replace(base, samplers=("top_p", "top_k")), logits) == [0, 1, 2]
    assert candidates(replace(base, samplers=("top_k", "top_p")), logits) == [0, 1]


def test_a_sampler_named_twice_runs_twice() -> None:
    logits = np.log(np.array([0.4, 0.3, 0.2, 0.1] + [1e-9] * (SIZE - 4))).astype(np.float32)
    base = replace(PLAIN, top_p=0.75)
    assert candidates(replace(base, samplers=("top_p",)), logits) == [0, 1, 2]
    assert candidates(replace(base, samplers=("top_p", "top_p")), logits) == [0, 1]


def test_a_sampler_not_named_is_not_used() -> None:
    base = replace(PLAIN, top_k=1, top_p=0.01, min_p=0.99, typical_p=0.01, tfs_z=0.01, xtc_probability=1.0)
    assert len(candidates(replace(base, dry_multiplier=5.0, top_n_sigma=0.01), row())) == SIZE
    hot = make(replace(base, temperature=100.0, n_probs=1)).sample(peaks(t5=5.0))[1]
    plain = make(replace(base, n_probs=1)).sample(peaks(t5=5.0))[1]
    assert hot is not None
    assert plain is not None
    assert hot.top[0].prob == plain.top[0].prob


@pytest.mark.parametrize("sampler", ["top_k", "tfs_z", "typical_p", "top_p", "min_p"])
def test_min_keep_holds_for_every_narrowing_sampler(sampler: str) -> None:
    params = replace(PLAIN, top_k=1, tfs_z=0.01, typical_p=0.01, top_p=0.01, min_p=0.99, samplers=(sampler,))
    assert len(candidates(replace(params, min_keep=5), row())) == 5
    assert len(candidates(params, row())) == 1


@pytest.mark.parametrize(
    ("change", "first"),
    [
        ({"samplers": ("dry", "top_k"), "top_k": 1, "dry_multiplier": 9.0, "dry_allowed_length": 1}, 8),
        ({"samplers": ("top_k", "dry"), "top_k": 2, "dry_multiplier": 9.0, "dry_allowed_length": 1}, 8),
        ({"samplers": ("xtc",), "xtc_probability": 1.0, "xtc_threshold": 0.1}, 8),
        ({"samplers": ("top_n_sigma",), "top_n_sigma": 1.0}, 9),
    ],
)
def test_the_newer_samplers_take_part_when_named(change: dict[str, object], first: int) -> None:
    params = replace(PLAIN, n_probs=1, **change)  # type: ignore[arg-type]
    report = make(params, prompt=(3, 9, 3)).sample(peaks(t9=8.0, t8=7.5))[1]
    assert report is not None
    assert report.top[0].id == first


# ---- probabilities


def test_no_probabilities_unless_asked_for() -> None:
    assert make(SamplingParams()).sample(row())[1] is None


def test_probabilities_after_the_chain_are_those_of_the_survivors() -> None:
    token, report = make(replace(PLAIN, top_k=3, samplers=("top_k",), n_probs=10)).sample(peaks(t5=2.0, t6=1.0, t7=0.5))
    weights = np.exp([2.0, 1.0, 0.5])
    assert report is not None
    assert [one.id for one in report.top[:3]] == [5, 6, 7]
    assert len(report.top) == 10
    assert all(one.prob == 0 for one in report.top[3:])
    assert [one.prob for one in report.top[:3]] == pytest.approx((weights / weights.sum()).tolist())
    assert report.chosen in report.top
    assert report.chosen.id == token
    assert report.top[0].piece == b"w5 "


def test_probabilities_before_the_chain_ignore_it() -> None:
    params = replace(PLAIN, top_k=1, samplers=("top_k",), n_probs=3, post_sampling_probs=False, logit_bias=((7, 9.0),))
    logits = peaks(t5=2.0, t6=1.0, t7=0.5)
    weights = np.exp(logits.astype(np.float64))
    token, report = make(params).sample(logits.copy())
    assert token == 7
    assert report is not None
    assert [one.id for one in report.top[:3]] == [5, 6, 7]
    assert report.chosen.prob == pytest.approx(weights[7] / weights.sum())
    assert [one.prob for one in report.top] == pytest.approx((weights[[5, 6, 7]] / weights.sum()).tolist())


def test_greedy_probabilities_are_a_plain_softmax() -> None:
    logits = peaks(t5=2.0, t0=1.0)
    weights = np.exp(logits.astype(np.float64))
    _, report = make(replace(PLAIN, temperature=0.0, n_probs=2, top_k=1, samplers=("top_k",))).sample(logits)
    assert report is not None
    assert [one.prob for one in report.top] == pytest.approx((weights[[5, 0]] / weights.sum()).tolist())
    assert report.top[1].piece == b"<end>"


@pytest.mark.parametrize("mirostat", [1, 2])
def test_mirostat_reports_what_it_let_through(mirostat: int) -> None:
    token, report = make(replace(PLAIN, mirostat=mirostat, n_probs=SIZE)).sample(row())
    assert report is not None
    assert report.chosen.id == token
    assert sum(one.prob for one in report.top) == pytest.approx(1.0)


# ---- what must not work, and must not break


MODES = [
    SamplingParams(),
    SamplingParams(temperature=0.0),
    SamplingParams(top_k=0),
    SamplingParams(top_k=0, samplers=("typical_p", "tfs_z", "temperature"), typical_p=0.5, tfs_z=0.5),
    SamplingParams(mirostat=1),
    SamplingParams(mirostat=2),
    SamplingParams(samplers=("top_n_sigma", "xtc", "dry"), top_n_sigma=1.0, xtc_probability=1.0, dry_multiplier=1.0),
    SamplingParams(n_probs=3, post_sampling_probs=False),
    SamplingParams(dynatemp_range=0.5, samplers=("temperature",)),
]


@pytest.mark.parametrize("size", [SIZE, 9000])
@pytest.mark.parametrize("params", MODES, ids=range(len(MODES)))
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_that_are_no_numbers(bad: float, params: SamplingParams, size: int) -> None:
    sampler = ChainSamplerFactory(numbered(size))(params, 512)
    some = row(0, size)
    some[::3] = bad
    token, _ = sampler.sample(some.copy())
    assert 0 <= token < size
    assert (token % 3 == 0) == (bad == math.inf)
    if bad != math.inf:
        with pytest.raises(EngineFailure):
            sampler.sample(np.full(size, bad, np.float32))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", math.nan),
        ("top_p", math.inf),
        ("repeat_penalty", 0.0),
        ("mirostat", 3),
        ("logit_bias", ((SIZE, 1.0),)),
        ("logit_bias", ((-1, 1.0),)),
        ("logit_bias", ((3, math.nan),)),
        ("logit_bias", ((3, math.inf),)),
        ("samplers", ("top_q",)),
        ("samplers", ("top_k",) * 100),
        ("grammar", "root ::= ("),
    ],
)
def test_values_that_cannot_work_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(InvalidRequest) as refused:
        FACTORY(replace(SamplingParams(), **{field: value}), 512)  # type: ignore[arg-type]
    assert refused.value.field == field


def test_too_many_breakers_are_refused() -> None:
    params = SamplingParams(samplers=("dry",), dry_multiplier=1.0, dry_sequence_breakers=("x",) * 100)
    with pytest.raises(InvalidRequest):
        FACTORY(params, 512)


@pytest.mark.parametrize("temperature", [1e-300, 1e-19, 1e30])
def test_extreme_temperatures(temperature: float) -> None:
    token, _ = make(replace(PLAIN, temperature=temperature, samplers=("temperature",))).sample(peaks(t5=3.0))
    assert token == 5 or temperature > 1


def test_an_enormous_window_costs_no_memory() -> None:
    sampler = make(SamplingParams(repeat_last_n=2**31 - 1, frequency_penalty=0.1), prompt=(5,))
    assert sampler.sample(row())[0] < SIZE


def test_tokens_outside_the_vocabulary_do_not_reach_the_window() -> None:
    sampler = make(SamplingParams(penalty_prompt=(-5, SIZE, 3), frequency_penalty=1.0))
    assert sampler.sample(row())[0] < SIZE


def test_close_may_be_called_twice() -> None:
    sampler = make(SamplingParams())
    sampler.close()
    sampler.close()
