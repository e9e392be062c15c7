"""The LlamaServer schema as data: its fields, its defaults, and values at paths.

A path is a tuple of names; "[]" is an item of a list.
"""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path as File
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import yaml

Node = dict[str, Any]
Path = tuple[str, ...]

ROOT = File(__file__).parents[3]
CRD: Node = yaml.safe_load((ROOT / "crds" / "llamaservers.yaml").read_text(encoding="utf-8"))
SPEC: Node = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]


def leaves(node: Node = SPEC, path: Path = ()) -> Iterator[tuple[Path, Node]]:
    """Every field that holds a value: no object with properties of its own, and no list of such."""
    if "properties" in node:
        for name, child in node["properties"].items():
            yield from leaves(child, (*path, name))
    elif "properties" in node.get("items", {}):
        yield from leaves(node["items"], (*path, "[]"))
    else:
        yield path, node


LEAVES: dict[Path, Node] = dict(leaves())


def text(path: Path) -> str:
    """A path as people write it."""
    return ".".join(path).replace(".[]", "[]")


def path_of(words: str) -> Path:
    """The path of a text made by `text`."""
    return tuple(words.replace("[]", ".[]").split("."))


def get(spec: Any, path: Path) -> Any:
    """The value at a path, of the first list items that have it; None when there is none."""
    if not path:
        return spec
    if path[0] == "[]":
        found = (get(item, path[1:]) for item in spec if isinstance(spec, list))
        return next((item for item in found if item is not None), None)
    return get(spec[path[0]], path[1:]) if isinstance(spec, dict) and path[0] in spec else None


def put(spec: Any, path: Path, value: Any) -> Any:
    """A copy with another value there, where `get` finds one."""
    if not path:
        return deepcopy(value)
    if path[0] == "[]":
        at = next(i for i, item in enumerate(spec) if get(item, path[1:]) is not None)
        return [put(item, path[1:], value) if i == at else item for i, item in enumerate(spec)]
    return {**spec, path[0]: put(spec.get(path[0], {}), path[1:], value)}


def defaulted(value: Any, node: Node = SPEC) -> Any:
    """The value with the defaults of the schema added, as the API server does."""
    if isinstance(value, list):
        return [defaulted(item, node.get("items", {})) for item in value]
    if not isinstance(value, dict):
        return value
    filled = dict(value)
    for name, child in node.get("properties", {}).items():
        if name not in filled and "default" in child:
            filled[name] = deepcopy(child["default"])
        if name in filled:
            filled[name] = defaulted(filled[name], child)
    return filled


def errors(spec: Any) -> list[str]:
    """The errors of a spec by the schema, without its CEL rules."""
    found = jsonschema.Draft202012Validator(SPEC).iter_errors(spec)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in found]
