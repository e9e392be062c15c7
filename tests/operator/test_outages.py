"""The client with a failing API server or model pod. Each is a real socket."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from aiohttp import web
from kubernetes.aio.client import Configuration
from llamaserver_operator.cluster import Cluster
from llamaserver_operator.errors import Conflict, Forbidden, Invalid, NotFound, NotLeading, Unreachable, WebhookFailed
from llamaserver_operator.kinds import CONFIG_MAP, LEASE, POD, SERVICE_MONITOR, Kind
from llamaserver_operator.metrics import Metrics
from llamaserver_operator.podreader import PodReader

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
MAP = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "ns", "name": "thing"}}
LOCAL = "127.0.0.1"


class Fake:
    """A server that treats every request alike and records it."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self.requests: list[tuple[str, str]] = []
        self.metrics = Metrics()
        self.release = asyncio.Event()

    async def listen(self, handler: Handler) -> int:
        async def noted(request: web.Request) -> web.StreamResponse:
            self.requests.append((request.method, request.path_qs))
            return await handler(request)

        runner = web.ServerRunner(web.Server(noted), shutdown_timeout=0.1)  # type: ignore[arg-type]
        await runner.setup()
        await web.TCPSite(runner, LOCAL, 0).start()
        self._stack.push_async_callback(runner.cleanup)
        self._stack.callback(self.release.set)
        return int(runner.addresses[0][1])

    async def cluster(self, handler: Handler, limit: float = 5.0, port: int = 0) -> Cluster:
        configuration = Configuration(host=f"http://{LOCAL}:{port or await self.listen(handler)}")
        made = Cluster(configuration, self.metrics, limit)
        return await self._stack.enter_async_context(made)

    def count(self, code: str) -> float:
        labels = {"verb": "GET", "kind": "ConfigMap", "code": code}
        return self.metrics.registry.get_sample_value("llamaserver_operator_api_requests_total", labels) or 0


@pytest.fixture
async def fake():
    async with AsyncExitStack() as stack:
        yield Fake(stack)


def answer(status: int, text: str) -> Handler:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=status, text=text, content_type="application/json")

    return handler


async def test_nobody_listens(fake: Fake) -> None:
    with socket.socket() as bound:
        bound.bind((LOCAL, 0))  # bound, not listening: refused
        cluster = await fake.cluster(answer(200, "{}"), port=bound.getsockname()[1])
        with pytest.raises(Unreachable, match="does not answer"):
            await cluster.get(CONFIG_MAP, "ns", "thing")
    assert fake.count("0") == 1


async def test_no_answer_within_the_limit(fake: Fake) -> None:
    async def handler(_: web.Request) -> web.Response:
        await fake.release.wait()
        return web.Response()

    cluster = await fake.cluster(handler, 0.2)
    with pytest.raises(Unreachable, match="does not answer: TimeoutError"):
        await cluster.get(CONFIG_MAP, "ns", "thing")


async def test_an_answer_that_never_ends(fake: Fake) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while not fake.release.is_set():
            await response.write(b" ")
            await asyncio.sleep(0.01)
        return response

    cluster = await fake.cluster(handler, 0.3)
    with pytest.raises(Unreachable):
        await cluster.get(CONFIG_MAP, "ns", "thing")


async def test_a_connection_cut_in_the_middle(fake: Fake) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b'{"kind":')
        assert request.transport is not None
        request.transport.abort()
        return response

    cluster = await fake.cluster(handler)
    with pytest.raises(Unreachable):
        await cluster.get(CONFIG_MAP, "ns", "thing")


@pytest.mark.parametrize(
    "diff",
    [
        '\n@@ -1,6 +1,6 @@\n {\n  "AccessModes": [\n-  "ReadWriteMany"\n+  "ReadWriteOnce"\n  ],\n',
        '\n  core.PersistentVolumeClaimSpec{\n- \tAccessModes: {"ReadWriteMany"},\n  }\n',
        "",
    ],
)
async def test_a_refusal_is_told_without_the_values_that_were_compared(fake: Fake, diff: str) -> None:
    text = 'PersistentVolumeClaim "c" is invalid: spec: Forbidden: spec is immutable'
    cluster = await fake.cluster(answer(422, json.dumps({"message": text + diff})))
    with pytest.raises(Invalid) as refused:
        await cluster.apply(MAP)
    assert str(refused.value) == text


@pytest.mark.parametrize(
    "text",
    [
        # Right after the CRD was installed, admission knows owners of that kind some seconds later.
        "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for Kind LlamaServer",
        "create not allowed while custom resource definition is terminating",
    ],
)
async def test_a_refusal_that_is_no_missing_right_passes(fake: Fake, text: str) -> None:
    cluster = await fake.cluster(answer(403, f'{{"kind": "Status", "message": "{text}"}}'))
    with pytest.raises(Unreachable, match=text):
        await cluster.get(CONFIG_MAP, "ns", "thing")


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_an_answer_that_may_differ_on_a_retry(fake: Fake, status: int) -> None:
    cluster = await fake.cluster(answer(status, '{"kind": "Status", "message": "etcd: leader changed"}'))
    with pytest.raises(Unreachable, match="etcd: leader changed"):
        await cluster.get(CONFIG_MAP, "ns", "thing")
    assert fake.count(str(status)) == 1
    assert len(fake.requests) == 1, "trying again is the caller's business"


