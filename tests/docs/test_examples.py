"""Every LlamaServer in a document is one that the API server and the operator take."""

import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import yaml
from llamaserver_operator.parsing import parse

from tests.support.operator.schema import ROOT, SPEC, defaulted

FENCE = re.compile(r"^(?P<indent> *)```yaml\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "charts").rglob("*.md")])


def closed(node: Any) -> Any:
    """The schema, but unknown fields are refused, as `kubectl apply` refuses them."""
    if isinstance(node, list):
        return [closed(item) for item in node]
    if not isinstance(node, dict):
        return node
    made = {key: closed(value) for key, value in node.items()}
    opened = "additionalProperties" in node or node.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(node.get("properties"), dict) and node.get("type") == "object" and not opened:
        made["additionalProperties"] = False
    return made


STRICT = jsonschema.Draft202012Validator(closed(SPEC))


def objects() -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each LlamaServer of the documents and the examples stands, and itself."""
    texts = [
        (f"{path.relative_to(ROOT)}:{path.read_text()[: found.start()].count(chr(10)) + 1}", found["text"])
        for path in DOCUMENTS
        for found in FENCE.finditer(path.read_text())
    ]
    texts += [(f"examples/{path.name}", path.read_text()) for path in sorted((ROOT / "examples").glob("*.yaml"))]
    for place, text in texts:
        for item in yaml.safe_load_all(text):
            if isinstance(item, dict) and item.get("kind") == "LlamaServer":
                yield place, item


FOUND = list(objects())


def test_the_documents_have_examples() -> None:
    pages = {place.partition(":")[0] for place, _ in FOUND}
    guides = {f"docs/how-to/{path.name}" for path in (ROOT / "docs" / "how-to").glob("*.md")}
    without = ("index", "addresses", "chat-page", "json-schemas", "uninstall")
    assert guides - pages == {f"docs/how-to/{name}.md" for name in without}
    assert {"README.md", "docs/quick-start.md"} <= pages


@pytest.mark.parametrize(("place", "item"), FOUND, ids=[f"{place} {item['metadata']['name']}" for place, item in FOUND])
def test_an_example_fits_the_schema(place: str, item: dict[str, Any]) -> None:
    assert item["apiVersion"] == "llamaserver.dev/v1alpha1"
    assert [f"{error.json_path}: {error.message}" for error in STRICT.iter_errors(item["spec"])] == []
    parse(defaulted(item["spec"]))


def test_a_misspelt_field_is_found() -> None:
    wrong = {"model": {"source": {"http": {"url": "http://models.example/m.gguf"}}}, "engine": {"gpuLayer": 3}}
    assert [error.message for error in STRICT.iter_errors(wrong)] == [
        "Additional properties are not allowed ('gpuLayer' was unexpected)"
    ]
