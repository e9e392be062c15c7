"""Command lines and configuration files of the cluster's servers."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import addresses, binaries, images
from .credentials import Credentials

SOCKET = "/run/containerd/containerd.sock"
_KUBELET = "kubelet.config.k8s.io/v1beta1"
_PROXY = "kubeproxy.config.k8s.io/v1alpha1"
# Tests do not need the writes of the cluster's own servers.
_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "userGroups": ["system:nodes", "system:serviceaccounts:kube-system"]},
        {"level": "None", "users": [f"system:kube-{name}" for name in ("controller-manager", "scheduler", "proxy")]},
        {"level": "None", "users": ["system:apiserver", "system:coredns"]},
        {"level": "Metadata"},
    ],
}


@dataclass(frozen=True)
class Components:
    """The servers of the cluster in a folder."""

    folder: Path
    cgroup: str

    @property
    def credentials(self) -> Credentials:
        """Certificates, tokens and kubeconfigs."""
        return Credentials(self.folder / "credentials")

    @property
    def audit_log(self) -> Path:
        """The audit log of the API server: one JSON object per request."""
        return self.folder / "log" / "audit.log"

    def configure(self) -> None:
        """Write the configuration files."""
        (self.folder / "config" / "cni").mkdir(parents=True)
        self._file("audit.json", _AUDIT_POLICY)
        self._file("kubelet.json", self._kubelet_config())
        self._file("kube-proxy.json", self._proxy_config())
        self._file("cni/10-pods.conflist", self._cni_config())
        self._path("containerd.toml").write_text(self._containerd_config())
        self._path("resolv.conf").write_text("")
        self._path("Corefile").write_text(self._corefile())

    def command(self, name: str) -> list[str]:
        """A server's command line."""
        if name == "containerd":
            return ["containerd", "--config", str(self._path("containerd.toml"))]
        if name == "coredns":
            return [str(binaries.coredns()), "-conf", str(self._path("Corefile"))]
        arguments = {
            "etcd": self._etcd,
            "kube-apiserver": self._apiserver,
            "kube-controller-manager": self._controller_manager,
            "kube-scheduler": self._scheduler,
            "kubelet": self._kubelet,
            "kube-proxy": self._proxy,
        }[name]()
        options = [f"--{key}={value}" for key, value in arguments.items()]
        return [*binaries.server(name), *options]

    def _path(self, name: str) -> Path:
        return self.folder / "config" / name

    def _file(self, name: str, content: dict[str, Any]) -> None:
        self._path(name).write_text(json.dumps(content, indent=1) + "\n")

    def _etcd(self) -> dict[str, str]:
        client, peer = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
        return {
            "data-dir": str(self.folder / "etcd"),
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"default={peer}",
            "unsafe-no-fsync": "true",  # nothing here outlives a power failure
            "log-level": "warn",
        }

    def _apiserver(self) -> dict[str, str]:
        who = self.credentials
        certificate, key = who.pair("apiserver")
        client_certificate, client_key = who.pair("kubelet-client")
        return {
            "etcd-servers": "http://127.0.0.1:2379",
            "advertise-address": addresses.NODE,
            "secure-port": str(addresses.API_PORT),
            "service-cluster-ip-range": addresses.SERVICES,
            "tls-cert-file": certificate,
            "tls-private-key-file": key,
            "client-ca-file": str(who.authority),
            "requestheader-client-ca-file": str(who.authority),
            "requestheader-allowed-names": "front-proxy-client",
            "token-auth-file": str(who.tokens),
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-key-file": str(who.service_account_key),
            "service-account-signing-key-file": str(who.service_account_key),
            "authorization-mode": "Node,RBAC",
            "enable-admission-plugins": "NodeRestriction,PodSecurity,OwnerReferencesPermissionEnforcement",
            "kubelet-client-certificate": client_certificate,
            "kubelet-client-key": client_key,
            "kubelet-preferred-address-types": "InternalIP",
            "cert-dir": str(self.folder / "apiserver"),
            "audit-policy-file": str(self._path("audit.json")),
            "audit-log-path": str(self.audit_log),
            "audit-log-maxsize": "10000",  # MB; one file holds all
        }

    def _controller_manager(self) -> dict[str, str]:
        kubeconfig = str(self.credentials.kubeconfig("system:kube-controller-manager"))
        return {
            "kubeconfig": kubeconfig,
            "authentication-kubeconfig": kubeconfig,
            "authorization-kubeconfig": kubeconfig,
            "root-ca-file": str(self.credentials.authority),
            "service-account-private-key-file": str(self.credentials.service_account_key),
            "use-service-account-credentials": "true",
            "leader-elect": "false",
            "cert-dir": str(self.folder / "controller-manager"),
        }

    def _scheduler(self) -> dict[str, str]:
        kubeconfig = str(self.credentials.kubeconfig("system:kube-scheduler"))
        return {
            "kubeconfig": kubeconfig,
            "authentication-kubeconfig": kubeconfig,
            "authorization-kubeconfig": kubeconfig,
            "leader-elect": "false",
            "cert-dir": str(self.folder / "scheduler"),
        }

    def _kubelet(self) -> dict[str, str]:
        return {
            "config": str(self._path("kubelet.json")),
            "kubeconfig": str(self.credentials.kubeconfig(f"system:node:{addresses.NODE_NAME}")),
            "hostname-override": addresses.NODE_NAME,
            "node-ip": addresses.NODE,
        }

    def _kubelet_config(self) -> dict[str, Any]:
        return {
            "apiVersion": _KUBELET,
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": f"unix://{SOCKET}",
            "authentication": {
                "x509": {"clientCAFile": str(self.credentials.authority)},
                "webhook": {"enabled": True},
                "anonymous": {"enabled": False},
            },
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.cgroup}",
            "failCgroupV1": False,
            "cgroupsPerQOS": True,
            "enforceNodeAllocatable": [],
            "failSwapOn": False,
            "evictionHard": {},
            "imageGCHighThresholdPercent": 100,
            "oomScoreAdj": 0,
            "syncFrequency": "10s",  # a changed Secret reaches the volumes of running pods after this time
            "podLogsDir": "/var/log/pods",
            "clusterDomain": "cluster.local",
            "clusterDNS": [addresses.DNS],
            "resolvConf": str(self._path("resolv.conf")),
            "maxPods": 250,
        }

    def _proxy(self) -> dict[str, str]:
        return {"config": str(self._path("kube-proxy.json"))}

    def _proxy_config(self) -> dict[str, Any]:
        return {
            "apiVersion": _PROXY,
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": str(self.credentials.kubeconfig("system:kube-proxy"))},
            "hostnameOverride": addresses.NODE_NAME,
            "mode": "nftables",
            "clusterCIDR": addresses.PODS,
            # The size of this table belongs to the whole machine, so it is not changed.
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
            "linux": {"oomScoreAdj": 0},
        }

    def _cni_config(self) -> dict[str, Any]:
        # Routed, not bridged: answers from a Service's pod pass the host side, which translates their addresses back.
        ranges = {"type": "host-local", "subnet": addresses.PODS, "dataDir": str(self.folder / "cni" / "addresses")}
        routed = {"type": "ptp", "ipam": {**ranges, "routes": [{"dst": "0.0.0.0/0"}]}}
        return {"cniVersion": "0.4.0", "name": "pods", "plugins": [routed]}

    def _corefile(self) -> str:
        kubeconfig = self.credentials.kubeconfig("system:coredns")
        return f"""\
.:53 {{
    errors
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {kubeconfig}
        ttl 1
    }}
}}
"""

    def _containerd_config(self) -> str:
        return f"""\
version = 2
root = "{self.folder}/containerd"
state = "/run/containerd"
[grpc]
address = "{SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{images.PAUSE}"
restrict_oom_score_adj = true
disable_apparmor = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{self._path("cni")}"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"""
