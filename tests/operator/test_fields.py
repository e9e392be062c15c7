"""Every field of the schema has an effect, and restarts the pods only if it should."""

from dataclasses import replace
from typing import Any

import pytest
from llamaserver_operator import kinds
from llamaserver_operator.parsing import parse
from llamaserver_operator.plan import make_plan
from llamaserver_operator.resources import template as template_module

from tests.support.operator.schema import LEAVES, SPEC, Node, Path, defaulted, errors, get, path_of, text
from tests.support.operator.specs import BASES, variants
from tests.support.operator.worlds import CONFIG, NEWER, RWO, RWX, children, deployment, world

# Fields without which nothing would be another.
NO_EFFECT = {
    "loraAdapters[].name": "the key by which kubectl and server-side apply merge the list",
    "podTemplate.volumes[].hostPath": "it is there to be refused",
    "podTemplate.volumes[].projected.sources[].serviceAccountToken": "likewise",
}
# Fields that the pods do not depend on: changing them touches no template, whatever operator does it.
NEVER_ROLLS = {
    "model.cache.claimTemplate.size",
    "model.cache.claimTemplate.storageClassName",
    "model.cache.claimTemplate.accessModes",
    "model.cache.retentionPolicy",
    "replicas",
    "kvCache.scope",
    "kvCache.volume.claimTemplate.size",
    "kvCache.volume.claimTemplate.storageClassName",
    "kvCache.volume.claimTemplate.accessModes",
    "kvCache.volume.retentionPolicy",
    "rollout.strategy",
    "rollout.progressDeadlineSeconds",
    "rollout.upgradePolicy",
    "serving.port",
    "serving.serviceType",
    "security.networkPolicy.mode",
    "security.networkPolicy.egress",
    "security.networkPolicy.from[].podSelector.matchLabels",
    "security.networkPolicy.from[].podSelector.matchExpressions[].key",
    "security.networkPolicy.from[].podSelector.matchExpressions[].operator",
    "security.networkPolicy.from[].podSelector.matchExpressions[].values",
    "security.networkPolicy.from[].namespaceSelector.matchLabels",
    "security.networkPolicy.from[].namespaceSelector.matchExpressions[].key",
    "security.networkPolicy.from[].namespaceSelector.matchExpressions[].operator",
    "security.networkPolicy.from[].namespaceSelector.matchExpressions[].values",
    "security.networkPolicy.from[].ipBlock.cidr",
    "security.networkPolicy.from[].ipBlock.except",
    "observability.serviceMonitor",
    "observability.labels",
}
FIELDS = [path for path in LEAVES if text(path) not in NO_EFFECT]


def plans(raw: dict[str, Any]) -> list[object]:
    """The plans for a spec: with and without ServiceMonitors, and after an upgrade of the operator."""
    spec = parse(raw)
    first = make_plan(spec, world(spec), CONFIG)
    # as an older operator left it, with a simple spec
    old = parse({**BASES[-1], "rollout": {"upgradePolicy": "Pinned"}})
    after = replace(world(spec), children=children(make_plan(old, world(old), CONFIG)))
    same = replace(world(spec), children=children(make_plan(pinned(raw), world(spec), CONFIG)))
    others = (world(spec, monitors=False), world(spec, [RWX]), after)
    return [first, *(make_plan(spec, other, CONFIG) for other in others), make_plan(spec, same, NEWER)]


def pinned(raw: dict[str, Any]) -> Any:
    return parse({**raw, "rollout": {**raw.get("rollout", {}), "upgradePolicy": "Pinned"}})


def test_the_lists_name_fields_that_exist():
    assert {path_of(words) for words in NO_EFFECT.keys() | NEVER_ROLLS} <= LEAVES.keys()
    assert len(LEAVES) > 100


def test_the_samples_are_valid_and_set_every_field():
    assert [errors(base) for base in BASES] == [[]] * len(BASES)
    for path in LEAVES:
        if LEAVES[path].get("description") != "Refused.":
            assert any(get(base, path) is not None for base in BASES), f"no sample sets {text(path)}"


