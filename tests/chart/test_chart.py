"""The chart rendered by helm: its defaults as a snapshot, and what each value changes."""

import os
from pathlib import Path

import pytest
import yaml
from llamaserver_operator import config
from llamaserver_operator.parsing import parse

from dev.localcluster.binaries import Missing
from tests.support.cluster.helm import CHART, ROOT, Helm, HelmError, Object
from tests.support.lacking import lacking

GOLDEN = Path(__file__).parent / "golden" / "defaults.yaml"
NAMESPACED = {"watchNamespaces": ["team-a", "team-b"]}
SERVES_POLICIES = "--api-versions=admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy"
EVERYTHING = {
    "metrics": {"service": True, "serviceMonitor": True},
    "networkPolicy": {"enabled": True},
    **NAMESPACED,
}


@pytest.fixture(scope="module")
def helm() -> Helm:
    try:
        return Helm()
    except Missing as missing:
        lacking(f"NO HELM: {missing}")


def one(objects: list[Object], kind: str, name: str = "") -> Object:
    (found,) = [each for each in objects if each["kind"] == kind and name in ("", each["metadata"]["name"])]
    return found


def named(objects: list[Object], kind: str) -> list[str]:
    return sorted(each["metadata"]["name"] for each in objects if each["kind"] == kind)


def pod(objects: list[Object]) -> Object:
    return one(objects, "Deployment")["spec"]["template"]


def arguments(objects: list[Object]) -> list[str]:
    (container,) = pod(objects)["spec"]["containers"]
    return container["args"]


def parsed(objects: list[Object]) -> config.Config:
    return config.parse(arguments(objects), {"POD_NAME": "pod", "POD_NAMESPACE": "serving"})


def test_lint(helm):
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART))


def test_defaults_are_those_of_the_snapshot(helm):
    text = helm.template({"crds": {"install": False}}).replace(config.__version__, "VERSION")
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text(), f"UPDATE_GOLDEN=1 writes {GOLDEN.name} anew"


def test_the_default_objects(helm):
    objects = helm.objects()
    assert sorted(each["kind"] for each in objects) == [
        *["ClusterRole"] * 3,
        "ClusterRoleBinding",
        "CustomResourceDefinition",
        "Deployment",
        "Role",
        "RoleBinding",
        "ServiceAccount",
    ]


def test_one_object_a_file(helm):
    sources: dict[str, list[Object]] = {}
    for values in ({}, EVERYTHING):
        for part in helm.template(values, SERVES_POLICIES).split("\n---\n"):
            comment = next(line for line in part.splitlines() if line.startswith("# Source: "))
            sources.setdefault(comment, []).append(yaml.safe_load(part))
    templates = {path.name for path in (CHART / "templates").glob("*.yaml")}
    assert {source.rpartition("/")[2] for source in sources} == templates
    for source, objects in sources.items():
        assert len({(each["kind"], each["metadata"]["name"]) for each in objects}) == 1, source


