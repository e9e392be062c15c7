"""The pods of the present template. Conditions are made from them."""

import copy
from typing import Any

from llamaserver_operator import kinds
from llamaserver_operator.observed import Observed

Object = dict[str, Any]


def template(image: str, **labels: str) -> Object:
    return {"metadata": {"labels": {"app": "x", **labels}}, "spec": {"containers": [{"name": "c", "image": image}]}}


def owned(name: str, owner: str, **fields: Any) -> Object:
    about = {"name": name, "uid": f"uid-{name}", "ownerReferences": [{"uid": f"uid-{owner}", "controller": True}]}
    return {"metadata": {**about, **fields.pop("metadata", {})}, **fields}


def replica_set(name: str, image: str, created: str = "2026-01-01T00:00:00Z") -> Object:
    spec = {"template": template(image, **{"pod-template-hash": name})}
    return owned(name, "model", metadata={"creationTimestamp": created}, spec=spec)


def observed(image: str, *replica_sets: Object) -> Observed:
    """A Deployment that wants this image, and a pod of each ReplicaSet."""
    deployment = owned("model", "owner", spec={"template": template(image)})
    return Observed(
        owner={"metadata": {"name": "model", "uid": "uid-owner"}},
        children={kinds.DEPLOYMENT: [deployment]},
        replica_sets=replica_sets,
        pods=[owned(f"{each['metadata']['name']}-pod", each["metadata"]["name"]) for each in replica_sets],
    )


def names(world: Observed) -> list[str]:
    return [pod["metadata"]["name"] for pod in world.new_pods()]


def test_new_pods_belong_to_the_replica_set_with_the_template_of_the_deployment() -> None:
    assert names(observed("b", replica_set("one", "a"), replica_set("two", "b"))) == ["two-pod"]
    assert names(observed("a", replica_set("one", "a"), replica_set("two", "b"))) == ["one-pod"], "rolled back"


def test_there_are_no_new_pods_before_their_replica_set_exists() -> None:
    assert names(observed("b", replica_set("one", "a"))) == []
    assert names(observed("b")) == []
    assert Observed(owner={"metadata": {"name": "model"}}).new_pods() == []


def test_of_two_equal_replica_sets_the_older_one_counts() -> None:
    younger = replica_set("younger", "a", "2026-01-02T00:00:00Z")
    assert names(observed("a", younger, replica_set("older", "a"))) == ["older-pod"]


def test_new_pods_exclude_those_of_others_and_those_being_deleted() -> None:
    foreign = copy.deepcopy(replica_set("foreign", "a"))
    foreign["metadata"]["ownerReferences"][0]["uid"] = "uid-other"
    world = observed("a", foreign, replica_set("one", "a"))
    assert names(world) == ["one-pod"]
    world.pods[1]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert names(world) == []
