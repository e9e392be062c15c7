"""Parsing a spec: errors name the field, and values follow from fields."""

import re
from typing import Any

import pytest
from llamaserver_operator.errors import InvalidSpec
from llamaserver_operator.parsing import parse
from llamaserver_operator.quantity import bytes_of
from llamaserver_operator.spec import given

from tests.support.operator.schema import LEAVES, Path, get, path_of, put, text
from tests.support.operator.specs import BASES

Raw = dict[str, Any]
HTTP: Raw = {"http": {"url": "http://models.example/model.gguf"}}
PLAIN: Raw = {"model": {"source": HTTP}}
HUB: Raw = {"huggingFace": {"repo": "a/b", "file": "m.gguf"}}

# A change of the plain spec, and the error.
WRONG = [
    ({"model": None}, "spec.model: Expected `object`, got `null`"),
    ({"model": {}}, "spec.model: Object missing required field `source`"),
    ({"model": {"source": {}}}, "spec.model.source: set exactly one of huggingFace, http, persistentVolumeClaim"),
    ({"model": {"source": {**HTTP, **HUB}}}, "spec.model.source: set exactly one of"),
    ({"model": {"source": {"http": {}}}}, "spec.model.source.http: Object missing required field `url`"),
    ({"model": {"source": HTTP, "cache": {}}}, "spec.model.cache: set exactly one of claimName and claimTemplate"),
    (
        {"model": {"source": HTTP, "cache": {"claimName": "a", "claimTemplate": {"size": "1"}}}},
        "spec.model.cache: set exactly one of claimName and claimTemplate",
    ),
    ({"context": {"slots": 0}}, "spec.context.slots: Expected `int` >= 1"),
    ({"context": {"slots": "4"}}, "spec.context.slots: Expected `int`, got `str`"),
    ({"model": {"source": HTTP, "alias": "a\0"}}, "spec.model.alias: contains a NUL character"),
    (
        {"podTemplate": {"env": [{"name": "A", "value": "\0"}]}},
        "spec.podTemplate.env[0].value: contains a NUL character",
    ),
    ({"podTemplate": {"labels": {"a\0b": "c"}}}, "spec.podTemplate.labels: contains a NUL character"),
    ({"replicas": -1}, "spec.replicas: Expected `int` >= 0"),
    ({"chatTemplate": {}}, "spec.chatTemplate: set exactly one of inline and configMapKeyRef"),
    (
        {"systemPrompt": {"inline": "a", "configMapKeyRef": {"name": "a", "key": "b"}}},
        "spec.systemPrompt: set exactly one of inline and configMapKeyRef",
    ),
    (
        {"chat": {"reasoning": {"thinking": "Sometimes"}}},
        "spec.chat.reasoning.thinking: Invalid enum value 'Sometimes'",
    ),
    (
        {"chat": {"templateArguments": {"enable_thinking": "no"}}},
        "spec.chat.templateArguments.enable_thinking: must be true or false, not a string",
    ),
    (
        {"chat": {"templateArguments": {"a": "x" * 32768}}},
        "spec.chat.templateArguments: more than 32768 characters as JSON",
    ),
    ({"kvCache": {"volume": {}}}, "spec.kvCache.volume: set exactly one of claimName, claimTemplate and emptyDir"),
    ({"kvCache": {"volume": {"emptyDir": {}}, "maxSize": "lots"}}, "spec.kvCache.maxSize: "),
    ({"kvCache": {"hostMemory": "lots"}}, "spec.kvCache.hostMemory: "),
    ({"kvCache": {}}, "spec.kvCache: set volume, hostMemory or both"),
    ({"kvCache": {"hostMemory": "1Gi", "persistence": "OnShutdown"}}, "spec.kvCache: persistence needs a volume"),
    ({"accelerator": {"vendor": "Acme"}}, "spec.accelerator.vendor: Invalid enum value 'Acme'"),
    (
        {"accelerator": {"vendor": "AMD", "resourceClaims": [{"name": "a"}]}},
        "spec.accelerator.resourceClaims[0]: set exactly one of resourceClaimName and resourceClaimTemplateName",
    ),
    ({"engine": {"gpuLayers": "Some"}}, "spec.engine.gpuLayers: "),
    (
        {"loraAdapters": [{"name": "a", "source": {"http": {"url": "http://a/b,c.gguf"}}}]},
        "spec.loraAdapters[a].source: the path of an adapter must not contain a comma",
    ),
    (
        {"podTemplate": {"volumes": [{"name": "root", "hostPath": {"path": "/"}}]}},
        "spec.podTemplate.volumes[root].hostPath: hostPath is not allowed",
    ),
    (
        {"podTemplate": {"volumes": [{"name": "t", "projected": {"sources": [{"serviceAccountToken": {}}]}}]}},
        "spec.podTemplate.volumes[t].projected: ServiceAccount tokens are not allowed",
    ),
]


