"""Responses that the server keeps: their bounds, and whom they belong to."""

import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from llamaserver.api.context import CONTEXT
from llamaserver.api.kept_responses import Earlier, Kept, KeptResponses
from llamaserver.config import Config
from llamaserver.errors import InvalidRequest
from openai.types.responses import Response, ResponseItem
from pydantic import TypeAdapter

from .test_api_without_weights import SETTINGS, Api, serving
from .test_tenants import KEYS, ask

PATH = "/v1/responses"
ROOM = 1 << 20
ITEM: TypeAdapter[Any] = TypeAdapter(ResponseItem)


def kept(text: str, previous: str = "") -> Kept:
    item = {"role": "user", "content": text}
    return Kept(previous, orjson.dumps([item]), orjson.dumps([item | {"id": f"msg_{text}"}]), (f"msg_{text}",))


def texts(earlier: Earlier, name: str) -> list[str]:
    return [item["content"] for item in earlier.conversation(name)]


def keeping(count: int, client: str = "a", limit: int = 1 << 20) -> KeptResponses:
    """A conversation of some responses: r0, r1 and so on."""
    responses = KeptResponses(limit)
    for number in range(count):
        responses.keep(client, f"r{number}", kept(str(number), f"r{number - 1}" if number else ""))
    return responses


def test_a_conversation_is_the_chain_of_its_responses() -> None:
    earlier = Earlier(keeping(3), "a", ROOM)
    assert texts(earlier, "r2") == ["0", "0", "1", "1", "2", "2"]
    assert texts(earlier, "r0") == ["0", "0"]
    assert earlier.item("msg_1", "input[0].id")["content"] == "1"
    assert texts(earlier, "") == []


def test_another_client_finds_nothing() -> None:
    earlier = Earlier(keeping(3), "b", ROOM)
    with pytest.raises(InvalidRequest, match="'r2' not found") as raised:
        earlier.conversation("r2")
    assert raised.value.body()["error"]["code"] == "previous_response_not_found"
    with pytest.raises(InvalidRequest, match="'msg_1' not found"):
        earlier.item("msg_1", "input[0].id")


def test_the_least_recently_used_go_first() -> None:
    size = kept("0").size
    responses = KeptResponses(2 * 3 * size)  # three for one client
    for number in range(3):
        responses.keep("a", f"r{number}", kept(str(number)))
    assert responses.response("a", "r0")
    responses.keep("a", "r3", kept("3"))
    found = [responses.response("a", f"r{number}") is not None for number in range(4)]
    assert found == [True, False, True, True]
    assert responses.response_of("a", "msg_1") is None
    assert responses.response_of("a", "msg_3")


def test_all_clients_together_have_a_bound() -> None:
    size = kept("0").size
    responses = KeptResponses(4 * size)  # two for one client
    for client, number in itertools.product("abc", range(2)):
        responses.keep(client, f"r{number}", kept(str(number)))
    count = sum(responses.response(client, f"r{number}") is not None for client in "abc" for number in range(2))
    assert count == 4
    assert responses.response("c", "r1")


def test_what_is_larger_than_a_share_is_not_kept() -> None:
    responses = KeptResponses(4000)
    responses.keep("a", "r", kept("x" * 2000))
    assert responses.response("a", "r") is None


def test_one_request_takes_no_more_than_a_body() -> None:
    responses = keeping(1)
    responses.keep("a", "large", kept("x" * 10_000))
    with pytest.raises(InvalidRequest, match="larger than a body"):
        Earlier(responses, "a", 10_000).conversation("large")
    earlier = Earlier(responses, "a", 40_000)
    with pytest.raises(InvalidRequest, match="larger than a body"):
        for _ in range(10):
            earlier.item(f"msg_{'x' * 10_000}", "input[0].id")


def test_the_values_of_a_conversation_are_bounded_as_those_of_a_body() -> None:
    responses = KeptResponses(1 << 24)
    name = ""
    for number in range(3):
        items = [{"content": "x", "more": [[]] * 30_000}]
        responses.keep("a", f"r{number}", Kept(name, orjson.dumps(items), b"[]", ()))
        name = f"r{number}"
    assert len(Earlier(responses, "a", 1 << 23).conversation("r1")) == 2
    with pytest.raises(InvalidRequest, match="more than"):
        Earlier(responses, "a", 1 << 23).conversation("r2")


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    keys = tmp_path / "keys"
    keys.write_text(KEYS)
    async with serving(Config(alias="toy", api_key_file=str(keys)), SETTINGS) as made:
        yield made


async def respond(api: Api, key: str, text: Any, status: int = 200, **fields: Any) -> Any:
    body = {"input": text, "max_output_tokens": 8, "temperature": 0, **fields}
    return await ask(api, key, "POST", PATH, body, status)


async def count(api: Api, key: str, **fields: Any) -> int:
    answer = await ask(api, key, "POST", f"{PATH}/input_tokens", {"input": "again", **fields})
    return int(answer["input_tokens"])


