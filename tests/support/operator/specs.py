"""Specs that set every field of the schema, and for each field other values that are valid, too."""

from collections.abc import Iterator
from typing import Any

import yaml

from .schema import LEAVES, ROOT, Node, Path, errors, get, put, text

Spec = dict[str, Any]

BASES: list[Spec] = yaml.safe_load((ROOT / "tests" / "support" / "operator" / "specs.yaml").read_text(encoding="utf-8"))
_DIGEST = "b" * 64

# Where a rule or a pattern stands against what would be made up.
_OTHERS: dict[str, list[Any]] = {
    "model.sha256": [_DIGEST],
    "loraAdapters[].sha256": [_DIGEST],
    "projector.sha256": [_DIGEST],
    "image.digest": [f"sha256:{_DIGEST}"],
    "model.cache.claimTemplate.size": ["40Gi"],
    "model.cache.claimTemplate.accessModes": [["ReadWriteMany"], ["ReadWriteOncePod"]],
    "kvCache.volume.claimTemplate.size": ["40Gi"],
    "kvCache.volume.claimTemplate.accessModes": [["ReadWriteMany"], ["ReadWriteOncePod"]],
    "kvCache.volume.emptyDir.sizeLimit": ["40Gi"],
    "kvCache.maxSize": ["40Gi"],
    "kvCache.hostMemory": ["8Gi"],
    "engine.gpuLayers": [0, 7],
    "engine.selfExtend.factor": [8],
    "engine.selfExtend.width": [4096],
    "engine.tensorSplit": [[1, 1]],
    "engine.extraArgs": [["--no-mmap", "--mlock"], ["--mlock"]],
    "security.networkPolicy.from[].ipBlock.cidr": ["10.0.0.0/9"],
    "security.networkPolicy.from[].ipBlock.except": [["10.2.0.0/16"]],
    "podTemplate.affinity": [{"nodeAffinity": {}}],
    "podTemplate.topologySpreadConstraints": [
        [{"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}]
    ],
    "resources.requests": [{"cpu": 1, "memory": "8Gi"}],
    "resources.limits": [{"cpu": 4, "memory": "16Gi"}],
    "podTemplate.env[].valueFrom": [{"fieldRef": {"fieldPath": "metadata.uid"}}],
    "podTemplate.securityContext.supplementalGroups": [[3001]],
}


def variants(path: Path) -> Iterator[tuple[Spec, Spec]]:
    """Pairs of valid specs that differ in this field alone."""
    for base in BASES:
        value = get(base, path)
        if value is None:
            continue
        for other in _OTHERS.get(text(path)) or _others(LEAVES[path], value):
            changed = put(base, path, other)
            if get(changed, ("kvCache", "scope")) == "Shared" and "claimName" not in changed["kvCache"]["volume"]:
                continue  # a rule is against it
            assert errors(changed) == [], (path, other)
            yield base, changed


def _others(node: Node, value: Any) -> list[Any]:
    if "enum" in node:
        return [item for item in node["enum"] if item != value]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value + 1 if value + 1 <= node.get("maximum", value + 1) else value - 1]
    if isinstance(value, dict):
        return [{**value, "more": "1"}]
    if isinstance(value, list):
        return [[*value, "more"]]
    return [f"{value}x"]
