"""A right that the operator lacks is told in the API server's words, where the object's owner looks."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dev.localcluster import Cluster
from dev.localcluster.kubectl import KubectlError, Object
from tests.support.cluster.installed import NAME
from tests.support.cluster.llama import Llama, spec_of
from tests.support.polling import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


@contextmanager
def without(cluster: Cluster, resource: str, verbs: set[str]) -> Iterator[None]:
    """The operator's ClusterRole lacks these verbs in the block."""
    role = cluster.kubectl.get("clusterrole", NAME)
    kept = {key: role["metadata"][key] for key in ("name", "labels", "annotations")}
    before = {**role, "metadata": kept}
    rules = []
    for rule in role["rules"]:
        others = [each for each in rule["resources"] if each != resource]
        rules += [{**rule, "resources": others}] if others else []
        if resource in rule["resources"]:
            left = [each for each in rule["verbs"] if each not in verbs]
            rules += [{**rule, "resources": [resource], "verbs": left}]
    _apply_as_helm(cluster, {**before, "rules": rules})
    try:
        yield
    finally:
        _apply_as_helm(cluster, before)


def _apply_as_helm(cluster: Cluster, role: Object) -> None:
    """In helm's name, so that its next upgrade is not in conflict with a test."""
    how = ("--server-side", "--force-conflicts", "--field-manager=helm")
    cluster.kubectl("apply", *how, "--filename=-", stdin=json.dumps(role))


def test_a_denied_request_is_told_and_made_up_for_when_it_is_allowed(llama: Llama) -> None:
    llama.spec = spec_of(replicas=0)
    user = f"system:serviceaccount:llamaserver-system:{NAME}"

    def refused() -> bool:
        try:
            llama.cluster.kubectl("auth", "can-i", "patch", "networkpolicies", f"--as={user}")
        except KubectlError:
            return True
        return False

    with without(llama.cluster, "networkpolicies", {"create", "patch"}):
        until(refused, "the API server has heard of it")
        llama.apply()
        message = llama.until_condition("Accepted", "False", "Forbidden")
        assert message.startswith("NetworkPolicy model: ")
        assert f'User "{user}" cannot patch resource "networkpolicies"' in message
        llama.until_event("Forbidden")
    llama.until_condition("Accepted", "True", "Valid")
    llama.until_condition("Ready", "True", "ScaledToZero")
    assert llama.child("networkpolicy")
    assert llama.child("deployment")

    with without(llama.cluster, "poddisruptionbudgets", {"get", "list", "watch"}):
        llama.apply(model={"alias": "other"})
        message = llama.until_condition("Accepted", "False", "Forbidden")
        assert f'User "{user}" cannot list resource "poddisruptionbudgets"' in message
        assert llama.condition("Ready")[:2] == ("False", "Forbidden")
    llama.until_condition("Accepted", "True", "Valid")
    until(lambda: "--alias=other" in llama.container()["args"], "the edit is made up for")
