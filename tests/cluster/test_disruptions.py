"""No request fails by a disruption that the grace allows: clients ask all the while, and every answer is whole."""

import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Self

import httpx2
import pytest

from dev.localcluster.kubectl import Object
from tests.support.cluster.llama import Llama, spec_of
from tests.support.polling import tried, until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

LENGTHS = (40, 200, 7, 120, 75, 1)  # tokens of one answer after the other


class Client:
    """One client; one that keeps its connection opens another only when the server has closed it."""

    def __init__(self, url: str, *, keeps: bool, first: int = 0) -> None:
        headers = {} if keeps else {"Connection": "close"}
        limits = httpx2.Limits(keepalive_expiry=None)  # no retries either
        self._http = httpx2.Client(base_url=url, headers=headers, limits=limits, timeout=60, trust_env=False)
        self._lengths = itertools.islice(itertools.cycle(LENGTHS), first, None)
        self.connections: set[Any] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.close()

    def failure(self) -> str:
        """Of one request; empty when its answer is whole. Every third one is no stream."""
        tokens = next(self._lengths)
        body = {"prompt": "Once upon a time", "n_predict": tokens, "ignore_eos": True, "stream": tokens % 3 > 0}
        last: dict[str, Any] = {}
        try:
            with self._http.stream("POST", "/completion", json=body) as answer:
                self.connections.add(answer.extensions["network_stream"].get_extra_info("client_addr"))
                answer.raise_for_status()
                for line in answer.iter_lines():
                    if line:
                        last = json.loads(line.removeprefix("data: "))
        except (httpx2.HTTPError, ValueError) as error:
            return repr(error)
        whole = last.get("stopped_limit") and last["tokens_predicted"] >= tokens  # more, to end a character
        return "" if whole else f"truncated: {last}"


class Clients:
    """Clients that ask again and again through the Service."""

    def __init__(self, url: str, count: int, *, keep: bool, pause: float = 0.0) -> None:
        self._pause = pause  # seconds between an answer and the next request
        self._stop = threading.Event()
        self._clients = [Client(url, keeps=keep, first=number) for number in range(count)]
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

    def _run(self, client: Client) -> None:
        with client:
            while not self._stop.is_set():
                if failure := client.failure():
                    self.failures.append(failure)
                self.answers += 1
                self._stop.wait(self._pause)


class Load:
    """Every kind of client at once: with connections of their own for each request, and with kept ones."""

    def __init__(self, url: str) -> None:
        self.kinds = {
            "fresh": Clients(url, 2, keep=False),
            "kept, no pause": Clients(url, 3, keep=True),
            "kept, pauses": Clients(url, 2, keep=True, pause=0.1),
            "kept, long pauses": Clients(url, 2, keep=True, pause=1.0),
        }
        self._entered = ExitStack()

    def __enter__(self) -> Self:
        for clients in self.kinds.values():
            self._entered.enter_context(clients)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._entered.close()

    @property
    def answers(self) -> int:
        return sum(clients.answers for clients in self.kinds.values())

    @property
    def failures(self) -> dict[str, list[str]]:
        return {name: clients.failures for name, clients in self.kinds.items() if clients.failures}

    def go_on(self) -> None:
        """Wait until every client of every kind can have had a further answer, or one has failed."""
        targets = {name: clients.answers + 6 for name, clients in self.kinds.items()}
        reached = lambda: all(clients.answers >= targets[name] for name, clients in self.kinds.items())  # noqa: E731
        until(lambda: reached() or self.failures, "clients get answers", 120, pause=0.1)
        assert not self.failures, self.failures


def test_no_request_is_lost_by_a_planned_disruption(llama: Llama, capsys: pytest.CaptureFixture[str]) -> None:
    llama.spec = spec_of(replicas=2, rollout={"drainTimeoutSeconds": 30})
    llama.apply().until_ready()
    lost: dict[str, int] = {}
    with llama.service() as relay, Load(relay.url) as load:

        def disturbed(name: str, pods: list[Object], replicas: int = 2) -> None:
            """What has just begun takes these pods; clients go on until they are gone, and after that."""
            uids = {pod["metadata"]["uid"] for pod in pods}
            until(lambda: not uids & uids_of(llama), f"{name}: the pods are gone", 120, pause=0.25)
            llama.until_ready()
            until(lambda: len(llama.pods) == replicas, f"{name}: {replicas} pods", 60, pause=0.25)
            load.go_on()
            lost[name] = load.answers - sum(lost.values())

        load.go_on()
        before = llama.pods
        llama.apply(serving={"maxQueue": 99})
        disturbed("rollout", before)
        before = llama.pods
        llama.cluster.kubectl("rollout", "restart", "deployment/model", f"--namespace={llama.namespace}")
        disturbed("restart", before)
        llama.apply(replicas=3).until_ready()
        before = llama.pods
        llama.apply(replicas=2)
        until(lambda: len(llama.pods) == 2, "one pod is to go", 60, pause=0.1)
        left = llama.pod_uids
        disturbed("scale-down", [pod for pod in before if pod["metadata"]["uid"] not in left])
        for pod in llama.pods:
            llama.evict(pod)
            disturbed(f"eviction of {pod['metadata']['name']}", [pod])
    with capsys.disabled():
        print(f"\n{load.answers} answers, lost: {load.failures or 0}; by disruption: {lost}")
    assert not load.failures
    kept = load.kinds["kept, no pause"]
    assert kept.connections < kept.answers / 2, "they do keep their connections"


def uids_of(llama: Llama) -> set[str]:
    """Of all pods, those on their way out too."""
    found = llama.cluster.kubectl.items("pods", namespace=llama.namespace)
    return {pod["metadata"]["uid"] for pod in found}


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


def test_connections_that_idle_in_a_rollout_are_of_use_after_it(llama: Llama) -> None:
    """Used while the old pod lives, such a connection gets an answer that ends it; used later, it has been closed."""
    engine = {"extraArgs": ["--unlimited-answers"]}
    llama.spec = spec_of(replicas=2, rollout={"drainTimeoutSeconds": 60}, engine=engine)
    llama.apply().until_ready()
    with llama.service() as relay, ExitStack() as stack:
        sooner, later = ([stack.enter_context(Client(relay.url, keeps=True)) for _ in range(4)] for _ in range(2))
        for client in (*sooner, *later):
            assert [client.failure(), client.failure()] == ["", ""]
            assert len(client.connections) == 1, "kept"
        before = llama.pods
        with ExitStack() as holding:
            old = [holding.enter_context(held(llama, pod)) for pod in before]
            llama.apply(serving={"maxQueue": 99}).until_ready()
            assert not {pod["metadata"]["uid"] for pod in before} & llama.pod_uids
            refused = tried(lambda: all(map(refuses, old)), httpx2.HTTPError)
            until(refused, "both are still there, and refuse", 60, pause=0.2)
            assert [client.failure() for client in sooner] == [""] * len(sooner)
            assert [len(client.connections) for client in sooner] == [1] * len(sooner), "the old pods have answered"
            assert [client.failure() for client in sooner] == [""] * len(sooner)
        uids = {pod["metadata"]["uid"] for pod in before}
        until(lambda: not uids & uids_of(llama), "the old pods are gone", 60, pause=0.25)
        assert [client.failure() for client in later] == [""] * len(later)
        assert [len(client.connections) for client in (*sooner, *later)] == [2] * 8