@pytest.mark.parametrize(("change", "message"), WRONG, ids=[message for _, message in WRONG])
def test_errors_name_the_field(change: Raw, message: str):
    """Objects that an older schema accepted. Today the API server refuses them."""
    with pytest.raises(InvalidSpec, match=re.escape(message)):
        parse({**PLAIN, **change})


def test_an_empty_spec_is_refused():
    with pytest.raises(InvalidSpec, match=r"^spec: Object missing required field `model`"):
        parse({})


def typed() -> list[Path]:
    """Fields with a type. Fields that are passed through may have any value."""
    passed_through = ("tolerations", "env", "volumes", "volumeMounts", "imagePullSecrets", "from")
    return [path for path in LEAVES if not set(path) & set(passed_through)]


@pytest.mark.parametrize("path", typed(), ids=text)
def test_a_value_of_another_type_is_refused_with_its_path(path: Path):
    base = next(base for base in BASES if get(base, path) is not None)
    wrong: Any = 7 if isinstance(get(base, path), str | list | dict) else {"not": "that"}
    if "x-kubernetes-int-or-string" in LEAVES[path]:
        wrong = [7]
    with pytest.raises(InvalidSpec) as told:
        parse(put(base, path, wrong))
    where = text(path).replace("[]", "[0]")
    assert str(told.value).startswith(f"spec.{where}: ")


def test_fields_of_a_newer_schema_are_left_alone():
    assert parse({**PLAIN, "newer": {"field": 1}}) == parse(PLAIN)


def test_given_leaves_out_defaults_and_keeps_the_rest():
    assert given(parse(PLAIN)) == {"model": {"source": {"http": {"url": HTTP["http"]["url"]}}}}
    raw = {**PLAIN, "engine": {"embeddings": {}, "threads": 0}, "kvCache": {"volume": {"emptyDir": {}}}}
    assert given(parse(raw)) == {
        **PLAIN, "engine": {"embeddings": {}}, "kvCache": {"volume": {"emptyDir": {}}},
    }  # fmt: skip
    peers = {"security": {"networkPolicy": {"from": [{"podSelector": {}}]}}}
    assert given(parse({**PLAIN, **peers})) == {**PLAIN, **peers}, "under the schema's names"


@pytest.mark.parametrize(
    ("accelerator", "resource"),
    [
        ({"vendor": "NVIDIA"}, "nvidia.com/gpu"),
        ({"vendor": "AMD"}, "amd.com/gpu"),
        ({"vendor": "Intel"}, "gpu.intel.com/i915"),
        ({"vendor": "NVIDIA", "resourceName": "nvidia.com/mig-1g.24gb"}, "nvidia.com/mig-1g.24gb"),
        ({"vendor": "NVIDIA", "resourceClaims": [{"name": "a", "resourceClaimName": "b"}]}, ""),
    ],
)
def test_what_an_accelerator_asks_for(accelerator: Raw, resource: str):
    found = parse({**PLAIN, "accelerator": accelerator}).accelerator
    assert found
    assert found.resource == resource


@pytest.mark.parametrize(
    ("quantity", "number"),
    [
        ("20Gi", 20 * 2**30), ("1.5k", 1500), ("1e3", 1000), ("1E", 10**18), ("100m", 1), ("1n", 1), (".5Gi", 2**29),
        ("+5", 5), ("1Ei", 2**60), ("7", 7),
    ],
)  # fmt: skip
def test_quantities_in_bytes(quantity: str, number: int):
    assert bytes_of(quantity) == number


@pytest.mark.parametrize("text", ["", "lots", "1GB", "0x10", "Gi"])
def test_a_wrong_quantity_is_refused(text: str):
    with pytest.raises(ValueError):
        bytes_of(text)


def test_every_typed_field_is_tried():
    assert path_of("context.slots") in typed()
    assert len(typed()) > 80
