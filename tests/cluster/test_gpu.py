"""GPUs as Kubernetes sees them: advertised on nodes by hand, given to pods by the real scheduler. None computes here.

The image for NVIDIA is the CPU image (see the fixture product_installed), so such pods run, and fall back.
"""

import urllib.error
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dev.localcluster import Cluster
from dev.localcluster.kubectl import Object
from tests.support.cluster.llama import Llama, get
from tests.support.polling import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

GPU = "nvidia.com/gpu"
ONE: Object = {"vendor": "NVIDIA", "onFallback": "Warn"}  # Warn, since there is no device behind it


@pytest.fixture
def gpus(cluster: Cluster) -> Iterator[Callable[..., None]]:
    """gpus(2) advertises two on the node; all goes back in the end."""
    given: dict[str, None] = {}

    def free(resource: str) -> bool:
        pods = cluster.kubectl("get", "pods", "--all-namespaces", "--output=jsonpath={..limits}")
        return f'"{resource}"' not in pods

    def advertise(count: int, resource: str = GPU) -> None:
        if resource not in given:
            until(lambda: free(resource), f"pods of earlier tests gave {resource} back", 120, pause=1)
        given[resource] = None
        cluster.set_capacity(**{resource: str(count)})

    yield advertise
    cluster.set_capacity(**given)


def limits(pod: Object) -> Object:
    """Limits of the server's container."""
    found: Object = pod["spec"]["containers"][0]["resources"]["limits"]
    return found


