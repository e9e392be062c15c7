"""A first crash is told at once; a server that crashes again and again is not ready between its crashes either."""

import re

import pytest

from dev.localcluster.kubectl import Object
from tests.support.cluster.faults import processes, segfault
from tests.support.cluster.llama import Llama
from tests.support.cluster.waiting import verdicts
from tests.support.polling import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def server(pod: Object) -> Object:
    (found,) = pod["status"]["containerStatuses"]
    return dict(found)


def until_up(llama: Llama, restarts: int) -> Object:
    """Wait until the only pod is ready after so many restarts; the pod."""

    def up() -> bool:
        found = [server(pod) for pod in llama.pods]
        return [(each["restartCount"], each["ready"]) for each in found] == [(restarts, True)]

    until(up, f"the server is ready after restart {restarts}", 120, pause=0.2)
    (pod,) = llama.pods
    return pod


def kill(llama: Llama, restarts: int) -> Object:
    """Kill the server, and wait until it is ready again; the pod."""
    (pod,) = llama.pods
    llama.cluster.signal_container(llama.namespace, pod["metadata"]["name"], "SIGKILL")
    return until_up(llama, restarts)


def warnings(llama: Llama) -> list[str]:
    return sorted(reason for kind, reason, _ in llama.events() if kind == "Warning")


def test_crashes_are_told_and_a_server_that_goes_on_crashing_is_not_ready(llama: Llama) -> None:
    llama.apply().until_ready()
    assert llama.object["status"]["restarts"] == 0
    pod = kill(llama, 1)
    llama.until_event("Crashed", "container server was killed by signal 9 (SIGKILL) while it served, restart 1")
    llama.until_ready()
    status = llama.object["status"]
    last = status["lastTermination"]
    assert (status["restarts"], last["pod"], last["reason"]) == (1, pod["metadata"]["name"], "Crashed")
    assert last["time"] == server(pod)["lastState"]["terminated"]["finishedAt"]
    assert warnings(llama).count("Crashed") == 1
    assert "Stalled" not in llama.conditions

    kill(llama, 2)
    llama.until_ready()
    kill(llama, 3)
    until(lambda: llama.object["status"]["restarts"] == 3, "the third restart is counted", 60, pause=0.2)
    message = llama.until_condition("Ready", "False", "CrashLoopBackOff")
    assert "restart 3" in message
    (pod,) = llama.pods
    assert server(pod)["ready"], "it serves, and is not trusted"
    assert llama.condition("Available") == ("True", "Serving", "1 pod serves")
    assert llama.condition("Stalled") == ("True", "CrashLoopBackOff", message)
    assert llama.complete()["tokens_predicted"]
    ((verdict, told),) = verdicts([llama.object])
    assert (verdict, told) == ("Failed", message)
    row = llama.cluster.kubectl("get", "llama", f"--namespace={llama.namespace}", "--no-headers").split()
    assert row[:6] == ["model", "False", "True", "CrashLoopBackOff", "1", "3"]

    before = warnings(llama)
    kill(llama, 4)
    until(lambda: "restart 4" in llama.condition("Ready")[2], "the count goes up", 60, pause=0.2)
    assert llama.condition("Ready")[:2] == ("False", "CrashLoopBackOff")
    assert warnings(llama) == before, "that it crashes again and again is known"

    # Another pod starts with a clean record.
    llama.apply(serving={"maxQueue": 99}).until_ready()
    until(lambda: len(llama.pods) == 1, "one pod is left", 60, pause=0.2)
    until(lambda: llama.object["status"]["restarts"] == 0, "its restarts are counted", 60, pause=0.2)
    assert "Stalled" not in llama.conditions


def test_a_native_crash_is_told_as_one(llama: Llama) -> None:
    llama.apply().until_ready()
    (pod,) = llama.pods
    (pid,) = processes(pod, "llamaserver")
    segfault(pid)
    until_up(llama, 1)
    name = pod["metadata"]["name"]
    llama.until_event(
        "CrashedNatively", "container server crashed by signal 11 (SIGSEGV) while it served, restart 1, up "
    )
    last = llama.object["status"]["lastTermination"]
    assert last["reason"] == "CrashedNatively"
    assert re.search(r", in \w+ \(\w+\.py:\d+\)\. This is a bug", last["message"]), "the place that faulthandler told"
    assert last["message"].endswith(f"This is a bug: kubectl logs --previous {name} -c server")
    llama.until_ready()
    assert llama.complete()["tokens_predicted"]
