"""The CRD as text: described, bounded, small, and consistent with the operator."""

import json
from collections.abc import Iterator
from typing import Any

import yaml
from llamaserver_operator import names
from llamaserver_operator.files import model_files
from llamaserver_operator.parsing import parse
from llamaserver_operator.resources.volumes import pod_volumes

from tests.support.cluster.helm import ROOT

CRD: dict[str, Any] = yaml.safe_load((ROOT / "crds" / "llamaservers.yaml").read_text())
(SERVED,) = CRD["spec"]["versions"]
SCHEMA: dict[str, Any] = SERVED["schema"]["openAPIV3Schema"]
PASSED_THROUGH = "x-kubernetes-preserve-unknown-fields"


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        if (path, name) != ("", "metadata"):  # Kubernetes' own
            yield from nodes(child, f"{path}.{name}")
    for key, mark in (("items", "[]"), ("additionalProperties", "{}")):
        if isinstance(schema.get(key), dict):
            yield from nodes(schema[key], f"{path}{mark}")


def test_group_version_and_kind_are_the_operators():
    assert CRD["spec"]["group"] == names.GROUP
    assert SERVED["name"] == names.VERSION
    assert CRD["spec"]["names"]["kind"] == names.KIND


def test_every_field_has_a_description():
    found = list(nodes(SCHEMA))
    assert len(found) > 200
    missing = [path for path, node in found if not path.endswith(("[]", "{}")) and not node.get("description")]
    assert missing == []


def test_every_description_is_a_sentence():
    texts = {path: node["description"] for path, node in nodes(SCHEMA) if "description" in node}
    assert [path for path, text in texts.items() if not text.endswith(".") or not text[0].isupper()] == []


def test_what_users_write_is_bounded():
    """The cost budget of CEL assumes the largest possible value of each field."""
    free = []
    for path, node in nodes(SCHEMA["properties"]["spec"], "spec"):
        kind = node.get("type")
        bounded = (
            "maxLength" in node or "enum" in node or node.get("pattern", "").endswith("{64}$")
            if kind == "string"
            else "maxItems" in node
            if kind == "array"
            else "maxProperties" in node
            if "additionalProperties" in node
            else True
        )
        if not bounded:
            free.append(path)
    assert free == []


def test_lists_say_how_they_merge():
    lists = [(path, node) for path, node in nodes(SCHEMA) if node.get("type") == "array"]
    assert len(lists) > 15
    assert [path for path, node in lists if "x-kubernetes-list-type" not in node] == []


def test_it_is_small():
    assert len(json.dumps(CRD).encode()) < 64 * 1024


def test_the_schema_has_no_stray_keys():
    """A comma in an unquoted text of a flow mapping starts a new key. The API server drops it without an error."""
    known = {
        *("description", "type", "properties", "items", "required", "default", "enum", "format", "pattern", "anyOf"),
        *("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"),
        *("additionalProperties", PASSED_THROUGH, "x-kubernetes-int-or-string", "x-kubernetes-validations"),
        *("x-kubernetes-list-type", "x-kubernetes-list-map-keys"),
    }
    assert {key for _, node in nodes(SCHEMA) for key in node} <= known


def test_reserved_volume_names_are_those_of_the_operator():
    """An object that uses every volume."""
    downloads = {"model": {"source": {"http": {"url": "http://models.example/m.gguf"}}}}
    claim = {"persistentVolumeClaim": {"claimName": "models", "path": "l.gguf"}}
    given = {
        **downloads,
        "loraAdapters": [{"name": "a", "source": claim}],
        "chatTemplate": {"inline": "text"},
        "kvCache": {"persistence": "Continuous", "volume": {"emptyDir": {}}, "integritySecretRef": {"name": "kv"}},
        "security": {"apiKeysSecretRef": {"name": "keys"}, "tls": {"secretName": "tls"}},
    }
    parsed = parse(given)
    made = {volume["name"] for volume in pod_volumes(parsed, model_files(parsed), "demo").volumes}
    volumes = SCHEMA["properties"]["spec"]["properties"]["podTemplate"]["properties"]["volumes"]["items"]
    (rule,) = [each["rule"] for each in volumes["x-kubernetes-validations"] if "self.name in" in each["rule"]]
    listed = {item.strip().strip("'") for item in rule.partition(" in [")[2].partition("]")[0].split(",")}
    assert {name for name in made if not name.startswith("source-")} == listed
    assert made - listed == {"source-1"}