@pytest.mark.parametrize("path", FIELDS, ids=text)
def test_every_value_of_a_field_has_an_effect(path: Path):
    """Each other value changes the plan of at least one sample."""
    seen: dict[str, bool] = {}
    for base, changed in variants(path):
        value = repr(get(changed, path))
        seen[value] = seen.get(value, False) or plans(base) != plans(changed)
    assert seen
    assert [value for value, effective in seen.items() if not effective] == []


@pytest.mark.parametrize("path", FIELDS, ids=text)
def test_a_field_rolls_the_pods_or_not(path: Path, monkeypatch: pytest.MonkeyPatch):
    rolled: list[bool] = []
    for base, changed in variants(path):
        before, after = parse(base), parse(changed)
        first = make_plan(before, world(before, [RWX]), CONFIG)
        # A claim that is there already may stand against another class or mode; no pod depends on that.
        made = {kind: items for kind, items in children(first).items() if kind != kinds.CLAIM}
        second = make_plan(after, replace(world(after, [RWX]), children=made), CONFIG)
        if [problem for problem in second.problems if problem.blocking]:
            continue  # replicas on a claim of one node: nothing is applied
        rolled.append(deployment(first)["spec"]["template"] != deployment(second)["spec"]["template"])
        if text(path) in NEVER_ROLLS and after.rollout.upgrade_policy == "Pinned":
            with monkeypatch.context() as patch:
                patch.setattr(template_module, "pod_template", _another_renderer)
                third = make_plan(after, replace(world(after, [RWX]), children=made), NEWER)
            assert deployment(third)["spec"]["template"] == deployment(first)["spec"]["template"]
    assert rolled
    assert any(rolled) != (text(path) in NEVER_ROLLS)


def _another_renderer(*args: object) -> dict[str, Any]:
    return {"metadata": {"labels": {"renderer": "another"}}, "spec": {}}


@pytest.mark.parametrize("path", [path for path in FIELDS if "default" in LEAVES[path]], ids=text)
def test_a_default_is_the_same_left_out_and_written_out(path: Path):
    """The defaults of the operator are those of the schema, in the spec and in the hash of the template."""
    differed = 0
    for base in BASES:
        bare = without(base, path)
        full = filled(bare, path)
        differed += bare != full
        assert parse(bare) == parse(full), f"the schema's default of {text(path)} is not the operator's"
    assert differed


def without(spec: Any, path: Path) -> Any:
    """A copy without a field."""
    if path[0] == "[]":
        return [without(item, path[1:]) for item in spec]
    if path[0] not in spec:
        return spec
    if len(path) == 1:
        return {key: value for key, value in spec.items() if key != path[0]}
    return {**spec, path[0]: without(spec[path[0]], path[1:])}


def filled(spec: Any, path: Path, node: Node = SPEC) -> Any:
    """A copy with one field at the default of the schema, if its parent is set or {} by default."""
    if path[0] == "[]":
        return [filled(item, path[1:], node["items"]) for item in spec]
    child = node["properties"][path[0]]
    if len(path) == 1:
        return {**spec, path[0]: child["default"]}
    inside = spec.get(path[0], child.get("default"))
    return spec if inside is None else {**spec, path[0]: filled(inside, path[1:], child)}


def test_no_field_at_its_default_enters_the_hash():
    """All defaults at once, as an API server with a newer schema writes them out."""
    for base in BASES:
        bare, full = parse(base), parse(defaulted(base))
        assert bare == full
        plan = make_plan(bare, world(bare), CONFIG)
        observed = replace(world(full), children=children(plan))
        assert make_plan(full, observed, CONFIG).apply == plan.apply


def test_every_child_that_there_can_be_is_made_by_some_sample():
    made = {item["kind"] for base in BASES for item in make_plan(parse(base), world(parse(base)), CONFIG).apply}
    assert made == {kind.kind for kind in kinds.CHILDREN} - {kinds.POD.kind}


def test_the_access_mode_changes_the_strategy():
    """The sample replaces in place on ReadWriteOnce claims, and surges on ReadWriteMany claims."""
    spec = parse(BASES[1])
    surge = [
        deployment(make_plan(spec, world(spec, [modes]), CONFIG))["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
        for modes in (RWO, RWX)
    ]
    assert surge == [0, 1]
