"""Readers of option values. Each makes a value of a text, or raises ConfigError with the values allowed."""

from collections.abc import Callable
from typing import Any

from .errors import ConfigError

Reader = Callable[[str], Any]


def integer(low: int, high: int = 2**31 - 1) -> Reader:
    """A whole number within [low, high]."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ConfigError(f"must be an integer, not {text!r}") from None
        if not low <= value <= high:
            raise ConfigError(f"must be between {low} and {high}, not {value}")
        return value

    return read


def number(low: float, high: float = 1e9) -> Reader:
    """A number within [low, high]."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise ConfigError(f"must be a number, not {text!r}") from None
        if not low <= value <= high:
            raise ConfigError(f"must be between {low:g} and {high:g}, not {value:g}")
        return value

    return read


def choice(*allowed: str) -> Reader:
    """One of these words."""

    def read(text: str) -> str:
        if text not in allowed:
            raise ConfigError(f"must be one of {', '.join(allowed)}, not {text!r}")
        return text

    return read
