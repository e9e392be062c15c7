"""No request fails by a disruption that the grace allows: clients stream all the while, and every stream is whole."""

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Self

import httpx2
import pytest

from tests.localcluster.kubectl import Object
from tests.support.llama import Llama, spec_of
from tests.support.polling import tried, until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

TOKENS = 200


class Client:
    """One client; one that keeps its connection opens another only when the server has closed it."""

    def __init__(self, url: str, *, keeps: bool) -> None:
        headers = {} if keeps else {"Connection": "close"}
        limits = httpx2.Limits(keepalive_expiry=None)  # no retries either
        self._http = httpx2.Client(base_url=url, headers=headers, limits=limits, timeout=60, trust_env=False)
        self.connections: set[Any] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.close()

    def failure(self) -> str:
        """Of one stream; empty when it is whole."""
        body = {"prompt": "Once upon a time", "n_predict": TOKENS, "ignore_eos": True, "stream": True}
        last: dict[str, Any] = {}
        try:
            with self._http.stream("POST", "/completion", json=body) as answer:
                self.connections.add(answer.extensions["network_stream"].get_extra_info("client_addr"))
                answer.raise_for_status()
                for line in answer.iter_lines():
                    if line.startswith("data: "):
                        last = json.loads(line[6:])
        except (httpx2.HTTPError, ValueError) as error:
            return repr(error)
        whole = last.get("stopped_limit") and last["tokens_predicted"] >= TOKENS  # more, to end a character
        return "" if whole else f"truncated: {last}"


class Clients:
    """Clients that stream one answer after the other through the Service."""

    def __init__(self, url: str, count: int = 3, *, keep: bool = False) -> None:
        self._keep = keep
        self._stop = threading.Event()
        self._clients = [Client(url, keeps=keep) for _ in range(count)]
        self._threads = [threading.Thread(target=self._run, args=(client,)) for client in self._clients]
        self.answers = 0
        self.failures: list[str] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def connections(self) -> int:
        """How many they have opened."""
        return sum(len(client.connections) for client in self._clients)

    def go_on(self, count: int = 10) -> None:
        """Wait for further answers."""
        target = self.answers + count
        until(lambda: self.answers >= target or self.failures, "clients get answers", 120, pause=0.1)

    def _run(self, client: Client) -> None:
        with client:
            while not self._stop.is_set():
                if failure := client.failure():
                    self.failures.append(failure)
                self.answers += 1
                mine = self.answers
                while self._keep and self.answers == mine and not self._stop.wait(0.01):
                    pass  # the connection idles until another client has its answer


def test_no_stream_breaks_in_a_rollout_a_scale_down_and_an_eviction(llama: Llama) -> None:
    llama.spec = spec_of(replicas=2, rollout={"drainTimeoutSeconds": 30})
    llama.apply().until_ready()
    with llama.service() as relay, Clients(relay.url) as clients:
        clients.go_on()
        before = llama.pod_uids
        llama.apply(serving={"maxQueue": 99}).until_ready()
        assert not before & llama.pod_uids
        clients.go_on()
        llama.apply(replicas=3).until_ready()
        clients.go_on()
        llama.apply(replicas=2).until_ready()
        until(lambda: len(llama.pods) == 2, "one pod goes", 60, pause=0.25)
        clients.go_on()
        gone = llama.pods[0]
        llama.evict(gone)
        until(lambda: gone["metadata"]["uid"] not in llama.pod_uids, "the pod goes", 60, pause=0.25)
        llama.until_ready()
        clients.go_on()
    assert clients.failures == []
    assert clients.answers >= 50


@contextmanager
def held(llama: Llama, pod: Object) -> Iterator[str]:
    """A stream that nobody reads keeps the pod in its drain; gives the address of the pod itself."""
    body = {"prompt": "Once", "n_predict": 10**6, "ignore_eos": True, "stream": True}
    with (
        llama.pod_port(pod, 8080) as relay,
        httpx2.stream("POST", f"{relay.url}/completion", json=body, timeout=60, trust_env=False) as answer,
    ):
        lines = answer.iter_lines()  # its end would be the connection's
        assert next(lines).startswith("data: ")
        yield relay.url


def refuses(url: str) -> bool:
    return httpx2.get(f"{url}/props", timeout=60, trust_env=False).status_code == 503


def test_clients_that_keep_their_connections_notice_no_rollout(llama: Llama) -> None:
    """Busy ones are told with an answer; those that idled meanwhile find that the server has hung up."""
    llama.spec = spec_of(replicas=2, rollout={"drainTimeoutSeconds": 60})
    llama.apply().until_ready()
    with llama.service() as relay, Clients(relay.url, keep=True) as busy, ExitStack() as stack:
        idle = [stack.enter_context(Client(relay.url, keeps=True)) for _ in range(4)]
        for client in idle:
            assert client.failure() == ""
            assert client.failure() == ""
            assert len(client.connections) == 1, "kept"
        busy.go_on()
        before = llama.pod_uids
        with ExitStack() as holding:
            old = [holding.enter_context(held(llama, pod)) for pod in llama.pods]
            llama.apply(serving={"maxQueue": 99}).until_ready()
            assert not before & llama.pod_uids
            refused = tried(lambda: all(map(refuses, old)), httpx2.HTTPError)
            until(refused, "both are still there, and refuse", 60, pause=0.2)
            busy.go_on()
            assert [client.failure() for client in idle] == [""] * len(idle)
        busy.go_on()
    assert busy.failures == []
    assert [len(client.connections) for client in idle] == [2] * len(idle)
    assert 2 <= busy.connections < busy.answers / 2
