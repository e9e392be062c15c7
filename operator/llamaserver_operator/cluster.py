"""The client of the API server. Objects are plain dicts, every call has a timeout, and errors are those of errors.py.

Only discovery is cached. While `may_write` returns False, writes raise NotLeading, except writes of the Lease.
"""

import asyncio
import contextlib
import json
import logging
import os
import re
from collections.abc import AsyncIterator, Callable, Mapping
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
    TooLarge,
    Unreachable,
    WebhookFailed,
)
from .kinds import EVENT, Kind, kind_of
from .manifests import Manifest
from .metrics import Metrics

_log = logging.getLogger(__name__)
_TIMEOUT = 10.0
_MESSAGE = 1024  # characters; the API server refuses a longer message of an Event
_MOST_BYTES = 16 << 20  # of an answer; more than any object has
_MOST_OF_PAGE = 4 << 20  # bytes of several objects; Python needs many times as much for them
_LARGE = 1 << 20  # bytes; longer answers are read one after another
_PAGE = 50  # objects
_FEWER = 5  # a page that is too long is asked for again with so many times fewer objects
_JSON = "application/json"
_METADATA = f"{_JSON};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_MERGE = "application/merge-patch+json"
# The client library does not know this content type and therefore sends our bytes unchanged. The API server ignores the
# part after the semicolon. No version of it accepts server-side apply as plain JSON.
_APPLY = "application/apply-patch+yaml; charset=utf-8"
_ESCAPED = re.compile("[\x7f-\uffff]")  # characters to escape that json.dumps does not escape
_ERRORS = {400: Invalid, 403: Forbidden, 404: NotFound, 409: Conflict, 422: Invalid, 429: Unreachable}
_WEBHOOK = "failed calling webhook"
_DIFF = re.compile(r"\n\s*(@@ -\d|&?[\w.]+\{)")  # a comparison of two Go values, which follows the message
_NOT_OF_THE_SCHEMA = "failed to create typed patch object"  # server-side apply answers so, with 500 instead of 422
# Texts of answers 403 that end within seconds: an admission plugin does not know a new CRD yet, or a CRD is being
# deleted.
_PASSING = ("cannot find RESTMapping", "custom resource definition is terminating")


async def credentials() -> Configuration:
    """Access to the API server: from KUBECONFIG, else the pod's service account, else ~/.kube/config."""
    configuration = Configuration()
    file = os.environ.get("KUBECONFIG") or None  # the library reads the variable only when it is imported
    try:
        if file is None and "KUBERNETES_SERVICE_HOST" in os.environ:
            load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        else:
            await load_kube_config(file, client_configuration=configuration, persist_config=False)  # type: ignore[no-untyped-call]
    except (ConfigException, OSError) as error:
        raise ConfigError(f"no credentials for the API server: {error}") from error
    return configuration


