"""The product on a cluster, as users install it: our images, and our chart by real helm."""

import tempfile
from pathlib import Path
from typing import Any

from tests.support.cluster.helm import CHART, Helm
from tools import images
from tools.cache import say

from .cluster import Cluster

NAMESPACE = "llamaserver-system"
RELEASE = "llamaserver"


def load_images(cluster: Cluster) -> None:
    """Build both images if they are not built, and load them into the cluster."""
    with tempfile.TemporaryDirectory() as folder:
        for name, archive in images.export(Path(folder)).items():
            say(f"loading {name} into the cluster")
            cluster.load(archive)


def _image_id(cluster: Cluster, name: str) -> str:
    """The digest behind an image's name."""
    line = cluster.ctr("images", "list", f"name=={name}").splitlines()[-1]
    return line.split()[2].removeprefix("sha256:")[:16]


def install(
    cluster: Cluster, values: dict[str, Any] | None = None, *, release: str = RELEASE, namespace: str = NAMESPACE
) -> None:
    """Install or upgrade the chart, with the images of `load_images`. Waits until the operator is ready."""
    if not cluster.kubectl.get("namespace", namespace):
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        about = {"name": namespace, "labels": labels}
        cluster.kubectl.create({"apiVersion": "v1", "kind": "Namespace", "metadata": about})
    # The tag stays the same when the tree changes: on a warm cluster, new content must move the operator's pod.
    content = _image_id(cluster, f"localhost/{images.OPERATOR.tag('cpu')}")
    ours = {"registry": "localhost", "podAnnotations": {"llamaserver.dev/image": content}}
    where = [f"--namespace={namespace}", "--wait", "--timeout=3m"]
    where.append("--take-ownership")  # other tests apply the resource by kubectl
    helm = Helm(kubeconfig=cluster.kubeconfig)
    helm("upgrade", "--install", release, str(CHART), *where, values={**ours, **(values or {})}, timeout=300)
