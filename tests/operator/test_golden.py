"""Complete manifests of the examples. Every change of them shows in golden/.

REFRESH_GOLDEN=1 writes the files anew; the difference then belongs to the commit.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from llamaserver_operator import names
from llamaserver_operator.parsing import parse
from llamaserver_operator.plan import make_plan

from tests.support.operator.schema import ROOT, defaulted
from tests.support.operator.worlds import CONFIG, owner, world

GOLDEN = Path(__file__).with_name("golden")
EXAMPLES = ["smollm2", "gpu", "secured", "shared", "kv-cache", "thinking"]


def rendered(name: str) -> list[dict[str, Any]]:
    """What is applied for an example. The recorded template is compared and left out."""
    manifest = yaml.safe_load((ROOT / "examples" / f"{name}.yaml").read_text(encoding="utf-8"))
    spec = parse(defaulted(manifest["spec"]))
    plan = make_plan(spec, world(spec, owner=owner(manifest["metadata"]["name"])), CONFIG)
    assert not plan.problems
    for item in plan.apply:
        if record := item["metadata"].get("annotations", {}).pop(names.TEMPLATE_ANNOTATION, None):
            assert json.loads(record)["template"] == item["spec"]["template"]
    return list(plan.apply)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_manifests_of_an_example(name: str):
    file, made = GOLDEN / f"{name}.yaml", rendered(name)
    if os.environ.get("REFRESH_GOLDEN"):
        file.write_text(yaml.dump_all(json.loads(json.dumps(made)), sort_keys=False, width=120), encoding="utf-8")
    kept = list(yaml.safe_load_all(file.read_text(encoding="utf-8")))
    assert made == kept, "REFRESH_GOLDEN=1 makes the files anew"


def test_no_file_is_left_over():
    assert {path.stem for path in GOLDEN.glob("*.yaml")} == set(EXAMPLES)
