"""The errors of Anthropic's paths have Anthropic's form, whoever finds them. Others keep OpenAI's."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import anthropic
import pytest
from aiohttp import ClientResponse
from llamaserver.api.context import CONTEXT
from llamaserver.config import Config
from llamaserver.errors import Unavailable

from .test_api_without_weights import SETTINGS, serving

PATH = "/v1/messages"
BODY = {"messages": [{"role": "user", "content": "ab"}], "max_tokens": 10**6, "ignore_eos": True, "temperature": 0}
ENDLESS = {"prompt": "ab", "n_predict": 10**6, "ignore_eos": True, "stream": True}


async def error(answer: ClientResponse, status: int, kind: str) -> str:
    """Check an error. Returns its message."""
    body = await answer.json()
    assert (answer.status, body["type"], body["error"]["type"]) == (status, "error", kind), body
    assert body.keys() == {"type", "error", "request_id"}
    assert body["error"].keys() == {"type", "message"}
    assert answer.headers["Request-Id"] == body["request_id"]
    message: str = body["error"]["message"]
    return message


async def test_of_middlewares_and_handlers(ports: Any) -> None:
    server = await ports(api_keys=("right",), max_body=1024, allowed_origins=("http://good.example",))
    key = {"X-Api-Key": "right"}

    async def ask(method: str, path: str, headers: dict[str, str] = key, **options: Any) -> ClientResponse:
        answer: ClientResponse = await server.client.request(method, path, headers=headers, **options)
        return answer

    await error(await ask("POST", PATH, {}, json={}), 401, "authentication_error")
    await error(await ask("POST", f"{PATH}?beta=true", {"X-Api-Key": "wrong"}, json={}), 401, "authentication_error")
    await error(await ask("POST", PATH, key | {"Origin": "http://evil.example"}, json={}), 403, "permission_error")
    assert PATH in await error(await ask("POST", f"{PATH}/batches", json={}), 404, "not_found_error")
    await error(await ask("POST", PATH, data=b"x" * 2000), 413, "request_too_large")
    await error(await ask("POST", PATH, data=b"{"), 400, "invalid_request_error")
    await error(await ask("POST", PATH, json={}), 503, "overloaded_error")  # nothing is loaded
    await error(await ask("POST", f"{PATH}/count_tokens", json={}), 503, "overloaded_error")
    others = await ask("POST", "/v1/messages2", json={})
    assert (await others.json())["error"]["code"] == 404
    assert "Request-Id" not in others.headers
    server.context.drain.begin()
    await error(await ask("POST", PATH, json={}), 503, "overloaded_error")


async def test_of_the_limits_of_a_key(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("right name=alice requests=1 queued=0\n")
    async with serving(Config(api_key_file=str(keys), alias="toy")) as api:
        headers = {"X-Api-Key": "right"}
        async with api.clients.post("/completion", json=ENDLESS, headers=headers) as first:
            await first.content.readline()
            await error(await api.clients.post(PATH, json=BODY, headers=headers), 429, "rate_limit_error")


async def test_as_anthropics_client_reads_them(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("right name=alice requests=1 queued=0\n")
    config = Config(api_key_file=str(keys), alias="toy", max_body=2000)
    asked: Any = {"model": "m", "max_tokens": 1, "messages": BODY["messages"]}
    async with serving(config) as api:
        url = str(api.clients.make_url(""))

        async def refused(kind: type[anthropic.APIStatusError], key: str = "right", **fields: Any) -> Any:
            async with anthropic.AsyncAnthropic(base_url=url, api_key=key, max_retries=0) as client:
                with pytest.raises(kind) as raised:
                    await client.messages.create(**asked | fields)
                assert raised.value.request_id
                assert not isinstance(raised.value, anthropic.APIResponseValidationError)
                return raised.value

        assert (await refused(anthropic.BadRequestError, max_tokens=-5)).type == "invalid_request_error"
        assert (await refused(anthropic.AuthenticationError, key="wrong")).type == "authentication_error"
        large = await refused(anthropic.RequestTooLargeError, system="x" * 3000)
        assert large.type == "request_too_large"
        async with api.clients.post("/completion", json=ENDLESS, headers={"X-Api-Key": "right"}) as first:
            await first.content.readline()
            limited = await refused(anthropic.RateLimitError)
            assert (limited.type, limited.response.headers["Retry-After"]) == ("rate_limit_error", "1")
        api.clients.app[CONTEXT].preparing = True
        unavailable = await refused(anthropic.InternalServerError)
        assert (unavailable.type, unavailable.status_code) == ("overloaded_error", 503)
        assert unavailable.response.headers["Retry-After"] == "1"


async def test_of_a_prompt_that_is_too_long() -> None:
    """Claude Code makes its conversation shorter when it reads this message."""
    async with serving() as api:
        long = {**BODY, "messages": [{"role": "user", "content": "a" * 600}]}
        counted = (await api.post(f"{PATH}/count_tokens", long))["input_tokens"]
        assert counted > 600
        for stream in (False, True):
            answer = await api.clients.post(PATH, json={**long, "stream": stream})
            message = await error(answer, 400, "invalid_request_error")
            assert message == f"prompt is too long: {counted} tokens > 512 maximum"


async def test_within_a_stream() -> None:
    async with serving(settings=replace(SETTINGS, slot_ctx=1 << 17)) as api:
        answer = await api.clients.post(PATH, json={**BODY, "stream": True})
        assert await answer.content.readline() == b"event: message_start\n"
        api.clients.app[CONTEXT].engine.cut_off(Unavailable("the server is shutting down"))
        *_, name, data = (await answer.read()).decode().strip().split("\n")
        assert name == "event: error"
        assert json.loads(data.removeprefix("data: "))["error"] == {
            "type": "overloaded_error",
            "message": "the server is shutting down",
        }


async def test_pings_of_a_stream_that_waits() -> None:
    async with serving(Config(alias="toy", sse_ping_interval=0.01), replace(SETTINGS, n_slots=1)) as api:
        first = await api.clients.post("/completion", json=ENDLESS)
        async with api.clients.post(PATH, json={**BODY, "max_tokens": 1, "stream": True}) as second:
            assert await second.content.readline() == b"event: ping\n"
            assert await second.content.readline() == b'data: {"type":"ping"}\n'
            first.close()
            assert (await second.read()).decode().strip().endswith("}")
