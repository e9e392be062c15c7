"""Every request field of /completion does what the document says, seen in the answer."""

from typing import Any

import pytest

from tests.support.server.client import Client
from tests.support.server.process import ServerProcess

pytestmark = pytest.mark.model
PROMPT = "The capital of France is"
STORY = "Once upon a time there was a little fox who lived in the forest. The little fox"


def top(client: Client, n: int = 8, **fields: Any) -> list[tuple[str, float]]:
    """The candidates that had a chance at the first token, best first."""
    answer = client.post(
        "/completion", {"prompt": PROMPT, "n_predict": 1, "n_probs": n, "samplers": [], "repeat_penalty": 1.0, **fields}
    )
    probs = answer["completion_probabilities"][0]["probs"]
    assert len(probs) == n
    return [(one["tok_str"], one["prob"]) for one in probs if one["prob"] > 0]


def test_prompt_forms(client: Client) -> None:
    tokens = client.post("/tokenize", content=PROMPT)["tokens"]
    texts = {client.complete(form)["content"] for form in (PROMPT, tokens, [PROMPT.removesuffix(" is"), *tokens[-1:]])}
    assert len(texts) == 1
    several = client.complete([PROMPT, "One two three"])
    assert [item["content"] for item in several] == [client.complete(p)["content"] for p in (PROMPT, "One two three")]
    assert [item["content"] for item in client.complete([tokens, tokens])] == [*texts, *texts]


def test_temperature(client: Client) -> None:
    assert client.complete(STORY, seed=1)["content"] == client.complete(STORY, seed=2)["content"]
    hot = {client.complete(STORY, seed=seed, temperature=1.5, n_predict=12)["content"] for seed in range(4)}
    assert len(hot) > 1
    cold, warm = (top(client, temperature=t, samplers=["temperature"])[0][1] for t in (0.5, 1.5))
    assert cold > warm


def test_dynatemp_range(client: Client) -> None:
    plain = top(client, temperature=0.8, samplers=["temperature"])
    assert top(client, temperature=0.8, samplers=["temperature"], dynatemp_range=0.7) != plain


def test_dynatemp_exponent(client: Client) -> None:
    fields: dict[str, Any] = {"temperature": 1.0, "samplers": ["temperature"], "dynatemp_range": 0.9}
    one, three = (top(client, dynatemp_exponent=e, **fields)[0][1] for e in (1.0, 3.0))
    assert one < three  # a higher exponent bends the entropy's share down: colder, surer


def test_top_k(client: Client) -> None:
    assert len(top(client, top_k=3, samplers=["top_k"])) == 3


def test_top_p(client: Client) -> None:
    everything = top(client, n=50)
    kept = top(client, n=50, top_p=0.6, samplers=["top_p"])
    total = sum(prob for _, prob in everything[: len(kept)])
    assert total >= 0.6 > total - everything[len(kept) - 1][1]


def test_min_p(client: Client) -> None:
    everything = top(client, n=50)
    kept = top(client, n=50, min_p=0.2, samplers=["min_p"])
    assert len(kept) == sum(prob >= 0.2 * everything[0][1] for _, prob in everything)


def test_tfs_z(client: Client) -> None:
    assert len(top(client, n=50, tfs_z=0.5, samplers=["tfs_z"])) < 50


def test_typical_p(client: Client) -> None:
    assert 0 < len(top(client, n=50, typical_p=0.3, samplers=["typical_p"])) < 50


def test_min_keep(client: Client) -> None:
    assert len(top(client, top_p=0.01, samplers=["top_p"])) == 1
    assert len(top(client, top_p=0.01, min_keep=4, samplers=["top_p"])) == 4


def test_samplers(client: Client) -> None:
    answer = client.complete(PROMPT, samplers=["min_p", "top_k", "top_k"])
    assert answer["generation_settings"]["samplers"] == ["min_p", "top_k", "top_k"]
    assert len(top(client, n=50, top_k=2, top_p=0.01)) == 50  # none asked for, none applied
    assert len(top(client, top_k=2, samplers=["top_k", "temperature"])) == 2


@pytest.mark.parametrize("n", [0, 1, 5])
def test_n_predict(client: Client, n: int) -> None:
    answer = client.complete(PROMPT, n_predict=n, ignore_eos=True)
    assert answer["tokens_predicted"] == n
    assert answer["stopped_limit"]


