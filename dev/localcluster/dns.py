"""The objects behind the cluster's DNS: CoreDNS runs beside the kubelet, on the node's address."""

from . import addresses
from .kubectl import Object

_NAME = "kube-dns"
_WHERE = {"name": _NAME, "namespace": "kube-system"}


def objects() -> list[Object]:
    """The Service for pods, its endpoints, and the rights of CoreDNS."""
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]
    group = "rbac.authorization.k8s.io"
    rules = [
        {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": _WHERE,
            "spec": {"clusterIP": addresses.DNS, "ports": ports},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {**_WHERE, "labels": {"kubernetes.io/service-name": _NAME}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [addresses.NODE], "conditions": {"ready": True}}],
            "ports": ports,
        },
        {"apiVersion": f"{group}/v1", "kind": "ClusterRole", "metadata": {"name": "system:coredns"}, "rules": rules},
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "system:coredns"},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "system:coredns"},
            "subjects": [{"apiGroup": group, "kind": "User", "name": "system:coredns"}],
        },
    ]
