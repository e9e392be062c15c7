"""Properties that hold for every spec that the API server accepts."""

import json
import re
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from llamaserver_operator import kinds, names
from llamaserver_operator.errors import InvalidSpec
from llamaserver_operator.kinds import kind_of
from llamaserver_operator.parsing import parse
from llamaserver_operator.plan import Plan, make_plan
from llamaserver_operator.rollout import is_complete
from llamaserver_operator.spec import Spec
from llamaserver_operator.status import status_of
from llamaserver_operator.view import View

from tests.support.operator.random_specs import specs
from tests.support.operator.schema import SPEC, defaulted, errors
from tests.support.operator.worlds import CONFIG, NEWER, RWO, RWX, UID, children, deployment, owner, settled, world

Raw = dict[str, Any]
relaxed = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)
MODES = st.sampled_from([RWO, RWX])


def planned(spec: Spec, **more: Any) -> Plan:
    """The plan on claims that all replicas can share."""
    return make_plan(spec, world(spec, [RWX], **more), CONFIG)


def shareable(raw: Raw) -> Raw:
    """The spec with claims that all replicas can share, so that any number of replicas is accepted."""
    for volume in (raw["model"].get("cache"), (raw.get("kvCache") or {}).get("volume")):
        if volume and "claimTemplate" in volume:
            volume["claimTemplate"]["accessModes"] = [RWX]
    return raw


SHAREABLE = specs().map(shareable)


@given(specs())
@relaxed
def test_random_specs_are_valid_and_read(raw: Raw):
    assert errors(raw) == []
    assert parse(raw) == parse(defaulted(raw))


def test_random_specs_reach_everywhere():
    """Every field of the first two levels is drawn. Otherwise the other properties would prove little."""
    seen: Counter[str] = Counter()

    @given(specs())
    @settings(relaxed, max_examples=400, phases=[Phase.generate], derandomize=True, database=None)
    def draw(raw: Raw) -> None:
        seen.update(f"{name}.{inner}" for name, value in raw.items() if isinstance(value, dict) for inner in value)
        seen.update(list(raw))

    draw()
    wanted = set(SPEC["properties"])
    wanted |= {f"{name}.{inner}" for name, node in SPEC["properties"].items() for inner in node.get("properties", {})}
    assert wanted - set(seen) == set()


@given(SHAREABLE, st.booleans())
@relaxed
def test_a_plan_carried_out_is_planned_again_the_same(raw: Raw, monitors: bool):
    spec = parse(raw)
    first = planned(spec, monitors=monitors)
    observed = replace(world(spec, [RWX], monitors=monitors), children=children(first))
    second = make_plan(spec, observed, CONFIG)
    assert second.apply == first.apply
    assert (second.delete, second.costs, second.waits) == ((), None, False)


@given(SHAREABLE)
@relaxed
def test_a_newer_operator_restarts_no_pod_unless_asked_to(raw: Raw):
    spec = parse(raw)
    first = planned(spec)
    observed = replace(world(spec, [RWX]), children=children(first))
    template = deployment(make_plan(parse(defaulted(raw)), observed, NEWER))["spec"]["template"]
    if spec.rollout.upgrade_policy == "Pinned":
        assert template == deployment(first)["spec"]["template"]
    else:
        fresh = make_plan(spec, world(spec, [RWX]), NEWER)
        assert template == deployment(fresh)["spec"]["template"]


@given(SHAREABLE, SHAREABLE)
@relaxed
def test_after_an_edit_the_pods_are_what_the_new_spec_makes(before: Raw, after: Raw):
    """The history of an object decides only the pinned image and the size of a claim."""
    spec = parse(after)
    observed = replace(world(spec, [RWX]), children=children(planned(parse(before))))
    edited, grown = make_plan(spec, observed, CONFIG), (kinds.DEPLOYMENT, kinds.CLAIM)
    assume("ClaimConflict" not in [problem.reason for problem in edited.problems])
    assert deployment(edited)["spec"]["template"] == deployment(planned(spec))["spec"]["template"]
    others = [[item for item in plan.apply if kind_of(item) not in grown] for plan in (edited, planned(spec))]
    assert others[0] == others[1]


