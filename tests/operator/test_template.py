"""The recorded pod template: what changes it, and what must not change it."""

import json
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
from llamaserver_operator import kinds, names
from llamaserver_operator.parsing import parse
from llamaserver_operator.plan import make_plan
from llamaserver_operator.resources import template as module
from llamaserver_operator.resources.template import Template, current_template, recorded

from tests.support.operator.schema import defaulted
from tests.support.operator.worlds import CONFIG, NEWER, children, deployment, owner, world

Raw = dict[str, Any]
RAW: Raw = {"model": {"source": {"http": {"url": "http://models.example/model.gguf"}}}}
IMAGE = "registry.example/llamaserver"
GUARD = {"name": "LLAMA_ARG_PRIVATE_SOURCES", "value": "refuse"}


def render(raw: Raw, before: Template | None = None, config: Any = CONFIG, **texts: str) -> Template:
    return current_template(parse(raw), owner(), texts, before, config)


def image(template: Template) -> str:
    return template.template["spec"]["containers"][0]["image"]


def with_policy(policy: str, **more: Any) -> Raw:
    return {**RAW, "rollout": {"upgradePolicy": policy}, **more}


def renew(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, the renderer is that of a newer operator. Every template differs."""
    real = module.pod_template

    def render_differently(*args: Any) -> Raw:
        made = real(*args)
        made["spec"]["hostname"] = "newer"
        return made

    monkeypatch.setattr(module, "pod_template", render_differently)


def test_pinned_templates_outlive_an_upgrade(monkeypatch: pytest.MonkeyPatch):
    before = render(with_policy("Pinned"))
    renew(monkeypatch)
    assert render(with_policy("Pinned"), before, NEWER) is before


def test_an_edit_renders_anew_and_keeps_the_pinned_image(monkeypatch: pytest.MonkeyPatch):
    before = render(RAW)
    renew(monkeypatch)
    after = render({**RAW, "context": {"slots": 2}}, before, NEWER)
    assert "hostname" not in before.template["spec"]
    assert after.template["spec"]["hostname"] == "newer"
    assert image(after) == f"{IMAGE}:1"


def test_immediate_moves_image_renderer_and_settings_once(monkeypatch: pytest.MonkeyPatch):
    before = render(with_policy("Immediate"))
    renew(monkeypatch)
    after = render(with_policy("Immediate"), before, NEWER)
    assert image(after) == f"{IMAGE}:2"
    assert after.template["spec"]["containers"][0]["imagePullPolicy"] == "Always"
    (download,) = after.template["spec"]["initContainers"]
    assert download["env"] == [{"name": "HF_ENDPOINT", "value": "http://mirror.example"}, GUARD]
    assert after.template["spec"]["hostname"] == "newer"
    assert render(with_policy("Immediate"), after, NEWER) == after


def test_the_download_has_variables_and_mounts_of_the_spec_too():
    """A proxy, and the certificates of a mirror. A mirror in the spec wins."""
    proxy, certificates = (
        {"name": "HTTPS_PROXY", "value": "http://p:1"},
        {"name": "SSL_CERT_FILE", "value": "/ca/ca.crt"},
    )
    mount = {"name": "ca", "mountPath": "/ca"}
    overlay: Raw = {"env": [proxy, certificates], "volumes": [{"name": "ca", "configMap": {}}], "volumeMounts": [mount]}
    (download,) = render({**RAW, "podTemplate": overlay}, config=NEWER).template["spec"]["initContainers"]
    assert download["env"] == [proxy, certificates, {"name": "HF_ENDPOINT", "value": "http://mirror.example"}, GUARD]
    assert mount in download["volumeMounts"]
    own = {"name": "HF_ENDPOINT", "value": "http://own.example"}
    (download,) = render({**RAW, "podTemplate": {"env": [own]}}, config=NEWER).template["spec"]["initContainers"]
    assert download["env"] == [own, GUARD]


def test_immediate_upgrades_the_pods_and_pinned_then_keeps_them():
    before = render(with_policy("Pinned"))
    moved = render(with_policy("Immediate"), before, NEWER)
    assert image(moved) == f"{IMAGE}:2"
    assert render(with_policy("Pinned"), moved, CONFIG) is moved


@pytest.mark.parametrize(("vendor", "tag"), [("", "1"), ("NVIDIA", "1-cuda"), ("AMD", "1-rocm"), ("Intel", "1-vulkan")])
def test_each_vendor_has_its_image(vendor: str, tag: str):
    assert image(render({**RAW, "accelerator": {"vendor": vendor}} if vendor else RAW)) == f"{IMAGE}:{tag}"


def test_another_vendor_brings_its_image_of_today():
    before = render(RAW)
    gpu = render({**RAW, "accelerator": {"vendor": "NVIDIA"}}, before, NEWER)
    assert image(gpu) == f"{IMAGE}:2-cuda"
    assert image(render(RAW, gpu, NEWER)) == f"{IMAGE}:2"


def test_an_image_of_the_spec_wins_and_gives_way_to_the_pinned_one():
    before = render(RAW)
    own = render({**RAW, "image": {"repository": "own", "tag": "7"}}, before, NEWER)
    assert image(own) == "own:7"
    assert image(render(RAW, own, NEWER)) == f"{IMAGE}:1"


@pytest.mark.parametrize(
    ("given", "reference"),
    [
        ({"repository": "own"}, "own"),
        ({"repository": "own", "tag": "1"}, "own:1"),
        ({"repository": "own", "tag": "1", "digest": "sha256:" + "a" * 64}, "own@sha256:" + "a" * 64),
    ],
)
def test_image_references(given: Raw, reference: str):
    assert image(render({**RAW, "image": given})) == reference


def test_only_the_content_of_a_text_changes_the_template():
    raw = {**RAW, "systemPrompt": {"configMapKeyRef": {"name": "texts", "key": "k"}}}
    before = render(raw, **{"system-prompt": "Be brief."})
    assert render(raw, before, NEWER, **{"system-prompt": "Be brief."}) is before
    after = render(raw, before, **{"system-prompt": "Be long."})
    assert after.template != before.template
    assert render(raw, after, **{"system-prompt": "Be brief."}).template == before.template


def test_other_keys_of_a_config_map_change_nothing():
    spec = parse({**RAW, "systemPrompt": {"configMapKeyRef": {"name": "texts", "key": "k"}}})
    maps = [{"data": {"k": "Be brief.", "other": text}} for text in "ab"]
    observed = [replace(world(spec), config_maps={"texts": found}) for found in maps]
    first, second = (make_plan(spec, item, CONFIG) for item in observed)
    assert first == second


def test_a_record_is_read_back():
    before = render(RAW)
    assert recorded({"metadata": {"annotations": {names.TEMPLATE_ANNOTATION: before.record()}}}) == before
    assert recorded(None) is None


@pytest.mark.parametrize(
    "text", ["", "{", "null", "[]", "{}", '{"inputs": 1}', '{"inputs":"a","vendor":"","image":"i"}']
)
def test_a_record_that_cannot_be_read_is_made_anew(text: str):
    """The record was changed by hand or by another version. The pods keep their template if it renders the same."""
    spec = parse(RAW)
    plan = make_plan(spec, world(spec), CONFIG)
    have = deepcopy(dict(children(plan)))
    have[kinds.DEPLOYMENT][0]["metadata"]["annotations"][names.TEMPLATE_ANNOTATION] = text
    again = make_plan(spec, replace(world(spec), children=have), CONFIG)
    assert deployment(again) == deployment(plan)


def test_a_record_with_fields_of_a_newer_version_counts():
    before = render(RAW)
    text = json.dumps({**json.loads(before.record()), "newer": {"field": 1}})
    assert recorded({"metadata": {"annotations": {names.TEMPLATE_ANNOTATION: text}}}) == before


def test_the_record_is_what_is_deployed():
    spec = parse(RAW)
    made = deployment(make_plan(spec, world(spec), CONFIG))
    record = json.loads(made["metadata"]["annotations"][names.TEMPLATE_ANNOTATION])
    assert record["template"] == made["spec"]["template"]
    assert record["image"] == f"{IMAGE}:1"


# Hashes that version 0.1.0 recorded for specs as its resource completed them. A change of one would restart pods.
STORED: Raw = {**RAW, "serving": {"port": 8080, "serviceType": "ClusterIP", "slotsEndpoint": "Enabled"}}
SLOTS_OFF: Raw = {**RAW, "serving": {"slotsEndpoint": "Disabled"}}
KEPT: Raw = {**STORED, "kvCache": {"persistence": "Continuous", "volume": {"emptyDir": {}}}}
OF_0_1_0 = [
    (STORED, "2008f6bb5c141a0c622e5f2d95ff9977"),
    (SLOTS_OFF, "e2f0525c1142314d59d0491973f33d72"),
    (KEPT, "b1a3ab6dab74035f6c7ee2d16dcc83cd"),
]


@pytest.mark.parametrize(("raw", "inputs"), OF_0_1_0)
def test_an_upgrade_from_0_1_0_restarts_no_pod(raw: Raw, inputs: str):
    """Also where a default has changed. The pods keep their arguments until the spec changes."""
    older = Template(inputs, "", f"{IMAGE}:0.1.0", {"spec": {"containers": [{"image": f"{IMAGE}:0.1.0"}]}})
    assert render(raw, older, NEWER) is older
    assert render(defaulted(raw), older, NEWER) is older


def test_the_new_default_takes_effect_by_an_edit():
    older = Template(OF_0_1_0[0][1], "", f"{IMAGE}:0.1.0", {"spec": {"containers": [{"image": f"{IMAGE}:0.1.0"}]}})
    after = render(SLOTS_OFF, older, NEWER)
    assert "--no-slots" in after.template["spec"]["containers"][0]["args"]
    assert image(after) == f"{IMAGE}:0.1.0"


def test_a_spec_with_defaults_alone_has_no_argument_that_an_older_server_refuses():
    """A pinned image of an older version gets its arguments from this operator after an edit."""
    (server,) = render(defaulted(KEPT)).template["spec"]["containers"]
    flags = {word for word in server["args"] if word.startswith("--") and "=" not in word}
    assert flags <= OPTIONS_OF_0_1_0


OPTIONS_OF_0_1_0 = {
    *("--model", "--ctx-size", "--parallel", "--cont-batching", "--n-gpu-layers", "--host", "--port", "--no-slots"),
    *("--management-port", "--log-disable", "--drain-delay", "--drain-timeout", "--save-timeout"),
    *("--kv-store", "--kv-store-mode"),
}


def test_fields_that_an_older_version_did_not_know_enter_no_hash():
    bare = render(RAW).inputs
    assert render({**RAW, "resources": {}, "podTemplate": {"labels": {}, "securityContext": {}}}).inputs == bare
    assert render({**RAW, "engine": {"kvType": {"key": "F16"}, "ropeScaling": {}}}).inputs == bare
    assert render({**RAW, "engine": {"embeddings": {}}}).inputs != bare
