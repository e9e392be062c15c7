"""Environment variables: which one sets an option, and which ones set none."""

import difflib
from collections.abc import Iterator, Mapping

from ..errors import ConfigError
from .llama_server import ARGUMENTS, Argument, Kind
from .option import Option
from .table import OPTIONS
from .values import is_true, switch

_OURS = "LLAMA_ARG_"


def in_environment(option: Option, environ: Mapping[str, str]) -> tuple[str, list[str]]:
    """The variable that sets an option, and its values. Without such a variable, there are no values."""
    for variable in option.variables:
        text = environ.get(variable)
        if text is None and option.off and is_true(environ.get(_negated(variable), "")):
            text = "false"
        if text is not None:
            return variable, [text]
    return "", []


def arguments_in(environ: Mapping[str, str]) -> Iterator[tuple[str, Argument]]:
    """The arguments that are no options here, but are set by variables. Raises ConfigError for a refused one."""
    for argument in ARGUMENTS:
        if not (variable := _set_by(argument, environ)):
            continue
        if argument.kind is Kind.REFUSED:
            raise ConfigError(f"{variable} is not supported: {argument.text}")
        yield variable, argument


def _set_by(argument: Argument, environ: Mapping[str, str]) -> str:
    """The variable that sets an argument, "" if there is none."""
    name, text = argument.env, environ.get(argument.env)
    if argument.negative and is_true(environ.get(_negated(name), "")):
        return _negated(name)
    if text is None:
        return ""
    if argument.values:
        return name
    try:
        return name if switch(text) != argument.negative else ""
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None


def unknown(environ: Mapping[str, str]) -> Iterator[str]:
    """A warning for each variable that looks like an option and is none, with the nearest name."""
    known = _known()
    for name in sorted(environ):
        if name.startswith(_OURS) and name not in known:
            near = difflib.get_close_matches(name, sorted(known), n=1)
            yield f"{name} is no option" + (f". Did you mean {near[0]}?" if near else "")


def _known() -> set[str]:
    names = {name for option in OPTIONS for name in option.variables}
    switches = {_negated(name) for option in OPTIONS if option.off for name in option.variables}
    others = {argument.env for argument in ARGUMENTS}
    return names | switches | others | {_negated(argument.env) for argument in ARGUMENTS if argument.negative}


def _negated(variable: str) -> str:
    return variable.replace(_OURS, f"{_OURS}NO_")
