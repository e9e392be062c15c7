"""What is applied and deleted, for each access mode, replica count, strategy and kind of volume."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from llamaserver_operator import kinds, names
from llamaserver_operator.kinds import Kind
from llamaserver_operator.observed import Observed
from llamaserver_operator.parsing import parse
from llamaserver_operator.plan import Plan, make_plan
from llamaserver_operator.resources.metadata import owner_reference

from tests.support.operator.worlds import (
    CONFIG,
    OTHER_UID,
    ROX,
    RWO,
    RWOP,
    RWX,
    children,
    counts,
    deployment,
    owner,
    pod,
    rolled_out,
    settled,
    world,
)  # fmt: skip

Raw = dict[str, Any]
HTTP: Raw = {"http": {"url": "http://models.example/model.gguf"}}
IMAGE: Raw = {"image": {"reference": "registry.example/model:1", "path": "model.gguf"}}
SURGE, REPLACE = {"maxSurge": 1, "maxUnavailable": 0}, {"maxSurge": 0, "maxUnavailable": 1}


def template(mode: str) -> Raw:
    return {"claimTemplate": {"size": "1Gi", "accessModes": [mode]}}


# Where a volume may come from: the spec for an access mode.
VOLUMES: dict[str, Any] = {
    "cache-to-make": lambda mode: {"model": {"source": HTTP, "cache": template(mode)}},
    "cache-that-exists": lambda mode: {"model": {"source": HTTP, "cache": {"claimName": "c"}}},
    "kv-to-make": lambda mode: {"model": {"source": HTTP}, "kvCache": {"volume": template(mode)}},
    "kv-that-exists": lambda mode: {"model": {"source": HTTP}, "kvCache": {"volume": {"claimName": "c"}}},
    "model-on-a-claim": lambda mode: {
        "model": {"source": {"persistentVolumeClaim": {"claimName": "c", "path": "m.gguf"}}}
    },
    "adapter-on-a-claim": lambda mode: {
        "model": {"source": IMAGE},
        "loraAdapters": [{"name": "a", "source": {"persistentVolumeClaim": {"claimName": "c", "path": "m.gguf"}}}],
    },
}
# How one pod is replaced, by access mode and strategy; several pods need a mode that they can share.
TABLE = {
    (RWO, "Auto"): REPLACE,
    (RWO, "Surge"): SURGE,  # the user knows better: there may be one node
    (RWO, "Replace"): REPLACE,
    (RWOP, "Auto"): REPLACE,
    (RWOP, "Surge"): REPLACE,  # never two pods
    (RWOP, "Replace"): REPLACE,
    (RWX, "Auto"): SURGE,
    (RWX, "Surge"): SURGE,
    (RWX, "Replace"): REPLACE,
}


def update(plan: Plan) -> Raw:
    return deployment(plan)["spec"]["strategy"]["rollingUpdate"]


@pytest.mark.parametrize("volume", VOLUMES)
@pytest.mark.parametrize(("mode", "strategy"), TABLE)
@pytest.mark.parametrize("replicas", [0, 1, 2, 5])
def test_rollouts_by_access_mode(volume: str, mode: str, strategy: str, replicas: int):
    raw = {**VOLUMES[volume](mode), "replicas": replicas, "rollout": {"strategy": strategy}}
    spec = parse(raw)
    plan = make_plan(spec, world(spec, [mode]), CONFIG)
    if replicas > 1 and mode != RWX:
        assert (plan.apply, plan.delete) == ((), ()), "nothing is touched"
        (problem,) = plan.problems
        assert (problem.reason, problem.blocking) == ("NeedsReadWriteMany", True)
        assert problem.message.endswith(f"needs ReadWriteMany ({replicas} replicas share it), has {mode}")
        return
    assert not plan.problems
    assert update(plan) == TABLE[mode, strategy]
    assert deployment(plan)["spec"]["strategy"]["type"] == "RollingUpdate", "never Recreate"
    assert deployment(plan)["spec"]["replicas"] == replicas


@pytest.mark.parametrize(("modes", "surges"), [([ROX], True), ([RWO, RWX], True), ([RWO, ROX], True), ([RWO], False)])
def test_the_access_modes_of_an_existing_claim_decide(modes: list[str], surges: bool):
    spec = parse(VOLUMES["model-on-a-claim"](""))
    assert update(make_plan(spec, world(spec, modes), CONFIG)) == (SURGE if surges else REPLACE)


@pytest.mark.parametrize(("first", "second"), list(product([RWO, RWX, RWOP], repeat=2)))
def test_the_most_restrictive_of_several_volumes_counts(first: str, second: str):
    raw = {"model": {"source": HTTP, "cache": template(first)}, "kvCache": {"volume": template(second)}}
    spec = parse(raw)
    alone = [TABLE[mode, "Auto"] for mode in (first, second)]
    assert update(make_plan(spec, world(spec), CONFIG)) == (REPLACE if REPLACE in alone else SURGE)


def test_volumes_of_single_pods_allow_surging():
    for raw in ({"model": {"source": HTTP}}, {"model": {"source": IMAGE}, "kvCache": {"volume": {"emptyDir": {}}}}):
        spec = parse({**raw, "replicas": 3})
        assert update(make_plan(spec, world(spec), CONFIG)) == SURGE


def test_a_cache_without_downloads_is_not_mounted_and_allows_surging():
    spec = parse({"model": {"source": IMAGE, "cache": template(RWO)}, "replicas": 3})
    plan = make_plan(spec, world(spec), CONFIG)
    assert update(plan) == SURGE
    assert "model-cache" not in str(deployment(plan))


def test_a_claim_that_is_not_there_yet_is_left_to_the_scheduler():
    spec = parse({**VOLUMES["model-on-a-claim"](""), "replicas": 2})
    assert not make_plan(spec, replace(world(spec), claims={"c": None}), CONFIG).problems


@pytest.mark.parametrize(("mode", "problems"), [(RWO, 1), (RWOP, 1), (RWX, 0)])
def test_a_shared_store_needs_a_volume_that_is_shared(mode: str, problems: int):
    raw = {**VOLUMES["kv-that-exists"](mode)}
    raw["kvCache"] = {**raw["kvCache"], "scope": "Shared"}
    spec = parse(raw)
    found = make_plan(spec, world(spec, [mode]), CONFIG).problems
    assert [problem.reason for problem in found] == ["NeedsReadWriteMany"] * problems


# ---- a GPU that is not free

GPU: Raw = {"model": {"source": IMAGE}, "accelerator": {"vendor": "NVIDIA"}}
SCARCE = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu. no new claims to deallocate"
DRA: Raw = {
    "model": {"source": IMAGE},
    "accelerator": {"vendor": "NVIDIA", "resourceClaims": [{"name": "g", "resourceClaimTemplateName": "t"}]},
}
SCARCE_DRA = "0/1 nodes are available: 1 cannot allocate all claims. still not schedulable"


def unschedulable(message: str) -> Raw:
    waiting = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return pod("new-0", node="", conditions=[waiting])


def scarce(raw: Raw, message: str) -> tuple[Any, Observed]:
    spec = parse(raw)
    plan = make_plan(spec, world(spec), CONFIG)
    pods = [serving(raw), unschedulable(message)]
    return spec, rolled_out(spec, plan, pods, counts(2, 1, 1))


def serving(raw: Raw) -> Raw:
    """A pod of the old template that holds the accelerator of the spec."""
    spec = deployment(make_plan(parse(raw), world(parse(raw)), CONFIG))["spec"]["template"]["spec"]
    old = pod("old-0", "old", ready=True)
    return {**old, "spec": {**spec, **old["spec"]}}


@pytest.mark.parametrize(("raw", "message"), [(GPU, SCARCE), (DRA, SCARCE_DRA)], ids=["resource", "claims"])
def test_auto_replaces_in_place_when_no_gpu_is_free(raw: Raw, message: str):
    spec, observed = scarce(raw, message)
    plan = make_plan(spec, observed, CONFIG)
    assert plan.replacing
    assert update(plan) == REPLACE


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({**GPU, "rollout": {"strategy": "Surge"}}, SCARCE),
        (GPU, "0/1 nodes are available: 1 Insufficient memory."),
        ({"model": {"source": IMAGE}}, SCARCE),
        ({**GPU, "accelerator": {"vendor": "NVIDIA", "resourceName": "nvidia.com/mig-1g.5gb"}}, SCARCE),
    ],
    ids=["surge", "memory", "cpu", "another-resource"],
)
def test_other_troubles_do_not_replace_in_place(raw: Raw, message: str):
    stays(*scarce(raw, message))


@pytest.mark.parametrize(("raw", "message"), [(GPU, SCARCE), (DRA, SCARCE_DRA)], ids=["resource", "claims"])
def test_an_old_pod_without_the_gpu_is_not_stopped_for_a_new_one(raw: Raw, message: str):
    spec, observed = scarce(raw, message)
    other = {**GPU, "accelerator": {"vendor": "AMD"}}
    for pods in ([serving({"model": {"source": IMAGE}})], [serving(other)], []):
        stays(spec, replace(observed, pods=[*pods, observed.pods[1]]))


def stays(spec: Any, observed: Observed) -> None:
    plan = make_plan(spec, observed, CONFIG)
    assert not plan.replacing
    assert update(plan) == SURGE


def test_a_rollout_that_replaces_in_place_does_so_to_its_end():
    spec, observed = scarce(GPU, SCARCE)
    plan = make_plan(spec, observed, CONFIG)
    under_way = rolled_out(spec, plan, [pod("new-0")], counts(1, 1, 0))
    assert update(make_plan(spec, under_way, CONFIG)) == REPLACE
    done = rolled_out(spec, plan, [pod("new-0", ready=True)], counts(1))
    assert update(make_plan(spec, done, CONFIG)) == SURGE


# ---- children that go


def present(raw: Raw, **more: Any) -> Mapping[Kind, Any]:
    spec = parse(raw)
    return children(make_plan(spec, world(spec, [RWX], **more), CONFIG))


def deleted(plan: Plan) -> list[tuple[str, str]]:
    return sorted((item["kind"], item["metadata"]["name"]) for item in plan.delete)


FULL: Raw = {
    "model": {"source": HTTP},
    "replicas": 2,
    "chatTemplate": {"inline": "t"},
}


@pytest.mark.parametrize(
    ("change", "gone"),
    [
        ({"replicas": 1}, [("PodDisruptionBudget", "demo")]),
        ({"replicas": 0}, [("PodDisruptionBudget", "demo")]),
        ({"security": {"networkPolicy": {"mode": "None"}}}, [("NetworkPolicy", "demo")]),
        ({"observability": {"serviceMonitor": "Never"}}, [("ServiceMonitor", "demo")]),
        ({"replicas": 3}, []),
    ],
    ids=["one", "none", "policy", "monitor", "more"],
)
def test_children_that_are_no_longer_needed_are_deleted(change: Raw, gone: list[tuple[str, str]]):
    spec = parse({**FULL, **change})
    plan = make_plan(spec, replace(world(spec), children=present(FULL)), CONFIG)
    assert deleted(plan) == gone


WITH_CLAIM: Raw = {"model": {"source": HTTP, "cache": {**template(RWX), "retentionPolicy": "Delete"}}}


MOUNTED: Any = pytest.mark.parametrize(
    ("raw", "kind", "name"),
    [
        (WITH_CLAIM, kinds.CLAIM, "demo-model-cache"),
        (
            {"model": {"source": HTTP}, "systemPrompt": {"inline": "t"}},
            kinds.CONFIG_MAP,
            names.config_map("demo", {"system-prompt": "t"}),
        ),
    ],
    ids=["claim", "texts"],
)


@MOUNTED
def test_what_pods_mount_is_deleted_after_the_last_old_pod(raw: Raw, kind: Kind, name: str):
    before, spec = parse(raw), parse({"model": {"source": HTTP}})
    have = present(raw)
    old = settled(have[kinds.DEPLOYMENT][0])
    serves = replace(world(before), children={**have, kinds.DEPLOYMENT: [old]})
    plan = make_plan(spec, serves, CONFIG)
    assert deleted(plan) == [], "all is well, but with pods of the template before"
    new = {**have, kinds.DEPLOYMENT: [settled(deployment(plan))]}
    pods = [serving(raw)]
    assert deleted(make_plan(spec, replace(world(spec), children=new, pods=pods), CONFIG)) == []
    pods[0]["status"]["phase"] = "Failed"
    for rest in (pods, []):
        done = replace(world(spec), children=new, pods=rest)
        assert deleted(make_plan(spec, done, CONFIG)) == [(kind.kind, name)]


@pytest.mark.parametrize(("have", "size"), [("512Mi", "1Gi"), ("1024Mi", "1Gi"), ("3Gi", "3Gi")])
def test_a_claim_that_was_enlarged_keeps_its_size(have: str, size: str):
    spec = parse({"model": {"source": HTTP, "cache": template(RWX)}})
    made = present({"model": {"source": HTTP, "cache": template(RWX)}})
    made[kinds.CLAIM][0]["spec"]["resources"]["requests"]["storage"] = have
    plan = make_plan(spec, replace(world(spec), children=made), CONFIG)
    (claim,) = [item for item in plan.apply if item["kind"] == "PersistentVolumeClaim"]
    assert claim["spec"]["resources"]["requests"]["storage"] == size


def test_a_retained_claim_is_never_deleted():
    retained = {"model": {"source": HTTP, "cache": template(RWX)}}
    have = present(retained)
    assert "ownerReferences" not in have[kinds.CLAIM][0]["metadata"]
    spec = parse({"model": {"source": HTTP}})
    plan = make_plan(spec, replace(world(spec), children=have), CONFIG)
    done = replace(world(spec), children={**have, kinds.DEPLOYMENT: [settled(deployment(plan))]})
    assert deleted(make_plan(spec, done, CONFIG)) == []


def test_pods_and_what_others_own_are_left_alone():
    have = {kind: list(items) for kind, items in present(FULL).items()}
    have[kinds.POD] = [pod()]
    free = {
        "kind": "Service",
        "metadata": {"name": "by-hand", "namespace": "models"},
    }  # with our label, without an owner
    have[kinds.SERVICE].append(free)
    spec = parse(FULL)
    assert deleted(make_plan(spec, replace(world(spec), children=have), CONFIG)) == []


def test_a_service_monitor_is_made_if_its_kind_exists_and_missed_with_always():
    spec = parse({**FULL, "observability": {"serviceMonitor": "Always"}})
    absent = make_plan(spec, world(spec, monitors=False), CONFIG)
    (problem,) = absent.problems
    assert (problem.reason, problem.blocking) == ("ServiceMonitorUnavailable", False)
    assert "ServiceMonitor" not in {item["kind"] for item in absent.apply}
    assert deployment(absent), "everything else goes on"
    served = make_plan(spec, world(spec), CONFIG)
    assert "ServiceMonitor" in {item["kind"] for item in served.apply}
    assert not served.problems


# ---- what stands in the way


def test_an_object_of_somebody_else_is_never_taken_over():
    spec = parse(FULL)
    stranger = {"kind": "Service", "metadata": {"name": "demo", "namespace": "models"}}
    plan = make_plan(spec, world(spec, strangers=[stranger]), CONFIG)
    assert (plan.apply, plan.delete) == ((), ())
    assert [problem.reason for problem in plan.problems] == ["NameConflict"]
    assert "Service 'demo'" in plan.problems[0].message


def test_children_of_an_earlier_object_of_the_name_are_waited_for():
    spec = parse(FULL)
    have = {kind: [dict(item) for item in items] for kind, items in present(FULL).items()}
    reference = {**owner_reference(owner()), "uid": OTHER_UID}
    old = have[kinds.SERVICE][0]
    old["metadata"] = {**old["metadata"], "ownerReferences": [reference]}
    plan = make_plan(spec, replace(world(spec), children=have), CONFIG)
    assert plan.waits
    assert [(problem.reason, "Service demo" in problem.message) for problem in plan.problems] == [
        ("WaitingForDeletion", True)
    ]
    assert (plan.apply, plan.delete) == ((), ())


@pytest.mark.parametrize(
    "reference",
    [
        {"kind": "Deployment", "apiVersion": "apps/v1", "name": "x", "uid": OTHER_UID, "controller": True},
        {**owner_reference(owner("other")), "uid": OTHER_UID},
        {**owner_reference(owner()), "uid": OTHER_UID},
    ],
    ids=["another-kind", "another-object", "as-of-an-earlier-object"],
)
def test_an_object_with_our_label_that_is_in_nobodys_way_changes_nothing(reference: Raw):
    """Whoever may write ConfigMaps can make it. It stopped every change of the object."""
    spec = parse(FULL)
    have = {kind: list(items) for kind, items in present(FULL).items()}
    labels = {"llamaserver.dev/name": "demo"}
    planted = {"name": "planted", "namespace": "models", "labels": labels, "ownerReferences": [reference]}
    have[kinds.CONFIG_MAP] = [*have.get(kinds.CONFIG_MAP, []), {"kind": "ConfigMap", "metadata": planted}]
    plan = make_plan(spec, replace(world(spec), children=have), CONFIG)
    expected = make_plan(spec, replace(world(spec), children=present(FULL)), CONFIG)
    assert plan == expected
    assert plan.apply


def test_an_object_with_our_label_and_another_controller_under_our_name_is_a_conflict():
    """It is told and not waited for, because nothing deletes it."""
    spec = parse(FULL)
    have = {kind: list(items) for kind, items in present(FULL).items()}
    theirs = {"kind": "Deployment", "apiVersion": "apps/v1", "name": "x", "uid": OTHER_UID, "controller": True}
    service = have[kinds.SERVICE][0]
    have[kinds.SERVICE][0] = {**service, "metadata": {**service["metadata"], "ownerReferences": [theirs]}}
    plan = make_plan(spec, replace(world(spec), children=have), CONFIG)
    assert not plan.waits
    assert [problem.reason for problem in plan.problems] == ["NameConflict"]
    assert plan.apply == ()


@pytest.mark.parametrize("found", [None, {"data": {"other": "x"}}, {}], ids=["no-map", "no-key", "no-data"])
@pytest.mark.parametrize("field", ["chatTemplate", "systemPrompt"])
def test_a_missing_text_is_named(found: Raw | None, field: str):
    spec = parse({"model": {"source": HTTP}, field: {"configMapKeyRef": {"name": "texts", "key": "k"}}})
    plan = make_plan(spec, replace(world(spec), config_maps={"texts": found}), CONFIG)
    assert plan.apply == ()
    (problem,) = plan.problems
    assert problem.reason == "ConfigMapNotFound"
    assert problem.message.startswith(f"spec.{field}.configMapKeyRef: ")
    assert '"texts"' in problem.message
    assert '"k"' in problem.message


def test_an_empty_text_is_a_text():
    spec = parse({"model": {"source": HTTP}, "systemPrompt": {"configMapKeyRef": {"name": "texts", "key": "k"}}})
    assert not make_plan(spec, replace(world(spec), config_maps={"texts": {"data": {"k": ""}}}), CONFIG).problems


# ---- scaling down


def test_busy_pods_cost_more_when_the_deployment_shrinks():
    before = parse({**FULL, "replicas": 3})
    plan = make_plan(before, world(before), CONFIG)
    reports = {
        "new-0": {"slots": {"processing": 2}, "requests_deferred": 5},
        "new-1": {"slots": {"processing": 1}, "requests_deferred": 0},
    }
    pods = [pod(f"new-{i}", ready=True) for i in range(3)]
    observed = rolled_out(before, plan, pods, counts(3), reports=reports)
    costs = make_plan(parse({**FULL, "replicas": 1}), observed, CONFIG).costs or {}
    assert (costs["new-0"], costs["new-1"]) == (7, 1)
    assert costs["new-2"] > 1000, "it may be too busy to tell"
    for same_or_more_or_none in (3, 4, 0):
        assert make_plan(parse({**FULL, "replicas": same_or_more_or_none}), observed, CONFIG).costs is None