def surge(llama: Llama) -> int:
    found: int = llama.child("deployment")["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
    return found


def placed(llama: Llama) -> set[str]:
    """Nodes that pods were assigned to."""
    return {pod["spec"]["nodeName"] for pod in llama.pods if "nodeName" in pod["spec"]}


def reasons(llama: Llama) -> list[str]:
    return [reason for _, reason, _ in llama.events()]


def test_a_pod_gets_the_gpu_and_another_waits_for_one(
    llama: Llama, cluster: Cluster, gpus: Callable[..., None]
) -> None:
    gpus(1)
    llama.apply(accelerator=ONE).until_ready()
    (pod,) = llama.pods
    assert pod["spec"]["nodeName"] == cluster.node
    assert limits(pod) == {GPU: "1"}
    assert pod["spec"]["containers"][0]["resources"]["requests"][GPU] == "1"

    second = Llama(cluster, llama.namespace, "second").apply(accelerator=ONE)
    words = "Insufficient nvidia.com/gpu"
    assert words in second.until_condition("Scheduled", "False", "Unschedulable")
    assert words in second.until_condition("Ready", "False", "Unschedulable")
    second.until_event("Unschedulable", words)

    gpus(2)
    second.until_ready()
    assert second.condition("Scheduled")[:2] == ("True", "Scheduled")
    assert llama.pods[0]["metadata"]["uid"] == pod["metadata"]["uid"], "nobody had to leave for it"


def test_an_edit_moves_the_only_gpu_to_the_new_pod_unless_surge_is_asked_for(
    llama: Llama, gpus: Callable[..., None]
) -> None:
    gpus(1)
    llama.apply(accelerator=ONE).until_ready()
    first = llama.pod_uids
    assert surge(llama) == 1
    assert "ReplacingPods" not in reasons(llama)

    llama.apply(context={"slots": 3}).until_ready()
    second = llama.pod_uids
    assert len(second) == 1
    assert not second & first
    assert reasons(llama).count("ReplacingPods") == 1
    until(lambda: surge(llama) == 1, "the next rollout may surge again", 60, pause=0.5)

    llama.apply(context={"slots": 1}, rollout={"strategy": "Surge"})
    words = "Insufficient nvidia.com/gpu"
    assert words in llama.until_condition("Progressing", "False", "Unschedulable")
    assert words in llama.until_condition("Ready", "False", "Unschedulable")
    assert llama.condition("Available") == ("True", "Serving", "1 pod serves, 1 of an earlier spec")
    assert (surge(llama), len(llama.pods)) == (1, 2)
    assert second <= llama.pod_uids
    assert llama.complete(ignore_eos=True)["tokens_predicted"] == 4, "the old pod serves"
    assert reasons(llama).count("ReplacingPods") == 1

    llama.apply(rollout={"strategy": "Auto"}).until_ready()
    assert not llama.pod_uids & second
    assert llama.object["status"]["slots"] == {"total": 1, "perReplica": 1}
    assert reasons(llama).count("ReplacingPods") == 2


def remove(llama: Llama) -> None:
    """With its pods, on a node that has no kubelet to end them."""
    kubectl, mine = llama.cluster.kubectl, f"llamaserver.dev/name={llama.name}"
    kubectl.delete("llamaserver", llama.name, llama.namespace)
    until(lambda: not kubectl.items("replicasets", llama.namespace, mine), "nothing makes new pods", 60, pause=0.25)
    where = f"--namespace={llama.namespace}"
    kubectl("delete", "pods", f"--selector={mine}", "--ignore-not-found", "--force", "--grace-period=0", where)


def test_devices_of_other_names_and_vendors(llama: Llama, cluster: Cluster, gpus: Callable[..., None]) -> None:
    slice_, amd, intel = "nvidia.com/mig-1g.24gb", "amd.com/gpu", "gpu.intel.com/i915"
    for resource in (slice_, amd, intel):
        gpus(2, resource)
    handler = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": llama.namespace}}
    cluster.kubectl.apply({**handler, "handler": "runc"})
    try:
        how = {"gpuLayers": 12, "splitMode": "Row", "mainGpu": 1, "tensorSplit": [3, 1]}
        which = {"count": 2, "resourceName": slice_, "runtimeClassName": llama.namespace}
        llama.apply(accelerator={**ONE, **which}, engine=how)
        others = {
            amd: Llama(cluster, llama.namespace, "amd").apply(accelerator={"vendor": "AMD"}),
            intel: Llama(cluster, llama.namespace, "intel").apply(accelerator={"vendor": "Intel"}),
        }
        for resource, other in others.items():
            other.until_condition("Scheduled", "True", "Scheduled")
            assert [limits(pod) for pod in other.pods] == [{resource: "1"}]
        assert others[amd].container()["image"].endswith("-rocm")
        assert others[intel].container()["image"].endswith("-vulkan")

        llama.until_ready()
        (pod,) = llama.pods
        assert limits(pod) == {slice_: "2"}
        assert pod["spec"]["runtimeClassName"] == llama.namespace
        arguments = pod["spec"]["containers"][0]["args"]
        for option in ("--n-gpu-layers 12", "--split-mode row", "--main-gpu 1", "--tensor-split 3,1"):
            assert option in " ".join(arguments)
        assert "--require-offload" not in arguments
        assert "--require-offload" in others[amd].container()["args"]
    finally:
        cluster.kubectl.delete("runtimeclass", llama.namespace)


def test_pods_go_to_the_nodes_that_the_spec_names(llama: Llama, cluster: Cluster) -> None:
    kubectl, label = cluster.kubectl, {"example.com/accelerator": "h100"}
    taint = {"key": GPU, "value": "present", "effect": "NoSchedule"}
    with cluster.fake_node("gpu-node", {GPU: "4"}, label) as node:
        kubectl.patch("node", node.name, {"spec": {"taints": [taint]}})
        llama.apply(accelerator={"vendor": "NVIDIA", "count": 4}, podTemplate={"nodeSelector": label})
        assert "untolerated taint" in llama.until_condition("Scheduled", "False", "Unschedulable")

        tolerated = {"tolerations": [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}]}
        llama.apply(podTemplate=tolerated).until_condition("Scheduled", "True", "Scheduled")
        assert placed(llama) == {node.name}

        term = {"matchExpressions": [{"key": "example.com/accelerator", "operator": "In", "values": ["h200"]}]}
        nodes = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
        other = Llama(cluster, llama.namespace, "other")
        other.apply(accelerator={"vendor": "NVIDIA"}, podTemplate={**tolerated, "affinity": {"nodeAffinity": nodes}})
        assert "affinity" in other.until_condition("Scheduled", "False", "Unschedulable")
        term["matchExpressions"][0]["values"] = ["h100"]
        remove(llama)
        other.apply(podTemplate={"affinity": {"nodeAffinity": nodes}})
        other.until_condition("Scheduled", "True", "Scheduled")
        assert placed(other) == {node.name}
        remove(other)


@pytest.fixture
def devices(cluster: Cluster, namespace: str) -> Iterator[str]:
    """One device on the node for dynamic resource allocation, as a driver publishes it; yields the DeviceClass."""
    api, driver = "resource.k8s.io/v1", "gpu.example.com"
    match = {"cel": {"expression": f"device.driver == '{driver}'"}}
    pool = {"name": cluster.node, "generation": 1, "resourceSliceCount": 1}
    slice_ = {"driver": driver, "nodeName": cluster.node, "pool": pool, "devices": [{"name": "gpu-0"}]}
    made: list[Object] = [
        {"kind": "DeviceClass", "spec": {"selectors": [match]}},
        {"kind": "ResourceSlice", "spec": slice_},
    ]
    cluster.kubectl.apply(*({"apiVersion": api, "metadata": {"name": namespace}, **each} for each in made))
    yield namespace
    for each in made:
        cluster.kubectl.delete(each["kind"], namespace)


