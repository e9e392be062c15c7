"""How requests of OpenAI's Responses API fail: before an answer, and within a stream."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from llamaserver.api.context import CONTEXT
from llamaserver.config import Config
from llamaserver.errors import Unavailable
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from .test_api_without_weights import SETTINGS, Api, serving

PATH = "/v1/responses"
STREAM_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
BODY: dict[str, Any] = {"input": "ab", "ignore_eos": True, "temperature": 0}


async def test_a_conversation_that_is_too_long() -> None:
    """Codex makes its conversation shorter when a stream says this."""
    async with serving(settings=replace(SETTINGS, context_shift=False)) as api:
        long = {**BODY, "input": "a" * 600}
        counted = (await api.post(f"{PATH}/input_tokens", long))["input_tokens"]
        assert counted > 600
        error = (await api.post(PATH, long, 400))["error"]
        assert error["type"] == "exceed_context_size_error"
        assert str(counted) in error["message"]
        created, _, failed = await api.events(PATH, long)
        assert created["type"] == "response.created"
        assert failed["type"] == "response.failed"
        assert failed["response"]["id"] == created["response"]["id"]
        assert failed["response"]["error"]["code"] == "context_length_exceeded"
        assert failed["response"]["error"]["message"] == error["message"]
        assert failed["response"]["error"]["param"] == error["param"] == "input"


async def test_a_text_that_no_slot_can_hold() -> None:
    async with serving(settings=replace(SETTINGS, context_shift=False)) as api:
        for stream in (False, True):
            answer = await api.clients.post(PATH, json={**BODY, "input": "a" * 200_000, "stream": stream})
            assert "input" in await answer.text()


async def test_the_limits_of_a_key(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("right name=alice requests=1 queued=0\n")
    async with serving(Config(api_key_file=str(keys), alias="toy")) as api:
        headers = {"Authorization": "Bearer right"}
        async with api.clients.post(PATH, json={**BODY, "stream": True}, headers=headers) as first:
            await first.content.readline()
            answer = await api.clients.post(PATH, json=BODY, headers=headers)
            assert answer.status == 429
            assert (await answer.json())["error"]["code"] == "rate_limit_exceeded"


async def test_within_a_stream() -> None:
    async with serving() as api:
        answer = await api.clients.post(PATH, json={**BODY, "stream": True})
        assert await answer.content.readline() == b"event: response.created\n"
        api.clients.app[CONTEXT].engine.cut_off(Unavailable("the server is shutting down"))
        *_, name, data = (await answer.read()).decode().strip().split("\n")
        assert name == "event: response.failed"
        response = json.loads(data.removeprefix("data: "))["response"]
        assert response["status"] == "failed"
        assert (response["error"]["code"], response["error"]["message"]) == (
            "server_error",
            "the server is shutting down",
        )
        assert await nothing_is_kept(api, response["id"])


async def test_signs_of_life_of_a_stream_that_waits() -> None:
    """Codex ends a stream that has no events for some time."""
    tools = [{"type": "web_search", "note": "x" * 50_000}]
    async with serving(Config(alias="toy", sse_ping_interval=0.01), replace(SETTINGS, n_slots=1)) as api:
        first = await api.clients.post(PATH, json={**BODY, "stream": True})
        body = {**BODY, "tools": tools, "max_output_tokens": 1, "stream": True}
        async with api.clients.post(PATH, json=body) as second:
            told: list[bytes] = []
            while len(told) < 4:
                line = await second.content.readline()
                told += [line[6:]] if line.startswith(b"data: ") else []
            first.close()
            told += [line[6:].encode() for line in (await second.text()).splitlines() if line.startswith("data: ")]
    events = [STREAM_EVENT.validate_json(data) for data in told]
    assert [event.type for event in events[:4]] == ["response.created", *["response.in_progress"] * 3]
    assert events[-1].type == "response.incomplete"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [len(data) > 50_000 for data in told[:4]] == [True, True, False, False]
    assert all(len(data) < 500 for data in told[2:4])


async def nothing_is_kept(api: Api, name: str) -> bool:
    error = (await api.post(PATH, {**BODY, "previous_response_id": name}, 400))["error"]
    return bool(error["code"] == "previous_response_not_found")


async def test_what_a_response_repeats_is_counted_while_it_is_sent() -> None:
    async with serving() as api:
        tools = [{"type": "web_search", "note": "x" * 50_000}]
        async with api.clients.post(PATH, json={**BODY, "tools": tools, "stream": True}) as answer:
            await answer.content.readline()
            assert api.clients.app[CONTEXT].bodies.total > 50_000
        assert json.loads(await (await api.clients.get("/health")).text())["status"] == "ok"
