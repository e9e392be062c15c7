"""Details of OpenAI's answers that strict clients look at, through OpenAI's own client where it has them."""

import json
from typing import Any
from urllib.parse import quote

import openai
import pytest

from tests.support.paths import model_path
from tests.support.server.client import Client
from tests.support.server.process import ServerProcess

pytestmark = pytest.mark.model
MESSAGES: Any = [{"role": "user", "content": "Name one colour."}]
ID = str(model_path())


@pytest.fixture
def api(client: Client) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{client.url}/v1", api_key="x", max_retries=0)


def chat(client: Client, **fields: Any) -> Any:
    body = {"messages": MESSAGES, "temperature": 0, "max_tokens": 6, **fields}
    return client.post("/v1/chat/completions", body)["choices"][0]


# ---- models


def test_a_model_by_its_id(api: openai.OpenAI, client: Client) -> None:
    model = api.models.retrieve(ID)  # a path: the client percent-encodes its slashes
    (listed,) = api.models.list()
    assert (model.id, model.object, model.owned_by) == (ID, "model", "llamacpp")
    assert model == listed
    raw = client.get("/v1/models")["data"][0]
    for path in (quote(ID, safe=""), quote(ID), ID, quote(ID, safe="").replace("%2F", "%2f")):
        assert client.get(f"/v1/models/{path}") == raw


def test_a_model_that_is_not_there(api: openai.OpenAI, client: Client) -> None:
    for name in ("gpt-4o", "org/model", ID + "x", "x" * 2000, "a%b c?é", "../../etc/passwd"):
        with pytest.raises(openai.NotFoundError) as caught:
            api.models.retrieve(name)
        assert (caught.value.code, caught.value.param, caught.value.type) == (
            "model_not_found", "model", "invalid_request_error",
        )  # fmt: skip
        assert name[:100] in caught.value.message
    assert client.http.get("/v1/models/%ff%2f%00").status_code == 404


def test_the_heads_of_models(client: Client) -> None:
    for path, status in (("/v1/models", 200), (f"/v1/models/{quote(ID, safe='')}", 200), ("/v1/models/none", 404)):
        answer = client.http.head(path)
        assert (answer.status_code, answer.content) == (status, b"")
        assert answer.headers["content-length"] == str(len(client.http.get(path).content))


@pytest.mark.parametrize("alias", ["org/name:q4", "Ein Modell, größer", "50%/x"])
def test_a_model_by_its_alias(alias: str) -> None:
    with ServerProcess("-m", ID, "-c", "512", "--alias", alias) as server:
        api = openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0)
        assert api.models.retrieve(alias).id == alias == api.models.list().data[0].id
        with pytest.raises(openai.NotFoundError):
            api.models.retrieve(ID)


# ---- refusals


def test_a_message_says_that_it_is_no_refusal(api: openai.OpenAI, client: Client) -> None:
    assert chat(client)["message"]["refusal"] is None
    choice = chat(client, logprobs=True)
    assert choice["logprobs"]["refusal"] is None
    answer = api.chat.completions.create(model="m", messages=MESSAGES, max_tokens=3, logprobs=True)
    assert "refusal" in answer.choices[0].message.model_fields_set
    assert answer.choices[0].logprobs
    assert "refusal" in answer.choices[0].logprobs.model_fields_set


def test_a_stream_says_so_at_its_begin(client: Client) -> None:
    events = client.events("/v1/chat/completions", messages=MESSAGES, max_tokens=4, logprobs=True, n=2)[:-1]
    first = [event["choices"][0] for event in events[:2]]
    assert [choice["delta"] for choice in first] == [{"role": "assistant", "content": None, "refusal": None}] * 2
    told = [choice["logprobs"] for event in events for choice in event["choices"] if choice.get("logprobs")]
    assert told
    assert all(set(item) == {"content", "refusal"} and item["content"] for item in told)


