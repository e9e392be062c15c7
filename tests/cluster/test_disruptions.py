"""No request fails by a disruption that the grace allows: clients stream all the while, and every stream is whole."""

import json
import threading
import urllib.request
from types import TracebackType
from typing import Any, Self

import pytest

from tests.support.llama import Llama, spec_of
from tests.support.polling import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

TOKENS = 200


class Clients:
    """Clients that stream one answer after the other through the Service, each on a connection of its own."""

    def __init__(self, url: str, count: int = 3) -> None:
        self._url = url
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(count)]
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

    def go_on(self, count: int = 10) -> None:
        """Wait for further answers."""
        target = self.answers + count
        until(lambda: self.answers >= target or self.failures, "clients get answers", 120, pause=0.1)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                last = self._answer()
                if not last.get("stopped_limit") or last["tokens_predicted"] < TOKENS:  # more, to end a character
                    self.failures.append(f"truncated: {last}")
                self.answers += 1
            except (OSError, ValueError) as error:  # resets, refusals and statuses of HTTP are OSErrors
                self.failures.append(repr(error))

    def _answer(self) -> dict[str, Any]:
        body = {"prompt": "Once upon a time", "n_predict": TOKENS, "ignore_eos": True, "stream": True}
        request = urllib.request.Request(f"{self._url}/completion", json.dumps(body).encode())
        last: dict[str, Any] = {}
        with urllib.request.urlopen(request, timeout=60) as answer:
            for line in answer:
                if line.startswith(b"data: "):
                    last = json.loads(line[6:])
        return last


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
