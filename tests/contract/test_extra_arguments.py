"""Options that belong to fields or to the operator cannot be given as extraArgs, in no spelling."""

import pytest
from llamaserver import options
from llamaserver.errors import ConfigError
from llamaserver_operator.errors import InvalidSpec
from llamaserver_operator.parsing import OWNED_ARGUMENTS, parse

from tests.contract.test_arguments import written

SPELLINGS = {option.key: {*option.flags, *option.off} for option in options.OPTIONS}
SHORT = sorted(flag for flags in SPELLINGS.values() for flag in flags if not flag.startswith("--"))


def extra(*arguments: str) -> None:
    parse({"model": {"source": {"http": {"url": "http://a/b"}}}, "engine": {"extraArgs": list(arguments)}})


def test_every_spelling_of_what_the_operator_writes_is_its_own():
    """Those of other options that set the same thing, too."""
    flags = written()
    assert len(flags) > 40
    fields = {option.field for option in options.OPTIONS if flags & {*option.flags, *option.off}}
    assert flags <= {flag for spellings in SPELLINGS.values() for flag in spellings}
    theirs = {
        flag
        for option in options.OPTIONS
        if option.field in fields
        for flag in (*option.flags, *option.off)
        if flag.startswith("--")
    }
    assert theirs - OWNED_ARGUMENTS == set()


def test_what_is_owned_is_an_option_of_the_server():
    assert OWNED_ARGUMENTS - {flag for spellings in SPELLINGS.values() for flag in spellings} == set()


def test_where_a_model_comes_from_and_who_gets_in_is_owned():
    """Not written by the operator, and yet not the user's: they would stand against fields."""
    for field in ("model_url", "hf_repo", "hf_file", "hf_token", "api_keys", "chat_template", "management_host"):
        flags = {flag for option in options.OPTIONS if option.field == field for flag in option.flags}
        assert {flag for flag in flags if flag.startswith("--")} <= OWNED_ARGUMENTS


@pytest.mark.parametrize("flag", sorted(OWNED_ARGUMENTS))
def test_an_owned_option_is_refused(flag: str):
    for argument in (flag, f"{flag}=1"):
        with pytest.raises(InvalidSpec, match=r"spec\.engine\.extraArgs: --.* belongs to a field"):
            extra("--no-mmap", argument)


@pytest.mark.parametrize("flag", SHORT)
def test_short_options_are_refused_since_values_can_be_glued_to_them(flag: str):
    for argument in (flag, f"{flag}1", f"{flag}=1", flag[:2] + "9"):
        with pytest.raises(InvalidSpec, match=r"spec\.engine\.extraArgs: .*long form"):
            extra(argument)


def test_every_option_has_a_long_form():
    assert [flags for flags in SPELLINGS.values() if not any(flag.startswith("--") for flag in flags)] == []


@pytest.mark.parametrize("flag", sorted(OWNED_ARGUMENTS))
def test_a_beginning_of_an_owned_option_is_none_to_the_server(flag: str):
    """Otherwise --ctx-siz would pass for --ctx-size."""
    known = {flag for spellings in SPELLINGS.values() for flag in spellings}
    for end in range(4, len(flag)):
        if (cut := flag[:end]) not in known:
            with pytest.raises(ConfigError):
                options.parse(["--model", "m", f"{cut}=1"], {})


def test_what_is_not_owned_passes():
    free = sorted(
        flag for spellings in SPELLINGS.values() for flag in spellings - OWNED_ARGUMENTS if flag.startswith("--")
    )
    assert {"--no-mmap", "--numa", "--mlock", "--prompt-budget", "--log-format"} <= set(free)
    for flag in free:
        extra(flag, f"{flag}=1", "-1", "-")
