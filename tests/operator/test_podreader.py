"""Pods that accept a connection and never answer hold up no worker, and no pod of another namespace."""

import asyncio
from typing import Any

from llamaserver_operator.manifests import Pod
from llamaserver_operator.podreader import PodReader
from llamaserver_operator.reports import Report

from tests.support.virtual_time import now, run


class Reader(PodReader):
    """Asks no pod. Those whose name begins with `slow` answer after some seconds, others at once."""

    def __init__(self, seconds: float = 1e9) -> None:
        super().__init__()
        self.seconds = seconds
        self.asked: list[str] = []
        self.at_once = self.most = 0

    async def status(self, pod: Pod) -> Report | None:
        name = pod["metadata"]["name"]
        self.asked.append(name)
        if name.startswith("slow"):
            self.at_once += 1
            self.most = max(self.most, self.at_once)
            try:
                async with asyncio.timeout(2):
                    await asyncio.sleep(self.seconds)
            finally:
                self.at_once -= 1
        return {"state": "ready"}


def pod(name: str, namespace: str = "models") -> Any:
    return {"metadata": {"name": name, "namespace": namespace, "uid": name}, "status": {"podIP": "10.0.0.1"}}


SLOW = [pod(f"slow-{number}") for number in range(200)]


def test_a_worker_waits_a_quarter_of_a_second_and_then_not_at_all() -> None:
    async def main() -> None:
        reader, began = Reader(), now()
        assert await reader.reports([*SLOW[:7], pod("quick")]) == {"quick": {"state": "ready"}}
        assert now() - began == 0.25
        await asyncio.sleep(3)
        for number in range(101):
            began = now()
            assert list(await reader.reports([*SLOW[:7], pod("quick")])) == ["quick"]
            assert now() - began < (1e-6 if number else 0.26), "it waits for a pod that was late once"
            await asyncio.sleep(3)
        assert 7 * 8 <= len([name for name in reader.asked if name != "quick"]) <= 7 * 13, "about every 30 s"

    run(main())


def test_a_namespace_has_a_share_of_the_requests() -> None:
    async def main() -> None:
        reader = Reader()
        await reader.reports(SLOW)
        assert await reader.reports([pod("quick", "other")]) == {"quick": {"state": "ready"}}
        await asyncio.sleep(600)
        assert reader.most == 8

    run(main())


def test_a_late_answer_is_used_by_the_next_reconcile() -> None:
    async def main() -> None:
        reader = Reader(seconds=1)
        assert await reader.reports([SLOW[0]]) == {}
        await asyncio.sleep(1)
        assert await reader.reports([SLOW[0]]) == {"slow-0": {"state": "ready"}}
        assert reader.asked == ["slow-0"]

    run(main())


def test_an_answer_to_an_earlier_reconcile_is_not_the_present_state() -> None:
    async def main() -> None:
        reader = Reader(seconds=1)
        await reader.reports([SLOW[0]])
        await asyncio.sleep(60)
        assert await reader.reports([SLOW[0]]) == {}
        await asyncio.sleep(15)  # the next look at an object without reports
        assert await reader.reports([SLOW[0]]) == {"slow-0": {"state": "ready"}}

    run(main())


def test_a_decision_that_needs_the_present_state_waits_for_it() -> None:
    async def main() -> None:
        reader, ready = Reader(seconds=1.5), {"slow-0": {"state": "ready"}}
        began = now()
        assert await reader.reports([SLOW[0]], exact=True) == ready
        assert now() - began == 1.5
        await asyncio.sleep(10)
        reader.seconds = 1e9
        assert await reader.reports([SLOW[0]]) == ready, "good enough for the status"
        assert await reader.reports([SLOW[0]], exact=True) == {}
        assert now() - began < 14

    run(main())


def test_a_pod_that_is_late_a_few_times_keeps_its_report() -> None:
    """Else a pod that loads its model would seem to do nothing, and its rollout to be stalled."""

    async def main() -> None:
        reader, ready = Reader(seconds=0.1), {"slow-0": {"state": "ready"}}
        assert await reader.reports([SLOW[0]]) == ready
        reader.seconds = 1e9
        for _ in range(6):
            await asyncio.sleep(3)
            assert await reader.reports([SLOW[0]]) == ready
        await asyncio.sleep(3)
        assert await reader.reports([SLOW[0]]) == {}, "it is silent for too long"

    run(main())


def test_a_pod_that_is_late_once_is_asked_again_at_once() -> None:
    async def main() -> None:
        reader = Reader()
        await reader.reports([SLOW[0]])
        await asyncio.sleep(3)
        reader.seconds = 0.1
        assert await reader.reports([SLOW[0]]) == {"slow-0": {"state": "ready"}}

    run(main())


def test_a_request_that_waits_for_its_turn_is_not_late() -> None:
    """32 requests run at the same time."""

    async def main() -> None:
        reader = Reader(seconds=1)
        pods = [[pod(f"slow-{space}-{each}", f"space-{space}") for each in range(8)] for space in range(40)]
        await asyncio.gather(*(reader.reports(each) for each in pods))
        await asyncio.sleep(60)
        assert len(reader.asked) == 320
        assert reader.most == 32
        assert not any(asked.silent for asked in reader._asked.values())

    run(main())


def test_a_fresh_answer_is_not_asked_for_again() -> None:
    async def main() -> None:
        reader = Reader()
        for _ in range(50):
            assert await reader.reports([pod("quick")])
        assert reader.asked == ["quick"]
        await asyncio.sleep(1)
        await reader.reports([pod("quick")])
        assert reader.asked == ["quick", "quick"]

    run(main())


def test_pods_that_are_gone_are_forgotten() -> None:
    async def main() -> None:
        reader = Reader()
        for number in range(3000):
            await reader.reports([pod(f"quick-{number}")])
            await asyncio.sleep(1)
        assert len(reader._asked) <= 1024

    run(main())
