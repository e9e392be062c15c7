"""Another version of the operator, with another renderer and another default image, takes over running models."""

from pathlib import Path

import pytest

from tests.support.cluster.installed import Installed
from tests.support.cluster.llama import Llama, spec_of
from tests.support.operator.upgraded_operator import LABEL
from tests.support.polling import until
from tools import images

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

OLD = f"localhost/{images.SERVER.tag('cpu')}"
NEW = "localhost/llamaserver:later"


def seen(llama: Llama) -> tuple[str, str]:
    """Image and renderer of the template."""
    template = llama.child("deployment")["spec"]["template"]
    return llama.container()["image"], template["metadata"]["labels"].get(LABEL, "")


def test_pods_stay_unless_their_own_inputs_change_or_the_object_follows_upgrades(llama: Llama, tmp_path: Path) -> None:
    llama.cluster.ctr("images", "tag", "--force", OLD, NEW)
    cache = {"claimTemplate": {"size": "64Mi", "accessModes": ["ReadWriteMany"]}}
    llama.apply(model={"cache": cache})
    follower = Llama(
        llama.cluster, llama.namespace, "follower", spec_of(rollout={"upgradePolicy": "Immediate"})
    ).apply()
    llama.until_ready()
    follower.until_ready()
    uids, followers = llama.pod_uids, follower.pod_uids
    deployment = llama.child("deployment")
    assert (seen(llama), seen(follower)) == ((OLD, ""), (OLD, ""))

    module, log = "tests.support.operator.upgraded_operator", tmp_path / "later.log"
    with Installed(llama.cluster).replaced(log, f"--server-image={NEW}", module=module):
        until(lambda: seen(follower) == (NEW, "later"), "the follower's template is the new one", 60, pause=0.2)
        until(lambda: not follower.pod_uids & followers, "its pods are new", 180, pause=0.2)
        follower.until_ready()
        llama.cluster.kubectl.delete("llama", "follower", llama.namespace, wait=False)

        # What the pods do not depend on reaches everything else.
        llama.apply(
            serving={"port": 9000, "serviceType": "NodePort"},
            security={"networkPolicy": {"mode": "None"}},
            observability={"labels": {"team": "a"}},
            model={"cache": {"retentionPolicy": "Delete"}},
            rollout={"strategy": "Replace"},
            replicas=2,
        )
        llama.until_ready()
        assert uids < llama.pod_uids, "the first pod goes on, a second one is there"
        now = llama.child("deployment")
        assert now["spec"]["template"] == deployment["spec"]["template"]
        assert now["metadata"]["uid"] == deployment["metadata"]["uid"]
        service = llama.child("service")["spec"]
        assert (service["type"], service["ports"][0]["port"]) == ("NodePort", 9000)
        assert not llama.child("networkpolicy")
        assert llama.child("persistentvolumeclaim", "model-model-cache")["metadata"]["ownerReferences"]

        # Nor is a Deployment that lost the label by which it is found taken for none.
        lost = {"metadata": {"labels": {"llamaserver.dev/name": None}}}
        llama.cluster.kubectl.patch("deployment", "model", lost, namespace=llama.namespace)
        labels = lambda: llama.child("deployment")["metadata"]["labels"]  # noqa: E731
        until(lambda: labels().get("llamaserver.dev/name") == "model", "it has its label again", 60, pause=0.2)
        assert llama.child("deployment")["spec"]["template"] == deployment["spec"]["template"]

        # An edit that the pods depend on: by the new renderer, but with the image that was chosen at creation.
        llama.apply(replicas=1, model={"alias": "other"})
        until(lambda: seen(llama) == (OLD, "later"), "the template is rendered anew", 60, pause=0.2)
        llama.until_ready()
        until(lambda: not llama.pod_uids & uids, "the old pods are gone", 60, pause=0.2)

        llama.apply(rollout={"upgradePolicy": "Immediate"})
        until(lambda: seen(llama) == (NEW, "later"), "the image is the new default", 60, pause=0.2)
        llama.until_ready()
        # and is kept from now on
        llama.apply(rollout={"upgradePolicy": "Pinned"}, replicas=0)
        llama.until_condition("Ready", "True", "ScaledToZero")
        assert seen(llama) == (NEW, "later")