async def test_a_response_is_for_its_own_key(api: Api) -> None:
    first = await respond(api, "secret-a", "remember")
    alone, after = await count(api, "secret-a"), await count(api, "secret-a", previous_response_id=first["id"])
    assert after > alone
    second = await respond(api, "secret-a", "again", previous_response_id=first["id"])
    assert second["previous_response_id"] == first["id"]
    assert second["usage"]["input_tokens"] == after
    for key in ("secret-m", "secret-r"):
        error = (await respond(api, key, "again", 400, previous_response_id=first["id"]))["error"]
        assert (error["param"], error["code"]) == ("previous_response_id", "previous_response_not_found")
        reference = {"type": "item_reference", "id": first["output"][0]["id"]}
        error = (await ask(api, key, "POST", PATH, {"input": [reference]}, 400))["error"]
        assert error["param"] == "input[0].id"


async def test_a_reference_stands_for_its_item(api: Api) -> None:
    first = await respond(api, "secret-a", "remember")
    user = {"role": "user", "content": "remember"}
    whole = await count(api, "secret-a", input=[user, first["output"][0]])
    reference = {"type": "item_reference", "id": first["output"][0]["id"]}
    assert await count(api, "secret-a", input=[user, reference]) == whole


async def test_a_stream_is_kept_when_it_has_ended(api: Api) -> None:
    body = {"input": "remember", "max_output_tokens": 8, "stream": True}
    response = await api.clients.post(PATH, json=body, headers={"Authorization": "Bearer secret-a"})
    last = json.loads((await response.text()).rpartition("data: ")[2])["response"]
    assert last["store"] is True
    await respond(api, "secret-a", "again", previous_response_id=last["id"])


async def read(api: Api, key: str, path: str, status: int = 200, method: str = "GET") -> Any:
    return await ask(api, key, method, f"{PATH}/{path}", None, status)


async def test_a_kept_response_is_read_and_deleted_by_its_own_key(api: Api) -> None:
    first = await respond(api, "secret-a", "remember", metadata={"a": "b"})
    found = await read(api, "secret-a", first["id"])
    assert found == first
    Response.model_validate(found)
    streams = await read(api, "secret-a", f"{first['id']}?stream=true", 400)
    assert streams["error"]["param"] == "stream"
    for path in (first["id"], f"{first['id']}/input_items"):
        for key in ("secret-m", "secret-r"):
            assert "not found" in (await read(api, key, path, 404))["error"]["message"]
    await read(api, "secret-m", first["id"], 404, "DELETE")
    deleted = await read(api, "secret-a", first["id"], 200, "DELETE")
    assert deleted == {"id": first["id"], "object": "response", "deleted": True}
    for method in ("GET", "DELETE"):
        await read(api, "secret-a", first["id"], 404, method)
    await respond(api, "secret-a", "again", 400, previous_response_id=first["id"])


async def test_the_items_that_a_response_was_asked_with(api: Api) -> None:
    first = await respond(api, "secret-a", "remember")
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "c", "output": "yes"}
    asked = [call, result, {"role": "assistant", "content": "So?"}, {"role": "user", "content": "again"}]
    second = await respond(api, "secret-a", asked, previous_response_id=first["id"])
    path = f"{second['id']}/input_items"
    page = await read(api, "secret-a", f"{path}?order=asc")
    listed = [ITEM.validate_python(item) for item in page["data"]]
    assert [item.type for item in listed] == [
        "message", "message", "function_call", "function_call_output", "message", "message",
    ]  # fmt: skip
    assert page["data"][1] == first["output"][0]
    assert (page["first_id"], page["last_id"]) == (listed[0].id, listed[-1].id)
    assert page["has_more"] is False
    names, after = [], ""
    while True:
        page = await read(api, "secret-a", f"{path}?limit=4{after}")
        names += [item["id"] for item in page["data"]]
        after = f"&after={page['last_id']}"
        if not page["has_more"]:
            break
    assert names == [item.id for item in reversed(listed)]
    await read(api, "secret-a", first["id"], 200, "DELETE")
    assert len((await read(api, "secret-a", path))["data"]) == 4
    for wrong in ("limit=0", "limit=x", "order=up", "after=none"):
        error = (await read(api, "secret-a", f"{path}?{wrong}", 400))["error"]
        assert error["param"] == wrong.partition("=")[0]


async def test_what_is_not_to_be_stored_is_not_kept(api: Api) -> None:
    first = await respond(api, "secret-a", "remember", store=False)
    assert first["store"] is False
    await respond(api, "secret-a", "again", 400, previous_response_id=first["id"])


async def test_a_server_can_keep_none(tmp_path: Path) -> None:
    async with serving(Config(alias="toy", response_store_bytes=0), SETTINGS) as api:
        first = await respond(api, "", "remember")
        assert first["store"] is False
        await respond(api, "", "again", 400, previous_response_id=first["id"])
        assert api.clients.app[CONTEXT].responses.limit == 0


async def test_what_is_nested_too_deeply_to_be_written_is_refused(api: Api) -> None:
    deep: Any = 1
    for _ in range(300):
        deep = {"a": deep}
    answer = await respond(api, "secret-a", "x", 400, metadata={"b": deep})
    assert "nested too deeply" in answer["error"]["message"]
