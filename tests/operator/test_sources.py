"""Sources that the chart keeps out, and what the pods may connect to."""

from dataclasses import replace
from typing import Any

import pytest
from llamaserver_operator.parsing import parse
from llamaserver_operator.plan import make_plan
from llamaserver_operator.resources.egress import egress
from llamaserver_operator.resources.pod import pod_template

from tests.support.operator.worlds import CONFIG, NEWER, world

Raw = dict[str, Any]
GOOD: Raw = {"http": {"url": "http://models.example:8000/m.gguf"}}
HUB: Raw = {"huggingFace": {"repo": "who/what", "file": "m.gguf"}}
BAD = [
    "127.0.0.1",
    "localhost:80",
    "a.localhost",
    "[::1]:8080",
    "169.254.169.254",
    "[fe80::1]",
    "0.0.0.0",
    "[::ffff:127.0.0.1]",
]
ALLOWING = replace(CONFIG, allow_private_sources=True)


@pytest.mark.parametrize("host", BAD)
def test_a_loopback_or_link_local_address_is_told_with_its_field(host: str) -> None:
    bad = {"http": {"url": f"http://{host}/m.gguf"}}
    fields = {
        "spec.model.source": {"model": {"source": bad}},
        "spec.loraAdapters[a].source": {"model": {"source": GOOD}, "loraAdapters": [{"name": "a", "source": bad}]},
        "spec.projector.source": {"model": {"source": GOOD}, "projector": {"source": bad}},
    }
    for field, raw in fields.items():
        spec = parse(raw)
        plan = make_plan(spec, world(spec), CONFIG)
        assert plan.apply == ()
        ((reason, message),) = [(problem.reason, problem.message) for problem in plan.problems]
        assert reason == "SourceNotAllowed"
        assert message.startswith(f"{field}.http.url: ")
        assert make_plan(spec, world(spec), ALLOWING).problems == ()


def test_private_networks_are_allowed() -> None:
    """A mirror in the cluster has such an address."""
    for host in ("models.example", "10.96.0.7", "192.168.1.1", "[fd12::1]", "mirror.models.svc"):
        spec = parse({"model": {"source": {"http": {"url": f"http://{host}/m.gguf"}}}})
        assert make_plan(spec, world(spec), CONFIG).problems == ()


def download(config: Any, **overlay: Any) -> Raw:
    raw = {"model": {"source": GOOD, "credentialsSecretRef": {"name": "token"}}, "podTemplate": overlay}
    (found,) = pod_template(parse(raw), "models", "demo", "image", config)["spec"]["initContainers"]
    return {item["name"]: item.get("value") for item in found["env"]}


def test_the_download_is_guarded_unless_the_chart_says_otherwise() -> None:
    """By a variable, which an older image ignores. It is always there, so the Secret cannot set it."""
    assert download(CONFIG)["LLAMA_ARG_PRIVATE_SOURCES"] == "refuse"
    assert download(ALLOWING)["LLAMA_ARG_PRIVATE_SOURCES"] == "allow"


def rules(raw: Raw, config: Any = CONFIG) -> list[Any]:
    return egress(parse(raw), config)


def ports(raw: Raw, config: Any = CONFIG) -> list[int]:
    dns, download, *_ = rules(raw, config)
    assert [port["port"] for port in dns["ports"]] == [53, 53, 5353, 5353]
    return [port["port"] for port in download["ports"]]


def test_pods_may_connect_to_name_servers_and_to_the_ports_of_their_sources() -> None:
    assert ports({"model": {"source": GOOD}}) == [443, 8000]
    assert ports({"model": {"source": HUB}}) == [443]
    assert ports({"model": {"source": HUB}}, NEWER) == [80, 443]
    proxy = {
        "env": [{"name": "https_proxy", "value": "http://proxy:3128"}, {"name": "HF_ENDPOINT", "value": "http://m:81"}]
    }
    assert ports({"model": {"source": HUB}, "podTemplate": proxy}) == [81, 443, 3128]
    (_, open_to) = rules({"model": {"source": GOOD}})
    assert "169.254.0.0/16" in open_to["to"][0]["ipBlock"]["except"]
    assert {"fd00:ec2::254/128", "fd20:ce::254/128"} < set(open_to["to"][1]["ipBlock"]["except"])
    assert open_to["to"][2] == {"namespaceSelector": {}}, "an ipBlock may not match pods"


@pytest.mark.parametrize(
    ("url", "opens"),
    [
        ("http://mirror/m.gguf", True),
        ("http://mirror.models.svc:81/m.gguf", True),
        ("http://mirror.models.svc.cluster.local/m.gguf", True),
        ("http://mirror.models.svc.example.com./m.gguf", True),
        ("http://models.example:8000/m.gguf", False),
        ("http://10.96.0.7/m.gguf", False),
        ("http://[fd12::1]/m.gguf", False),
    ],
)
def test_a_source_behind_a_service_opens_all_ports_of_pods(url: str, opens: bool) -> None:
    """A policy is matched after the port of the Service was replaced by that of the pod."""
    source = {"model": {"source": {"http": {"url": url}}}}
    proxy = {"model": {"source": GOOD}, "podTemplate": {"env": [{"name": "HTTP_PROXY", "value": url}]}}
    for raw in (source, proxy):
        assert rules(raw)[2:] == ([{"to": [{"namespaceSelector": {}}]}] if opens else [])


def test_pods_without_a_download_connect_to_nothing() -> None:
    claim = {"persistentVolumeClaim": {"claimName": "models", "path": "m.gguf"}}
    assert rules({"model": {"source": claim}}) == []


def test_a_policy_has_rules_for_egress_only_if_the_spec_asks() -> None:
    for asked, kinds in (("Any", ["Ingress"]), ("Download", ["Ingress", "Egress"])):
        spec = parse({"model": {"source": GOOD}, "security": {"networkPolicy": {"egress": asked}}})
        (policy,) = [item for item in make_plan(spec, world(spec), CONFIG).apply if item["kind"] == "NetworkPolicy"]
        assert policy["spec"]["policyTypes"] == kinds
        assert ("egress" in policy["spec"]) == (asked == "Download")
