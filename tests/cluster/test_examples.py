"""The examples are what a user would apply: the API server and the operator take each of them as it is."""

import pytest
import yaml
from llamaserver_operator import parsing

from tests.support.cluster.helm import ROOT

pytestmark = pytest.mark.cluster

EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))


def test_there_are_examples():
    assert {"smollm2.yaml", "gpu.yaml", "kv-cache.yaml", "secured.yaml"} <= {path.name for path in EXAMPLES}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_admitted(cluster, product_installed, namespace, path):
    command = ["create", "--dry-run=server", "--validate=strict", f"--namespace={namespace}", "--output=yaml"]
    admitted = yaml.safe_load(cluster.kubectl(*command, f"--filename={path}"))
    wanted = yaml.safe_load(path.read_text())
    assert admitted["metadata"]["name"] == wanted["metadata"]["name"]
    assert wanted["spec"].keys() <= admitted["spec"].keys()
    assert parsing.parse(admitted["spec"])
