"""The limits of API keys: 429 with Retry-After, and their change while the server runs."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from llamaserver.api import keys
from llamaserver.api.key_file import Key
from llamaserver.api.key_file import Limits as KeyLimits
from llamaserver.api.limits import Limits
from llamaserver.config import Config
from llamaserver.errors import InvalidRequest, RateLimited

from .test_api_without_weights import GREEDY, Api, serving
from .test_tenants import ask

ENDLESS = {"prompt": "ab", "n_predict": 10**6, "ignore_eos": True, "stream": True}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def key(**limits: Any) -> Key:
    return Key("alice", "user", KeyLimits(**limits), "name:alice")


def test_answers_that_run_and_wait_are_counted() -> None:
    limits = Limits(Clock())
    alice = key(requests=2, queued=1)
    for _ in range(3):
        limits.check(alice, 4)
        limits.begin(alice, 10)
    with pytest.raises(RateLimited, match="3 answers"):
        limits.check(alice, 4)
    limits.check(key(requests=2, queued=2), 4)  # the limit has been raised
    limits.end(alice, 10, 10)
    limits.check(alice, 4)


def test_the_answers_of_a_request_are_checked_together() -> None:
    limits = Limits(Clock())
    alice = key(requests=2, queued=1)
    limits.check(alice, 4, 3)
    limits.begin(alice, 10)
    with pytest.raises(RateLimited):
        limits.check(alice, 4, 3)
    with pytest.raises(InvalidRequest, match=r"4 answers to one request: .* 2 running and 1 queued"):
        limits.check(alice, 4, 4)  # no later try would succeed


def test_no_more_run_than_there_are_slots() -> None:
    limits = Limits(Clock())
    alice = key(requests=9, queued=0)
    limits.begin(alice, 10)
    with pytest.raises(RateLimited):
        limits.check(alice, 1)


def test_tokens_come_back_at_the_rate_of_the_limit() -> None:
    clock = Clock()
    limits, alice = Limits(clock), key(tokens_per_minute=600)
    limits.begin(alice, 500)
    limits.end(alice, 500, 100 + 50)  # 400 of the prompt were in the cache, 50 were generated
    limits.begin(alice, 500)
    with pytest.raises(RateLimited, match="600 tokens per minute") as caught:
        limits.check(alice, 1)
    assert caught.value.retry_after == 6  # 51 tokens at 10 a second
    clock.now += 6
    limits.begin(alice, 10)
    limits.end(alice, 10, 10)
    limits.end(alice, 500, 1100)  # its answer has overdrawn the bucket
    with pytest.raises(RateLimited) as caught:
        limits.check(alice, 1)
    assert caught.value.retry_after == 61
    clock.now += 61
    limits.check(alice, 1)
    limits.check(Key("bob", "user", alice.limits, "name:bob"), 1)


def test_a_bucket_never_holds_more_than_a_minute() -> None:
    clock = Clock()
    limits, alice = Limits(clock), key(tokens_per_minute=60)
    limits.begin(alice, 30)
    limits.end(alice, 30, 30)
    clock.now += 10**6
    limits.begin(alice, 60)
    with pytest.raises(RateLimited):
        limits.check(alice, 1)


async def refused(api: Api, secret: str, path: str, body: Any) -> tuple[Any, int]:
    headers = {"Authorization": f"Bearer {secret}"}
    response = await api.clients.post(path, json=body, headers=headers)
    assert response.status == 429
    return (await response.json())["error"], int(response.headers["Retry-After"])


def write(file: Path, text: str) -> None:
    fresh = file.with_name("fresh")
    fresh.write_text(text)
    fresh.replace(file)


async def test_a_key_over_its_limit_is_refused_and_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "_CHECK_EVERY", 0.0)
    file = tmp_path / "keys"
    write(file, "a name=alice requests=1 queued=0\nb name=bob\n")
    async with serving(Config(api_key_file=str(file))) as api:
        running = await api.clients.post("/completion", json=ENDLESS, headers={"Authorization": "Bearer a"})
        error, wait = await refused(api, "a", "/completion", {"prompt": "ab", **GREEDY})
        assert (error["type"], error["code"], wait) == ("rate_limit_error", 429, 1)
        error, _ = await refused(api, "a", "/v1/completions", {"prompt": "ab", **GREEDY})
        assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
        await ask(api, "b", "POST", "/completion", {"prompt": "ab", **GREEDY})
        write(file, "a name=alice requests=1 queued=1\nb name=bob\n")
        await refused(api, "a", "/completion", {"prompt": ["ab", "cd"], **GREEDY})
        running.close()
        await ask(api, "a", "POST", "/completion", {"prompt": "ab", **GREEDY})


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/completion", {"prompt": ["ab"] * 3, **GREEDY}),
        ("/v1/completions", {"prompt": ["ab"] * 3, "max_tokens": 4}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "ab"}], "n": 3, "max_tokens": 4}),
        ("/v1/embeddings", {"input": ["ab"] * 3}),
    ],
)
async def test_all_answers_of_a_request_begin_or_none(tmp_path: Path, path: str, body: Any) -> None:
    """Otherwise no retry of a batch would succeed."""
    file = tmp_path / "keys"
    write(
        file,
        "a name=alice requests=2 queued=1 tokens-per-minute=1\n"
        "b name=bob requests=1 queued=1\nc name=carol requests=2 queued=1\n",
    )
    async with serving(Config(api_key_file=str(file), embedding=True)) as api:
        await ask(api, "a", "POST", path, body)
        error = (await ask(api, "b", "POST", path, body, 400))["error"]
        assert "3 answers to one request: this API key may have 1 running and 1 queued" in error["message"]
        running = await api.clients.post("/completion", json=ENDLESS, headers={"Authorization": "Bearer c"})
        await refused(api, "c", path, body)
        assert (await api.get("/health"))["status"] == "ok"
        running.close()


async def test_the_choices_of_one_prompt_pay_for_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys"
    write(file, "a name=alice\n")
    paid, begin = [], Limits.begin
    monkeypatch.setattr(Limits, "begin", lambda *args: (paid.append(args[-1]), begin(*args)))
    async with serving(Config(api_key_file=str(file))) as api:
        await ask(api, "a", "POST", "/v1/completions", {"prompt": ["abcd", "efg"], "n": 3, "max_tokens": 4})
    assert [count > 0 for count in paid] == [True, False, False] * 2


async def test_a_key_over_its_limit_is_told_before_its_body_is_read(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    write(file, "a name=alice requests=1 queued=0\n")
    async with serving(Config(api_key_file=str(file))) as api:
        running = await api.clients.post("/completion", json=ENDLESS, headers={"Authorization": "Bearer a"})
        for path in (
            "/completion",
            "/infill",
            "/v1/completions",
            "/v1/chat/completions",
            "/v1/embeddings",
            "/embedding",
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", api.clients.port)
            writer.write(
                f"POST {path} HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: a\r\nContent-Length: 9\r\n\r\n".encode()
            )
            assert b" 429 " in await asyncio.wait_for(reader.readline(), 30), path
            writer.close()
        running.close()


async def test_tokens_of_prompts_and_answers_are_paid(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    write(file, "a name=alice tokens-per-minute=20\nb name=bob\n")
    async with serving(Config(api_key_file=str(file))) as api:
        first = await ask(api, "a", "POST", "/completion", {"prompt": "ab cd ef", **GREEDY})
        error, wait = {}, 0
        for _ in range(20):
            headers = {"Authorization": "Bearer a"}
            response = await api.clients.post("/completion", json={"prompt": "ab cd ef", **GREEDY}, headers=headers)
            if response.status == 429:
                error, wait = (await response.json())["error"], int(response.headers["Retry-After"])
                break
        assert "20 tokens per minute" in error["message"]
        assert 0 < wait < 300
        assert first["tokens_predicted"] > 0
        await ask(api, "b", "POST", "/completion", {"prompt": "ab cd ef", **GREEDY})
