"""The cluster itself: what every other test of this folder takes for granted."""

import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from dev.localcluster.images import BUSYBOX
from dev.localcluster.kubectl import KubectlError
from tests.support.polling import until

pytestmark = pytest.mark.cluster

USER = 10001


def pod(name, script, *, claim="", labels=None, resources=None):
    """A pod that runs a shell script as the restricted profile wants it; the claim is mounted at /data."""
    container = {
        "name": "main",
        "image": BUSYBOX,
        "command": ["sh", "-c", script],
        "resources": {"limits": resources or {}},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    data = {"persistentVolumeClaim": {"claimName": claim}} if claim else {"emptyDir": {}}
    spec = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1,
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [{"name": "data", **data}],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels or {}}, "spec": spec}


def claim(name, mode, storage_class="local-test"):
    wanted = {"storageClassName": storage_class, "accessModes": [mode], "resources": {"requests": {"storage": "1Mi"}}}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": wanted}


def service(name, port):
    spec = {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": port}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


class World:
    """Short ways to make things in a test's namespace and to look at them."""

    def __init__(self, cluster, namespace):
        self.cluster, self.namespace, self.kubectl = cluster, namespace, cluster.kubectl

    def create(self, *objects):
        for each in objects:
            each["metadata"]["namespace"] = self.namespace
        self.kubectl.create(*objects)

    def status(self, name):
        return self.kubectl.get("pod", name, self.namespace).get("status", {})

    def phase(self, name, *wanted):
        until(lambda: self.status(name).get("phase") in wanted, f"{name} is {wanted}", 60, pause=0.2)
        return self.status(name)

    def ready(self, name):
        def is_ready():
            conditions = self.status(name).get("conditions", [])
            return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

        until(is_ready, f"{name} is ready", 60, pause=0.2)

    def logs(self, name):
        return self.kubectl("logs", name, f"--namespace={self.namespace}")

    def exec(self, name, *command):
        return self.kubectl("exec", name, f"--namespace={self.namespace}", "--", *command)


@pytest.fixture
def world(cluster, namespace):
    return World(cluster, namespace)


@pytest.mark.parametrize("mode", ["ReadWriteOnce", "ReadWriteMany"])
def test_a_pod_writes_to_its_claim_by_its_group(world, mode):
    script = "id -u; stat -c '%g %a' /data; echo kept > /data/file; cat /data/file"
    world.create(claim("data", mode), pod("hello", script, claim="data"))
    assert world.phase("hello", "Succeeded", "Failed")["phase"] == "Succeeded", world.logs("hello")
    assert world.logs("hello").splitlines() == [str(USER), f"{USER} 2770", "kept"]


def test_without_the_group_a_volume_cannot_be_written(world):
    """What a hostPath would hide."""
    groupless = pod("hello", "echo kept > /data/file", claim="data")
    del groupless["spec"]["securityContext"]["fsGroup"]
    world.create(claim("data", "ReadWriteOnce"), groupless)
    assert world.phase("hello", "Succeeded", "Failed")["phase"] == "Failed"
    assert "Permission denied" in world.logs("hello")


def test_a_deleted_claim_takes_its_volume_with_it(world):
    world.create(claim("data", "ReadWriteOnce"), pod("hello", "echo kept > /data/file", claim="data"))
    world.phase("hello", "Succeeded")
    volume = world.kubectl.get("persistentvolumeclaim", "data", world.namespace)["spec"]["volumeName"]
    folder = world.cluster.folder / "volumes" / volume
    assert (folder / "file").read_text() == "kept\n"
    world.kubectl.delete("pod", "hello", world.namespace)
    world.kubectl.delete("persistentvolumeclaim", "data", world.namespace)
    until(lambda: not folder.exists() and not world.kubectl.get("persistentvolume", volume), "the volume is gone")


def test_a_small_volume_gets_full(world):
    name = f"small-{world.namespace}"
    world.cluster.make_volume(name, limit="1m")
    small = claim("data", "ReadWriteOnce", "local-static")
    small["spec"]["volumeName"] = name
    world.create(small, pod("hello", "dd if=/dev/zero of=/data/file bs=1k count=2000", claim="data"))
    assert world.phase("hello", "Succeeded", "Failed")["phase"] == "Failed"
    assert "No space left on device" in world.logs("hello")
    world.kubectl.delete("persistentvolume", name, wait=False)


def test_a_service_answers_to_host_node_and_pods_by_address_and_by_name(world):
    serve = "echo hello > /data/index.html; exec httpd -f -p 8080 -h /data"
    world.create(pod("web", serve, labels={"app": "web"}), service("web", 8080), pod("client", "sleep 600"))
    world.ready("web")
    world.ready("client")
    address = world.kubectl.get("service", "web", world.namespace)["spec"]["clusterIP"]
    with world.cluster.forward(address, 80) as relay:
        until(lambda: _fetch(relay.url) == "hello\n", "the Service answers")
    # Its own pod, too: the packet comes back to where it came from.
    for name in ("client", "web"):
        assert world.exec(name, "wget", "-qO-", f"http://{address}/") == "hello\n"
    until(lambda: _says(world, f"http://web.{world.namespace}.svc.cluster.local/", "hello\n"), "the name leads there")
    assert world.exec("client", "wget", "-qO-", "http://web/") == "hello\n"
    with world.cluster.forward(world.status("web")["podIP"], 8080) as relay:
        assert _fetch(relay.url) == "hello\n"


def test_pods_reach_what_a_test_exposes(world):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"from the test")

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with world.cluster.expose(server.server_port) as relay:
            world.create(pod("hello", f"wget -qO- {relay.url}"))
            world.phase("hello", "Succeeded")
        server.shutdown()
    assert world.logs("hello") == "from the test"


