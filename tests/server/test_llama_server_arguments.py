"""Every argument of llama-server has a place in our tables: an option, or an argument with a reason."""

import re

import pytest
from llamaserver import options
from llamaserver.errors import ConfigError
from llamaserver.options.command_line import COMMANDS
from llamaserver.options.llama_server import ARGUMENTS, Kind

from tests.support.vendored import vendored_readme

ROW = re.compile(r"^\| `(-.*?)` \| (.*) \|$", re.MULTILINE)
NAME = re.compile(r"(?:^|, )(--?[A-Za-z][\w.-]*)")
VARIABLE = re.compile(r"\(env: (\w+)\)")
NEWEST = {"--moe-cache-mib": "LLAMA_ARG_MOE_CACHE_MIB", "--spec-draft-sampling": "LLAMA_ARG_SPEC_DRAFT_SAMPLING"}
FEWEST = 250  # rows of the documentation


def rows():
    """Of each argument in the documentation: its spellings, the rest after them, and its variables."""
    found = ROW.findall(vendored_readme().split("HELP_END")[0])
    assert len(found) > FEWEST
    for spelled, text in found:
        names = NAME.findall(spelled)
        yield names, spelled[spelled.rindex(names[-1]) + len(names[-1]) :].strip(), VARIABLE.findall(text)


def test_every_spelling_and_variable_has_a_place():
    ours = {flag for option in options.OPTIONS for flag in (*option.flags, *option.off)}
    others = {flag for argument in ARGUMENTS for flag in argument.flags}
    variables = {name for option in options.OPTIONS for name in option.variables} | {each.env for each in ARGUMENTS}
    wanted = {name for names, _, _ in rows() for name in names} | set(NEWEST)
    assert wanted - ours - others - set(COMMANDS) == set()
    assert {name for _, _, found in rows() for name in found} | set(NEWEST.values()) <= variables


def test_no_spelling_has_two_places():
    ours = [flag for option in options.OPTIONS for flag in (*option.flags, *option.off)]
    flags = [*ours, *COMMANDS, *(flag for argument in ARGUMENTS for flag in argument.flags)]
    assert sorted({flag for flag in flags if flags.count(flag) > 1}) == []
    ranges = [(argument.env, argument.negative) for argument in ARGUMENTS if argument.env]
    assert len(ranges) == len(set(ranges))
    variables = {name for option in options.OPTIONS for name in option.variables}
    assert variables.isdisjoint(argument.env for argument in ARGUMENTS if argument.env)


def test_each_argument_takes_as_many_values_as_in_llama_server():
    takes = {name: placeholder for names, placeholder, _ in rows() for name in names}
    ours = {flag: each.values for each in ARGUMENTS for flag in each.flags if flag in takes}
    assert ours == {flag: 2 if takes[flag] == "START END" else int(bool(takes[flag])) for flag in ours}


def command_line(argument, flag):
    return [flag, *(["-1.5e1"] if argument.values == 1 else ["1"] * argument.values)]


@pytest.mark.parametrize("argument", ARGUMENTS, ids=lambda argument: argument.flags[0])
def test_what_becomes_of_an_argument(argument):
    for flag in argument.flags:
        argv = ["-m", "m", *(command_line(argument, flag))]
        if argument.kind is Kind.REFUSED:
            with pytest.raises(ConfigError, match=re.escape(f"{flag} is not supported: {argument.text}")):
                options.parse(argv, {})
            continue
        config = options.parse(argv, {})
        said, other = (config.warnings, config.notes)[:: 1 if argument.kind is Kind.IGNORED else -1]
        assert len(said) == 1, flag
        assert said[0].startswith(f"{flag} ")
        assert said[0].endswith(argument.text)
        assert other == ()


@pytest.mark.parametrize("argument", [each for each in ARGUMENTS if each.env], ids=lambda each: each.flags[0])
def test_what_becomes_of_its_variable(argument):
    environ = {"LLAMA_ARG_MODEL": "m", argument.env: "x" if argument.values else "off" if argument.negative else "on"}
    if argument.kind is Kind.REFUSED:
        with pytest.raises(ConfigError, match=argument.env):
            options.parse([], environ)
        return
    config = options.parse([], environ)
    assert [text.split()[0] for text in (*config.warnings, *config.notes)] == [argument.env]


def test_an_unknown_variable_is_a_warning_with_the_nearest_name():
    environ = {
        "LLAMA_ARG_MODEL": "m",
        "LLAMA_ARG_TEMPERATUR": "1",
        "LLAMA_ARG_CTX_SIZES": "1",
        "LLAMA_ARG_NO_MMAP": "1",
    }
    assert options.parse([], environ).warnings == (
        "LLAMA_ARG_CTX_SIZES is no option. Did you mean LLAMA_ARG_CTX_SIZE?",
        "LLAMA_ARG_TEMPERATUR is no option. Did you mean LLAMA_ARG_TEMPERATURE?",
    )


def test_a_variable_that_is_no_switch_is_refused_by_name():
    with pytest.raises(ConfigError, match="LLAMA_ARG_JINJA: must be true or false"):
        options.parse([], {"LLAMA_ARG_MODEL": "m", "LLAMA_ARG_JINJA": "perhaps"})


def test_names_and_values_as_llama_server_reads_them():
    argv = ["--model", "m", "--n_gpu_layers", "3", "--top-n-sigma", "-1e0", "--chat-template", "-{{ x }}"]
    config = options.parse([*argv, "--ctx_size=64"], {})
    assert (config.n_gpu_layers, config.ctx_size, config.chat_template) == (3, 64, "-{{ x }}")
    assert dict(config.request_defaults) == {"top_n_sigma": -1.0}
    with pytest.raises(ConfigError, match="--model"):
        options.parse(["--model", "--ctx-size", "64"], {})


@pytest.mark.parametrize(
    "argument", [each for each in ARGUMENTS if "-hf ggml-org" in each.text], ids=lambda each: each.flags[0]
)
def test_what_stands_for_a_model_names_options_that_are_read(argument):
    words = re.search(r"(-hf .* --port \d+)", argument.text)[1].split()
    config = options.parse(words, {})
    assert config.hf_repo.startswith("ggml-org/")
    assert config.port in range(8011, 8015)