async def test_a_webhook_that_does_not_answer_is_told(fake: Fake) -> None:
    """Its message reaches the user, like that of a full quota."""
    text = "Internal error occurred: failed calling webhook 'v.example.com': no endpoints available"
    cluster = await fake.cluster(answer(500, f'{{"kind": "Status", "message": "{text}"}}'))
    with pytest.raises(WebhookFailed, match="failed calling webhook"):
        await cluster.get(CONFIG_MAP, "ns", "thing")


async def test_a_proxy_in_between_that_answers_html(fake: Fake) -> None:
    cluster = await fake.cluster(answer(403, "<html>blocked</html>"))
    with pytest.raises(Forbidden, match="blocked"):
        await cluster.get(CONFIG_MAP, "ns", "thing")
    cluster = await fake.cluster(answer(200, "<html>log in first</html>"))
    with pytest.raises(Unreachable, match="not JSON"):
        await cluster.get(CONFIG_MAP, "ns", "thing")


async def test_a_precondition_is_a_conflict(fake: Fake) -> None:
    cluster = await fake.cluster(answer(409, '{"message": "Precondition failed: UID"}'))
    with pytest.raises(Conflict, match="UID"):
        await cluster.delete(CONFIG_MAP, "ns", "thing", "uid")


async def test_nothing_is_sent_without_the_lease(fake: Fake) -> None:
    cluster = await fake.cluster(answer(200, "{}"))
    cluster.may_write = lambda: False
    with pytest.raises(NotLeading):
        await cluster.apply(MAP)
    assert fake.requests == []
    await cluster.get(LEASE, "ns", "thing")
    await cluster.replace({**MAP, "apiVersion": "coordination.k8s.io/v1", "kind": "Lease"})
    assert [method for method, _ in fake.requests] == ["GET", "PUT"]


async def test_names_and_selectors_cannot_change_the_path(fake: Fake) -> None:
    cluster = await fake.cluster(answer(200, "{}"))
    await cluster.get(CONFIG_MAP, "ns", "../../secrets/x?a=b#c")
    await cluster.list(CONFIG_MAP, "ns", "a=b&watch=1")
    assert fake.requests == [
        ("GET", "/api/v1/namespaces/ns/configmaps/..%2F..%2Fsecrets%2Fx%3Fa=b%23c"),
        ("GET", "/api/v1/namespaces/ns/configmaps?labelSelector=a%3Db%26watch%3D1"),
    ]


def pods_of(size: int, count: int) -> Handler:
    """A list of pods of this size, page by page."""

    async def handler(request: web.Request) -> web.Response:
        begin = int(request.query.get("continue", "0"))
        end = min(count, begin + int(request.query.get("limit", count)))
        items = [{"metadata": {"name": str(number)}, "spec": "x" * size} for number in range(begin, end)]
        about = {"continue": str(end)} if end < count else {}
        return web.json_response({"metadata": about, "items": items})

    return handler


@pytest.mark.parametrize(
    ("size", "count", "limits"),
    [
        (1_000, 120, [50, 50, 50]),
        (200_000, 30, [50, 10, 10, 10]),  # 50 are too long
        (1_400_000, 3, [50, 10, 2, 2]),
        (9_000_000, 2, [50, 10, 2, 1, 1]),  # 1.5 MB that JSON escapes
    ],
)
async def test_a_list_is_read_in_pages_that_fit(fake: Fake, size: int, count: int, limits: list[int]) -> None:
    cluster = await fake.cluster(pods_of(size, count), 30)
    found = [item["metadata"]["name"] async for item in cluster.pages(POD, "ns", "a=b")]
    assert found == [str(number) for number in range(count)]
    assert [int(path.partition("limit=")[2].partition("&")[0]) for _, path in fake.requests] == limits


async def test_an_object_that_is_larger_than_any_is_not_read(fake: Fake) -> None:
    cluster = await fake.cluster(pods_of(17 << 20, 1), 30)
    with pytest.raises(Invalid, match="larger than 16 MiB"):
        assert [item async for item in cluster.pages(POD, "ns")]


