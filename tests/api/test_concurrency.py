"""Many requests over few slots: each gets the answer that it gets alone. `make test-more` asks hundreds."""

import random
from typing import Any

import pytest

from tests.support.paths import model_path
from tests.support.server.client import Client
from tests.support.server.process import ServerProcess
from tests.support.server.traffic import at_once

pytestmark = [pytest.mark.model, pytest.mark.slow]
TOPICS = "foxes rivers iron bread clocks snow music salt bridges wool maps glass".split()
NEAR_TIE = 0.5  # logits; two candidates this close may change places with the batch's shape
# Of 1,300 answers 3 flipped at a wider gap, of 0.51 to 0.67. What is wrong by more than rounding is wrong by far more.
WIDEST = 1.0


def requests(count: int) -> list[dict[str, Any]]:
    """Mixed requests from a fixed seed: shared and distinct prefixes, short and long, with and without cache."""
    rng = random.Random(7)
    made = []
    for number in range(count):
        topic = rng.choice(TOPICS)
        system = "You are a patient teacher who explains things to children. " * rng.choice((0, 0, 1, 6))
        made.append(
            {
                "prompt": f"{system}Tell me about {topic}, in {rng.randint(2, 9)} words. Question {number % 40}:",
                "n_predict": rng.randint(1, 24),
                "temperature": 0,
                "repeat_penalty": 1.0,
                "cache_prompt": rng.random() < 0.8,
                "n_probs": 2,
                "post_sampling_probs": False,
            }
        )
    return made


def tokens(answer: Any) -> list[int]:
    return [item["id"] for item in answer["completion_probabilities"]]


@pytest.mark.parametrize("count", [60, pytest.param(200, marks=pytest.mark.more)])
def test_bit_identical_in_the_split_cache(count: int) -> None:
    # fmt: off
    args = ["-m", str(model_path()), "-c", "4096", "-np", "6", "-cb", "--no-kv-unified", "-fa", "off", "--metrics"]
    # fmt: on
    bodies = requests(count)
    with ServerProcess(*args) as process:
        client = Client(process.url)
        together = at_once(lambda body: client.post("/completion", body), bodies, 24)
        alone = [client.post("/completion", {**body, "cache_prompt": False}) for body in bodies]
    for body, one, other in zip(bodies, together, alone, strict=True):
        assert one["content"] == other["content"], body
        assert [p["logprob"] for p in one["completion_probabilities"]] == [
            p["logprob"] for p in other["completion_probabilities"]
        ]


@pytest.mark.parametrize(("count", "rare"), [(40, 1), pytest.param(120, 2, marks=pytest.mark.more)])
def test_only_near_ties_flip_in_the_unified_cache(count: int, rare: int, capsys: pytest.CaptureFixture[str]) -> None:
    bodies = requests(count)
    with ServerProcess("-m", str(model_path()), "-c", "4096", "-np", "6", "-cb", "--kv-unified") as process:
        client = Client(process.url)
        together = at_once(lambda body: client.post("/completion", body), bodies, 24)
        alone = [client.post("/completion", body) for body in bodies]
    gaps = []
    for one, other in zip(together, alone, strict=True):
        pairs = zip(tokens(one), tokens(other), strict=False)
        place = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
        if place is not None:
            best = [answer["completion_probabilities"][place]["top_logprobs"] for answer in (one, other)]
            gaps.append(max(first["logprob"] - second["logprob"] for first, second in best))
    with capsys.disabled():
        print(f"\nunified cache: {len(gaps)} of {len(bodies)} answers flipped, widest gap {max(gaps, default=0.0):.2f}")
    assert sum(gap > NEAR_TIE for gap in gaps) <= rare
    assert max(gaps, default=0.0) <= WIDEST
