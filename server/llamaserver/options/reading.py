"""From the command line and the environment to a Config. The command line wins."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import Config
from ..errors import ConfigError
from .checks import check
from .command_line import build_parser, joined
from .environment import arguments_in, in_environment, unknown
from .llama_server import Argument, Kind
from .option import Option
from .table import OPTIONS
from .values import switch

_EFFECT = {Kind.ALWAYS: "changes nothing", Kind.IGNORED: "is accepted but has no effect"}
_THREADS = ("threads", "threads_batch", "threads_http")


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> Config:
    """Read a Config. ConfigError names the flag or variable, and what is wrong with it."""
    given = vars(build_parser().parse_args(joined(argv)))
    from_environment = [option for option in OPTIONS if given.get(option.key) is None]
    from_command_line = [option for option in OPTIONS if given.get(option.key) is not None]
    others = [*given["others"], *arguments_in(environ)]
    values: dict[str, Any] = {
        "notes": tuple(_said(others, Kind.ALWAYS)),
        "warnings": (*_exposed(from_command_line), *_said(others, Kind.IGNORED), *unknown(environ)),
    }
    for option in from_environment:
        variable, texts = in_environment(option, environ)
        _read(values, option, variable, texts)
    for option in from_command_line:  # last, because several options can set the same field
        texts = given[option.key] if option.many else [given[option.key]]
        _read(values, option, option.flags[-1], texts)
    if "models_dir" not in values and environ.get("LLAMA_CACHE"):
        values["models_dir"] = Path(environ["LLAMA_CACHE"])
    for name in _THREADS:
        if values.get(name) == -1:  # automatic, as in llama-server
            values[name] = 0
    values["request_defaults"] = tuple(values.pop("request_defaults", {}).items())
    config = Config(**values)
    check(config)
    return config


def _said(others: Sequence[tuple[str, Argument]], kind: Kind) -> Iterator[str]:
    """What the log says of arguments that are no options here."""
    for name, argument in others:
        if argument.kind is kind:
            yield f"{name} {_EFFECT[kind]}: {argument.text}"


def _exposed(from_command_line: Sequence[Option]) -> Iterator[str]:
    """A warning for each secret that was given on the command line."""
    for option in from_command_line:
        if option.safer:
            yield f"other users of this machine can read {option.flags[-1]} from the command line. Use {option.safer}"


def _add(defaults: dict[str, Any], option: Option, value: Any) -> None:
    """One value of a field that requests leave out. Lists add up."""
    defaults[option.request] = [*defaults.get(option.request, ()), *value] if option.many else value


def _read(values: dict[str, Any], option: Option, source: str, texts: Sequence[str]) -> None:
    """Read the texts of one option into `values`. Lists add up."""
    for text in texts:
        try:
            value = switch(text) if option.read is None else option.read(text)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None
        if option.request:
            _add(values.setdefault("request_defaults", {}), option, value)
        elif isinstance(value, dict):
            values |= value
        elif isinstance(value, list):
            values[option.field] = (*values.get(option.field, ()), *value)
        else:
            values[option.field] = value