async def test_long_answers_are_read_one_after_another(fake: Fake) -> None:
    """Whoever makes many large objects must not fill the memory. Short answers do not wait."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"text": "' + b"x" * (0 if request.path.endswith("short") else 2 << 20))
        if request.path.endswith("held"):
            await fake.release.wait()
        await response.write(b'"}')
        return response

    cluster = await fake.cluster(handler)
    held = asyncio.create_task(cluster.get(CONFIG_MAP, "ns", "held"))
    while not cluster._large.locked():  # noqa: ASYNC110 - no event tells
        await asyncio.sleep(0.01)
    long = asyncio.create_task(cluster.get(CONFIG_MAP, "ns", "long"))
    assert await cluster.get(CONFIG_MAP, "ns", "short") == {"text": ""}
    done, _ = await asyncio.wait({long}, timeout=0.2)
    assert not done
    fake.release.set()
    assert await held == await long == {"text": "x" * (2 << 20)}


OTHER = Kind("monitoring.coreos.com", "v1", "PodMonitor", "podmonitors")
KNOWN = '{"resources": [{"name": "servicemonitors", "verbs": ["list", "create"]}]}'


async def test_rediscover_clears_the_cache_of_discovery(fake: Fake) -> None:
    cluster = await fake.cluster(answer(200, KNOWN))
    for _ in range(10):
        assert await cluster.serves(SERVICE_MONITOR)
        assert not await cluster.serves(OTHER)
    assert len(fake.requests) == 1
    cluster.rediscover()
    assert await cluster.serves(SERVICE_MONITOR)
    assert len(fake.requests) == 2


async def test_a_kind_whose_crd_is_being_deleted_is_not_served(fake: Fake) -> None:
    cluster = await fake.cluster(answer(200, KNOWN.replace("create", "delete")))
    assert not await cluster.serves(SERVICE_MONITOR)


async def test_a_list_answered_404_asks_for_rediscovery(fake: Fake) -> None:
    cluster = await fake.cluster(answer(404, "{}"))
    assert await cluster.get(CONFIG_MAP, "ns", "thing") is None
    assert not cluster.doubted.is_set(), "an object that is not there is nothing special"
    with pytest.raises(NotFound):
        await cluster.list(CONFIG_MAP, "ns")
    assert cluster.doubted.is_set()


async def test_concurrent_callers_of_serves_get_one_answer(fake: Fake) -> None:
    asked = asyncio.Event()

    async def handler(_: web.Request) -> web.Response:
        if not asked.is_set():
            asked.set()
            await fake.release.wait()
            return web.Response(status=404, text="{}")
        return web.Response(text=KNOWN, content_type="application/json")

    cluster = await fake.cluster(handler)
    before = asyncio.create_task(cluster.serves(SERVICE_MONITOR))
    await asked.wait()
    cluster.rediscover()
    assert await cluster.serves(SERVICE_MONITOR)
    fake.release.set()
    assert await before
    assert await cluster.serves(SERVICE_MONITOR)


# ---- model pods


def pod(address: str = LOCAL) -> dict[str, object]:
    return {"metadata": {"name": "pod"}, "status": {"podIP": address} if address else {}}


async def status(fake: Fake, handler: Handler, address: str = LOCAL) -> dict[str, object] | None:
    reader = PodReader(await fake.listen(handler))
    try:
        return await reader.status(pod(address))
    finally:
        await reader.close()


async def test_the_report_of_a_pod_is_read(fake: Fake) -> None:
    assert await status(fake, answer(200, '{"state": "ready"}')) == {"state": "ready"}
    assert fake.requests == [("GET", "/status")]


async def test_unknown_fields_of_a_report_are_dropped(fake: Fake) -> None:
    told = await status(fake, answer(200, '{"state": "ready", "new": [1], "slots": {"processing": 2, "new": {}}}'))
    assert told == {"state": "ready", "slots": {"processing": 2}}


async def test_a_pod_without_an_address_has_no_report(fake: Fake) -> None:
    assert await status(fake, answer(200, "{}"), "") is None
    assert fake.requests == []


@pytest.mark.parametrize(
    "handler",
    [
        answer(503, '{"state": "ready"}'),
        answer(200, "garbage"),
        answer(200, "[]"),
        answer(200, "null"),
        answer(200, '{"state": "ready", "model": []}'),
        answer(200, '{"state": "ready", "accelerator": {"layers_offloaded": "many"}}'),
    ],
    ids=["503", "garbage", "list", "null", "model", "layers"],
)
async def test_a_report_that_cannot_be_read(fake: Fake, handler: Handler) -> None:
    assert await status(fake, handler) is None


async def test_a_pod_that_does_not_answer(fake: Fake) -> None:
    async def handler(_: web.Request) -> web.Response:
        await fake.release.wait()
        return web.Response()

    with pytest.raises(TimeoutError):
        await status(fake, handler)


async def test_a_pod_may_not_send_the_operator_elsewhere(fake: Fake) -> None:
    async def handler(request: web.Request) -> web.Response:
        if request.path == "/status":
            raise web.HTTPFound("/elsewhere")
        return web.json_response({"state": "ready"})

    assert await status(fake, handler) is None
    assert fake.requests == [("GET", "/status")]


async def test_a_pod_may_not_fill_the_operators_memory(fake: Fake) -> None:
    sent = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(1000):
            await response.write(b" " * (1 << 20))
            sent += 1
        return response

    assert await status(fake, handler) is None
    assert sent < 100


@pytest.mark.parametrize(("size", "read"), [(16_000, True), (17_000, False)])
async def test_a_report_has_at_most_16_kib(fake: Fake, size: int, read: bool) -> None:
    text = json.dumps({"state": "ready", "more": "x" * size})
    assert (await status(fake, answer(200, text)) == {"state": "ready"}) == read
