"""One argument of llama-server that is no option here: what becomes of it, and why."""

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What becomes of an argument."""

    ALWAYS = "what it asks for is always so"
    IGNORED = "accepted with a warning"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Argument:
    """Spellings with one meaning, the number of values after them, and the environment variable.

    `text` says what differs, or why the argument is refused. A switch counts in the environment if its variable is
    true. With `negative`, it counts if the variable is false, or if the variable with NO_ in its name is true.
    """

    kind: Kind
    flags: tuple[str, ...]
    text: str
    values: int = 0
    env: str = ""
    negative: bool = False


def always(*flags: str, text: str, values: int = 0, env: str = "", negative: bool = False) -> Argument:
    """An argument that asks for what is always so."""
    return Argument(Kind.ALWAYS, flags, text, values, env, negative)


def ignored(*flags: str, text: str, values: int = 0, env: str = "", negative: bool = False) -> Argument:
    """An argument that is accepted with a warning."""
    return Argument(Kind.IGNORED, flags, text, values, env, negative)


def refused(*flags: str, text: str, values: int = 0, env: str = "", negative: bool = False) -> Argument:
    """An argument that is an error."""
    return Argument(Kind.REFUSED, flags, text, values, env, negative)
