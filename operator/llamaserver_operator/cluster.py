"""The API server, as the operator uses it: plain dicts in and out, every call bounded, errors of errors.py only.

Nothing is cached but discovery. Writes other than those of the Lease are held back while `may_write` says no.
"""

import asyncio
import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from . import names
from .errors import (
    ClusterError,
    ConfigError,
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    NotLeading,
    Unreachable,
    WebhookFailed,
)
from .kinds import EVENT, Kind, kind_of
from .manifests import Manifest, Pod
from .metrics import Metrics
from .reports import Report, parse_report

_log = logging.getLogger(__name__)
_TIMEOUT = 10.0
_STATUS_TIMEOUT = aiohttp.ClientTimeout(total=2.0)
_STATUS_BYTES = 1 << 20
_MESSAGE = 1024  # the API server's limit for an Event's message
_JSON = "application/json"
_MERGE = "application/merge-patch+json"
# A content type that the client library does not know, so that it sends our bytes as they are; the API server cuts off
# what follows the semicolon. No version of it takes server-side apply as plain JSON.
_APPLY = "application/apply-patch+yaml; charset=utf-8"
_ESCAPED = re.compile("[\x7f-\uffff]")  # of what json.dumps leaves as it is
_ERRORS = {400: Invalid, 403: Forbidden, 404: NotFound, 409: Conflict, 422: Invalid, 429: Unreachable}
_WEBHOOK = "failed calling webhook"
_DIFF = re.compile(r"\n\s*(@@ -\d|&?[\w.]+\{)")  # two Go values compared, line by line, behind what is wrong
_NOT_OF_THE_SCHEMA = "failed to create typed patch object"  # how server-side apply says 422
# 403 that pass in seconds: an admission plugin that has not heard of a new CRD, and a CRD that is on its way out, as
# discovery will say.
_PASSING = ("cannot find RESTMapping", "custom resource definition is terminating")


async def credentials() -> Configuration:
    """How to reach the API server: KUBECONFIG when it is set, else the pod's service account, else ~/.kube/config."""
    configuration = Configuration()
    file = os.environ.get("KUBECONFIG") or None  # read now: the library has read it when it was imported
    try:
        if file is None and "KUBERNETES_SERVICE_HOST" in os.environ:
            load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        else:
            await load_kube_config(file, client_configuration=configuration, persist_config=False)  # type: ignore[no-untyped-call]
    except (ConfigException, OSError) as error:
        raise ConfigError(f"no credentials for the API server: {error}") from error
    return configuration


def yaml_of(body: Mapping[str, Any]) -> bytes:
    """JSON that is YAML with the same meaning.

    Characters beyond U+FFFF stay as they are, since YAML has no surrogates. All others that are not ASCII are escaped:
    YAML takes NEL, U+2028 and U+2029 for line breaks, and refuses DEL, C1 controls and a byte order mark.
    """

    def escaped(found: re.Match[str]) -> str:
        code = ord(found[0])
        return f"\\u{0xFFFD if 0xD800 <= code <= 0xDFFF else code:04x}"  # a lone surrogate is no character

    return _ESCAPED.sub(escaped, json.dumps(body, ensure_ascii=False)).encode()


def _error(status: int, data: bytes) -> ClusterError:
    try:
        message = str(json.loads(data)["message"])
    except (ValueError, KeyError, TypeError):
        message = data.decode(errors="replace")[:200].strip()
    message = _DIFF.split(message)[0]
    kind = Unreachable if status >= 500 else _ERRORS.get(status, ClusterError)
    if status == 500 and message.startswith(_NOT_OF_THE_SCHEMA):
        kind = Invalid
    if status == 500 and _WEBHOOK in message:
        kind = WebhookFailed
    if status == 403 and any(text in message for text in _PASSING):
        kind = Unreachable
    return kind(message or f"the API server answered {status}")


