"""One option: where its value goes, how it is written, and its help."""

from dataclasses import dataclass, fields

from ..config import Config
from ..option_readers import Reader


@dataclass(frozen=True, slots=True)
class Option:
    """One option of the command line, with its environment variables.

    `flags` without `read` make a switch, which the spellings of `off` turn off. `read` makes an option with a
    value. It returns the value of `field`, or a dict with values of several fields. `bare` is the value of a flag
    that is given without one. `many` adds up repetitions. `value` stands for the value in the help. `default`
    replaces the default of Config in the help. `safer` says how to give a secret without showing it to other users.
    With `request`, the option sets what requests get that leave out this field.
    """

    field: str
    flags: tuple[str, ...]
    help: str
    read: Reader | None = None
    env: tuple[str, ...] = ()
    off: tuple[str, ...] = ()
    bare: str | None = None
    many: bool = False
    value: str = "N"
    default: str = ""
    safer: str = ""
    request: str = ""

    @property
    def variables(self) -> tuple[str, ...]:
        """The environment variables. The first one that is set counts."""
        return self.env or (f"LLAMA_ARG_{self.field.upper()}",)

    @property
    def key(self) -> str:
        """A name that no other option has, not even one of the same field."""
        return self.variables[0]

    @property
    def default_text(self) -> str:
        """The default as the help shows it."""
        if self.default:
            return self.default
        value = next(item.default for item in fields(Config) if item.name == self.field)
        if value is None:
            return "automatic"
        if isinstance(value, bool):
            return "on" if value else "off"
        if isinstance(value, float):
            return f"{value:g}"
        return str(value) if value not in ("", ()) else "none"
