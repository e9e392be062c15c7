"""Generated specs on a real API server, as dry runs: it admits them, and accepts the manifests made of them."""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from kubernetes import config
from llamaserver_operator.kinds import kind_of
from llamaserver_operator.parsing import parse
from llamaserver_operator.plan import make_plan

from tests.cluster.test_crd import Api, schema_served
from tests.support.operator.random_specs import specs
from tests.support.operator.schema import LEAVES, defaulted, text
from tests.support.operator.specs import BASES, variants
from tests.support.operator.worlds import CONFIG, RWX, owner, world

Manifest = dict[str, Any]
pytestmark = pytest.mark.cluster
quiet = settings(
    max_examples=60, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


NAMESPACE = f"generated-{uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def api(cluster) -> Iterator[Api]:
    with schema_served(cluster, NAMESPACE) as made:
        yield made


@pytest.fixture(scope="module")
def applies(cluster, api: Api) -> Iterator[Any]:
    """Server-side apply of one manifest, as the operator does it, as a dry run that refuses unknown fields."""
    query = [("fieldManager", "test"), ("force", "true"), ("dryRun", "All"), ("fieldValidation", "Strict")]
    with config.new_client_from_config(str(cluster.kubeconfig)) as kube:

        def apply(manifest: Manifest) -> None:
            about = manifest["metadata"]
            path = kind_of(manifest).path(about["namespace"], about["name"])
            headers = {"Content-Type": "application/apply-patch+yaml", "Accept": "application/json"}
            request = kube.param_serialize(
                "PATCH", path, query_params=query, header_params=headers, body=manifest, auth_settings=["BearerToken"]
            )
            answer = kube.call_api(*request)
            answer.read()
            assert answer.status in (200, 201), f"{manifest['kind']}: {answer.data.decode()}"

        yield lambda raw: [apply(item) for item in manifests(raw)]


def manifests(raw: Manifest) -> list[Manifest]:
    """What is applied for a spec where claims can be shared; there is no ServiceMonitor."""
    spec, mine = parse(raw), owner()
    mine["metadata"]["namespace"] = NAMESPACE
    plan = make_plan(spec, world(spec, [RWX], monitors=False, owner=mine), CONFIG)
    return list(plan.apply)


@given(raw=specs())
@quiet
def test_random_specs_are_admitted_and_defaulted_as_the_tests_think(api: Api, raw: Manifest):
    assert api.admitted(raw) == defaulted(raw)


@pytest.mark.parametrize("base", BASES, ids=lambda base: next(iter(base["model"]["source"])))
def test_samples_are_admitted_and_their_manifests_accepted(api: Api, applies: Any, base: Manifest):
    assert api.admitted(base) == defaulted(base)
    assert len(applies(base)) > 4


# What is passed through has rules of Kubernetes' own; the operator tells them as Invalid (test_conditions.py).
RULES_OF_KUBERNETES = {
    "security.networkPolicy.from[].podSelector.matchExpressions[].operator": "values go with In and NotIn only",
    "security.networkPolicy.from[].namespaceSelector.matchExpressions[].operator": "likewise",
    "podTemplate.tolerations[].operator": "a value goes with Equal only",
    "podTemplate.tolerations[].effect": "tolerationSeconds go with NoExecute only",
    "podTemplate.volumes[].name": "its mount names another volume",
    "podTemplate.volumeMounts[].name": "no such volume",
}


def test_every_value_of_every_field_gives_manifests_that_are_accepted(api: Api, applies: Any):
    tried, refused = 0, set()
    for path in LEAVES:
        for _, changed in variants(path):
            assert api.admitted(changed) == defaulted(changed)
            tried += 1
            try:
                applies(changed)
            except AssertionError:
                if text(path) not in RULES_OF_KUBERNETES:
                    raise
                refused.add(text(path))
    assert tried > 200
    assert refused == set(RULES_OF_KUBERNETES)
