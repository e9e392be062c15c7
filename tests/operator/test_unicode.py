"""Any character in any text reaches the API server unchanged. Server-side apply reads YAML, which differs from JSON."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import yaml
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from kubernetes.aio.client import Configuration
from llamaserver_operator.cluster import Cluster, yaml_of
from llamaserver_operator.metrics import Metrics

from tests.support.characters import SPECIAL

Object = dict[str, Any]
LOCAL = "127.0.0.1"
# Values of the API: text, numbers that YAML and JSON write alike, and objects of them.
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT.filter(lambda key: len(key) < 100), inner),
    max_leaves=8,
)


def config_map(text: str) -> Object:
    about = {"namespace": "ns", "name": "thing", "annotations": {"note": text}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": about, "data": {"text": text}}


@pytest.mark.parametrize("name", SPECIAL)
def test_special_characters(name: str) -> None:
    body = config_map(SPECIAL[name])
    sent = yaml_of(body)
    assert yaml.safe_load(sent) == body
    assert json.loads(sent) == body


@given(st.dictionaries(TEXT.filter(lambda key: len(key) < 100), VALUES))
@settings(max_examples=150, deadline=None)
def test_any_object_is_the_same_as_yaml_and_as_json(body: Object) -> None:
    sent = yaml_of(body)
    assert yaml.safe_load(sent) == body
    assert json.loads(sent) == body


@given(st.text())
@settings(max_examples=100, deadline=None)
def test_half_a_surrogate_pair_becomes_the_replacement_character(text: str) -> None:
    """No answer of an API server has such a character. If there is one, only that character is lost."""
    sent = yaml_of({"text": text})
    assert yaml.safe_load(sent)["text"] == "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)


@pytest.fixture
async def server() -> AsyncIterator[tuple[Cluster, list[tuple[str, str, bytes]]]]:
    """A client, and what its server received: path, content type, body."""
    received: list[tuple[str, str, bytes]] = []

    async def handler(request: web.BaseRequest) -> web.Response:
        received.append((request.path, request.headers["Content-Type"], await request.read()))
        return web.json_response({})

    async with AsyncExitStack() as stack:
        runner = web.ServerRunner(web.Server(handler))
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, LOCAL, 0).start()
        configuration = Configuration(host=f"http://{LOCAL}:{runner.addresses[0][1]}")
        yield await stack.enter_async_context(Cluster(configuration, Metrics())), received


async def test_what_is_applied_is_sent_in_that_form(server: tuple[Cluster, list[tuple[str, str, bytes]]]) -> None:
    client, received = server
    body = config_map("".join(SPECIAL.values()))
    await client.apply(body)
    await client.apply_status(body)
    path = "/api/v1/namespaces/ns/configmaps/thing"
    assert [request[0] for request in received] == [path, f"{path}/status"]
    for _, content_type, data in received:
        assert content_type.split(";")[0] == "application/apply-patch+yaml"
        assert yaml.safe_load(data) == body


async def test_all_other_writes_are_json(server: tuple[Cluster, list[tuple[str, str, bytes]]]) -> None:
    client, received = server
    text = "".join(SPECIAL.values())
    await client.create(config_map(text))
    await client.replace(config_map(text))
    await client.create_event("ns", config_map(""), "Normal", "Tried", text)
    sent = [json.loads(data) for _, content_type, data in received if content_type == "application/json"]
    assert [body.get("data", {}).get("text", body.get("message")) for body in sent] == [text] * 3
