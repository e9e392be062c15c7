"""The watch: kopf reports which objects have changed. This is the only module that imports kopf.

kopf sets no finalizers and annotations here, and writes no Events: nothing may hold back an object after the operator
is uninstalled. kopf cancels every task of its event loop when it ends. Therefore it runs in its own loop and thread.
"""

import asyncio
import contextlib
import logging
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import aiohttp
import kopf
from kopf._cogs.structs.references import Insights  # type of a parameter of kopf.operator; it has no public name

from . import names
from .cluster import Cluster, credentials
from .config import Config
from .errors import Forbidden
from .fairqueue import Key
from .kinds import LLAMA_SERVER, Kind
from .metrics import Metrics
from .workqueue import pause

_log = logging.getLogger(__name__)
_LOOK_AGAIN = 60.0  # seconds until the next check of kinds that were forbidden
_PAGE = 25  # objects; the metadata of one may have hundreds of KiB
_METADATA = "application/json;as={};g=meta.k8s.io;v=v1"
_SAME_AGAIN = 1.0  # seconds before a login with a token that was refused; kopf would try it again at once, forever
_GOODBYE = 0.2  # seconds that the thread has to end


def settings() -> kopf.OperatorSettings:
    """Settings of kopf for watching only. Streams are renewed, because some have been seen to hang without an error."""
    chosen = kopf.OperatorSettings()
    chosen.posting.enabled = False
    chosen.scanning.disabled = True  # runtime.py checks for new kinds, without listing CRDs
    chosen.process.ultimate_exiting_timeout = None  # it would kill the process
    chosen.watching.chunk_size = _PAGE
    chosen.watching.server_timeout = 240
    chosen.watching.client_timeout = 260
    chosen.watching.connect_timeout = 10
    chosen.watching.reconnect_backoff = 0.5
    chosen.watching.label_selectors[_is_child] = names.NAME_LABEL
    chosen.networking.request_timeout = 30
    chosen.networking.connect_timeout = 10
    chosen.networking.error_backoffs = (0.5, 1, 2)
    chosen.queueing.idle_timeout = 1.0
    chosen.queueing.exit_timeout = 0.2
    return chosen


def _is_child(resource: Any) -> bool:
    return bool(resource.group != names.GROUP)


