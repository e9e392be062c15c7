"""Leader election on a virtual clock: never two active instances, and always one in the end.

What a real API server and a stopped process add is in tests/cluster/test_one_active.py.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, cast

import pytest
from llamaserver_operator.cluster import Cluster
from llamaserver_operator.config import Config
from llamaserver_operator.lease import Lease
from llamaserver_operator.metrics import Metrics

from tests.support.operator.lease_api import LeaseApi, Store
from tests.support.virtual_time import jump, now, run

CONFIG = Config(namespace="here")
LIMIT = CONFIG.lease_seconds - CONFIG.renew_seconds


class Instance:
    """One instance with its own connection to the shared store. `led` has the spans in which its work ran."""

    def __init__(self, store: Store, name: str, config: Config = CONFIG, seed: int = 0) -> None:
        self.api = LeaseApi(store, seed)
        self.metrics = Metrics()
        self.lease = Lease(cast(Cluster, self.api), replace(config, identity=name), self.metrics, now)
        self.led: list[list[float]] = []
        self.working = False
        self.task = asyncio.create_task(self.lease.run(self.work))

    async def work(self) -> None:
        assert self.lease.holds()
        self.led.append([now()])
        self.working = True
        try:
            await asyncio.Event().wait()
        finally:
            self.working = False
            self.led[-1].append(now())

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.wait({self.task})

    @property
    def name(self) -> str:
        return self.lease.identity


def scenario(test: Callable[[Store], Awaitable[None]]) -> None:
    async def main() -> None:
        await test(Store())

    random.seed(len(test.__qualname__))  # the pauses between two looks
    run(main())


async def until(probe: Callable[[], Any], seconds: float = 100.0) -> None:
    """Virtual seconds."""
    end = now() + seconds
    while not probe():
        assert now() < end
        await asyncio.sleep(0.05)


def test_the_first_makes_the_lease_and_the_others_stand_by() -> None:
    async def test(store: Store) -> None:
        first = Instance(store, "first")
        await until(lambda: first.working)
        second = Instance(store, "second")
        await asyncio.sleep(300)
        assert first.working
        assert not second.led
        assert second.lease.contacted
        assert not second.lease.holds()
        assert store.body is not None
        assert store.body["spec"]["holderIdentity"] == first.name
        assert first.metrics.registry.get_sample_value("llamaserver_operator_is_leader") == 1
        assert second.metrics.registry.get_sample_value("llamaserver_operator_is_leader") == 0
        assert set(store.writes) == {first.name}, "a standby writes nothing"
        await second.stop()
        await first.stop()

    scenario(test)


def test_an_instance_that_stops_releases_the_lease_at_once() -> None:
    async def test(store: Store) -> None:
        first = Instance(store, "first")
        await until(lambda: first.working)
        second = Instance(store, "second")
        await asyncio.sleep(20)
        stopped = now()
        await first.stop()
        assert store.holder == ""
        await until(lambda: second.working)
        assert second.led[0][0] - stopped <= 1.2 * CONFIG.retry_seconds
        assert not first.working
        await second.stop()

    scenario(test)


def test_the_work_has_ended_before_the_lease_is_released() -> None:
    async def test(store: Store) -> None:
        ended = False

        async def work() -> None:
            nonlocal ended
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(LIMIT / 2)  # tidying up
                assert store.holder == lease.identity
                assert lease.holds(), "it goes on renewing meanwhile"
                ended = True

        lease = Lease(cast(Cluster, LeaseApi(store)), CONFIG, Metrics(), now)
        task = asyncio.create_task(lease.run(work))
        await until(lease.holds)
        await asyncio.sleep(CONFIG.renew_seconds - 1)
        task.cancel()
        await asyncio.wait({task})
        assert ended
        assert store.holder == ""

    scenario(test)


@pytest.mark.parametrize("failure", ["down", "silent"])
def test_a_leader_without_contact_stops_before_another_begins(failure: str) -> None:
    async def test(store: Store) -> None:
        first = Instance(store, "first")
        await until(lambda: first.working)
        second = Instance(store, "second")
        await asyncio.sleep(20)
        cut = now()
        setattr(first.api, failure, True)
        await until(lambda: second.working)
        began, ended = second.led[0][0], first.led[0][1]
        assert ended < began
        assert ended <= cut + CONFIG.renew_seconds
        assert began >= cut - CONFIG.retry_seconds + CONFIG.lease_seconds
        assert not first.lease.holds()
        setattr(first.api, failure, False)
        await asyncio.sleep(100)
        assert second.working
        assert len(first.led) == 1
        await second.stop()
        await until(lambda: first.working)
        assert len(first.led) == 2, "the same process leads again"
        await first.stop()

    scenario(test)


@pytest.mark.parametrize("failure", ["down", "silent"])
def test_after_an_outage_for_all_one_of_them_leads_again(failure: str) -> None:
    async def test(store: Store) -> None:
        instances = [Instance(store, str(number), seed=number) for number in range(2)]
        await until(lambda: any(each.working for each in instances))
        for each in instances:
            setattr(each.api, failure, True)
        await asyncio.sleep(3 * CONFIG.lease_seconds)
        assert not any(each.working for each in instances)
        for each in instances:
            setattr(each.api, failure, False)
        await until(lambda: any(each.working for each in instances))
        assert sum(each.working for each in instances) == 1
        for each in instances:
            await each.stop()

    scenario(test)


def test_a_short_outage_changes_nothing() -> None:
    async def test(store: Store) -> None:
        first = Instance(store, "first")
        await until(lambda: first.working)
        for failure in ("down", "silent"):
            setattr(first.api, failure, True)
            await asyncio.sleep(CONFIG.renew_seconds - CONFIG.retry_seconds - 1)
            setattr(first.api, failure, False)
            await asyncio.sleep(20)
        assert len(first.led) == 1
        assert first.working
        await first.stop()

    scenario(test)


def test_no_call_takes_so_long_that_there_is_no_time_for_a_second_one() -> None:
    async def test(store: Store) -> None:
        first = Instance(store, "first")
        await until(lambda: first.working)
        before = first.api.calls
        first.api.silent = True
        await until(lambda: not first.working)
        assert first.api.calls - before >= 2
        await first.stop()

    scenario(test)


def test_a_stopped_process_that_wakes_may_not_act() -> None:
    """As after SIGSTOP: the clock has moved on, and other code runs before that of the election."""

    async def test(store: Store) -> None:
        first = Instance(store, "first")
        await until(lambda: first.working)
        await asyncio.sleep(5)
        jump(CONFIG.lease_seconds)
        store.edit(holderIdentity="second", renewTime="now")  # meanwhile
        assert first.working
        assert not first.lease.holds(), "before anything else has run"
        written = len(store.writes)
        await until(lambda: not first.working)
        await asyncio.sleep(CONFIG.lease_seconds - 2 * CONFIG.retry_seconds)
        assert len(store.writes) == written
        assert store.holder == "second"
        await first.stop()

    scenario(test)


def test_a_stopped_process_that_nobody_replaced_begins_anew() -> None:
    async def test(store: Store) -> None:
        first = Instance(store, "first")
        await until(lambda: first.working)
        jump(3600)
        assert not first.lease.holds()
        await until(lambda: len(first.led) == 2)
        assert first.working
        await first.stop()

    scenario(test)


def test_a_write_whose_answer_was_lost_is_recognised() -> None:
    async def test(store: Store) -> None:
        first = Instance(store, "first")
        first.api.loses_answers = True
        await asyncio.sleep(5)
        assert not first.working
        assert store.holder == first.name, "the Lease was made"
        first.api.loses_answers = False
        await until(lambda: first.working)
        first.api.loses_answers = True
        await asyncio.sleep(CONFIG.retry_seconds + 1)
        first.api.loses_answers = False
        await asyncio.sleep(50)
        assert len(first.led) == 1, "a conflict with its own write is none"
        await first.stop()

    scenario(test)


def test_a_foreign_annotation_is_kept_and_changes_nothing() -> None:
    async def test(store: Store) -> None:
        first = Instance(store, "first")
        await until(lambda: first.working)
        assert store.body is not None
        store.put({**store.body, "metadata": {**store.body["metadata"], "annotations": {"a": "b"}}})
        await asyncio.sleep(50)
        assert len(first.led) == 1
        assert first.working
        assert store.body["metadata"]["annotations"] == {"a": "b"}
        await first.stop()

    scenario(test)


def test_a_lease_taken_by_hand_ends_the_work_and_is_left_alone() -> None:
    async def test(store: Store) -> None:
        first = Instance(store, "first")
        await until(lambda: first.working)
        store.edit(holderIdentity="somebody", leaseDurationSeconds=60)
        await until(lambda: not first.working, CONFIG.renew_seconds)
        await asyncio.sleep(50)
        assert store.holder == "somebody"
        await until(lambda: first.working)
        assert first.led[1][0] - first.led[0][1] >= 50, "the duration is the one in the Lease"
        await first.stop()

    scenario(test)


def test_a_deleted_lease_is_made_again() -> None:
    async def test(store: Store) -> None:
        first = Instance(store, "first")
        await until(lambda: first.working)
        store.body = None
        await until(lambda: len(first.led) == 2)
        assert store.holder == first.name
        await first.stop()

    scenario(test)


def test_a_restarted_container_of_the_same_pod_is_another_instance() -> None:
    async def test(store: Store) -> None:
        first = Instance(store, "pod-1")
        await until(lambda: first.working)
        first.api.silent = True
        second = Instance(store, "pod-1")
        assert first.name != second.name
        await until(lambda: second.working)
        assert first.led[0][1] < second.led[0][0]
        for each in (first, second):
            await each.stop()

    scenario(test)


def test_clocks_of_other_machines_do_not_matter() -> None:
    async def test(store: Store) -> None:
        spec = {"holderIdentity": "other", "leaseDurationSeconds": 15, "renewTime": "1999-01-01T00:00:00.000000Z"}
        store.put({"metadata": {"name": "x", "namespace": "here"}, "spec": spec})
        began = now()
        first = Instance(store, "first")
        for _ in range(20):
            await asyncio.sleep(5)
            store.edit(renewTime=f"1999-01-01T00:00:{_:02}.000000Z")
        assert not first.led, "it is renewed, whatever the time says"
        await until(lambda: first.working)
        assert now() - began >= 100 + 15 - 5
        await first.stop()

    scenario(test)


def test_an_error_of_the_work_ends_all_of_it_and_the_lease_is_free() -> None:
    async def test(store: Store) -> None:
        async def work() -> None:
            await asyncio.sleep(3)
            raise ZeroDivisionError

        lease = Lease(cast(Cluster, LeaseApi(store)), CONFIG, Metrics(), now)
        with pytest.raises(ZeroDivisionError):
            await lease.run(work)
        assert store.holder == ""
        assert not lease.holds()

    scenario(test)


def test_work_that_does_not_end_is_an_error_and_cannot_write_any_more() -> None:
    async def test(store: Store) -> None:
        api, release = LeaseApi(store), asyncio.Event()

        async def work() -> None:
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    assert not lease.holds()

        lease = Lease(cast(Cluster, api), CONFIG, Metrics(), now)
        task = asyncio.create_task(lease.run(work))
        await until(lease.holds)
        api.down = True
        await asyncio.wait({task})
        with pytest.raises(RuntimeError, match="does not end"):
            task.result()
        release.set()

    scenario(test)


@pytest.mark.parametrize("seed", range(40))
def test_there_are_never_two_leaders_and_in_the_end_there_is_one(seed: int) -> None:
    """Three instances, random latencies and failures. Some failures are shorter than the times of the Lease."""

    async def test(store: Store) -> None:
        chance = random.Random(seed)
        instances = [Instance(store, str(number), seed=seed * 10 + number) for number in range(3)]
        end = now() + 1500
        while now() < end:
            if chance.random() < 0.02:
                api = chance.choice(instances).api
                api.latency = chance.choice([0.0, 0.5, 4.0, 12.0])
                api.down, api.silent, api.loses_answers = (chance.random() < odds for odds in (0.2, 0.2, 0.3))
            if chance.random() < 0.002:
                jump(chance.choice([3.0, 12.0, 40.0]))  # the whole machine stood still
            await asyncio.sleep(chance.choice([0.01, 0.1, 0.4]))
            assert sum(each.lease.holds() for each in instances) <= 1
            assert sum(each.working for each in instances) <= 1
        for each in instances:
            each.api.latency = 0.0
            each.api.down = each.api.silent = each.api.loses_answers = False
        await until(lambda: any(each.working for each in instances), 200)
        assert sum(len(each.led) for each in instances) > 1, "the failures had an effect"
        for each in instances:
            assert not each.task.done()
            await each.stop()
        assert store.holder == ""

    scenario(test)
