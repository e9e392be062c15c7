"""Options that belong to fields or to the operator cannot be given as extraArgs, in any spelling."""

import ast
import re
from collections.abc import Iterable

import pytest
from llamaserver import options
from llamaserver.errors import ConfigError
from llamaserver_operator.errors import InvalidSpec
from llamaserver_operator.owned import ARGUMENTS, VARIABLES
from llamaserver_operator.parsing import parse

from tests.contract.test_arguments import TABLE, written
from tests.support.operator.schema import LEAVES, SPEC

SPELLINGS = {option.key: {*option.flags, *option.off} for option in options.OPTIONS}
SHORT = sorted(flag for flags in SPELLINGS.values() for flag in flags if not flag.startswith("--"))


PLAIN = {"model": {"source": {"http": {"url": "http://a/b"}}}}


def extra(*arguments: str) -> None:
    parse({**PLAIN, "engine": {"extraArgs": list(arguments)}})


def value(option: options.Option) -> tuple[str, str]:
    """What an option sets: a field of Config, and of requests."""
    return option.field, option.request


def test_every_spelling_of_what_the_operator_writes_is_its_own():
    """Also the spellings of other options that set the same value."""
    flags = written()
    assert len(flags) > 40
    fields = {value(option) for option in options.OPTIONS if flags & {*option.flags, *option.off}}
    assert flags <= {flag for spellings in SPELLINGS.values() for flag in spellings}
    theirs = {
        flag
        for option in options.OPTIONS
        if value(option) in fields
        for flag in (*option.flags, *option.off)
        if flag.startswith("--")
    }
    assert theirs - set(ARGUMENTS) == set()


def test_what_is_owned_is_an_option_of_the_server():
    assert set(ARGUMENTS) - {flag for spellings in SPELLINGS.values() for flag in spellings} == set()


def test_options_of_the_model_source_and_of_access_are_owned():
    """Options that the operator does not write, but that would contradict fields."""
    for field in ("model_url", "hf_repo", "hf_file", "hf_token", "api_keys", "chat_template", "management_host"):
        flags = {flag for option in options.OPTIONS if option.field == field for flag in option.flags}
        assert {flag for flag in flags if flag.startswith("--")} <= set(ARGUMENTS)


@pytest.mark.parametrize("flag", sorted(ARGUMENTS))
def test_an_owned_option_is_refused(flag: str):
    for argument in (flag, f"{flag}=1"):
        with pytest.raises(InvalidSpec) as refused:
            extra("--no-mmap", argument)
        assert str(refused.value) == f"spec.engine.extraArgs: {flag} is {ARGUMENTS[flag]}"


def test_each_owned_option_names_a_field_or_the_operator():
    fields = {"spec." + ".".join(path[:end]) for path in LEAVES for end in range(1, len(path) + 1)}
    assert set(ARGUMENTS.values()) - fields == {"set by the operator"}


def test_the_named_field_sets_the_option():
    fields: dict[str, set[str]] = {}
    for words, _, field, _ in TABLE:
        fields.setdefault(field, {"set by the operator"}).add(f"spec.{words}")
    assert len(fields) > 25
    for option in options.OPTIONS:
        if option.field in fields:
            for means in (ARGUMENTS[flag] for flag in option.flags if flag in ARGUMENTS):
                assert any(f"{field}.".startswith(f"{means}.") for field in fields[option.field]), option.flags


def variables(options_: Iterable[options.Option]) -> set[str]:
    found = {variable for option in options_ for variable in option.variables}
    off = {variable for option in options_ if option.off for variable in option.variables}
    return found | {variable.replace("LLAMA_ARG_", "LLAMA_ARG_NO_") for variable in off}


def test_every_variable_of_an_owned_option_is_owned():
    """Except the variable with the token of downloads."""
    owned = [option for option in options.OPTIONS if {*option.flags, *option.off} & set(ARGUMENTS)]
    free = [option for option in options.OPTIONS if option not in owned]
    assert variables(owned) - set(VARIABLES) == {"HF_TOKEN"}
    assert set(VARIABLES) - variables(owned) == {"LLAMA_ARG_PRIVATE_SOURCES"}
    assert variables(free) & set(VARIABLES) == set()