def yaml_of(body: Mapping[str, Any]) -> bytes:
    """The body as JSON that is also YAML with the same meaning.

    Characters above U+FFFF are not escaped, because YAML has no surrogates. Other characters outside ASCII are escaped:
    YAML reads NEL, U+2028 and U+2029 as line breaks, and refuses DEL, C1 controls and a byte order mark.
    """

    def escaped(found: re.Match[str]) -> str:
        code = ord(found[0])
        return f"\\u{0xFFFD if 0xD800 <= code <= 0xDFFF else code:04x}"  # a surrogate alone is not a character

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
    """An async client. Use it as a context manager, or call close()."""

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
        self._large = asyncio.Lock()
        self._served: dict[str, frozenset[str]] = {}
        self.doubted = asyncio.Event()  # set when a requested kind does not exist: discovery is out of date
        self.may_write: Callable[[], bool] = lambda: True

    @classmethod
    async def connect(cls, metrics: Metrics | None = None) -> Self:
        """A client with the credentials of this process. It sends nothing yet."""
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
        """The object, or None if it does not exist."""
        try:
            return await self._send("GET", kind, kind.path(namespace, name))
        except NotFound:
            return None

    async def list(
        self, kind: Kind, namespace: str, selector: str = "", field_selector: str = "", limit: int = 0
    ) -> list[Manifest]:
        """The objects of a namespace ("" means all) that match; at most `limit` of them, 0 means all."""
        query = {"labelSelector": selector, "fieldSelector": field_selector, "limit": str(limit or "")}
        try:
            answer = await self._send("GET", kind, kind.path(namespace), query, verb="LIST")
        except NotFound:  # the kind does not exist: a list without objects is empty
            self.doubted.set()
            raise
        # the API server omits apiVersion and kind of list items
        return [{"apiVersion": kind.api_version, "kind": kind.kind, **item} for item in answer.get("items") or []]

    def list_metadata(self, kind: Kind, namespace: str, selector: str = "") -> AsyncIterator[Manifest]:
        """As `pages`, with the metadata only."""
        return self.pages(kind, namespace, selector, accept=_METADATA)

    async def pages(
        self, kind: Kind, namespace: str, selector: str = "", field_selector: str = "", *, accept: str = _JSON
    ) -> AsyncIterator[Manifest]:
        """The objects of a namespace ("" means all) that match, read page by page.

        Thus objects that the caller drops never fill the memory.
        """
        limit, query = _PAGE, {"labelSelector": selector, "fieldSelector": field_selector, "continue": ""}
        while True:
            query["limit"], most = str(limit), _MOST_OF_PAGE if limit > 1 else _MOST_BYTES
            try:
                answer = await self._send(
                    "GET", kind, kind.path(namespace), query, verb="LIST", accept=accept, most=most
                )
            except NotFound:
                self.doubted.set()
                raise
            except TooLarge:
                if limit == 1:
                    raise
                limit = max(1, limit // _FEWER)
                continue
            for item in answer.get("items") or []:
                yield {**item, "apiVersion": kind.api_version, "kind": kind.kind}
            query["continue"] = answer.get("metadata", {}).get("continue", "")
            if not query["continue"]:
                return

    async def serves(self, kind: Kind) -> bool:
        """Whether the API server accepts objects of this kind. The answer is cached until `rediscover`.

        Concurrent callers get one answer, also if their requests were sent earlier. Thus a caller that compares it with
        its last answer sees every change that another caller may have acted on.
        """
        path = kind.group_path
        if path not in self._served:
            try:
                answer = await self._send("GET", None, path)
                # A CRD that is being deleted does not list the verb create. Its deletion may take long.
                found = (each for each in answer.get("resources") or [] if "create" in each.get("verbs", ()))
                plurals = frozenset(each["name"] for each in found)
            except NotFound:
                plurals = frozenset()
            self._served.setdefault(path, plurals)
        return kind.plural in self._served[path]

    def rediscover(self) -> None:
        """Clear the cache of discovery."""
        self._served.clear()
        self.doubted.clear()

    # ---- writing

    async def apply(self, body: Mapping[str, Any]) -> Manifest:
        """Server-side apply. It overwrites what others have changed in the fields of the operator."""
        return await self._apply(body, "")

    async def apply_status(self, body: Mapping[str, Any]) -> Manifest:
        """Server-side apply of the status."""
        return await self._apply(body, "status")

    async def _apply(self, body: Mapping[str, Any], subresource: str) -> Manifest:
        kind, metadata = kind_of(body), body["metadata"]
        path = kind.path(metadata.get("namespace", ""), metadata["name"], subresource)
        query = {"fieldManager": names.MANAGER, "force": "true"}
        return await self._send("PATCH", kind, path, query, yaml_of(body), _APPLY, verb="APPLY")

    async def create(self, body: Mapping[str, Any]) -> Manifest:
        """Create an object. Conflict when the name exists."""
        kind, query = kind_of(body), {"fieldManager": names.MANAGER}
        path = kind.path(body["metadata"].get("namespace", ""))
        return await self._send("POST", kind, path, query, body)

    async def replace(self, body: Mapping[str, Any]) -> Manifest:
        """Replace an object. Conflict when its resourceVersion is not that of the body."""
        kind, metadata = kind_of(body), body["metadata"]
        path = kind.path(metadata.get("namespace", ""), metadata["name"])
        return await self._send("PUT", kind, path, {"fieldManager": names.MANAGER}, body)

    async def annotate(self, kind: Kind, namespace: str, name: str, annotations: Mapping[str, str | None]) -> Manifest:
        """Set annotations. The value None removes an annotation."""
        body = {"metadata": {"annotations": dict(annotations)}}
        path = kind.path(namespace, name)
        return await self._send("PATCH", kind, path, {"fieldManager": names.MANAGER}, body, _MERGE)

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> None:
        """Delete the object with this uid, and in the background what it owns. Conflict when the uid has changed."""
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
        """Write an Event about an object. An error is only logged, except NotLeading."""
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
        accept: str = _JSON,
        most: int = _MOST_BYTES,
    ) -> Manifest:
        headers = {"Accept": accept, "Content-Type": content_type, **self._client.default_headers}
        count = self._metrics.api_requests
        what = (verb or method, kind.kind if kind else "discovery")
        try:
            async with asyncio.timeout(self._timeout):  # the client's own limit does not include getting a token
                await self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
                self._check_fence(method, kind)  # just before the request is sent
                url, bound = self._url(path, query), aiohttp.ClientTimeout(total=self._timeout)
                answer = await self._client.call_api(method, url, headers, body, _request_timeout=bound)
                data = await self._read(answer.response, most)
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

    async def _read(self, answer: aiohttp.ClientResponse, most: int) -> bytes:
        """The body. TooLarge when it has more bytes than `most`. Long ones take turns, so that they fit in memory."""
        data = bytearray()
        async with answer, contextlib.AsyncExitStack() as turn:
            async for chunk in answer.content.iter_any():
                if len(data) <= _LARGE < len(data) + len(chunk):
                    await turn.enter_async_context(self._large)
                data += chunk
                if len(data) > most:
                    raise TooLarge(f"the answer to {answer.method} {answer.url.path} is larger than {most >> 20} MiB")
        return bytes(data)

    def _check_fence(self, method: str, kind: Kind | None) -> None:
        if method != "GET" and (kind is None or kind.kind != "Lease") and not self.may_write():
            raise NotLeading("not sent: this instance does not hold the Lease")

    def _url(self, path: str, query: Mapping[str, str] | None) -> str:
        pairs = "&".join(f"{key}={quote(value, safe='')}" for key, value in (query or {}).items() if value)
        return f"{self._client.configuration.host}{path}" + (f"?{pairs}" if pairs else "")
