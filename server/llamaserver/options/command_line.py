"""The parser of the command line, made from the table of options."""

import argparse
from typing import Any, NoReturn

from .. import __version__
from ..errors import ConfigError
from .llama_server import IGNORED, IGNORED_WITH_VALUE, REFUSED
from .option import Option
from .table import GROUPS


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


class _Refuse(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> NoReturn:
        raise ConfigError(f"{option_string} is not supported: {REFUSED[option_string or '']}")


class _Ignore(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        namespace.ignored = (*namespace.ignored, option_string)


def build_parser() -> argparse.ArgumentParser:
    """The command line. Values stay text, so that errors of the readers can name the option."""
    parser = _Parser(
        "llamaserver",
        allow_abbrev=False,
        description="Serve a llama.cpp model over HTTP.",
        epilog="llamaserver fetch --help: download models into a shared folder, for example in an init container.\n"
        "llamaserver selftest --help: test the CPU modules of this build on this machine with your model.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"llamaserver {__version__}")
    for title, options in GROUPS.items():
        group = parser.add_argument_group(title)
        for option in options:
            _add(group, option)
    parser.set_defaults(ignored=())
    for flags, nargs in ((IGNORED, 0), (IGNORED_WITH_VALUE, None)):
        for flag in flags:
            parser.add_argument(flag, action=_Ignore, nargs=nargs, dest=argparse.SUPPRESS, help=argparse.SUPPRESS)
    for flag, reason in REFUSED.items():
        parser.add_argument(flag, action=_Refuse, help=f"Refused: {reason}", metavar="FNAME")
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