def test_n_predict_0_fills_the_cache(client: Client) -> None:
    prompt = "A prompt that is evaluated long before anybody wants its answer, and never before now"
    first = client.complete(prompt, n_predict=0, id_slot=2)
    assert (first["content"], first["tokens_predicted"]) == ("", 0)
    assert client.complete(prompt, n_predict=1, id_slot=2)["timings"]["prompt_n"] == 2


def test_n_predict_unlimited_ends_by_itself(client: Client) -> None:
    # -1 with context shift would go on for ever; the model's own end stops it
    chat = "<|im_start|>user\nSay hello.<|im_end|>\n<|im_start|>assistant\n"
    answer = client.complete(chat, n_predict=-1)
    assert answer["stopped_eos"]
    assert not answer["stopped_limit"]


def test_n_predict_does_not_split_a_character(client: Client) -> None:
    grammar = 'root ::= "\U0001f9a9\U0001f9a9\U0001f9a9"'
    answer = client.complete(PROMPT, n_predict=1, grammar=grammar)
    assert "\ufffd" not in answer["content"]
    assert answer["tokens_predicted"] >= 1
    assert answer["content"].startswith("\U0001f9a9")


@pytest.mark.parametrize(("n_keep", "kept"), [(0, False), (8, True), (-1, True)])
def test_n_keep(client: Client, n_keep: int, kept: bool) -> None:
    """After a shift, the slot's first tokens are the prompt's first ones only if they were kept."""
    head = client.post("/tokenize", content="Remember these words: fox, bear, owl, wolf.")["tokens"][:8]
    tokens = [*head, *range(100, 1090)]
    name = f"keep{n_keep}.bin"
    answer = client.complete(tokens, n_predict=40, n_keep=n_keep, ignore_eos=True, id_slot=1)
    assert answer["truncated"]
    assert answer["tokens_predicted"] == 40
    client.post("/slots/1?action=save", filename=name)
    client.post("/slots/1?action=erase")
    client.post("/slots/1?action=restore", filename=name)
    again = client.complete([*head, 5], n_predict=1, id_slot=1)
    assert (again["tokens_cached"] == len(head) - 1) == kept


def test_stream(client: Client) -> None:
    events = client.events("/completion", prompt=PROMPT, n_predict=6, temperature=0)
    assert all(event == {"content": event["content"], "stop": False} for event in events[:-1])
    assert len(events) > 3
    assert events[-1]["stop"]
    whole = client.complete(PROMPT, n_predict=6)
    assert "".join(event["content"] for event in events) == whole["content"]
    assert whole["stop"]


def test_stop(client: Client) -> None:
    full = client.complete(STORY, n_predict=24)["content"]
    word = full.split()[5]
    answer = client.complete(STORY, n_predict=24, stop=[word, "never said"])
    assert answer["content"] == full[: full.index(word)]
    assert (answer["stopped_word"], answer["stopping_word"]) == (True, word)
    across = full[4:9]  # cuts through tokens
    streamed = client.events("/completion", prompt=STORY, n_predict=24, temperature=0, stop=[across])
    assert "".join(event["content"] for event in streamed) == full[: full.index(across)]


def test_repeat_penalty(client: Client) -> None:
    before = top(client)[0]
    after = top(client, repeat_penalty=100.0, penalty_prompt=f"{before[0]}{before[0]}")
    assert after[0][0] != before[0]


def test_repeat_last_n(client: Client) -> None:
    best = top(client)[0][0]
    prompt = best + " or something else"
    fields: dict[str, Any] = {"repeat_penalty": 100.0, "penalty_prompt": prompt}
    assert top(client, repeat_last_n=64, **fields)[0][0] != best
    assert top(client, repeat_last_n=-1, **fields)[0][0] != best
    assert top(client, repeat_last_n=2, **fields)[0][0] == best  # too long ago
    assert top(client, repeat_last_n=0, **fields)[0][0] == best  # off


def test_penalty_prompt(client: Client) -> None:
    best = top(client)[0][0]
    tokens = client.post("/tokenize", content=best)["tokens"]
    for form in (best, tokens):
        answer = client.complete(PROMPT, n_predict=1, penalty_prompt=form, repeat_penalty=100.0)
        assert answer["content"] != best
        assert answer["generation_settings"]["use_penalty_prompt_tokens"]
        assert answer["generation_settings"]["penalty_prompt_tokens"] == tokens
    plain = client.complete(PROMPT, n_predict=1, penalty_prompt=None)
    assert plain["content"] == best
    assert not plain["generation_settings"]["use_penalty_prompt_tokens"]