class Cluster:
    """An async client. Use it as a context manager, or close() it."""

    def __init__(
        self,
        configuration: Configuration,
        metrics: Metrics,
        timeout: float = _TIMEOUT,
    ) -> None:
        self._client = ApiClient(configuration)
        self._client.user_agent = names.MANAGER
        self._metrics = metrics
        self._timeout = timeout
        self._served: dict[str, frozenset[str]] = {}
        self.doubted = asyncio.Event()  # set when a kind was asked for that is not there: `rediscover` is due
        self.may_write: Callable[[], bool] = lambda: True

    @classmethod
    async def connect(cls, metrics: Metrics | None = None) -> Self:
        """A client with this process's credentials; nothing is sent yet."""
        return cls(await credentials(), metrics or Metrics())

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()  # type: ignore[no-untyped-call]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # ---- reading

    async def get(self, kind: Kind, namespace: str, name: str) -> Manifest | None:
        """One object, or None."""
        try:
            return await self._send("GET", kind, kind.path(namespace, name))
        except NotFound:
            return None

    async def list(
        self, kind: Kind, namespace: str, selector: str = "", field_selector: str = "", limit: int = 0
    ) -> list[Manifest]:
        """The objects of a namespace ("": of all) that match; not more than `limit`, unless that is 0."""
        query = {"labelSelector": selector, "fieldSelector": field_selector, "limit": str(limit or "")}
        try:
            answer = await self._send("GET", kind, kind.path(namespace), query, verb="LIST")
        except NotFound:  # a list of nothing is empty
            self.doubted.set()
            raise
        # items of a list do not say what they are
        return [{"apiVersion": kind.api_version, "kind": kind.kind, **item} for item in answer.get("items") or []]

    async def serves(self, kind: Kind) -> bool:
        """Whether the API server takes objects of that kind, as of the first question since `rediscover`.

        All who ask in between get one answer, even those whose question was sent before: who compares it with the
        last one then knows of each change that anybody else has acted on.
        """
        path = kind.group_path
        if path not in self._served:
            try:
                answer = await self._send("GET", None, path)
                # A CRD that is being deleted, which may take long, allows no new ones.
                found = (each for each in answer.get("resources") or [] if "create" in each.get("verbs", ()))
                plurals = frozenset(each["name"] for each in found)
            except NotFound:
                plurals = frozenset()
            self._served.setdefault(path, plurals)
        return kind.plural in self._served[path]

    def rediscover(self) -> None:
        """Forget what is served: the next question is sent."""
        self._served.clear()
        self.doubted.clear()

    # ---- writing

    async def apply(self, body: Mapping[str, Any]) -> Manifest:
        """Server-side apply; fields of ours that others changed are taken back."""
        return await self._apply(body, "")

    async def apply_status(self, body: Mapping[str, Any]) -> Manifest:
        """The same for the status."""
        return await self._apply(body, "status")

    async def _apply(self, body: Mapping[str, Any], subresource: str) -> Manifest:
        kind, metadata = kind_of(body), body["metadata"]
        path = kind.path(metadata.get("namespace", ""), metadata["name"], subresource)
        query = {"fieldManager": names.MANAGER, "force": "true"}
        return await self._send("PATCH", kind, path, query, yaml_of(body), _APPLY, verb="APPLY")

    async def create(self, body: Mapping[str, Any]) -> Manifest:
        """A new object; Conflict when there is one of that name."""
        kind, query = kind_of(body), {"fieldManager": names.MANAGER}
        path = kind.path(body["metadata"].get("namespace", ""))
        return await self._send("POST", kind, path, query, body)

    async def replace(self, body: Mapping[str, Any]) -> Manifest:
        """The object anew; Conflict when it is not in the version that the body was made from."""
        kind, metadata = kind_of(body), body["metadata"]
        path = kind.path(metadata.get("namespace", ""), metadata["name"])
        return await self._send("PUT", kind, path, {"fieldManager": names.MANAGER}, body)

    async def annotate(self, kind: Kind, namespace: str, name: str, annotations: Mapping[str, str | None]) -> Manifest:
        """Set annotations; None removes one."""
        body = {"metadata": {"annotations": dict(annotations)}}
        path = kind.path(namespace, name)
        return await self._send("PATCH", kind, path, {"fieldManager": names.MANAGER}, body, _MERGE)

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> None:
        """Delete exactly this object, and in the background what it owns. Conflict: the name is another's by now."""
        body = {
            "apiVersion": "v1", "kind": "DeleteOptions",
            "preconditions": {"uid": uid}, "propagationPolicy": "Background",
        }  # fmt: skip
        try:
            await self._send("DELETE", kind, kind.path(namespace, name), body=body)
        except NotFound:
            _log.debug("%s %s is already deleted", kind.kind, name)

    async def create_event(
        self, namespace: str, regarding: Mapping[str, Any], type_: str, reason: str, message: str
    ) -> None:
        """Tell people about the object. It is not worth a failed reconcile."""
        metadata = regarding["metadata"]
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        involved = {
            "apiVersion": regarding["apiVersion"], "kind": regarding["kind"],
            "namespace": namespace, "name": metadata["name"],
            "uid": metadata.get("uid", ""), "resourceVersion": metadata.get("resourceVersion", ""),
        }  # fmt: skip
        body = {
            "apiVersion": EVENT.api_version,
            "kind": EVENT.kind,
            "metadata": {"namespace": namespace, "generateName": f"{metadata['name']}."},
            "involvedObject": involved,
            "type": type_,
            "reason": reason,
            "message": message[:_MESSAGE],
            "source": {"component": names.MANAGER},
            "reportingComponent": names.MANAGER,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            await self.create(body)
        except NotLeading:
            raise
        except ClusterError as error:
            _log.warning("cannot create the Event %s: %s", reason, error)

    # ---- sending

    async def _send(  # noqa: PLR0917 - in the order of an HTTP request
        self,
        method: str,
        kind: Kind | None,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | bytes | None = None,
        content_type: str = _JSON,
        *,
        verb: str = "",
    ) -> Manifest:
        headers = {"Accept": _JSON, "Content-Type": content_type, **self._client.default_headers}
        count = self._metrics.api_requests
        what = (verb or method, kind.kind if kind else "discovery")
        try:
            async with asyncio.timeout(self._timeout):  # all of it: the client's own limit leaves out getting a token
                await self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
                self._check_fence(method, kind)  # late, so that little can happen between this and the sending
                url, bound = self._url(path, query), aiohttp.ClientTimeout(total=self._timeout)
                answer = await self._client.call_api(method, url, headers, body, _request_timeout=bound)
                data: bytes = await answer.read()  # type: ignore[no-untyped-call]
        except (aiohttp.ClientError, OSError, TimeoutError, ConfigException) as error:
            count.labels(*what, 0).inc()
            raise Unreachable(f"the API server does not answer: {str(error) or type(error).__name__}") from error
        code = answer.status
        count.labels(*what, code).inc()
        if not 200 <= code < 300:
            raise _error(code, data)
        try:
            parsed: Manifest = json.loads(data)
        except ValueError as error:
            raise Unreachable(f"the API server's answer is not JSON: {error}") from error
        return parsed

    def _check_fence(self, method: str, kind: Kind | None) -> None:
        if method != "GET" and (kind is None or kind.kind != "Lease") and not self.may_write():
            raise NotLeading("not sent: this instance does not hold the Lease")

    def _url(self, path: str, query: Mapping[str, str] | None) -> str:
        pairs = "&".join(f"{key}={quote(value, safe='')}" for key, value in (query or {}).items() if value)
        return f"{self._client.configuration.host}{path}" + (f"?{pairs}" if pairs else "")


class PodReader:
    """Asks model pods how they are, on their management port."""

    def __init__(self, port: int = names.MANAGEMENT_PORT) -> None:
        self._port = port
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def status(self, pod: Pod) -> Report | None:
        """The pod's /status, or None when it has none to tell (yet)."""
        address = pod.get("status", {}).get("podIP", "")
        if not address:
            return None
        if self._session is None:  # a new connection each: a pod that went must not cost a wait on a dead one
            self._session = aiohttp.ClientSession(
                timeout=_STATUS_TIMEOUT, connector=aiohttp.TCPConnector(force_close=True, limit=32)
            )
        host = f"[{address}]" if ":" in address else address
        try:
            async with self._session.get(f"http://{host}:{self._port}/status", allow_redirects=False) as answer:
                data = await _read(answer.content)
                return parse_report(data) if answer.status == 200 else None
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            return None


async def _read(content: aiohttp.StreamReader) -> bytes:
    """A body of sane size; the pod runs what its owner chose."""
    data = bytearray()
    async for chunk in content.iter_any():
        data += chunk
        if len(data) > _STATUS_BYTES:
            raise ValueError("too long")
    return bytes(data)
