"""Custom resources that tests install and remove."""

from dev.localcluster import Cluster
from dev.localcluster.kubectl import KubectlError
from tests.support.polling import tried, until


def until_served(cluster: Cluster, resource: str) -> None:
    """Wait until kubectl knows a resource (PLURAL.GROUP): it asks others than the CRD's own conditions.

    `kubectl wait --for=condition=Established` is no such thing; right after the creation it fails on a status that has
    no list of conditions.
    """

    def known() -> bool:
        cluster.kubectl("get", resource, "--all-namespaces", "--output=name")
        return True

    until(tried(known, KubectlError), f"{resource} is served", 60, pause=0.2)