@given(SHAREABLE, SHAREABLE)
@relaxed
def test_after_an_edit_nothing_stays_that_is_not_wanted(before: Raw, after: Raw):
    old, spec = parse(before), parse(after)
    have = children(planned(old))
    observed = replace(world(spec, [RWX]), children=have)
    plan = make_plan(spec, observed, CONFIG)
    assume("ClaimConflict" not in [problem.reason for problem in plan.problems])
    done = replace(observed, children={**have, kinds.DEPLOYMENT: [settled(deployment(plan))]})
    assert is_complete(spec, done)
    gone = {(item["kind"], item["metadata"]["name"]) for item in make_plan(spec, done, CONFIG).delete}
    wanted = {(item["kind"], item["metadata"]["name"]) for item in plan.apply}
    owned = [item for items in have.values() for item in items if "ownerReferences" in item["metadata"]]
    assert gone == {(item["kind"], item["metadata"]["name"]) for item in owned} - wanted
    early = {item["metadata"]["name"] for item in plan.delete if kind_of(item) in (kinds.CLAIM, kinds.CONFIG_MAP)}
    mounted = list(values(deployment(planned(old))["spec"]["template"]["spec"]["volumes"]))
    assert [name for name in early if name in mounted] == [], "old pods may still use it"


@given(SHAREABLE)
@relaxed
def test_manifests_are_well_formed(raw: Raw):
    spec = parse(raw)
    for item in planned(spec).apply:
        kind_of(item)
        assert json.loads(json.dumps(item)) == item, "plain JSON"
        assert None not in list(values(item))
        about = item["metadata"]
        assert about["namespace"] == "models"
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", about["name"])
        assert about["labels"].items() >= names.labels("demo").items()
        owners = [reference["uid"] for reference in about.get("ownerReferences", ())]
        assert owners == [UID] or (item["kind"] == "PersistentVolumeClaim" and not owners)


@given(SHAREABLE)
@relaxed
def test_pods_are_well_formed(raw: Raw):
    spec = parse(raw)
    manifest = deployment(planned(spec))
    template = manifest["spec"]["template"]
    pod = template["spec"]
    assert template["metadata"]["labels"].items() >= manifest["spec"]["selector"]["matchLabels"].items()
    assert manifest["spec"]["selector"]["matchLabels"] == names.selector("demo")
    volumes = [item["name"] for item in pod["volumes"]]
    assert len(volumes) == len(set(volumes))
    ours = {item["name"] for item in spec.pod_template.volume_mounts}
    for container in [*pod["containers"], *pod.get("initContainers", ())]:
        assert {item["name"] for item in container["volumeMounts"]} - ours <= set(volumes)
        assert all(isinstance(word, str) and word for word in container["args"])
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"]
        assert not security["allowPrivilegeEscalation"]
        assert security["capabilities"] == {"drop": ["ALL"]}
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["terminationGracePeriodSeconds"] > spec.rollout.drain_timeout_seconds
    assert "hostPath" not in json.dumps(pod["volumes"])


@given(SHAREABLE)
@relaxed
def test_a_status_is_valid_and_told_once(raw: Raw):
    spec = parse(raw)
    observed = world(spec, [RWX])
    problems = make_plan(spec, observed, CONFIG).problems
    first = status_of(View(spec, observed, problems, datetime(2026, 1, 1, tzinfo=UTC)))
    again = replace(observed, owner=owner(status=first))
    assert status_of(View(spec, again, problems, datetime(2027, 1, 1, tzinfo=UTC))) == first


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=4), lambda inner: st.lists(
    inner, max_size=3) | st.dictionaries(st.sampled_from([*SPEC["properties"], "source", "http", "url"]), inner),
    max_leaves=12))  # fmt: skip
@relaxed
def test_nonsense_is_refused_with_the_field_or_read(raw: Any):
    try:
        parse(raw)
    except InvalidSpec as error:
        assert re.match(r"spec[.\[:]", str(error))


def values(item: Any) -> Any:
    """Every value in a manifest."""
    yield item
    for inner in item.values() if isinstance(item, dict) else item if isinstance(item, list) else ():
        yield from values(inner)


@pytest.mark.parametrize("kind", ["huggingFace", "http", "persistentVolumeClaim", "image"])
def test_random_sources_are_of_every_kind(kind: str):
    @given(specs().filter(lambda raw: kind in raw["model"]["source"]))
    @settings(relaxed, max_examples=5)
    def draw(raw: Raw) -> None:
        assert planned(parse(shareable(raw))).apply

    draw()
