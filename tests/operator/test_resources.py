"""CPU and memory of the containers."""

from typing import Any

import pytest
from llamaserver_operator.parsing import parse
from llamaserver_operator.resources.pod import pod_template

from tests.support.operator.worlds import CONFIG

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
    """The download has the resources of the server, so that quotas on limits and the QoS class Guaranteed fit."""
    raw = {
        "model": {"source": {"http": {"url": "http://models.example/m.gguf"}}},
        "accelerator": {"vendor": "NVIDIA"},
        "resources": given,
    }
    (download,) = pod_template(parse(raw), "models", "demo", "image", CONFIG)["spec"]["initContainers"]
    assert download["resources"] == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"requests": {"memory": "1536Mi"}}),
        ({"requests": {"cpu": "2"}}, {"requests": {"cpu": "2", "memory": "1536Mi"}}),
        ({"limits": {"cpu": "2"}}, {"requests": {"memory": "1536Mi"}, "limits": {"cpu": "2"}}),
        ({"requests": {"memory": "8Gi"}}, {"requests": {"memory": "8Gi"}}),
        ({"requests": {"memory": "1Gi"}}, {"requests": {"memory": "1Gi"}}),
        ({"limits": {"memory": "8Gi"}}, {"limits": {"memory": "8Gi"}}),
        ({"requests": BOTH, "limits": BOTH}, {"requests": BOTH, "limits": BOTH}),
    ],
    ids=["none", "other-request", "other-limit", "request", "small-request", "limit", "guaranteed"],
)
@pytest.mark.parametrize("more", [{}, {"persistence": "Continuous", "volume": {"emptyDir": {}}}], ids=["alone", "both"])
def test_host_memory_is_requested_without_a_memory_request(given: Any, expected: Any, more: dict[str, Any]) -> None:
    """A memory request of the user is not changed."""
    raw = {
        "model": {"source": {"http": {"url": "http://models.example/m.gguf"}}},
        "kvCache": {"hostMemory": "1.5Gi", **more},
        "resources": given,
    }
    pod = pod_template(parse(raw), "models", "demo", "image", CONFIG)["spec"]
    assert pod["containers"][0]["resources"] == expected
    assert [volume["name"] for volume in pod["volumes"]] == ["tmp", "models", *(["kv"] if more else [])]