def test_the_chart_renders_the_crd_of_crds(helm):
    canonical, copy = ROOT / "crds" / "llamaservers.yaml", CHART / "files" / "crd-llamaservers.yaml"
    assert copy.read_text() == canonical.read_text(), "make generate copies it"
    rendered, wanted = one(helm.objects(), "CustomResourceDefinition"), yaml.safe_load(canonical.read_text())
    assert rendered["spec"] == wanted["spec"]
    assert rendered["metadata"]["name"] == wanted["metadata"]["name"]
    assert rendered["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_the_admission_policy_is_made_where_it_is_served_unless_it_is_turned_off(helm):
    kind = "ValidatingAdmissionPolicy"
    policy = one(helm.objects({}, SERVES_POLICIES), kind)
    binding = one(helm.objects({}, SERVES_POLICIES), f"{kind}Binding")
    assert binding["spec"] == {"policyName": policy["metadata"]["name"], "validationActions": ["Deny"]}
    (condition,) = policy["spec"]["matchConditions"]
    account = one(helm.objects(), "ServiceAccount")["metadata"]
    assert condition["expression"].endswith(f"'system:serviceaccount:{account['namespace']}:{account['name']}'")
    for objects in (helm.objects(), helm.objects({"admissionPolicy": {"enabled": False}}, SERVES_POLICIES)):
        assert named(objects, kind) == named(objects, f"{kind}Binding") == []


def test_the_admission_policy_covers_all_that_the_operator_may_write(helm):
    """Except the status of its own objects, Events, and its Lease."""
    objects = helm.objects({}, SERVES_POLICIES)
    covered = {
        resource
        for rule in one(objects, "ValidatingAdmissionPolicy")["spec"]["matchConstraints"]["resourceRules"]
        for resource in rule["resources"]
    }
    role = one(objects, "ClusterRole", "demo-llamaserver-operator")
    writes = {
        resource
        for rule in role["rules"]
        if {"create", "patch", "update", "delete"} & set(rule["verbs"])
        for resource in rule["resources"]
    }
    assert writes - covered == {"llamaservers/status", "llamaservers/finalizers", "events"}


def test_versions_agree():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == chart["version"] == config.__version__
    assert chart["kubeVersion"] == ">=1.30.0-0"


def test_an_older_kubernetes_is_refused(helm):
    assert helm.template({}, "--kube-version=1.30.0")
    with pytest.raises(HelmError, match=r"chart requires kubeVersion: >=1\.30\.0-0"):
        helm.template({}, "--kube-version=1.29.0")


# What the operator may do


def rules(objects: list[Object]) -> list[Object]:
    return [rule for each in objects for rule in each.get("rules", [])]


@pytest.mark.parametrize("values", [{}, EVERYTHING])
def test_no_verb_on_secrets_and_no_wildcard(helm, values):
    found = rules(helm.objects(values))
    assert found
    for rule in found:
        assert not any("secret" in resource for resource in rule["resources"]), rule
        assert not any("*" in entry for part in rule.values() for entry in part), rule
        assert not {"bind", "escalate", "impersonate"} & set(rule["verbs"]), rule


def test_the_operator_reads_objects_and_writes_their_status_only(helm):
    role = one(helm.objects(), "ClusterRole", "demo-llamaserver-operator")
    verbs = {
        resource: set(rule["verbs"])
        for rule in role["rules"]
        if rule["apiGroups"] == ["llamaserver.dev"]
        for resource in rule["resources"]
    }
    assert verbs == {
        "llamaservers": {"get", "list", "watch"},
        "llamaservers/status": {"get", "patch"},
        "llamaservers/finalizers": {"update"},
    }


def test_namespaced_roles_replace_the_cluster_role(helm):
    objects, everywhere = helm.objects(NAMESPACED), helm.objects()
    assert named(objects, "ClusterRole") == ["demo-llamaserver-operator-edit", "demo-llamaserver-operator-view"]
    assert named(objects, "ClusterRoleBinding") == []
    roles = [each for each in objects if each["metadata"]["name"] == "demo-llamaserver-operator"]
    where = {(each["kind"], each["metadata"]["namespace"]) for each in roles if each["kind"].startswith("Role")}
    assert where == {(kind, namespace) for kind in ("Role", "RoleBinding") for namespace in ("team-a", "team-b")}
    wide = one(everywhere, "ClusterRole", "demo-llamaserver-operator")["rules"]
    nodes = {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}  # of no namespace
    assert all([*each["rules"], nodes] == wide for each in roles if each["kind"] == "Role")
    assert all(
        each["subjects"] == [{"kind": "ServiceAccount", "name": "demo-llamaserver-operator", "namespace": "serving"}]
        for each in roles
        if each["kind"] == "RoleBinding"
    )
    assert parsed(objects).watch_namespaces == ("team-a", "team-b")
    assert parsed(everywhere).watch_namespaces == ()


@pytest.mark.parametrize("values", [{}, NAMESPACED])
def test_the_lease_is_in_the_release_namespace(helm, values):
    objects = helm.objects(values)
    role = one(objects, "Role", "demo-llamaserver-operator-lease")
    assert role["metadata"]["namespace"] == "serving"
    assert parsed(objects).namespace == "serving"
    assert [rule.get("resourceNames") for rule in role["rules"]] == [None, [parsed(objects).lease_name]]


def test_users_get_access_by_aggregation(helm):
    objects = helm.objects()
    prefix = "rbac.authorization.k8s.io/aggregate-to-"
    grants = {
        each["metadata"]["name"]: {key.removeprefix(prefix) for key in each["metadata"]["labels"] if prefix in key}
        for each in objects
        if each["kind"] == "ClusterRole"
    }
    assert grants == {
        "demo-llamaserver-operator": set(),
        "demo-llamaserver-operator-view": {"view", "edit", "admin"},
        "demo-llamaserver-operator-edit": {"edit", "admin"},
    }
    assert named(helm.objects({"rbac": {"aggregate": False}}), "ClusterRole") == ["demo-llamaserver-operator"]


# The operator's pod


def test_the_pod_meets_the_restricted_profile(helm):
    template = pod(helm.objects())["spec"]
    assert template["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    (container,) = template["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert template["volumes"] == [{"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}}]


def test_defaults_reach_the_operator(helm):
    read, version = parsed(helm.objects()), config.__version__
    assert read.server_image == f"llamaserver:{version}"
    assert read.server_image_cuda == f"llamaserver:{version}-cuda"
    assert read.server_image_rocm == f"llamaserver:{version}-rocm"
    assert read.server_image_vulkan == f"llamaserver:{version}-vulkan"
    assert read.hf_endpoint == ""
    default = config.parse([], {})
    for name in ("image_pull_policy", "prometheus_namespace_labels", "workers", "resync_seconds", "log_format"):
        assert getattr(read, name) == getattr(default, name), name
    assert read.log_level == default.log_level
    labels = pod(helm.objects())["metadata"]["labels"]
    assert read.operator_pod_labels.items() <= labels.items()


def test_probes_and_port_are_those_of_the_operator(helm):
    (container,) = pod(helm.objects())["spec"]["containers"]
    assert container["ports"] == [{"name": "http", "containerPort": config.parse([], {}).health_port}]
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}


@pytest.mark.parametrize(
    ("values", "attribute", "wanted"),
    [
        ({"registry": "r.example:5000/team/"}, "server_image", f"r.example:5000/team/llamaserver:{config.__version__}"),
        ({"serverImages": {"cpu": {"repository": "a/b", "tag": "1"}}}, "server_image", "a/b:1"),
        ({"serverImages": {"cuda": {"repository": "a/b", "tag": "1"}}}, "server_image_cuda", "a/b:1"),
        ({"serverImages": {"rocm": {"tag": "1"}}}, "server_image_rocm", "llamaserver:1"),
        ({"serverImages": {"vulkan": {"tag": "1"}}}, "server_image_vulkan", "llamaserver:1"),
        ({"image": {"pullPolicy": "Always"}}, "image_pull_policy", "Always"),
        ({"huggingFace": {"endpoint": "http://10.0.0.1:8000"}}, "hf_endpoint", "http://10.0.0.1:8000"),
        ({"allowPrivateSources": True}, "allow_private_sources", True),
        ({"workers": 16}, "workers", 16),
        ({"resyncSeconds": 86400}, "resync_seconds", 86400),
        ({"log": {"format": "text"}}, "log_format", "text"),
        ({"log": {"level": "debug"}}, "log_level", "debug"),
        (
            {"prometheus": {"namespaceLabels": {"team": "metrics", "kubernetes.io/metadata.name": None}}},
            "prometheus_namespace_labels",
            {"team": "metrics"},
        ),
        (
            {"nameOverride": "llama"},
            "operator_pod_labels",
            {"app.kubernetes.io/name": "llama", "app.kubernetes.io/instance": "demo"},
        ),
    ],
)
def test_values_that_the_operator_reads(helm, values, attribute, wanted):
    assert getattr(parsed(helm.objects(values)), attribute) == wanted


@pytest.mark.parametrize(
    ("values", "field", "wanted"),
    [
        ({"imagePullSecrets": [{"name": "pull"}]}, "imagePullSecrets", [{"name": "pull"}]),
        ({"nodeSelector": {"disk": "ssd"}}, "nodeSelector", {"disk": "ssd"}),
        ({"tolerations": [{"operator": "Exists"}]}, "tolerations", [{"operator": "Exists"}]),
        ({"affinity": {"nodeAffinity": {"a": "b"}}}, "affinity", {"nodeAffinity": {"a": "b"}}),
        ({"priorityClassName": "high"}, "priorityClassName", "high"),
        ({"serviceAccount": {"name": "mine"}}, "serviceAccountName", "mine"),
        ({"serviceAccount": {"create": False}}, "serviceAccountName", "default"),
        ({"fullnameOverride": "llama"}, "serviceAccountName", "llama"),
    ],
)
def test_values_of_the_pod(helm, values, field, wanted):
    assert pod(helm.objects(values))["spec"][field] == wanted


def test_image(helm):
    values = {"registry": "r.example", "image": {"repository": "a/b", "tag": "1", "pullPolicy": "Never"}}
    (container,) = pod(helm.objects(values))["spec"]["containers"]
    assert container["image"] == "r.example/a/b:1"
    assert container["imagePullPolicy"] == "Never"


def test_replicas(helm):
    assert one(helm.objects({"replicas": 2}), "Deployment")["spec"]["replicas"] == 2


def test_resources(helm):
    values = {"resources": {"requests": {"cpu": 1}, "limits": {"memory": "1Gi"}}}
    (container,) = pod(helm.objects(values))["spec"]["containers"]
    assert container["resources"] == {"requests": {"cpu": 1, "memory": "128Mi"}, "limits": {"memory": "1Gi"}}


def test_pod_labels_and_annotations(helm):
    metadata = pod(helm.objects({"podLabels": {"team": "a"}, "podAnnotations": {"note": "b"}}))["metadata"]
    assert metadata["labels"]["team"] == "a"
    assert metadata["annotations"] == {"note": "b"}


def test_service_account(helm):
    account = one(helm.objects({"serviceAccount": {"annotations": {"a": "b"}}}), "ServiceAccount")
    assert account["metadata"]["annotations"] == {"a": "b"}
    assert account["automountServiceAccountToken"] is False
    assert named(helm.objects({"serviceAccount": {"create": False}}), "ServiceAccount") == []


def test_without_the_resource(helm):
    assert named(helm.objects({"crds": {"install": False}}), "CustomResourceDefinition") == []


# Optional objects


def test_metrics(helm):
    values = {"metrics": {"service": True, "serviceMonitor": True, "serviceMonitorLabels": {"release": "prom"}}}
    objects = helm.objects(values)
    service, monitor = one(objects, "Service"), one(objects, "ServiceMonitor")
    assert service["spec"]["selector"].items() <= pod(objects)["metadata"]["labels"].items()
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]
    assert monitor["metadata"]["labels"]["release"] == "prom"


def test_network_policy(helm):
    values = {"networkPolicy": {"enabled": True}, "prometheus": {"namespaceLabels": {"team": "metrics"}}}
    objects = helm.objects(values)
    policy = one(objects, "NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= pod(objects)["metadata"]["labels"].items()
    (ingress,) = policy["ingress"]
    labels = {"kubernetes.io/metadata.name": "monitoring", "team": "metrics"}
    assert ingress == {"from": [{"namespaceSelector": {"matchLabels": labels}}], "ports": [{"port": "http"}]}


# What is refused


@pytest.mark.parametrize(
    "values",
    [
        {"replica": 2},
        {"image": {"repo": "x"}},
        {"serverImages": {"gpu": {"tag": "1"}}},
        {"crds": {"instal": False}},
        {"metrics": {"servicemonitor": True}},
        {"resources": {"request": {}}},
        {"tolerations": [{"efect": "NoSchedule"}]},
    ],
)
def test_a_misspelt_value_is_refused(helm, values):
    with pytest.raises(HelmError, match="additional properties"):
        helm.template(values)


@pytest.mark.parametrize(
    "values",
    [
        {"replicas": "2"},
        {"workers": 0},
        {"log": {"level": "INFO"}},
        {"huggingFace": {"endpoint": "mirror:8000"}},
        {"watchNamespaces": "team-a"},
        {"watchNamespaces": ["Team_A"]},
        {"metrics": {"serviceMonitor": True}},
        {"podLabels": {"app.kubernetes.io/name": "mine"}},
        {"prometheus": {"namespaceLabels": {"kubernetes.io/metadata.name": None}}},
    ],
)
def test_an_impossible_value_is_refused(helm, values):
    with pytest.raises(HelmError, match="don't meet the specifications of the schema"):
        helm.template(values)


def test_every_value_is_described_and_known_to_the_schema():
    text = (CHART / "values.yaml").read_text()
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())
    assert set(yaml.safe_load(text)) | {"global"} == set(schema["properties"])
    readme = (CHART / "README.md").read_text()

    def leaves(values: Object, path: str = "") -> list[str]:
        return [
            leaf
            for key, value in values.items()
            for leaf in (leaves(value, f"{path}{key}.") if isinstance(value, dict) and value else [f"{path}{key}"])
        ]

    listed = [leaf for leaf in leaves(yaml.safe_load(text)) if not leaf.startswith(("resources.", "prometheus."))]
    assert [leaf for leaf in listed if f"`{leaf}`" not in readme] == []


# What a catalogue shows


def annotation(name: str) -> list[Object]:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    return yaml.safe_load(chart["annotations"][f"artifacthub.io/{name}"])


def test_a_catalogue_finds_the_project():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert {"home", "sources", "maintainers", "icon", "keywords"} <= chart.keys()
    assert (ROOT / chart["icon"].partition("/main/")[2]).is_file()
    assert all({"kind", "description"} == set(change) for change in annotation("changes"))


def test_a_catalogue_shows_the_resource():
    crd = yaml.safe_load((ROOT / "crds" / "llamaservers.yaml").read_text())
    (shown,) = annotation("crds")
    assert shown["name"] == crd["metadata"]["name"]
    assert shown["version"] == crd["spec"]["versions"][0]["name"]
    for example in annotation("crdsExamples"):
        assert example["kind"] == shown["kind"]
        parse(example["spec"])


def test_a_catalogue_scans_the_images_of_the_release(helm):
    read = parsed(helm.objects({"registry": "ghcr.io/llamaserver"}))
    used = {read.server_image, read.server_image_cuda, read.server_image_vulkan}  # a release has no rocm image
    images = {item["image"] for item in annotation("images")}
    assert images == used | {f"ghcr.io/llamaserver/llamaserver-operator:{config.__version__}"}
