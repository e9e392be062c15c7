"""What happens when context, cache or queue are full."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.paths import model_path
from tests.support.polling import until
from tests.support.server.client import Abandoned, Client
from tests.support.server.process import ServerProcess
from tests.support.server.traffic import at_once

pytestmark = pytest.mark.model


def start(*args: str) -> ServerProcess:
    return ServerProcess("-m", str(model_path()), "-cb", "--metrics", *args)


def test_four_requests_of_three_quarters_of_a_unified_cache_all_finish() -> None:
    with start("-c", "1024", "-np", "4", "--kv-unified") as process:
        client = Client(process.url)
        prompts = [list(range(100 * number, 100 * number + 600)) for number in range(1, 5)]
        fields: dict[str, Any] = {"n_predict": 168, "ignore_eos": True}
        answers = at_once(lambda prompt: client.complete(prompt, **fields), prompts)
        assert [answer["tokens_predicted"] for answer in answers] == [168] * 4
        assert not any(answer["truncated"] for answer in answers)


@pytest.fixture(scope="module")
def strict() -> Iterator[Client]:
    with start("-c", "512", "-np", "2", "--no-context-shift") as process:
        yield Client(process.url)


def test_no_context_shift_refuses_long_prompts(strict: Client) -> None:
    error = strict.error("/completion", {"prompt": list(range(100, 400))})
    assert error["type"] == "exceed_context_size_error"
    assert (error["n_prompt_tokens"], error["n_ctx"]) == (300, 256)


def test_no_context_shift_ends_answers_at_the_limit(strict: Client) -> None:
    answer = strict.complete(list(range(100, 300)), n_predict=-1, ignore_eos=True)
    assert answer["stopped_limit"]
    assert answer["truncated"]
    assert answer["tokens_evaluated"] + answer["tokens_predicted"] in (256, 257)


def test_context_shift_goes_on_for_ever(client: Client) -> None:
    answer = client.complete(list(range(100, 1100)), n_predict=600, n_keep=10, ignore_eos=True)
    assert (answer["tokens_predicted"], answer["truncated"]) == (600, True)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/v1/completions", {"prompt": list(range(100, 1200))}, "prompt"),
        ("/v1/completions", {"prompt": ["x", "x " * 200_000]}, "prompt.1"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "one two " * 600}]}, "prompt"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "one two " * 20_000}]}, "messages"),
    ],
    ids=["ids", "a long text", "a chat", "a long chat"],
)
def test_openai_endpoints_refuse_long_prompts(
    client: Client, path: str, fields: dict[str, Any], param: str, *, stream: bool
) -> None:
    error = client.error(path, {**fields, "stream": stream})
    assert (error["code"], error["type"]) == ("context_length_exceeded", "exceed_context_size_error")
    assert "exceeds the available context size (1024 tokens), try increasing it" in error["message"]
    assert (error["n_prompt_tokens"] >= 1024, error["n_ctx"], error["param"]) == (True, 1024, param)


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_openai_endpoints_end_answers_with_their_slot(client: Client, path: str) -> None:
    long = "one two " * 490
    fields = {"messages": [{"role": "user", "content": long}]} if "chat" in path else {"prompt": long}
    answer = client.post(path, {**fields, "temperature": 0, "max_tokens": 5000, "ignore_eos": True})
    assert answer["choices"][0]["finish_reason"] == "length"
    usage = answer["usage"]
    assert 1024 <= usage["total_tokens"] <= 1025
    assert usage["completion_tokens"] > 0


def test_self_extend_holds_more_than_the_trained_positions() -> None:
    with start("-c", "2048", "-np", "1", "--grp-attn-n", "4", "--grp-attn-w", "128") as process:
        client = Client(process.url)
        answer = client.complete(list(range(100, 1900)), n_predict=20, ignore_eos=True)
        assert (answer["tokens_predicted"], answer["truncated"]) == (20, False)


def test_a_bounded_queue_refuses_with_retry_after() -> None:
    with start("-c", "512", "-np", "1", "--max-queue", "1") as process:
        client = Client(process.url)
        body = {"prompt": "Once", "n_predict": -1, "ignore_eos": True}
        with Abandoned(client, body):
            until(lambda: client.slots()[0]["state"], "one runs")
            health = client.http.get("/health")
            assert (health.status_code, health.json()["status"]) == (200, "no slot available")
            assert client.get("/health", 503, fail_on_no_slot="")["status"] == "no slot available"
            assert client.get("/slots", 503, fail_on_no_slot="")["error"]["code"] == 503
            with Abandoned(client, body):
                until(lambda: client.metric("llamacpp:requests_deferred") == 1, "one waits")
                answer = client.http.post("/completion", json=body)
                assert answer.status_code == 503
                assert int(answer.headers["Retry-After"]) > 0
        until(lambda: not client.slots()[0]["state"], "idle")
        assert client.complete("Hello", n_predict=1)["tokens_predicted"] == 1


def test_without_continuous_batching_prompts_wait_for_generation() -> None:
    args = ["-m", str(model_path()), "-c", "2048", "-np", "2", "--metrics"]
    with ServerProcess(*args) as process:
        client = Client(process.url)
        body = {"prompt": "Once", "n_predict": 40, "ignore_eos": True, "stream": True}
        with client.http.stream("POST", "/completion", json=body) as running:
            lines = running.iter_lines()
            next(lines)
            answer = client.complete("Hello", n_predict=1)
            assert answer["tokens_predicted"] == 1
            # the stream was complete before the second prompt was even begun
            rest = [line for line in lines if line.startswith("data: ")]
        assert '"stop":true' in rest[-1]
        histogram = client.http.get("/metrics").text
        assert "llamaserver:time_to_first_token_seconds_count 2" in histogram


def test_n_predict_option_is_a_ceiling() -> None:
    with start("-c", "512", "-n", "5") as process:
        client = Client(process.url)
        assert client.complete("Once", n_predict=50, ignore_eos=True)["tokens_predicted"] == 5
        assert client.complete("Once", n_predict=-1, ignore_eos=True)["tokens_predicted"] == 5
        assert client.complete("Once", n_predict=2, ignore_eos=True)["tokens_predicted"] == 2


def test_without_unlimited_answers_a_stream_ends_when_its_slot_is_full() -> None:
    with start("-c", "256", "--no-unlimited-answers") as process:
        client = Client(process.url)
        fields: dict[str, Any] = {"prompt": list(range(100, 200)), "ignore_eos": True}
        *_, end = client.events("/completion", n_predict=-1, **fields)
        assert (end["stopped_limit"], end["truncated"]) == (True, False)
        assert 156 <= end["tokens_predicted"] < 160  # a few more end a character
        *_, end = client.events("/completion", n_predict=1_000_000, **fields)
        assert end["stopped_limit"]
        assert 256 <= end["tokens_predicted"] < 260
