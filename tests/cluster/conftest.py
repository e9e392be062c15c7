"""Every test of this folder runs on a real cluster: one for the session, a namespace for the test.

LLAMASERVER_CLUSTER names the folder of a running one to use instead (python -m dev.localcluster up).
LLAMASERVER_TEST_LANE tells sessions apart that run at the same time, each on its own cluster (tests/lanes.py).
"""

import os
import re
from collections.abc import Generator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from dev.localcluster import Cluster, product
from dev.localcluster.binaries import Missing
from dev.localcluster.cluster import folder_named
from dev.localcluster.hub import Hub
from dev.localcluster.kubectl import KubectlError
from tests.support.cluster.llama import REPO, Llama
from tests.support.lacking import lacking
from tests.support.models import Models
from tools import images, model
from tools.cache import exclusive

FAILED = pytest.StashKey[bool]()
LACKING = pytest.StashKey[str]()


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A running cluster; only a session's own is stopped."""
    if chosen := os.environ.get("LLAMASERVER_CLUSTER"):
        found = Cluster(Path(chosen))
        assert found.running, f"LLAMASERVER_CLUSTER: no cluster runs in {chosen}"
        yield found
        return
    folder = folder_named(f"tests-{os.environ.get('LLAMASERVER_TEST_LANE', '1')}") / "c"
    with exclusive(folder):
        own = Cluster(folder)
        try:
            own.up()
            yield own
        except Missing as missing:
            text = f"NO LOCAL CLUSTER: {missing}"
            request.config.stash[LACKING] = text
            lacking(text)
        finally:
            own.down()


@pytest.fixture
def namespace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the test's own, under the restricted Pod Security profile."""
    slug = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:40].strip("-")
    name = f"{slug}-{uuid4().hex[:6]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.kubectl.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    yield name
    if request.node.stash.get(FAILED, False):
        print(_state_of(cluster, name))
    cluster.kubectl.delete("namespace", name, wait=False)


@pytest.fixture(scope="session")
def hub(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A mirror of Hugging Face that pods can reach: the repository test/models has tiny.gguf and chat.gguf."""
    with Hub() as files:
        files.add(REPO, "main", "tiny.gguf", Models(tmp_path_factory.mktemp("models")).llama())
        files.add(REPO, "main", "chat.gguf", model.ensure())
        with cluster.expose(files.port) as relay:
            files.url = relay.url
            yield files


@pytest.fixture(scope="session")
def product_installed(cluster: Cluster, hub: Hub) -> None:
    """Our images and our chart, as users install them; the operator watches all namespaces."""
    product.load_images(cluster)
    # Pods that ask for an NVIDIA GPU get the CPU image: on a node that only claims to have one, it falls back.
    cuda = {"repository": images.SERVER.name, "tag": images.SERVER.version}
    values = {"huggingFace": {"endpoint": hub.url}, "resyncSeconds": 300, "serverImages": {"cuda": cuda}}
    product.install(cluster, values)


@pytest.fixture
def llama(cluster: Cluster, namespace: str, product_installed: None) -> Llama:
    """An object that is not applied yet, in the test's namespace."""
    return Llama(cluster, namespace)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    item.stash[FAILED] = item.stash.get(FAILED, False) or report.failed
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if text := config.stash.get(LACKING, ""):
        terminalreporter.write_line(f"{text} (tests/cluster did not run)", red=True, bold=True)


def _state_of(cluster: Cluster, namespace: str) -> str:
    """What a person would look at first."""
    pods = [pod["metadata"]["name"] for pod in cluster.kubectl.items("pods", namespace=namespace)]
    commands = [["get", "all,persistentvolumeclaims", "--output=wide"], ["get", "events"]]
    commands += [["logs", pod, "--all-containers", "--prefix", "--tail=40", "--ignore-errors"] for pod in pods]
    parts = []
    for command in commands:
        try:
            parts.append(cluster.kubectl(f"--namespace={namespace}", *command))
        except KubectlError as error:
            parts.append(str(error))
    return "\n".join(parts)
