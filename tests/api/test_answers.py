"""Every field of a /completion answer."""

from typing import Any

import pytest

from tests.support.paths import model_path
from tests.support.server.client import Client

pytestmark = pytest.mark.model
PROMPT = "The three primary colours are red,"

OPTIONS = {
    "temperature": 0.0, "dynatemp_range": 0.25, "dynatemp_exponent": 1.5, "top_k": 20, "top_p": 0.9, "min_p": 0.1,
    "n_predict": 5, "n_keep": 2, "tfs_z": 0.75, "typical_p": 0.5, "repeat_penalty": 1.25, "repeat_last_n": 32,
    "penalize_nl": False, "presence_penalty": 0.5, "frequency_penalty": 0.25, "mirostat": 0, "mirostat_tau": 4.0,
    "mirostat_eta": 0.25, "grammar": "root ::= [a-z ,.]+", "seed": 42, "ignore_eos": True, "logit_bias": [[5, -1.0]],
    "n_probs": 2, "min_keep": 1, "stop": ["###"], "samplers": ["top_k", "temperature"], "cache_prompt": True,
    "stream": False,
}  # fmt: skip


def test_generation_settings(client: Client) -> None:
    settings = client.post("/completion", {"prompt": PROMPT, **OPTIONS})["generation_settings"]
    assert {name: settings[name] for name in OPTIONS} == OPTIONS
    assert settings["n_ctx"] == 1024
    assert settings["model"] == str(model_path())
    assert "prompt" not in settings


def test_content(client: Client) -> None:
    answer = client.complete(PROMPT, n_predict=6)
    tokens = client.post("/tokenize", content=PROMPT + answer["content"])["tokens"]
    assert answer["content"]
    assert len(tokens) == answer["tokens_evaluated"] + answer["tokens_predicted"]


def test_completion_probabilities(client: Client) -> None:
    answer = client.complete(PROMPT, n_predict=4, n_probs=3)
    items = answer["completion_probabilities"]
    assert "".join(item["content"] for item in items) == answer["content"]
    for item in items:
        assert len(item["probs"]) == 3
        assert item["probs"][0]["tok_str"] == item["content"]  # temperature 0
        assert 0 < item["probs"][0]["prob"] <= 1
        assert [one["token"] for one in item["top_logprobs"]] == [one["tok_str"] for one in item["probs"]]


def test_completion_probabilities_in_a_stream(client: Client) -> None:
    events = client.events("/completion", prompt=PROMPT, n_predict=4, temperature=0, n_probs=2)
    items = [item for event in events for item in event.get("completion_probabilities", [])]
    assert "".join(item["content"] for item in items) == "".join(event["content"] for event in events)


def test_stop_and_model_and_prompt(client: Client) -> None:
    answer = client.complete(PROMPT)
    assert (answer["stop"], answer["model"], answer["prompt"]) == (True, str(model_path()), PROMPT)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"n_predict": 3}, "limit"),
        ({"n_predict": 40, "stop": ["e"]}, "word"),
        ({"n_predict": 8, "grammar": 'root ::= " yes"'}, "eos"),
    ],
)
def test_stopped(client: Client, fields: dict[str, Any], reason: str) -> None:
    answer = client.complete(PROMPT, **fields)
    assert {kind: answer[f"stopped_{kind}"] for kind in ("eos", "limit", "word")} == {
        kind: kind == reason for kind in ("eos", "limit", "word")
    }
    assert answer["stopping_word"] == ("e" if reason == "word" else "")


def test_timings(client: Client) -> None:
    timings = client.complete(PROMPT, n_predict=5, ignore_eos=True)["timings"]
    assert timings["predicted_n"] == 5
    assert timings["predicted_per_second"] == pytest.approx(1000 * 5 / timings["predicted_ms"])
    assert timings["predicted_per_token_ms"] == pytest.approx(timings["predicted_ms"] / 5)
    assert timings["prompt_per_second"] == pytest.approx(1000 * timings["prompt_n"] / timings["prompt_ms"])
    assert timings["prompt_per_token_ms"] == pytest.approx(timings["prompt_ms"] / timings["prompt_n"])


def test_tokens_cached_and_evaluated(client: Client) -> None:
    prompt = "Words that come here for the first time: quoin, swale, thrum and their reuse"
    count = len(client.post("/tokenize", content=prompt)["tokens"])
    before = client.metric("llamacpp:prompt_tokens_total")
    first = client.complete(prompt, id_slot=0)
    assert first["tokens_evaluated"] == count
    assert first["tokens_cached"] + first["timings"]["prompt_n"] == count
    again = client.complete(prompt + " too", id_slot=0)
    assert again["tokens_cached"] >= count - 2
    assert again["tokens_cached"] + again["timings"]["prompt_n"] == again["tokens_evaluated"]
    evaluated = client.metric("llamacpp:prompt_tokens_total") - before
    assert evaluated == first["timings"]["prompt_n"] + again["timings"]["prompt_n"]


def test_truncated(client: Client) -> None:
    assert not client.complete(PROMPT)["truncated"]
    answer = client.complete(list(range(300, 1310)), n_predict=30, ignore_eos=True)
    assert answer["truncated"]
    assert answer["tokens_predicted"] == 30


def test_a_prompt_longer_than_the_slot_is_cut(client: Client) -> None:
    """As the document's server: n_keep tokens, then the last blocks of half the rest that fit."""
    answer = client.complete(list(range(300, 1900)), n_predict=2, n_keep=4)
    assert answer["truncated"]
    assert answer["tokens_evaluated"] < 1024


def test_tokens_predicted_counts_every_token(client: Client) -> None:
    before = client.metric("llamacpp:tokens_predicted_total")
    answer = client.complete(PROMPT, n_predict=7, ignore_eos=True)
    assert answer["tokens_predicted"] == 7
    assert client.metric("llamacpp:tokens_predicted_total") - before == 7
