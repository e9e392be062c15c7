"""The reference page of the custom resource, made from its CRD."""

import json
from collections.abc import Iterator
from typing import Any

import yaml

Node = dict[str, Any]

_HEAD = """# LlamaServer

The fields of a `{kind}` object, `apiVersion: {group}/{version}`. Made from `crds/llamaservers.yaml` by `make generate`.

`kubectl explain {singular}.spec` shows the same fields. The API server checks all constraints when you apply an object.
In the name of a field, `[]` stands for an item of a list.
"""
_TABLE = "| field | type | default | constraints | description |\n|---|---|---|---|---|"


def markdown(crd: str) -> str:
    """The page, from the text of a CRD."""
    spec = yaml.safe_load(crd)["spec"]
    version = spec["versions"][0]
    schema = version["schema"]["openAPIV3Schema"]
    names = spec["names"]
    about = {"group": spec["group"], "version": version["name"], "kind": names["kind"], "singular": names["singular"]}
    parts = [_HEAD.format(**about), schema["description"], *_rules_of("metadata", schema)]
    parts += _part("spec", schema["properties"]["spec"])
    parts += _part("status", schema["properties"]["status"])
    return "\n".join([*parts, *_columns(version["additionalPrinterColumns"])]) + "\n"


def _part(name: str, node: Node) -> Iterator[str]:
    """A table of the plain fields, then one for each field that has fields."""
    yield f"\n## {name}\n\n{node['description']}"
    yield from _rules_of(name, node)
    required = node.get("required", ())
    plain = {field: child for field, child in node["properties"].items() if not _deep(child)}
    if plain:
        yield f"\n{_TABLE}"
        for field, child in plain.items():
            yield from _rows(f"{name}.{field}", child, required=field in required)
    for field, child in node["properties"].items():
        if _deep(child):
            yield f"\n### {name}.{field}\n\n{_TABLE}"
            yield from _rows(f"{name}.{field}", child, required=field in required)


def _deep(node: Node) -> bool:
    return "properties" in node or "properties" in node.get("items", {})


def _rules_of(name: str, node: Node) -> list[str]:
    messages = _messages(node)
    return [f"\nRules of `{name}` as a whole:\n", *(f"- {message}" for message in messages)] if messages else []


def _rows(path: str, node: Node, *, required: bool = False) -> Iterator[str]:
    """The row of a field, then those of the fields in it."""
    cells = [f"`{path}`", _type(node), _default(node), "; ".join(_constraints(node, required)), _text(node)]
    yield f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"
    inner, prefix = (node["items"], f"{path}[]") if "items" in node else (node, path)
    for name, child in inner.get("properties", {}).items():
        yield from _rows(f"{prefix}.{name}", child, required=name in inner.get("required", ()))


def _text(node: Node) -> str:
    return " ".join(str(node.get("description", "")).split())


def _type(node: Node) -> str:
    if node.get("x-kubernetes-int-or-string"):
        return "integer or string"
    if "items" in node:
        item = node["items"]
        return "list of objects" if item.get("type") == "object" else f"list of {_type(item)}s"
    if "additionalProperties" in node:
        return f"map of {_type(node['additionalProperties'])}s"
    return f"{node['type']} ({node['format']})" if node.get("format") == "date-time" else str(node["type"])


def _default(node: Node) -> str:
    return f"`{json.dumps(node['default'])}`" if "default" in node else ""


def _constraints(node: Node, required: bool = False) -> Iterator[str]:
    if required:
        yield "required"
    if "enum" in node:
        yield "one of " + ", ".join(f"`{value}`" for value in node["enum"])
    yield from _range(node, "minimum", "maximum", "")
    yield from _range(node, "minLength", "maxLength", " characters")
    yield from _range(node, "minItems", "maxItems", " items")
    yield from _range(node, "minProperties", "maxProperties", " entries")
    if "pattern" in node:
        yield f"matches `{node['pattern']}`"
    if node.get("x-kubernetes-list-type") == "map":
        yield f"unique {', '.join(node['x-kubernetes-list-map-keys'])}"
    if node.get("x-kubernetes-list-type") == "set":
        yield "unique items"
    yield from _messages(node)
    for what, inner in (("items", node.get("items")), ("values", node.get("additionalProperties"))):
        if inner and (found := list(_constraints(inner))):
            yield f"{what}: {', '.join(found)}"


def _range(node: Node, low: str, high: str, unit: str) -> Iterator[str]:
    least, most = node.get(low), node.get(high)
    if least is not None and most is not None:
        yield f"{least} to {most}{unit}"
    elif most is not None:
        yield f"at most {most}{unit}"
    elif least is not None:
        yield f"at least {least}{unit}"


def _messages(node: Node) -> list[str]:
    return [" ".join(str(rule["message"]).split()) for rule in node.get("x-kubernetes-validations", ())]


def _columns(columns: list[Node]) -> Iterator[str]:
    yield "\n## Columns of `kubectl get`\n\nThose of priority 1 are shown with `-o wide`.\n"
    yield "| column | field | priority |\n|---|---|---|"
    for column in columns:
        path = column["jsonPath"].lstrip(".").replace("|", "&#124;")
        yield f"| {column['name']} | `{path}` | {column.get('priority', 0)} |"
