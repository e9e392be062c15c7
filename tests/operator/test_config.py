"""The operator's command line and environment."""

from dataclasses import fields

import pytest
from llamaserver_operator.config import _OPTIONS, Config, parse
from llamaserver_operator.errors import ConfigError


def variable(flag: str) -> str:
    return "LLAMASERVER_OPERATOR_" + flag.upper().replace("-", "_")


# a value of each flag that is not its default, and what it becomes
VALUES: dict[str, tuple[str, object]] = {
    "namespace": ("here", "here"),
    "identity": ("me", "me"),
    "server-image": ("a/b:1", "a/b:1"),
    "server-image-cuda": ("a/cuda:1", "a/cuda:1"),
    "server-image-rocm": ("a/rocm:1", "a/rocm:1"),
    "server-image-vulkan": ("a/vulkan:1", "a/vulkan:1"),
    "image-pull-policy": ("Always", "Always"),
    "hf-endpoint": ("http://mirror", "http://mirror"),
    "allow-private-sources": ("true", True),
    "prometheus-namespace-labels": ("a=b,c.d/e=f", {"a": "b", "c.d/e": "f"}),
    "operator-pod-labels": ("a=b", {"a": "b"}),
    "lease-name": ("other", "other"),
    "lease-seconds": ("60", 60.0),
    "renew-seconds": ("12", 12.0),
    "retry-seconds": ("0.5", 0.5),
    "workers": ("9", 9),
    "resync-seconds": ("60", 60.0),
    "discovery-seconds": ("5", 5.0),
    "health-host": ("127.0.0.1", "127.0.0.1"),
    "health-port": ("9999", 9999),
    "log-format": ("text", "text"),
    "log-level": ("debug", "debug"),
}


def test_every_field_has_its_flag_and_every_flag_its_case() -> None:
    names = {field.name.replace("_", "-") for field in fields(Config)}
    assert names - {"watch-namespaces"} == set(_OPTIONS) == set(VALUES)


@pytest.mark.parametrize("flag", VALUES)
def test_a_flag_and_its_variable_do_the_same_and_the_flag_wins(flag: str) -> None:
    text, value = VALUES[flag]
    enough = [] if flag == "lease-seconds" else ["--lease-seconds=50"]
    name = flag.replace("-", "_")
    assert getattr(parse([*enough, f"--{flag}={text}"], {}), name) == value
    assert getattr(parse(enough, {variable(flag): text}), name) == value
    assert getattr(parse([*enough, f"--{flag}={text}"], {variable(flag): "1h"}), name) == value
    assert getattr(parse(enough, {}), name) != value
    assert getattr(parse(enough, {variable(flag): ""}), name) != value, "an empty variable is none"


def test_namespaces_to_watch() -> None:
    assert parse([], {}).watch_namespaces == ()
    assert parse(["--watch-namespace=a", "--watch-namespace", "b"], {}).watch_namespaces == ("a", "b")
    assert parse([], {"LLAMASERVER_OPERATOR_WATCH_NAMESPACES": "a, b,a,"}).watch_namespaces == ("a", "b")
    assert parse(["--watch-namespace=c"], {"LLAMASERVER_OPERATOR_WATCH_NAMESPACES": "a"}).watch_namespaces == ("c",)


def test_a_pod_knows_itself_by_its_environment() -> None:
    config = parse([], {"POD_NAME": "operator-0", "POD_NAMESPACE": "system"})
    assert (config.identity, config.namespace) == ("operator-0", "system")
    config = parse(["--identity=me", "--namespace=here"], {"POD_NAME": "operator-0", "POD_NAMESPACE": "system"})
    assert (config.identity, config.namespace) == ("me", "here")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--workers=0"], "--workers: must be at least 1, not '0'"),
        (["--workers=many"], "--workers: .*not 'many'"),
        (["--log-format=xml"], "--log-format: must be one of json, text, not 'xml'"),
        (["--image-pull-policy=sometimes"], "must be one of Always, IfNotPresent, Never"),
        (["--operator-pod-labels=a"], "KEY=VALUE"),
        (["--operator-pod-labels==b"], "KEY=VALUE"),
        (["--lease-seconds=5"], "--retry-seconds must be less than"),
        (["--retry-seconds=11"], "--retry-seconds must be less than"),
        (["--no-such-flag=1"], "no-such-flag"),
        (["stray"], "stray"),
    ],
)
def test_a_wrong_value_is_refused_with_its_flag(flags: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse(flags, {})


def test_help_names_flags_variables_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["--help"], {})
    assert ended.value.code == 0
    told = " ".join(capsys.readouterr().out.split())
    for flag in VALUES:
        assert f"--{flag} VALUE" in told
        assert variable(flag) in told
    assert "(default: 300)" in told