@pytest.mark.parametrize("name", sorted(VARIABLES))
def test_an_owned_variable_is_refused(name: str):
    for value in ({"value": "1"}, {"valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}):
        with pytest.raises(InvalidSpec) as refused:
            parse({**PLAIN, "podTemplate": {"env": [{"name": "A", "value": "b"}, {"name": name, **value}]}})
        assert str(refused.value) == f"spec.podTemplate.env: {name} is {VARIABLES[name]}"


def test_a_variable_means_what_its_option_means():
    for option in options.OPTIONS:
        means = {ARGUMENTS[flag] for flag in (*option.flags, *option.off) if flag in ARGUMENTS}
        assert {VARIABLES[name] for name in option.variables if name in VARIABLES} <= means


def test_variables_of_other_options_pass():
    names = ["HF_TOKEN", "HTTPS_PROXY", "LLAMA_ARG_NUMA", "LLAMA_ARG_N_PREDICT", "LLAMA_ARG_LOG_FORMAT"]
    parse({**PLAIN, "podTemplate": {"env": [{"name": name, "value": "1"} for name in names]}})


def test_the_schema_refuses_the_same_options_with_the_same_message():
    """Compared as text. In test_messages.py the API server evaluates it."""
    rule = next(
        rule for rule in LEAVES["engine", "extraArgs"]["x-kubernetes-validations"] if "messageExpression" in rule
    )
    assert ast.literal_eval(re.search(r"\[.*\]", rule["rule"].partition(" in ")[2])[0]) == list(ARGUMENTS)  # type: ignore[index]
    assert ast.literal_eval(re.match(r"\[(\{.*?\})\]", rule["messageExpression"])[1]) == ARGUMENTS  # type: ignore[index]


def test_the_schema_refuses_the_same_variables():
    rules = SPEC["properties"]["podTemplate"]["properties"]["env"]["items"]["x-kubernetes-validations"]
    (listed,) = [re.search(r"\[.*\]", rule["rule"]) for rule in rules]
    assert listed
    assert ast.literal_eval(listed[0]) == list(VARIABLES)


def test_what_reads_any_file_is_owned():
    """Each option whose value is a file or folder, except those of the server's own."""
    reads = {
        flag
        for option in options.OPTIONS
        if option.value in ("FNAME", "DIR", "PATH") and option.field not in ("log_file", "models_dir")
        for flag in (*option.flags, *option.variables)
        if not re.match("-[a-z]", flag)
    }
    assert {"--path", "LLAMA_ARG_STATIC_PATH", "--lora", "LLAMA_ARG_MMPROJ"} <= reads
    assert reads - set(ARGUMENTS) - set(VARIABLES) == set()


@pytest.mark.parametrize("flag", SHORT)
def test_short_options_are_refused_since_values_can_be_glued_to_them(flag: str):
    for argument in (flag, f"{flag}1", f"{flag}=1", flag[:2] + "9"):
        with pytest.raises(InvalidSpec, match=r"spec\.engine\.extraArgs: .*long form"):
            extra(argument)


def test_every_option_has_a_long_form():
    assert [flags for flags in SPELLINGS.values() if not any(flag.startswith("--") for flag in flags)] == []


@pytest.mark.parametrize("flag", sorted(ARGUMENTS))
def test_the_server_accepts_no_abbreviated_option(flag: str):
    """Otherwise --ctx-siz would pass for --ctx-size."""
    known = {flag for spellings in SPELLINGS.values() for flag in spellings}
    for end in range(4, len(flag)):
        if (cut := flag[:end]) not in known:
            with pytest.raises(ConfigError):
                options.parse(["--model", "m", f"{cut}=1"], {})


def test_what_is_not_owned_passes():
    free = sorted(
        flag for spellings in SPELLINGS.values() for flag in spellings - set(ARGUMENTS) if flag.startswith("--")
    )
    assert {"--no-mmap", "--numa", "--mlock", "--prompt-budget", "--log-format"} <= set(free)
    for flag in free:
        extra(flag, f"{flag}=1", "-1", "-")
