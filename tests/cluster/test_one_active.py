"""Two real operator processes and a real API server: its audit log tells who wrote, and that they never did in turns.

Each reconciles one object, writes each time and comes again at once, so whoever may write does so all the time.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from dev.localcluster import Cluster
from dev.localcluster.forward import Relay, listen
from tests.support.cluster.accounts import LEASES, WATCHED, WRITES, Account, server_of
from tests.support.operator.operator_process import OperatorProcess
from tests.support.polling import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

LEASE_SECONDS = 6
TIMES = (f"--lease-seconds={LEASE_SECONDS}", "--renew-seconds=4", "--retry-seconds=0.5")


class Pair:
    """Operators `first` and `second` with an account each, and what they did to the namespace's ConfigMap."""

    def __init__(self, cluster: Cluster, namespace: str, folder: Path, stack: ExitStack) -> None:
        self.cluster, self.namespace = cluster, namespace
        self._folder, self._stack = folder, stack
        cluster.kubectl.create(
            self._config_map("object", {"llamaserver.dev/name": "object"}),
            {**self._config_map("object-written", {}), "data": {"again": "yes"}},
        )

    def start(self, name: str, server: str = "") -> OperatorProcess:
        account = Account(self.cluster, self.namespace, name).make().allow(LEASES, WRITES, *WATCHED)
        kubeconfig = account.kubeconfig(self._folder, server)
        flags = (f"--identity={name}", f"--namespace={self.namespace}", f"--watch-namespace={self.namespace}", *TIMES)
        module = "tests.support.operator.writing_operator"
        return self._stack.enter_context(
            OperatorProcess(kubeconfig, self._folder / f"{name}.log", *flags, module=module)
        )

    def turns(self) -> list[str]:
        """Who wrote, in the order in which the API server heard of it; writes of one in a row are one turn."""
        writes = []
        for event in self.cluster.audit():
            about = event.get("objectRef", {})
            if about.get("namespace") == self.namespace and about.get("name") == "object-written":
                by = event["user"].get("username", "").removeprefix(f"system:serviceaccount:{self.namespace}:")
                if event["verb"] == "patch" and by in ("first", "second"):
                    writes.append((event["requestReceivedTimestamp"], by))
        return [by for by, _ in groupby(by for _, by in sorted(writes))]

    @property
    def count(self) -> int:
        found = self.cluster.kubectl.get("configmap", "object-written", self.namespace)
        return int(found.get("data", {}).get("count", 0))

    def until_written(self, times: int = 3) -> None:
        target = self.count + times
        until(lambda: self.count >= target, "somebody writes", 60)

    def slow_down(self) -> None:
        """From now on a second lies between reading and writing."""
        self.cluster.kubectl.patch("configmap", "object-written", {"data": {"slow": "1"}}, namespace=self.namespace)
        self.until_written(2)

    def until_turns(self, *names: str) -> None:
        until(lambda: self.turns() == list(names), f"the turns are {names}", 60, pause=0.2)

    @property
    def holder(self) -> str:
        lease = self.cluster.kubectl.get("lease", "llamaserver-operator", self.namespace)
        return lease.get("spec", {}).get("holderIdentity", "")

    def _config_map(self, name: str, labels: dict[str, str]) -> dict[str, object]:
        metadata = {"name": name, "namespace": self.namespace, "labels": labels}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}


@pytest.fixture
def pair(cluster: Cluster, namespace: str, tmp_path: Path) -> Iterator[Pair]:
    with ExitStack() as stack:
        yield Pair(cluster, namespace, tmp_path, stack)


def both(pair: Pair, server: str = "") -> tuple[OperatorProcess, OperatorProcess]:
    """The first leads, by its own way to the API server; the second stands by, live and ready."""
    first = pair.start("first", server).until_leading()
    second = pair.start("second").until_ready()
    pair.until_written()
    assert second.health("/healthz") == (200, "ok")
    assert not second.leads
    assert second.metric("llamaserver_operator_reconciles_total") == 0
    assert pair.turns() == ["first"]
    return first, second


def test_a_standby_takes_over_when_the_leader_is_told_to_stop(pair: Pair) -> None:
    first, second = both(pair)
    assert first.stop() == 0
    assert not pair.holder.startswith("first"), "it let go"
    pair.until_turns("first", "second")
    assert second.leads
    assert first.lines[-1]["msg"] == "stopped"
    assert second.stop() == 0
    assert pair.holder == ""


def test_a_standby_takes_over_when_the_leader_is_killed(pair: Pair) -> None:
    first, second = both(pair)
    first.kill()
    pair.until_turns("first", "second")
    assert second.leads


def test_a_leader_that_was_stopped_longer_than_its_lease_wakes_and_does_not_write(pair: Pair) -> None:
    first, second = both(pair)
    pair.slow_down()  # it is hardly ever frozen between the last look at the clock and the sending
    first.freeze()
    pair.until_turns("first", "second")
    first.thaw()
    until(lambda: first.said("standing by"), "the first knows")
    pair.until_written(5)
    assert pair.turns() == ["first", "second"]
    assert not first.leads
    assert first.ready
    assert first.health("/healthz") == (200, "ok")
    assert second.stop() == 0
    pair.until_turns("first", "second", "first")
    assert first.process.poll() is None, "the same process leads again"


def test_a_leader_that_is_cut_off_stops_before_the_other_begins_and_comes_back_as_standby(pair: Pair) -> None:
    parts = urlsplit(server_of(pair.cluster))
    target = (parts.hostname or "", parts.port or 0)
    relay = Relay(listen(("127.0.0.1", 0)), target, None)
    first, second = both(pair, f"https://127.0.0.1:{relay.port}")
    relay.close()
    pair.until_turns("first", "second")
    assert not first.leads
    assert first.health("/healthz") == (200, "ok"), "a restart would not help"
    with Relay(listen(("127.0.0.1", relay.port)), target, None):
        until(lambda: first.said("standing by"), "the first is back")
        pair.until_written(20)
        assert pair.turns() == ["first", "second"]
        assert second.stop() == 0
        pair.until_turns("first", "second", "first")


def _killed(cluster: Cluster) -> Callable[[], None]:
    cluster.stop("kube-apiserver")
    return lambda: cluster.start("kube-apiserver")


def _frozen(cluster: Cluster) -> Callable[[], None]:
    cluster.freeze("kube-apiserver")
    return lambda: cluster.thaw("kube-apiserver")


@pytest.mark.parametrize("outage", [_killed, _frozen])
def test_after_an_outage_longer_than_the_lease_one_of_them_goes_on_with_everything(
    pair: Pair, outage: Callable[[Cluster], Callable[[], None]]
) -> None:
    first, second = both(pair)
    end = outage(pair.cluster)
    try:
        until(lambda: not first.leads, "the leader gave up")
        assert first.said("not renewed in time")
        assert first.health("/healthz") == (200, "ok")
    finally:
        end()
    until(lambda: first.leads != second.leads, "one of them leads", 60)
    pair.until_written(20)
    turns = pair.turns()
    assert turns in (["first"], ["first", "second"])
    leader, name = (first, "first") if first.leads else (second, "second")
    assert turns[-1] == name
    # events are seen again too
    before = leader.metric("llamaserver_operator_reconciles_total")
    pair.cluster.kubectl.create(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "new", "namespace": pair.namespace, "labels": {"llamaserver.dev/name": "new"}},
        }
    )
    until(lambda: pair.cluster.kubectl.get("configmap", "new-written", pair.namespace), "a new object is seen", 60)
    assert leader.metric("llamaserver_operator_reconciles_total") > before
