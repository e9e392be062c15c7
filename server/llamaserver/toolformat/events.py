"""What a parser finds in an answer."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Thoughts before the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Content:
    """Words for the user."""

    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """A call begins. `id` is "" if the model gave none."""

    name: str
    id: str = ""


@dataclass(frozen=True, slots=True)
class Arguments:
    """A part of the JSON object of the arguments of the current call."""

    text: str


@dataclass(frozen=True, slots=True)
class End:
    """The current call is complete. A call without this event was cut off."""


Event = Reasoning | Content | Call | Arguments | End
