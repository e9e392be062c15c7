"""A claim with several uses in a pod becomes one volume, because the kubelet may wait forever for a second one."""

from typing import Any

from llamaserver_operator.files import model_files
from llamaserver_operator.parsing import parse
from llamaserver_operator.resources.volumes import Volumes, pod_volumes

HTTP = {"http": {"url": "http://models.example/model.gguf"}}


def on(claim: str, path: str) -> dict[str, Any]:
    return {"persistentVolumeClaim": {"claimName": claim, "path": path}}


def made(raw: dict[str, Any]) -> Volumes:
    spec = parse(raw)
    return pod_volumes(spec, model_files(spec), "demo")


def claims(volumes: Volumes) -> dict[str, dict[str, Any]]:
    """Claims by the name of their volume."""
    return {item["name"]: item["persistentVolumeClaim"] for item in volumes.volumes if "persistentVolumeClaim" in item}


def mounts(volumes: Volumes) -> dict[str, tuple[str, bool]]:
    """Volume, and whether it is read-only, by path."""
    return {item["mountPath"]: (item["name"], item.get("readOnly", False)) for item in volumes.server}


def test_a_model_and_its_projector_on_one_claim() -> None:
    volumes = made({"model": {"source": on("c", "m.gguf")}, "projector": {"source": on("c", "p.gguf")}})
    assert claims(volumes) == {"source-0": {"claimName": "c", "readOnly": True}}
    assert {path: name for path, (name, _) in mounts(volumes).items() if path.startswith("/sources")} == {
        "/sources/0": "source-0",
        "/sources/1": "source-0",
    }


def test_files_on_the_claim_that_is_cache_and_store_too() -> None:
    volumes = made(
        {
            "model": {"source": HTTP, "cache": {"claimName": "c"}},
            "projector": {"source": on("c", "p.gguf")},
            "loraAdapters": [{"name": "a", "source": on("other", "a.gguf")}],
            "kvCache": {"volume": {"claimName": "c"}},
        }
    )
    assert claims(volumes) == {"models": {"claimName": "c"}, "source-1": {"claimName": "other", "readOnly": True}}
    found = mounts(volumes)
    assert (found["/models"], found["/kv"]) == (("models", False), ("models", False))
    assert (found["/sources/2"], found["/sources/1"]) == (("models", True), ("source-1", True))


def test_a_claim_that_is_written_by_another_use_is_not_read_only() -> None:
    volumes = made({"model": {"source": on("c", "m.gguf")}, "kvCache": {"volume": {"claimName": "c"}}})
    assert claims(volumes) == {"source-0": {"claimName": "c"}}
    assert mounts(volumes)["/sources/0"] == ("source-0", True)
