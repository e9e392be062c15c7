"""Random valid specs for property tests, generated from the schema; its CEL rules are kept by `_ruled`."""

import re
import string
from typing import Any

from hypothesis import strategies as st

from .schema import SPEC, Node, Path, text

_FEW = 3  # most items of a list or map
_LETTERS = string.ascii_letters + string.digits + " -._/,:=@{}'\"\\$()\näß中🦙\x85\u2028\ufeff\x7f"
_QUANTITIES = ("1", "1k", "1.5Gi", "20Gi", "1e9", "3E", "0.5", "100m")
_NAME = st.from_regex(r"[a-z]([-a-z0-9]{0,8}[a-z0-9])?", fullmatch=True, alphabet=string.ascii_lowercase + "-019")
_PART = st.text(string.ascii_letters + "-_. ,0", min_size=1, max_size=8).filter(lambda part: part not in (".", ".."))
_PATHS = st.lists(_PART, min_size=1, max_size=3).map("/".join)
_ARGUMENTS = ("--no-mmap", "--mlock", "--verbose", "--prompt-budget=64", "--log-format=text", "--n-predict=-1")

# What the schema passes through, and what is bound by more than a pattern.
_BY_NAME: dict[str, st.SearchStrategy[Any]] = {
    "file": _PATHS,
    "path": _PATHS,
    "claimName": _NAME,
    "secretName": _NAME,
    "affinity": st.sampled_from([{}, {"podAntiAffinity": {}}]),
    "valueFrom": st.just({"fieldRef": {"fieldPath": "metadata.name"}}),
    "extraArgs": st.lists(st.sampled_from(_ARGUMENTS), max_size=_FEW, unique=True),
}
_BY_PATH: dict[str, st.SearchStrategy[Any]] = {
    "kvCache.hostMemory": st.sampled_from(["1Mi", "1.5Gi", "20Gi", "1e9", "1Pi"]),
    "podTemplate.topologySpreadConstraints[]": st.just({"maxSkew": 1, "topologyKey": "zone"}),
    "podTemplate.volumes[]": _NAME.map(lambda name: {"name": f"user-{name}", "emptyDir": {}}),
}


def specs() -> st.SearchStrategy[dict[str, Any]]:
    """Any spec that the API server accepts."""
    return _value(SPEC, ()).map(_ruled)


def _value(node: Node, path: Path) -> st.SearchStrategy[Any]:
    if path and (known := _BY_PATH.get(text(path), _BY_NAME.get(path[-1]))) is not None:
        return known
    if "enum" in node:
        return st.sampled_from(node["enum"])
    if node.get("x-kubernetes-int-or-string"):
        return st.sampled_from(["All", 0, 7] if node["pattern"] == "^All$" else [1, *_QUANTITIES])
    made = {"object": _object, "array": _array, "string": _string, "integer": _integer, "number": _number}
    if node["type"] == "boolean":
        return st.booleans()
    return made[node["type"]](node, path)


def _object(node: Node, path: Path) -> st.SearchStrategy[Any]:
    if isinstance(values := node.get("additionalProperties"), dict):
        keys = st.sampled_from(["cpu", "memory"]) if "anyOf" in values else _NAME
        return st.dictionaries(keys, _value(values, (*path, "{}")), min_size=node.get("minProperties", 0), max_size=2)
    fields = {name: _value(child, (*path, name)) for name, child in node.get("properties", {}).items()}
    required = {name: fields.pop(name) for name in node.get("required", ())}
    choices = _one_of(node)
    rest = {name: field for name, field in fields.items() if name not in choices}
    base = st.fixed_dictionaries(required, optional=rest)
    if not choices:
        return base.filter(lambda made: len(made) >= node.get("minProperties", 0))
    chosen = st.one_of(*(st.fixed_dictionaries({name: fields[name]}) for name in choices))
    return st.tuples(base, chosen).map(lambda parts: parts[0] | parts[1])