def test_penalize_nl(client: Client) -> None:
    newline = client.post("/tokenize", content="\n")["tokens"]
    prompt = "List:\n1.\n2.\n3.\n"
    fields: dict[str, Any] = {
        "prompt": prompt,
        "n_predict": 1,
        "n_probs": 1000,
        "samplers": [],
        "repeat_penalty": 2.0,
        "penalty_prompt": newline,
    }
    probs = []
    for penalize in (True, False):
        answer = client.post("/completion", {**fields, "penalize_nl": penalize})
        found = [one["prob"] for one in answer["completion_probabilities"][0]["probs"] if one["tok_str"] == "\n"]
        probs.append(found[0] if found else 0.0)
    assert probs[0] != probs[1]


@pytest.mark.parametrize("field", ["presence_penalty", "frequency_penalty"])
def test_presence_and_frequency_penalty(client: Client, field: str) -> None:
    best = top(client)[0][0]
    assert top(client, penalty_prompt=best, **{field: 0.0})[0][0] == best
    assert top(client, penalty_prompt=best, **{field: 50.0})[0][0] != best


@pytest.mark.parametrize("version", [1, 2])
def test_mirostat(client: Client, version: int) -> None:
    def text(**fields: Any) -> str:
        answer = client.complete(STORY, n_predict=16, temperature=1.0, seed=5, mirostat=version, **fields)
        assert answer["generation_settings"]["mirostat"] == version
        return str(answer["content"])

    assert text() == text()
    low = text(mirostat_tau=0.01)
    assert low == client.complete(STORY, n_predict=16)["content"]  # no surprise wanted: the best token, always


def test_mirostat_tau(client: Client) -> None:
    texts = {
        client.complete(STORY, n_predict=24, temperature=1.0, seed=3, mirostat=2, mirostat_tau=tau)["content"]
        for tau in (0.1, 9.0)
    }
    assert len(texts) == 2


def test_mirostat_eta(client: Client) -> None:
    texts = {
        client.complete(STORY, n_predict=48, temperature=1.0, seed=3, mirostat=2, mirostat_eta=eta)["content"]
        for eta in (0.0, 0.9)
    }
    assert len(texts) == 2


def test_grammar(client: Client) -> None:
    answer = client.complete(STORY, grammar='root ::= ("yes" | "no") "!"', n_predict=16)
    assert answer["content"] in ("yes!", "no!")
    assert answer["stopped_eos"]


def test_seed(client: Client) -> None:
    def text(seed: int) -> str:
        answer = client.complete(STORY, n_predict=16, temperature=1.2, seed=seed)
        return str(answer["content"])

    assert text(42) == text(42)
    assert len({text(seed) for seed in range(5)}) > 1
    assert len({text(seed) for seed in (2**33, 2**34, -7, -(2**63), 2**63 - 1, 2**64 - 2)}) > 3
    assert text(-(2**62)) == text(-(2**62))
    drawn = {client.complete("x", n_predict=1, seed=-1)["generation_settings"]["seed"] for _ in range(3)}
    assert len(drawn) == 3


def test_ignore_eos(client: Client) -> None:
    chat = "<|im_start|>user\nSay hello.<|im_end|>\n<|im_start|>assistant\n"
    assert client.complete(chat, n_predict=100)["stopped_eos"]
    answer = client.complete(chat, n_predict=100, ignore_eos=True)
    assert answer["tokens_predicted"] == 100
    assert answer["stopped_limit"]


def test_ignore_eos_lets_a_complete_answer_end(client: Client) -> None:
    answer = client.complete("Yes or no?", n_predict=20, ignore_eos=True, grammar='root ::= "yes" | "no"')
    assert answer["content"] in ("yes", "no")
    assert answer["stopped_eos"]
    answer = client.complete("Say", n_predict=20, ignore_eos=True, json_schema={"const": 12})
    assert answer["content"] == "12"
    chat = client.post(
        "/v1/chat/completions",
        messages=[{"role": "user", "content": "Hi"}],
        ignore_eos=True,
        response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": {"const": "a"}}},
    )
    assert chat["choices"][0]["finish_reason"] == "stop"
    assert chat["choices"][0]["message"]["content"] == '"a"'