def test_dynamic_resource_allocation(llama: Llama, cluster: Cluster, devices: str) -> None:
    """Claims are made and allocated for real; what a driver would then do on the node is not there."""
    request = {"name": "gpu", "exactly": {"deviceClassName": devices}}
    template: Object = {"spec": {"spec": {"devices": {"requests": [request]}}}}
    about = {"name": "one-gpu", "namespace": llama.namespace}
    cluster.kubectl.apply(
        {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate", "metadata": about, **template}
    )

    def allocated() -> list[Any]:
        claims = cluster.kubectl.items("resourceclaims", namespace=llama.namespace)
        found = [claim.get("status", {}).get("allocation") for claim in claims]
        return [allocation["devices"]["results"][0]["device"] for allocation in found if allocation]

    which = [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}]
    llama.apply(accelerator={"vendor": "NVIDIA", "resourceClaims": which})
    llama.until_condition("Scheduled", "True", "Scheduled")
    (pod,) = llama.pods
    assert pod["spec"]["nodeName"] == cluster.node
    assert pod["spec"]["containers"][0]["resources"]["claims"] == [{"name": "gpu"}]
    assert "limits" not in pod["spec"]["containers"][0]["resources"], "no extended resource beside the claim"
    assert allocated() == ["gpu-0"]

    llama.apply(context={"slots": 3})  # the device is the only one: the new pod gets it when the old one is gone
    until(lambda: "ReplacingPods" in reasons(llama), "the old pod makes room", 60, pause=0.5)
    llama.until_condition("Scheduled", "True", "Scheduled")
    until(lambda: len(llama.pods) == 1, "one pod is left", 60, pause=0.5)
    assert llama.pods[0]["metadata"]["uid"] != pod["metadata"]["uid"]
    assert allocated() == ["gpu-0"]

    named = [{"name": "gpu", "resourceClaimName": "shared"}]
    other = Llama(cluster, llama.namespace, "other").apply(accelerator={"vendor": "NVIDIA", "resourceClaims": named})
    until(lambda: other.pods, "a pod is made", 60, pause=0.5)
    assert other.pods[0]["spec"]["resourceClaims"] == named


def test_falling_back_to_the_cpu(llama: Llama, gpus: Callable[..., None]) -> None:
    gpus(2)
    words = "the server found no usable GPU and computes on CPU"
    llama.apply(accelerator=ONE).until_ready()
    assert llama.until_condition("Accelerated", "False", "RunningOnCPU") == words
    told = llama.object["status"]["accelerator"]
    assert (told["device"], told["layersOffloaded"]) == ("CPU", 0)
    assert told["layersTotal"] > 0
    row = llama.cluster.kubectl("get", "llama", f"--namespace={llama.namespace}", "--output=wide")
    assert "CPU" in row.splitlines()[1].split()
    (serving,) = llama.pods
    llama.until_event("RunningOnCPU")
    assert not any("Ready is False" in text for kind, _, text in llama.events() if kind == "Warning")

    llama.apply(accelerator={"onFallback": "Fail"})
    assert llama.until_condition("Progressing", "False", "RunningOnCPU") == words
    assert llama.until_condition("Ready", "False", "RunningOnCPU") == words
    assert llama.condition("Available")[:2] == ("True", "Serving")
    assert llama.condition("Stalled")[:2] == ("True", "RunningOnCPU")
    llama.until_condition("Accelerated", "False", "RunningOnCPU")
    llama.until_event("RunningOnCPU", "Ready is False")
    new = next(pod for pod in llama.pods if pod["metadata"]["uid"] != serving["metadata"]["uid"])
    (state,) = new["status"]["containerStatuses"]
    assert (state["ready"], state["restartCount"]) == (False, 0)
    assert "running" in state["state"]
    with llama.pod_port(new) as relay, pytest.raises(urllib.error.HTTPError, match="503"):
        get(f"{relay.url}/readyz")
    slices = llama.cluster.kubectl.items("endpointslices", llama.namespace, "kubernetes.io/service-name=model")
    ready = [item["addresses"] for part in slices for item in part["endpoints"] if item["conditions"]["ready"]]
    assert ready == [[serving["status"]["podIP"]]], "clients reach the old pod only"
    assert llama.complete(ignore_eos=True)["tokens_predicted"] == 4

    fresh = Llama(llama.cluster, llama.namespace, "fresh")
    llama.apply(accelerator={"onFallback": "Warn"}).until_ready()
    assert serving["metadata"]["uid"] in llama.pod_uids, "the old template again: its pod stayed"
    fresh.apply(accelerator={**ONE, "onFallback": "Fail"})
    assert fresh.until_condition("Ready", "False", "RunningOnCPU") == words, "with no old pod there is nothing to serve"