def test_refusals_of_the_past_are_what_the_assistant_said(api: openai.OpenAI, client: Client) -> None:
    """OpenAI's own shapes of them: a part, and a field beside no content."""

    def prompt(*said: Any) -> str:
        messages = [*MESSAGES, *said, {"role": "user", "content": "Why?"}]
        return str(client.post("/apply-template", messages=messages)["prompt"])

    plain = prompt({"role": "assistant", "content": "I cannot do that."})
    part = {"type": "refusal", "refusal": "I cannot do that."}
    assert prompt({"role": "assistant", "content": [part]}) == plain
    assert prompt({"role": "assistant", "content": None, "refusal": "I cannot do that."}) == plain
    parts = [{"type": "text", "text": "I "}, {"type": "refusal", "refusal": "cannot do that."}]
    assert prompt({"role": "assistant", "content": parts}) == plain
    said: Any = {"role": "assistant", "content": [part]}
    assert api.chat.completions.create(
        model="m", messages=[*MESSAGES, said, {"role": "user", "content": "Why?"}], max_tokens=2
    ).choices
    answered = chat(client)["message"]  # goes back as it came
    assert "<|im_start|>assistant\n" + answered["content"] in prompt(answered)


def test_a_refusal_without_text_is_named(client: Client) -> None:
    for part in ({"type": "refusal"}, {"type": "refusal", "refusal": None}, {"type": "refusal", "text": "no"}):
        messages = [{"role": "assistant", "content": [part]}, *MESSAGES]
        assert client.error("/v1/chat/completions", {"messages": messages})["param"] == "messages[0].content[0]"


# ---- logprobs