def _one_of(node: Node) -> list[str]:
    """The fields of which exactly one is set, from the message of the rule."""
    for rule in node.get("x-kubernetes-validations", ()):
        if found := re.fullmatch("set exactly one of (.*)", rule["message"]):
            return re.split(", | and ", found[1])
    return []


def _array(node: Node, path: Path) -> st.SearchStrategy[Any]:
    keys = node.get("x-kubernetes-list-map-keys", ())
    as_set = node["x-kubernetes-list-type"] == "set"
    unique = (lambda item: tuple(item[key] for key in keys)) if keys else (lambda item: item) if as_set else None
    items = _value(node["items"], (*path, "[]"))
    return st.lists(items, min_size=node.get("minItems", 0), max_size=_FEW, unique_by=unique)


def _string(node: Node, path: Path) -> st.SearchStrategy[str]:
    if any("isQuantity" in rule["rule"] for rule in node.get("x-kubernetes-validations", ())):
        return st.sampled_from(_QUANTITIES)
    low, high = node.get("minLength", 0), node.get("maxLength", 100)
    if pattern := node.get("pattern"):
        made = st.from_regex(pattern, fullmatch=True, alphabet=_LETTERS)
        return made.filter(lambda value: low <= len(value) <= high)
    return st.text(_LETTERS, min_size=low, max_size=min(high, 12))


def _integer(node: Node, path: Path) -> st.SearchStrategy[int]:
    return st.integers(node.get("minimum", -(2**31)), node.get("maximum", 2**31 - 1))


def _number(node: Node, path: Path) -> st.SearchStrategy[float]:
    return st.floats(node.get("minimum"), node.get("maximum"), allow_nan=False, allow_infinity=False)


def _ruled(spec: dict[str, Any]) -> dict[str, Any]:
    """The spec, changed where a rule over several fields would refuse it."""
    _ruled_engine(spec.get("engine", {}), spec.get("accelerator"))
    if (cache := spec.get("kvCache")) is not None:
        _ruled_cache(cache, spec)
    for peer in spec.get("security", {}).get("networkPolicy", {}).get("from", ()):
        if "ipBlock" in peer:
            _drop(peer, "podSelector", "namespaceSelector")
    if "repository" not in spec.get("image", {}):
        _drop(spec.get("image", {}), "tag", "digest")
    for adapter in spec.get("loraAdapters", ()):  # refused by the operator: the server's command line splits at commas
        for source in adapter["source"].values():
            source.update({key: source[key].replace(",", "_") for key in ("file", "path", "url") if key in source})
    return spec


def _ruled_cache(cache: dict[str, Any], spec: dict[str, Any]) -> None:
    if {"embeddings", "selfExtend"} & set(spec.get("engine", {})):
        _drop(cache, "hostMemory")
    elif "hostMemory" in cache:
        _drop(spec.get("resources", {}).get("limits", {}), "memory")
    if not {"volume", "hostMemory"} & set(cache):
        _drop(spec, "kvCache")
    elif "volume" not in cache:
        _drop(cache, "persistence", "scope", "manualSlots")
    elif cache.get("scope") == "Shared":
        if template := cache["volume"].get("claimTemplate"):
            template["accessModes"] = ["ReadWriteMany"]
        if "emptyDir" in cache["volume"]:
            cache["scope"] = "Replica"


def _ruled_engine(engine: dict[str, Any], gpu: dict[str, Any] | None) -> None:
    if extend := engine.get("selfExtend"):
        extend["width"] = extend["factor"] * max(1, extend["width"] // 1024)
    if gpu is None:
        _drop(engine, "tensorSplit")
        return
    if "resourceName" in gpu:
        _drop(gpu, "resourceClaims")
    if "tensorSplit" in engine and "resourceClaims" not in gpu:
        engine["tensorSplit"] = engine["tensorSplit"][: gpu.get("count", 1)]


def _drop(values: dict[str, Any], *names: str) -> None:
    for name in names:
        values.pop(name, None)
