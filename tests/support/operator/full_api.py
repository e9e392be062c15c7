"""An API server in a thread that is full of the largest objects: it answers what the operator asks, and counts."""

import asyncio
import json
import threading
from collections import Counter
from types import TracebackType
from typing import Any, Self

from aiohttp import web
from llamaserver_operator.kinds import DEPLOYMENT, KINDS, LLAMA_SERVER, Kind

_ANNOTATIONS = {f"example.com/{number}": "x" * 60_000 for number in range(4)}  # the API server takes 256 KiB
_ENV = [{"name": f"V{number}", "value": "x" * 32_768} for number in range(36)]
_SOURCE = {"huggingFace": {"repo": "who/what", "revision": "main", "file": "m.gguf"}}


class FullApi:
    """`count` LlamaServers of 1.4 MB in twenty namespaces, each with a Deployment."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.port = 0
        self.read: set[str] = set()  # objects that were read one by one
        self.listed: Counter[tuple[str, str]] = Counter()  # items sent, by plural and form
        self._lease: dict[str, Any] | None = None
        self._metadata = {
            plural: self._text(self._about("NAME", "SPACE")) for plural in ("llamaservers", "deployments")
        }
        self._object = self._text(
            {**self._about("NAME", "SPACE"), "spec": {"model": {"source": _SOURCE}, "podTemplate": {"env": _ENV}}}
        )

    @staticmethod
    def _about(name: str, namespace: str) -> dict[str, Any]:
        labels = {"llamaserver.dev/name": name}
        about = {"name": name, "namespace": namespace, "uid": f"uid-{name}", "generation": 1, "resourceVersion": "1"}
        return {"metadata": {**about, "labels": labels, "annotations": _ANNOTATIONS}}

    @staticmethod
    def _text(item: dict[str, Any]) -> str:
        return json.dumps(item)

    def _item(self, text: str, number: int) -> str:
        return text.replace("NAME", f"model-{number}").replace("SPACE", f"ns-{number % 20}")

    # ---- answers

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        parts = request.path.strip("/").split("/")
        if parts[0] == "api":
            rest, group = parts[1:], ""
        else:
            rest, group = parts[2:], parts[1] if len(parts) > 1 else ""
        if not rest:
            return web.json_response(self._groups(parts))
        if len(rest) == 1:
            return web.json_response(self._kinds(group))
        if rest[1] == "namespaces" and len(rest) > 3:
            rest = [rest[0], *rest[3:]]
        kind = next(kind for kind in KINDS if kind.plural == rest[1] and kind.group == group)
        if kind.kind == "Lease":
            return await self._of_lease(request)
        if request.method in ("PATCH", "POST"):
            body = json.loads(await request.content.read())
            body["metadata"] |= {"uid": "uid", "resourceVersion": "1"}
            return web.json_response(body)
        if len(rest) > 2:
            return self._one(kind, rest[2])
        if request.query.get("watch") == "true":
            await asyncio.sleep(3600)
        return self._list(kind, request)

    def _groups(self, parts: list[str]) -> dict[str, Any]:
        if parts == ["api"]:
            return {"versions": ["v1"]}
        found = {(kind.group, kind.version) for kind in KINDS if kind.group}
        return {"groups": [self._group(group, version) for group, version in sorted(found)]}

    @staticmethod
    def _group(group: str, version: str) -> dict[str, Any]:
        one = {"groupVersion": f"{group}/{version}", "version": version}
        return {"name": group, "versions": [one], "preferredVersion": one}

    @staticmethod
    def _kinds(group: str) -> dict[str, Any]:
        verbs = ["create", "delete", "get", "list", "patch", "watch"]
        names = [(kind.plural, kind.kind) for kind in KINDS if kind.group == group]
        names += [] if group else [("namespaces", "Namespace")]  # kopf waits for it
        made = [
            {"name": plural, "singularName": "", "kind": kind, "namespaced": plural != "namespaces", "verbs": verbs}
            for plural, kind in names
        ]
        return {"kind": "APIResourceList", "resources": made}

    async def _of_lease(self, request: web.Request) -> web.Response:
        if request.method in ("POST", "PUT"):
            self._lease = json.loads(await request.content.read())
            version = int(self._lease["metadata"].get("resourceVersion", "0")) + 1
            self._lease["metadata"]["resourceVersion"] = str(version)
        if self._lease is None:
            return web.json_response({"message": "no lease"}, status=404)
        return web.json_response(self._lease)

    def _one(self, kind: Kind, name: str) -> web.Response:
        if kind != LLAMA_SERVER:
            return web.json_response({"message": "none"}, status=404)
        self.read.add(name)
        text = self._item(self._object, int(name.removeprefix("model-")))
        head = f'{{"apiVersion": "{kind.api_version}", "kind": "{kind.kind}", '
        return web.Response(text=head + text[1:], content_type="application/json")

    def _list(self, kind: Kind, request: web.Request) -> web.Response:
        partial = "as=PartialObjectMetadataList" in request.headers["Accept"]
        everywhere = "/namespaces/" not in request.path
        text = self._metadata.get(kind.plural, "") if everywhere and kind in (LLAMA_SERVER, DEPLOYMENT) else ""
        if kind == LLAMA_SERVER and not partial:
            text = self._object
        begin = int(request.query.get("continue") or 0)
        end = min(self.count, begin + int(request.query.get("limit") or self.count)) if text else 0
        items = ", ".join(self._item(text, number) for number in range(begin, end))
        self.listed[kind.plural, "metadata" if partial else "whole"] += max(0, end - begin)
        more = str(end) if text and end < self.count else ""
        about = json.dumps({"resourceVersion": "1", "continue": more})
        return web.Response(text=f'{{"metadata": {about}, "items": [{items}]}}', content_type="application/json")

    # ---- the thread

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        self._ready.set()
        self._loop.run_forever()

    async def _start(self) -> None:
        runner = web.ServerRunner(web.Server(self._answer), shutdown_timeout=0.1)  # type: ignore[arg-type]
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.port = int(runner.addresses[0][1])

    def __enter__(self) -> Self:
        self._loop, self._ready = asyncio.new_event_loop(), threading.Event()
        threading.Thread(target=self._main, daemon=True).start()
        self._ready.wait(10)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