@pytest.mark.parametrize("top", [None, 0, 1, 3])
def test_as_many_alternatives_as_were_asked_for(api: openai.OpenAI, client: Client, top: int | None) -> None:
    fields = {} if top is None else {"top_logprobs": top}
    answer = api.chat.completions.create(
        model="m", messages=MESSAGES, max_tokens=4, temperature=0, logprobs=True, extra_body=fields
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs
    assert logprobs.content
    assert {len(item.top_logprobs) for item in logprobs.content} == {top or 0}
    assert all(item.logprob < 0 for item in logprobs.content)
    events = client.events(
        "/v1/chat/completions", messages=MESSAGES, max_tokens=4, temperature=0, logprobs=True, **fields
    )
    streamed = [
        item
        for event in events[:-1]
        for choice in event["choices"]
        for item in (choice.get("logprobs") or {"content": []})["content"]
    ]
    assert [item["token"] for item in streamed] == [item.token for item in logprobs.content]
    assert {len(item["top_logprobs"]) for item in streamed} == {top or 0}


def test_none_without_asking(client: Client) -> None:
    assert chat(client)["logprobs"] is None
    assert chat(client, top_logprobs=3)["logprobs"] is None
    for fields in ({}, {"logprobs": None}, {"logprobs": False}):
        assert client.post("/v1/completions", prompt="One", max_tokens=2, **fields)["choices"][0]["logprobs"] is None


def test_alternatives_of_a_completion(api: openai.OpenAI, client: Client) -> None:
    """0: the chosen tokens' own, and null. N: the N best, and the chosen one if it is none of them."""

    def ask(**fields: Any) -> Any:
        body = {"model": "m", "prompt": "One two three", "max_tokens": 5, "temperature": 0, **fields}
        logprobs = api.completions.create(**body).choices[0].logprobs
        assert logprobs
        return logprobs

    for none in (ask(logprobs=0), ask(extra_body={"logprobs": True})):
        assert len(none.tokens) == len(none.token_logprobs) == len(none.text_offset) == 5
        assert none.top_logprobs is None
        assert all(value <= 0 for value in none.token_logprobs)
    two = ask(logprobs=2)
    assert [len(item) for item in two.top_logprobs] == [2] * 5
    assert none.token_logprobs == two.token_logprobs
    hot = ask(logprobs=1, temperature=3.0, seed=5, extra_body={"top_k": 0, "top_p": 1, "min_p": 0})
    assert {len(item) for item in hot.top_logprobs} == {2}
    for token, value, tops in zip(hot.tokens, hot.token_logprobs, hot.top_logprobs, strict=True):
        assert tops[token] == value
    events = client.events("/v1/completions", prompt="One two three", max_tokens=5, temperature=0, logprobs=0)
    told = [event["choices"][0]["logprobs"] for event in events[:-1] if event["choices"][0].get("logprobs")]
    assert {item["top_logprobs"] for item in told} == {None}
    assert [value for item in told for value in item["token_logprobs"]] == none.token_logprobs


PROMPTS = ["One two three", "Grüße, 日本 🦙:", [504, 1028, "three"], [504, 1028, 1296]]


@pytest.mark.parametrize("prompt", PROMPTS, ids=["text", "wide letters", "mixed", "token ids"])
@pytest.mark.parametrize("echo", [False, True])
def test_offsets_are_places_in_the_text(client: Client, prompt: Any, echo: bool) -> None:
    body = {"prompt": prompt, "max_tokens": 8, "temperature": 0, "logprobs": 1, "echo": echo, "ignore_eos": True}
    choice = client.post("/v1/completions", body)["choices"][0]
    said = prompt if isinstance(prompt, str) else client.post("/detokenize", tokens=[504, 1028])["content"]
    if echo:
        assert choice["text"].startswith(said)
    logprobs, text = choice["logprobs"], choice["text"]
    plain = client.post("/v1/completions", {**body, "echo": False})["choices"][0]["text"]
    assert text.endswith(plain)
    begin = 0 if echo else len(text) - len(plain)
    assert logprobs["text_offset"][0] == begin
    if echo:
        assert len(logprobs["tokens"]) == 8 + len(client.post("/tokenize", content=prompt)["tokens"])
    for token, at in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        if "\ufffd" not in token:
            assert text[at : at + len(token)] == token
    events = client.events("/v1/completions", **body)[:-1]
    offsets = [
        at for event in events for at in (event["choices"][0].get("logprobs") or {"text_offset": []})["text_offset"]
    ]
    assert offsets == logprobs["text_offset"]
    assert "".join(event["choices"][0]["text"] for event in events) == text


def test_offsets_of_letters_that_take_several_tokens(client: Client) -> None:
    letters = "🦙ß日"
    grammar = f'root ::= "a{letters}b"'
    body = {"prompt": "Repeat:", "temperature": 0, "max_tokens": 20, "logprobs": 0, "grammar": grammar}
    choice = client.post("/v1/completions", body)["choices"][0]
    assert choice["text"] == f"a{letters}b"
    offsets = choice["logprobs"]["text_offset"]
    assert len(offsets) > 5, "more tokens than letters"
    assert set(offsets) >= {0, 1, 2, 3, 4}
    assert offsets == sorted(offsets)


def test_echo_of_several_prompts(client: Client) -> None:
    body = {"prompt": ["One", "Two three"], "max_tokens": 2, "echo": True, "n": 2}
    choices = client.post("/v1/completions", body)["choices"]
    assert [choice["text"][:3] for choice in choices] == ["One", "One", "Two", "Two"]


@pytest.mark.parametrize("prompt", ["The sky is blue. The grass is", [504, 6376, 314, 4461]], ids=["text", "ids"])
def test_logprobs_of_the_prompt(api: openai.OpenAI, client: Client, prompt: Any) -> None:
    """The scores of a text are those that it had when it was generated. So evaluation harnesses ask."""
    fields: dict[str, Any] = {"model": "m", "temperature": 0, "logprobs": 2}
    told = api.completions.create(prompt=prompt, max_tokens=20, **fields).choices[0]
    ids = prompt if isinstance(prompt, list) else client.post("/tokenize", content=prompt)["tokens"]
    answer = client.post("/tokenize", content=told.text)["tokens"]
    whole = api.completions.create(prompt=[*ids, *answer], max_tokens=0, echo=True, **fields).choices[0]
    assert told.logprobs and whole.logprobs
    scored, begin = whole.logprobs, len(ids)
    assert whole.text.endswith(told.text)
    assert scored.token_logprobs and scored.tokens and scored.top_logprobs
    assert (scored.token_logprobs[0], scored.top_logprobs[0]) == (None, None)
    assert "".join(scored.tokens) == whole.text
    assert scored.tokens[begin:] == (told.logprobs.tokens or [])[: len(answer)]
    assert scored.token_logprobs[begin:] == pytest.approx((told.logprobs.token_logprobs or [])[: len(answer)], abs=0.1)
    told_of_answer = list(zip(scored.token_logprobs, scored.tokens, scored.top_logprobs, strict=True))[begin:]
    for value, token, tops in told_of_answer:
        assert tops[token] == value == max(tops.values())
    stream = client.events("/v1/completions", prompt=[*ids, *answer], max_tokens=2, echo=True, **fields)[:-1]
    again = client.post("/v1/completions", prompt=[*ids, *answer], max_tokens=2, echo=True, **fields)["choices"][0]
    parts = [event["choices"][0] for event in stream]
    assert "".join(part["text"] for part in parts) == again["text"]
    joined = [value for part in parts for value in (part.get("logprobs") or {"tokens": []})["tokens"]]
    assert joined == again["logprobs"]["tokens"]


def test_logprobs_of_the_prompt_have_a_price(client: Client) -> None:
    body = {"prompt": "a b " * 200, "echo": True, "logprobs": 20, "n": 64, "max_tokens": 1}
    assert "x 21 probabilities x 64 choices is more than" in client.error("/v1/completions", body)["message"]


# ---- bodies


def test_a_conversation_that_was_cut_inside_an_emoji_goes_on(client: Client) -> None:
    cut = json.dumps({"messages": [{"role": "user", "content": "I like \ud83d"}], "max_tokens": 2})
    assert "\\ud83d" in cut
    answer = client.http.post("/v1/chat/completions", content=cut.encode())
    assert answer.status_code == 200, answer.text
    prompt = client.http.post("/apply-template", content=cut.encode()).json()["prompt"]
    assert "I like \ufffd<|im_end|>" in prompt


def test_bodies_of_power_shell(client: Client) -> None:
    body = json.dumps({"messages": MESSAGES, "max_tokens": 2, "stream": True})
    answer = client.http.post("/v1/chat/completions", content=b"\xef\xbb\xbf" + body.encode())
    assert answer.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("seed", [-(2**63), -2, 2**32, 2**53 + 1, 2**63 - 1])
def test_seeds_of_sixty_four_bits(api: openai.OpenAI, client: Client, seed: int) -> None:
    def ask(n: int) -> list[Any]:
        answer = api.chat.completions.create(
            model="m", messages=MESSAGES, seed=seed, n=n, temperature=1.5, max_tokens=8
        )
        return [choice.message.content for choice in answer.choices]

    assert ask(2) == ask(2)
    text = api.completions.create(model="m", prompt="x", seed=seed, max_tokens=4, temperature=1.2).choices[0].text
    assert (
        text
        == client.post("/v1/completions", prompt="x", seed=seed, max_tokens=4, temperature=1.2)["choices"][0]["text"]
    )


# ---- __verbose


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_verbose_shows_the_answer_of_completion(client: Client, path: str) -> None:
    body: dict[str, Any] = {"messages": MESSAGES, "prompt": "One two", "max_tokens": 3, "temperature": 0, "n": 2}
    whole = client.post(path, {**body, "verbose": True})
    shown = whole["__verbose"]
    prompt = client.post("/apply-template", messages=MESSAGES)["prompt"] if "chat" in path else "One two"
    assert (shown["prompt"], shown["tokens_predicted"]) == (prompt, 3)
    assert shown["content"] == whole["choices"][0].get("text", whole["choices"][0].get("message", {}).get("content"))
    assert shown["generation_settings"]["temperature"] == 0
    chunks = [event["__verbose"] for event in client.events(path, **body, verbose=True)[:-1] if "__verbose" in event]
    assert [chunk["prompt"] for chunk in chunks] == [prompt]
    assert "__verbose" not in client.post(path, body)


def test_the_type_of_the_weights_is_shown(client: Client) -> None:
    meta = client.get("/v1/models")["data"][0]["meta"]
    assert meta["ftype"] == client.get("/props")["model_ftype"]
    assert "Q4_1" in meta["ftype"]
