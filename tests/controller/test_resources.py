"""CPU and memory of the download: those of the server, so that quotas on limits and the class Guaranteed are met."""

from typing import Any

import pytest
from llamaserver_operator.parsing import parse
from llamaserver_operator.resources.pod import pod_template

from tests.support.worlds import CONFIG

SMALL = {"cpu": "100m", "memory": "128Mi"}
BOTH = {"cpu": "2", "memory": "8Gi"}
FULL = {**BOTH, "ephemeral-storage": "1Gi"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"requests": SMALL}),
        ({"requests": {"memory": "8Gi"}}, {"requests": {"cpu": "100m", "memory": "8Gi"}}),
        ({"requests": FULL, "limits": FULL}, {"requests": BOTH, "limits": BOTH}),
        ({"limits": FULL}, {"limits": BOTH}),
        ({"limits": {"cpu": "50m"}}, {"requests": {"memory": "128Mi"}, "limits": {"cpu": "50m"}}),
    ],
    ids=["none", "some", "guaranteed", "limits", "one-limit"],
)
def test_resources_of_the_download(given: dict[str, Any], expected: dict[str, Any]) -> None:
    raw = {
        "model": {"source": {"http": {"url": "http://models.example/m.gguf"}}},
        "accelerator": {"vendor": "NVIDIA"},
        "resources": given,
    }
    (download,) = pod_template(parse(raw), "models", "demo", "image", CONFIG)["spec"]["initContainers"]
    assert download["resources"] == expected
