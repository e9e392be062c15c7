"""One cluster: start, stop, and the actions of tests while it runs."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.polling import until
from tools.cache import cache_dir, say

from . import addresses, binaries, dns, images, nodes, storage
from .components import SOCKET, Components
from .forward import Relay, listen
from .kubectl import Kubectl, KubectlError, Object
from .prepare import prepare
from .processes import Processes
from .sandbox import Sandbox

ROOT = Path(__file__).parent.parent.parent
# New connections between pods are judged by the program that reads this queue. The rules that it makes itself need the
# kernel's CONFIG_NFT_QUEUE, which is often missing.
_QUEUE = "100"
_JUDGED = f"FORWARD -p tcp -m conntrack --ctstate NEW -j NFQUEUE --queue-num {_QUEUE}".split()
_AFTER_API = ("kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "coredns")


class Cluster:
    """The cluster in a folder. This process or another one may have started it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.sandbox = Sandbox(self.folder)
        self.processes = Processes(self.sandbox)
        self.components = Components(self.folder, self.sandbox.cgroup)
        self.kubeconfig = self.folder / "kubeconfig"
        self.kubectl = Kubectl(self.kubeconfig)
        self.node = addresses.NODE_NAME

    # Life

    def up(self) -> None:
        """Start the cluster. An older cluster in this folder, or the remains of a crash, are removed first."""
        prepare()
        began = time.monotonic()
        self.down()
        self.folder.mkdir(parents=True)
        self.components.credentials.make()
        self.components.configure()
        self.sandbox.start()
        for name in ("etcd", "containerd", "kube-apiserver"):
            self.start(name)
        self._open_door()
        say("cluster: waiting for containerd and the API server")
        self._load_own_images()
        self._wait_for_api()
        for name in _AFTER_API:
            self.start(name)
        self.kubectl.apply(*storage.classes(), *dns.objects())
        self._start_provisioner()
        say("cluster: waiting for the node")
        until(self._ready, "the node is ready", 60, pause=0.25)
        say(f"cluster: ready in {time.monotonic() - began:.1f} s, KUBECONFIG={self.kubeconfig}")

    def down(self) -> None:
        """Stop everything and remove the folder. It is no error when nothing runs."""
        self.sandbox.stop()
        if self.folder.exists():
            shutil.rmtree(self.folder)

    @property
    def running(self) -> bool:
        """Whether the cluster runs."""
        return self.sandbox.pid is not None

    # Servers: etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kubelet, kube-proxy,
    # coredns, containerd

    def start(self, name: str) -> None:
        """Start a server. For the API server, wait until it answers, unless the whole cluster is starting."""
        self.processes.start(name, self.components.command(name))
        if name == "kube-apiserver" and self.kubeconfig.exists():
            self._wait_for_api()

    def stop(self, name: str, *, signal: str = "KILL") -> None:
        """Kill a server, and wait for its end. (The API server takes a minute to end by SIGTERM.)"""
        self.processes.stop(name, signal=signal)

    def freeze(self, name: str) -> None:
        """SIGSTOP a server."""
        self.processes.signal(name, "STOP")

    def thaw(self, name: str) -> None:
        """Continue a frozen server."""
        self.processes.signal(name, "CONT")

    # Network

    def run_in_net(self, command: list[str], *, timeout: float = 60) -> str:
        """Run a command in the network of the cluster. Returns its standard output."""
        return self.processes.run(command, timeout=timeout).stdout

    def forward(self, host: str, port: int) -> Relay:
        """A relay from a free port of the host's 127.0.0.1 to an address of the cluster: `with ... as relay`."""
        return Relay(listen(("127.0.0.1", 0)), (host, port), self.sandbox.network)

    @contextmanager
    def service(self, name: str, namespace: str) -> Iterator[Relay]:
        """A relay to a Service, once the node's proxy knows its endpoints. That is later than readiness."""
        spec = self.kubectl.get("service", name, namespace)["spec"]
        with self.forward(spec["clusterIP"], spec["ports"][0]["port"]) as relay:
            until(relay.is_open, "the Service has an endpoint", 30, pause=0.2)
            yield relay

    def expose(self, port: int) -> Relay:
        """A relay in the other direction: pods reach a port of the host's 127.0.0.1 at the relay's `url`."""
        listener = listen((addresses.NODE, 0), self.sandbox.network)
        return Relay(listener, ("127.0.0.1", port), None)

    @contextmanager
    def enforcing_policies(self) -> Iterator[None]:
        """NetworkPolicies are enforced: `with ...`. The CNI plug-in here does not do that."""
        kubeconfig = self.folder / "policies.kubeconfig"
        who = self.components.credentials
        who.write_kubeconfig(kubeconfig, f"https://127.0.0.1:{addresses.API_PORT}", who.admin_token())
        self.processes.start(
            "policies", [str(binaries.policies()), f"--kubeconfig={kubeconfig}", f"--node={self.node}"]
        )
        queues = ["cat", "/proc/net/netfilter/nfnetlink_queue"]
        try:
            until(lambda: self._alive("policies") and _QUEUE in self.run_in_net(queues).split(), "it judges packets")
            self.run_in_net(["iptables", "-t", "mangle", "-A", *_JUDGED])
            yield
        finally:
            self.processes.run(["iptables", "-t", "mangle", "-D", *_JUDGED], check=False)
            self.processes.stop("policies")

    # Images and containers

    def load(self, archive: Path) -> None:
        """Import a docker or OCI archive."""
        self.ctr("images", "import", str(archive.absolute()))

    def image_names(self) -> list[str]:
        """Names of the images that pods can use."""
        return self.ctr("images", "list", "--quiet").split()

    def ctr(self, *arguments: str) -> str:
        """Containerd's client, in the kubelet's namespace."""
        return self.processes.run(["ctr", f"--address={SOCKET}", "--namespace=k8s.io", *arguments]).stdout

    def signal_container(self, namespace: str, pod: str, signal: str, container: str = "") -> None:
        """Send a signal (SIGSTOP, say) to process 1 of a pod's running container, the first if none is named."""
        status = self.kubectl.get("pod", pod, namespace)["status"]
        statuses = [*status["containerStatuses"], *status.get("initContainerStatuses", [])]
        (found,) = [each for each in statuses if each["name"] == (container or statuses[0]["name"])]
        self.ctr("tasks", "kill", f"--signal={signal}", found["containerID"].removeprefix("containerd://"))

    # Nodes and volumes

    def set_capacity(self, **resources: str | None) -> None:
        """Advertise resources on the node: set_capacity(**{"nvidia.com/gpu": "2"}). None removes one."""
        nodes.set_capacity(self.kubectl, resources)

    def fake_node(
        self, name: str, resources: dict[str, str] | None = None, labels: dict[str, str] | None = None
    ) -> nodes.FakeNode:
        """Another node, which exists as an object only: `with ... as node`."""
        return nodes.FakeNode(self.kubectl, name, resources or {}, labels or {})

    def make_volume(
        self, name: str, *, size: str = "1Gi", modes: tuple[str, ...] = ("ReadWriteOnce",), limit: str = ""
    ) -> Path:
        """A volume of the class `local-static`. `limit`, such as 16m, makes it a file system of that size."""
        folder = self.folder / "volumes" / name
        made = storage.volume(name, folder, size, list(modes))
        if limit:
            options = f"size={limit},mode=0700"
            self.processes.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)])
        self.kubectl.create(made)
        return folder

    # Audit

    def audit(self, user: str = "") -> Iterator[Object]:
        """The requests so far for objects, by one user, or by all users but the cluster's own servers."""
        whole = self.components.audit_log.read_text().rpartition("\n")[0]  # the last line may be in the making
        for line in whole.splitlines():
            event = json.loads(line)
            # A request that was refused before its user was known has no name.
            if "objectRef" in event and user in ("", event["user"].get("username")):
                yield event

    # Details of `up`

    def _open_door(self) -> None:
        listener = listen(("127.0.0.1", 0))
        fd, port = listener.fileno(), listener.getsockname()[1]
        # Process 1 in there holds the network; the relay itself stays on the host's, where it listens.
        target = ["/proc/1/ns/net", "127.0.0.1", str(addresses.API_PORT)]
        command = [sys.executable, "-m", f"{__package__}.door", str(fd), *target]
        self.processes.start("door", command, network=False, env={"PYTHONPATH": str(ROOT)}, fd=fd)
        listener.close()
        who = self.components.credentials
        who.write_kubeconfig(self.kubeconfig, f"https://127.0.0.1:{port}", who.admin_token())

    def _start_provisioner(self) -> None:
        command = [
            sys.executable,
            "-m",
            f"{__package__}.provisioner",
            str(self.kubeconfig),
            str(self.folder / "volumes"),
        ]
        self.processes.start("provisioner", command, network=False, env={"PYTHONPATH": str(ROOT)})

    def _load_own_images(self) -> None:
        archive = self.folder / "own-images.tar"
        images.write_archive(archive)
        until(lambda: self._alive("containerd") and self._containerd_answers(), "containerd answers", 30, pause=0.1)
        self.load(archive)

    def _containerd_answers(self) -> bool:
        return self.processes.run(["ctr", f"--address={SOCKET}", "version"], check=False).returncode == 0

    def _wait_for_api(self) -> None:
        until(lambda: self._alive("kube-apiserver") and self._api_ready(), "the API server is ready", 60, pause=0.1)

    def _api_ready(self) -> bool:
        try:
            return self.kubectl("get", "--raw=/readyz", timeout=10) == "ok"
        except (KubectlError, subprocess.TimeoutExpired):
            return False

    def _ready(self) -> bool:
        for name in _AFTER_API:
            self._alive(name)
        conditions = self.kubectl.get("node", self.node).get("status", {}).get("conditions", [])
        ready = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
        return ready and bool(self.kubectl.get("serviceaccount", "default", "default"))

    def _alive(self, name: str) -> bool:
        """True while all started servers run. Raises with the end of the log of a server that has ended."""
        if self.processes.running(name):
            return True
        log = self.processes.log(name)
        raise RuntimeError(f"{name} ended; the end of {log}:\n{log.read_text(errors='replace')[-3000:]}")


def folder_named(name: str) -> Path:
    """The folder of a cluster of this user."""
    return cache_dir() / "clusters" / name
