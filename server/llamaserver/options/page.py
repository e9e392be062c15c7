"""The page docs/reference/options.md, made from the table of options."""

from collections.abc import Iterator

from .llama_server import ARGUMENTS, Kind
from .option import Option
from .table import GROUPS

_HEAD = """# Options

This page is made by `python -m llamaserver.options`. A test keeps it current.
"""
_TABLE = "| option | default | environment | meaning |\n|---|---|---|---|"
_BECOMES = {Kind.ALWAYS: "always so", Kind.IGNORED: "accepted with a warning", Kind.REFUSED: "refused"}
_OTHERS = """## Other arguments of llama-server

All arguments of today's llama-server that are no options above are in this table. An argument that asks for what is
always so is accepted. The log of each start tells what differs for an argument that is accepted with a warning. A
refused argument ends the start with exit code 2. The same is true for their environment variables. A variable
`LLAMA_ARG_...` that is neither here nor above is a warning, with the nearest name.

These options have other meanings or defaults than in llama-server: `--ctx-size` (512, there the model's), `--parallel`
(1, there 4), `--cont-batching` (off, there on), `--context-shift` (on, there off), `--cache-ram` (0, there 8192),
`--timeout` (600, there 3600), `--repeat-penalty` (1.1 outside of the endpoints of OpenAI's API, there 1), and
`--models-dir` (a folder for downloads, there one of models to choose from). These defaults are those of llama.cpp's
server of April 2024.

| argument | what becomes of it | what differs, or why |
|---|---|---|"""
_COMMANDS = (
    "`llamaserver fetch` and `llamaserver selftest` are separate commands with their own options. "
    "See `llamaserver fetch --help` and `llamaserver selftest --help`."
)


def markdown() -> str:
    """The text of the page."""
    lines = [_HEAD]
    for title, options in GROUPS.items():
        lines += [f"## {title.capitalize()}", "", _TABLE, *(_row(option) for option in options), ""]
    lines += [_OTHERS, *_others(), "", _COMMANDS, ""]
    return "\n".join(lines)


def _others() -> Iterator[str]:
    """A row for each meaning of arguments that are no options."""
    meanings: dict[tuple[Kind, str], list[str]] = {}
    for argument in ARGUMENTS:
        meanings.setdefault((argument.kind, argument.text), []).extend(argument.flags)
    for (kind, text), flags in meanings.items():
        yield f"| {', '.join(f'`{flag}`' for flag in flags)} | {_BECOMES[kind]} | {text} |"


def _row(option: Option) -> str:
    names = ", ".join(f"`{flag}`" for flag in (*option.flags, *option.off))
    variables = ", ".join(f"`{variable}`" for variable in option.variables)
    return f"| {names} | {option.default_text} | {variables} | {option.help} |"
