"""The page docs/reference/options.md, made from the table of options."""

from .llama_server import REFUSED
from .option import Option
from .table import GROUPS

_HEAD = """# Options

This page is made by `python -m llamaserver.options`. A test keeps it current.
"""
_TABLE = "| option | default | environment | meaning |\n|---|---|---|---|"
_COMMANDS = (
    "`llamaserver fetch` and `llamaserver selftest` are separate commands with their own options. "
    "See `llamaserver fetch --help` and `llamaserver selftest --help`."
)


def markdown() -> str:
    """The text of the page."""
    lines = [_HEAD]
    for title, options in GROUPS.items():
        lines += [f"## {title.capitalize()}", "", _TABLE, *(_row(option) for option in options), ""]
    for flag, reason in REFUSED.items():
        lines += [f"`{flag}` is refused: {reason}.", ""]
    lines += [_COMMANDS, ""]
    return "\n".join(lines)


def _row(option: Option) -> str:
    names = ", ".join(f"`{flag}`" for flag in (*option.flags, *option.off))
    variables = ", ".join(f"`{variable}`" for variable in option.variables)
    return f"| {names} | {option.default_text} | {variables} | {option.help} |"
