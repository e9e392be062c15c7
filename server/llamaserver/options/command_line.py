"""The parser of the command line, made from the table of options."""

import argparse
import difflib
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from .. import __version__
from ..errors import ConfigError
from .llama_server import ARGUMENTS, Argument, Kind
from .option import Option
from .table import GROUPS, OPTIONS

_NAME = re.compile(r"--?[A-Za-z]")
COMMANDS = ("-h", "--help", "--usage", "--version", "--list-devices")  # that do not serve


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


class _Other(argparse.Action):
    """An argument of llama-server that is no option here."""

    def __init__(self, *args: Any, argument: Argument, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._argument = argument

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if self._argument.kind is Kind.REFUSED:
            raise ConfigError(f"{option_string} is not supported: {self._argument.text}")
        namespace.others = (*namespace.others, (option_string, self._argument))


def joined(argv: Sequence[str]) -> list[str]:
    """The command line in a form that argparse reads as llama-server reads it.

    Underscores in long names stand for hyphens. A value may begin with a hyphen, if it is no name of an option. No
    value is glued to a short name: -cnv is not -c with the value nv. Raises ConfigError for an unknown name.
    """
    taking, names = _taking_values(), _names()
    given = [_hyphened(part) for part in argv]
    done: list[str] = []
    position = 0
    while position < len(given):
        name, following = given[position], argv[position + 1 : position + 2]
        if name in taking and following and following[0].startswith("-") and _hyphened(following[0]) not in names:
            done.append(f"{name}={following[0]}")
            position += 2
        else:
            _check_name(name.partition("=")[0], names)
            done.append(name)
            position += 1
    return done


def _check_name(part: str, names: set[str]) -> None:
    if _NAME.match(part) and part not in names:
        near = difflib.get_close_matches(part, sorted(names), n=1)
        raise ConfigError(f"unknown argument: {part}" + (f". Did you mean {near[0]}?" if near else ""))


def _hyphened(part: str) -> str:
    if not part.startswith("--"):
        return part
    name, equals, value = part.partition("=")
    return name.replace("_", "-") + equals + value


def _taking_values() -> set[str]:
    """The names after which a value has to come."""
    ours = {flag for option in OPTIONS if option.read and option.bare is None for flag in option.flags}
    return ours | {flag for argument in ARGUMENTS if argument.values == 1 for flag in argument.flags}


def _names() -> set[str]:
    ours = {flag for option in OPTIONS for flag in (*option.flags, *option.off)}
    return ours | {flag for argument in ARGUMENTS for flag in argument.flags} | set(COMMANDS)


def build_parser() -> argparse.ArgumentParser:
    """The command line. Values stay text, so that errors of the readers can name the option."""
    parser = _Parser(
        "llamaserver",
        allow_abbrev=False,
        add_help=False,
        description="Serve a llama.cpp model over HTTP.",
        epilog="llamaserver fetch --help: download models into a shared folder, for example in an init container.\n"
        "llamaserver selftest --help: test the CPU modules of this build on this machine with your model.\n"
        "All other arguments of llama-server are in docs/reference/options.md, with what becomes of them.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-h", "--help", "--usage", action="help", help="Show this help and exit")
    parser.add_argument("--version", action="version", version=f"llamaserver {__version__}")
    parser.add_argument("--list-devices", action="store_true", help="Show the devices for --device and exit")
    for title, options in GROUPS.items():
        group = parser.add_argument_group(title)
        for option in options:
            _add(group, option)
    parser.set_defaults(others=())
    for argument in ARGUMENTS:
        parser.add_argument(
            *argument.flags, action=_Other, argument=argument, nargs=argument.values, help=argparse.SUPPRESS
        )
    return parser


def _add(group: Any, option: Option) -> None:
    text = f"{option.help} (default: {option.default_text}; ${option.variables[0]})".replace("%", "%%")
    key = option.key
    if option.read is None:
        group.add_argument(*option.flags, dest=key, action="store_const", const="true", help=text)
        if option.off:
            off = f"The opposite of {option.flags[-1]}"
            group.add_argument(*option.off, dest=key, action="store_const", const="false", help=off)
    elif option.many:
        group.add_argument(*option.flags, dest=key, action="append", metavar=option.value, help=text)
    elif option.bare is not None:
        group.add_argument(*option.flags, dest=key, nargs="?", const=option.bare, metavar=option.value, help=text)
    else:
        group.add_argument(*option.flags, dest=key, metavar=option.value, help=text)
