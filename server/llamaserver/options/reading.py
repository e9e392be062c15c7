"""From the command line and the environment to a Config. The command line wins."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import Config
from ..errors import ConfigError
from .checks import check
from .command_line import build_parser
from .option import Option
from .table import OPTIONS
from .values import is_true, switch

_THREADS = ("threads", "threads_batch", "threads_http")


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> Config:
    """Read a Config. ConfigError names the flag or variable, and what is wrong with it."""
    given = vars(build_parser().parse_args(list(argv)))
    from_environment = [option for option in OPTIONS if given.get(option.key) is None]
    from_command_line = [option for option in OPTIONS if given.get(option.key) is not None]
    values: dict[str, Any] = {"ignored": given["ignored"], "exposed": tuple(_exposed(from_command_line))}
    for option in from_environment:
        variable, texts = _in_environment(option, environ)
        _read(values, option, variable, texts)
    for option in from_command_line:  # last, because several options can set the same field
        texts = given[option.key] if option.many else [given[option.key]]
        _read(values, option, option.flags[-1], texts)
    if "models_dir" not in values and environ.get("LLAMA_CACHE"):
        values["models_dir"] = Path(environ["LLAMA_CACHE"])
    for name in _THREADS:
        if values.get(name) == -1:  # automatic, as in llama-server
            values[name] = 0
    config = Config(**values)
    check(config)
    return config


def _exposed(from_command_line: Sequence[Option]) -> Iterator[str]:
    """A warning for each secret that was given on the command line."""
    for option in from_command_line:
        if option.safer:
            yield f"other users of this machine can read {option.flags[-1]} from the command line. Use {option.safer}"


def _in_environment(option: Option, environ: Mapping[str, str]) -> tuple[str, list[str]]:
    """The variable that sets an option, and its values. Without such a variable, there are no values."""
    for variable in option.variables:
        text = environ.get(variable)
        if text is None and option.off and is_true(environ.get(_negated(variable), "")):
            text = "false"
        if text is not None:
            return variable, [text]
    return "", []


def _negated(variable: str) -> str:
    return variable.replace("LLAMA_ARG_", "LLAMA_ARG_NO_")


def _read(values: dict[str, Any], option: Option, source: str, texts: Sequence[str]) -> None:
    """Read the texts of one option into `values`. Lists add up."""
    for text in texts:
        try:
            value = switch(text) if option.read is None else option.read(text)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None
        if isinstance(value, dict):
            values |= value
        elif isinstance(value, list):
            values[option.field] = (*values.get(option.field, ()), *value)
        else:
            values[option.field] = value