def test_the_restricted_profile_is_enforced(world):
    loose = pod("hello", "id")
    loose["spec"]["securityContext"]["runAsNonRoot"] = False
    with pytest.raises(KubectlError, match='violates PodSecurity "restricted'):
        world.create(loose)


def test_a_memory_limit_kills(world):
    # Shared memory counts: dd fills the emptyDir in memory beyond the pod's limit.
    hungry = pod("hello", "dd if=/dev/zero of=/data/file bs=1M count=200", resources={"memory": "32Mi"})
    hungry["spec"]["volumes"] = [{"name": "data", "emptyDir": {"medium": "Memory"}}]
    world.create(hungry)
    world.phase("hello", "Failed")
    (container,) = world.status("hello")["containerStatuses"]
    assert container["state"]["terminated"]["reason"] == "OOMKilled"


def test_advertised_devices_place_pods(world):
    one = {"nvidia.com/gpu": "1"}
    world.create(pod("first", "sleep 600", resources=one))
    until(lambda: _unschedulable(world, "first"), "no node has a GPU")
    world.cluster.set_capacity(**one)
    try:
        world.phase("first", "Running")
        world.create(pod("second", "sleep 600", resources=one))
        until(lambda: "Insufficient nvidia.com/gpu" in _unschedulable(world, "second"), "the GPU is taken")
        with world.cluster.fake_node("node-2", one):
            until(lambda: world.kubectl.get("pod", "second", world.namespace)["spec"].get("nodeName"), "placed")
            assert world.kubectl.get("pod", "second", world.namespace)["spec"]["nodeName"] == "node-2"
            world.kubectl("delete", "pod", "second", f"--namespace={world.namespace}", "--force", "--grace-period=0")
    finally:
        world.kubectl.delete("pod", "first", world.namespace)
        world.cluster.set_capacity(**{"nvidia.com/gpu": None})


def test_a_frozen_container_goes_on_when_it_may(world):
    world.create(pod("hello", "while :; do echo x >> /data/file; sleep 0.1; done"))
    world.ready("hello")
    world.cluster.signal_container(world.namespace, "hello", "SIGSTOP")
    state = "grep '^State' /proc/1/status"
    assert "stopped" in world.exec("hello", "busybox", "sh", "-c", f"busybox {state}")
    world.cluster.signal_container(world.namespace, "hello", "SIGCONT")
    assert "stopped" not in world.exec("hello", "busybox", "sh", "-c", f"busybox {state}")


def test_a_frozen_scheduler_places_nothing(world):
    world.cluster.freeze("kube-scheduler")
    try:
        world.create(pod("hello", "true"))
        until(lambda: world.kubectl.get("pod", "hello", world.namespace), "the pod is there")
        assert "nodeName" not in world.kubectl.get("pod", "hello", world.namespace)["spec"]
    finally:
        world.cluster.thaw("kube-scheduler")
    world.phase("hello", "Succeeded")


def test_pods_live_on_without_the_api_server(world):
    serve = "echo hello > /data/index.html; exec httpd -f -p 8080 -h /data"
    world.create(pod("web", serve, labels={"app": "web"}), service("web", 8080))
    world.ready("web")
    address = world.kubectl.get("service", "web", world.namespace)["spec"]["clusterIP"]
    with world.cluster.forward(address, 80) as relay:
        until(lambda: _fetch(relay.url) == "hello\n", "the Service answers")
        world.cluster.stop("kube-apiserver")
        try:
            with pytest.raises(KubectlError):
                world.kubectl("get", "--raw=/readyz")
            assert _fetch(relay.url) == "hello\n"
        finally:
            world.cluster.start("kube-apiserver")
    assert world.status("web")["phase"] == "Running"


def test_the_audit_log_names_who_asked_what(world):
    world.create(pod("hello", "true"))
    asked = [event for event in world.cluster.audit("admin") if event["objectRef"].get("namespace") == world.namespace]
    assert [event["verb"] for event in asked if event["objectRef"]["resource"] == "pods"] == ["create"]


def _fetch(url):
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.read().decode()
    except OSError:
        return ""


def _says(world, url, text):
    try:
        return world.exec("client", "wget", "-qO-", url) == text
    except KubectlError:
        return False


def _unschedulable(world, name):
    conditions = world.status(name).get("conditions", [])
    return next((each["message"] for each in conditions if each.get("reason") == "Unschedulable"), "")