async def _metadata_only(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Asks for the metadata of objects only. The operator needs no more of an event, and an object may have 1.5 MB."""
    parts = request.url.path.strip("/").split("/")
    if len(parts) > (2 if parts[0] == "api" else 3):  # not discovery
        watches = request.url.query.get("watch") == "true"
        request.headers["Accept"] = _METADATA.format("PartialObjectMetadata" + ("" if watches else "List"))
    return await handler(request)


class _Slim(aiohttp.ClientResponse):
    """Drops what may be large in the metadata of a list, because kopf keeps the objects of a list for a while."""

    async def json(self, **options: Any) -> Any:
        found = await super().json(**options)
        if isinstance(found, dict) and "items" in found:
            found["items"] = found["items"] or []  # an empty list of metadata is null, which kopf does not expect
            for item in found["items"]:
                for field in ("annotations", "managedFields"):
                    item["metadata"].pop(field, None)
        return found


class _Lasting:
    """A session that kopf cannot close.

    When a stream fails, kopf closes the session before it ends the other streams. They would wait forever for a login.
    """

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    async def close(self) -> None:
        """Do nothing."""


class Login:
    """Makes the sessions of kopf. The caller closes `sessions`. Each login leaves one there."""

    def __init__(self, sessions: list[aiohttp.ClientSession]) -> None:
        self._sessions = sessions
        self._last: str | None = None

    async def login(self, **_: Any) -> kopf.AiohttpSession:
        """A session with the present credentials."""
        found = await credentials()  # read each time, because tokens of service accounts are renewed
        header = await found.get_api_key_with_prefix("BearerToken", "authorization") or ""
        if header == self._last:
            await asyncio.sleep(_SAME_AGAIN)
        self._last = header
        context = ssl.create_default_context(cafile=found.ssl_ca_cert)
        if not found.verify_ssl:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if found.cert_file:
            context.load_cert_chain(found.cert_file, found.key_file)
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=context),
            headers={"User-Agent": names.MANAGER, **({"Authorization": header} if header else {})},
            middlewares=(_metadata_only,),
            response_class=_Slim,
        )
        for older in self._sessions:
            await older.close()
        self._sessions[:] = [session]
        return kopf.AiohttpSession(server=found.host, aiohttp_session=cast("aiohttp.ClientSession", _Lasting(session)))


class News:
    """Selects the events of objects that need a reconcile.

    A change of the status does not: the operator writes it. During a download each write would cause the next one.
    """

    def __init__(self) -> None:
        self._seen: dict[Key, list[Any]] = {}

    def is_news(self, key: Key, event: Mapping[str, Any]) -> bool:
        """Whether the object was created or deleted, or its spec has changed."""
        if event["type"] == "DELETED":
            self._seen.pop(key, None)
            return True
        metadata = event["object"]["metadata"]
        state = [metadata.get(field) for field in ("uid", "generation", "deletionTimestamp")]
        before, self._seen[key] = self._seen.get(key), state
        return state != before


def registry(
    kinds: Iterable[Kind], notify: Callable[[Key], None], sessions: list[aiohttp.ClientSession]
) -> kopf.OperatorRegistry:
    """A new registry with a handler for objects and a handler for their children. For `sessions`, see Login."""
    chosen = kopf.OperatorRegistry()

    news = News()

    async def on_object(namespace: str | None, name: str | None, event: kopf.RawEvent, **_: Any) -> None:
        key = (namespace or "", name or "")
        if news.is_news(key, event):
            notify(key)

    async def on_child(body: kopf.Body, **_: Any) -> None:
        if (key := names.key_of(body)) is not None:
            notify(key)

    kopf.on.login(registry=chosen, retries=1)(Login(sessions).login)
    for kind in kinds:
        handler = on_object if kind == LLAMA_SERVER else on_child
        kopf.on.event(group=kind.group, version=kind.version, plural=kind.plural, registry=chosen)(handler)
    return chosen


class Watch:
    """Watches kinds until it is cancelled. It starts kopf again when kopf ends."""

    def __init__(
        self, cluster: Cluster, config: Config, kinds: Iterable[Kind], notify: Callable[[Key], None], metrics: Metrics
    ) -> None:
        self._cluster = cluster
        self._namespaces = config.watch_namespaces
        self._kinds = tuple(kinds)
        self._notify = notify
        self._metrics = metrics

    async def run(self) -> None:
        """Watch until cancelled. Each start of kopf lists all objects, so no change between two starts is missed."""
        failures = 0
        while True:
            started = asyncio.get_running_loop().time()
            try:
                allowed = await self._allowed()
                async with asyncio.timeout(None if len(allowed) == len(self._kinds) else _LOOK_AGAIN):
                    await self._once(allowed)
            except TimeoutError:
                continue  # check again which kinds may be read
            except Exception as error:
                self._metrics.errors.labels("watch").inc()
                _log.warning("the watch failed and starts again: %s", error)
            failures = 1 if asyncio.get_running_loop().time() - started > _LOOK_AGAIN else failures + 1
            await asyncio.sleep(pause(failures))

    async def _allowed(self) -> list[Kind]:
        """The kinds that the operator may read. A forbidden kind would end the watch of all kinds again and again."""
        allowed = []
        for kind in self._kinds:
            try:
                for namespace in self._namespaces or ("",):
                    async for _ in self._cluster.list_metadata(kind, namespace, names.NAME_LABEL):
                        break
                allowed.append(kind)
            except Forbidden as error:
                self._metrics.errors.labels("watch").inc()
                _log.error("not watching %s: %s", kind.plural, error)
        return allowed

    async def _once(self, kinds: list[Kind]) -> None:
        thread = _Thread(self._namespaces, kinds, self._notify)
        try:
            await asyncio.shield(thread.ended)
        finally:
            thread.stop()
            await asyncio.wait({thread.ended}, timeout=_GOODBYE)  # its events are already ignored


class _Thread:
    """One run of kopf. `ended` is done when the run is over."""

    def __init__(self, namespaces: tuple[str, ...], kinds: Iterable[Kind], notify: Callable[[Key], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._inner: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()  # belongs to the loop of the thread
        self._muted = False
        self._receive = notify
        self._kinds = frozenset(kinds)
        self._sessions: list[aiohttp.ClientSession] = []
        self._registry = registry(self._kinds, self._pass_on, self._sessions)
        self._namespaces = namespaces
        threading.Thread(target=self._main, name="watch", daemon=True).start()

    def stop(self) -> None:
        """End soon, and ignore further events. Call it from the outer loop."""
        self._muted = True
        if self._inner is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._inner.call_soon_threadsafe(self._stop.set)

    # ---- in the thread

    def _main(self) -> None:
        error: BaseException | None = None
        try:
            asyncio.run(self._watch())
        except BaseException as caught:
            error = caught
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._finish, error)

    async def _watch(self) -> None:
        self._inner = asyncio.get_running_loop()
        if self._muted:
            return
        insights = Insights()
        watching = asyncio.ensure_future(
            kopf.operator(
                registry=self._registry,
                settings=settings(),
                identity=names.MANAGER,  # type: ignore[arg-type]  # kopf would look up the user's name: a container has none
                standalone=True,
                clusterwide=not self._namespaces,
                namespaces=self._namespaces,
                stop_flag=self._stop,
                insights=insights,
            )
        )
        scanned = asyncio.ensure_future(insights.ready_resources.wait())
        await asyncio.wait({watching, scanned}, return_when=asyncio.FIRST_COMPLETED)
        missed = {kind.plural for kind in self._kinds} - {found.plural for found in insights.watched_resources}
        if scanned.done() and missed:  # kopf looks for its kinds once and skips those that do not exist
            self._stop.set()
        try:
            await watching
        finally:
            for session in self._sessions:
                await session.close()
        if scanned.done() and missed and not self._muted:
            raise RuntimeError(f"kopf did not find {', '.join(sorted(missed))}")

    def _pass_on(self, key: Key) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._deliver, key)

    # ---- in the outer loop again

    def _deliver(self, key: Key) -> None:
        if not self._muted:
            self._receive(key)

    def _finish(self, error: BaseException | None) -> None:
        if self.ended.done():
            return
        if error is None:
            self.ended.set_result(None)
        else:
            self.ended.set_exception(RuntimeError(repr(error)))  # CancelledError, too, must not reach the outer loop