def test_logit_bias(client: Client) -> None:
    best, second = (text for text, _ in top(client)[:2])
    best_id, second_id = (client.post("/tokenize", content=text)["tokens"][0] for text in (best, second))

    def first(bias: Any) -> str:
        return str(client.complete(PROMPT, n_predict=1, logit_bias=bias)["content"])

    assert first([[second_id, 30.0]]) == second
    assert first([[best_id, -30.0]]) != best
    assert first([[best_id, False]]) != best
    assert first([[second, 30.0]]) == second
    assert first({str(second_id): 30.0}) == second
    assert first([]) == best
    settings = client.complete(PROMPT, n_predict=1, logit_bias=[[second, 30.0]])["generation_settings"]
    assert settings["logit_bias"] == [[second_id, 30.0]]


def test_n_probs(client: Client) -> None:
    answer = client.complete(PROMPT, n_predict=3, n_probs=4, temperature=0.7)
    assert len(answer["completion_probabilities"]) == 3
    for item in answer["completion_probabilities"]:
        assert len(item["probs"]) == 4
        assert [one["prob"] for one in item["probs"]] == sorted((one["prob"] for one in item["probs"]), reverse=True)
    assert "completion_probabilities" not in client.complete(PROMPT, n_probs=0)


def test_id_slot(client: Client) -> None:
    for slot in range(4):
        assert client.complete(PROMPT, id_slot=slot)["id_slot"] == slot
    assert client.complete(PROMPT, id_slot=-1)["id_slot"] in range(4)
    assert client.complete(PROMPT, id_slot=6)["id_slot"] == 2


def test_cache_prompt(client: Client) -> None:
    prompt = "Nobody has sent exactly these words to this server before: ambergris, lanthorn, cassowary"
    count = client.complete(prompt, id_slot=3)["tokens_evaluated"]
    again = client.complete(prompt, id_slot=3)
    assert (again["timings"]["prompt_n"], again["tokens_cached"]) == (2, count - 2)
    fresh = client.complete(prompt, id_slot=3, cache_prompt=False)
    assert (fresh["timings"]["prompt_n"], fresh["tokens_cached"]) == (count, 0)


# ---- what today's clients send on top


def test_json_schema(client: Client) -> None:
    import json

    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    answer = client.complete("Give me JSON: ", json_schema=schema, n_predict=40)
    assert set(json.loads(answer["content"])) == {"n"}


def test_return_tokens(client: Client) -> None:
    answer = client.complete(PROMPT, return_tokens=True, n_predict=5)
    assert client.post("/detokenize", tokens=answer["tokens"])["content"] == answer["content"]


def test_response_fields(client: Client) -> None:
    answer = client.complete(PROMPT, response_fields=["content", "timings/prompt_n"])
    assert set(answer) == {"content", "timings/prompt_n"}
    assert client.complete(PROMPT, response_fields=[""]) == {}


@pytest.mark.parametrize(
    "fields",
    [
        {"dry_multiplier": 5.0, "dry_allowed_length": 1, "dry_base": 4.0},
        {"xtc_probability": 1.0, "xtc_threshold": 0.01},
        {"top_n_sigma": 0.001, "temperature": 3.0},
    ],
    ids=["dry", "xtc", "top_n_sigma"],
)
def test_todays_samplers(client: Client, fields: dict[str, Any]) -> None:
    prompt = "one two three one two three one two three one two"
    base: dict[str, Any] = {"n_predict": 12, "temperature": 0.8, "repeat_penalty": 1.0, "seed": 1}
    assert client.complete(prompt, **{**base, **fields})["content"] != client.complete(prompt, **base)["content"] or (
        "top_n_sigma" in fields
        and client.complete(prompt, **{**base, **fields})["content"]
        == client.complete(prompt, n_predict=12, repeat_penalty=1.0)["content"]
    )


def test_t_max_predict_ms(client: Client) -> None:
    answer = client.complete(STORY, n_predict=500, t_max_predict_ms=1, ignore_eos=True, logit_bias=[["\n", 5]])
    assert answer["tokens_predicted"] < 500
    assert answer["stopped_limit"]
    assert answer["has_new_line"]


def test_unknown_samplers_are_left_out(client: Client, server: ServerProcess) -> None:
    expected = client.complete(PROMPT, samplers=["top_k"], temperature=1, seed=1)
    assert client.complete(PROMPT, samplers=["TopK", "magic"], temperature=1, seed=1)["content"] == expected["content"]
    assert "the unknown sampler 'magic' is left out" in server.log
