"""Typed reading of request bodies. Each error names its field. Null means absent."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from ..errors import InvalidRequest

DIALECT_DEFAULTS = {"repeat_penalty": 1.0}  # of OpenAI's and Anthropic's APIs, which have no repeat penalty


class Fields:
    """The fields of a JSON object, read by name and type. `defaults` holds values for fields that are absent."""

    def __init__(self, body: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> None:
        self._values = body
        self._defaults = defaults or {}

    def replaced(self, values: Mapping[str, Any]) -> "Fields":
        """The same fields with other values for some of them."""
        return Fields({**self._values, **values}, self._defaults)

    def translated(self, values: Mapping[str, Any], without: Collection[str]) -> "Fields":
        """The same fields in the words of another dialect: those that are not null in `values`, for `without`."""
        kept = {name: value for name, value in self._values.items() if name not in without}
        return Fields({name: value for name, value in {**kept, **values}.items() if value is not None}, self._defaults)

    def over(self, defaults: Mapping[str, Any]) -> "Fields":
        """The same fields with other defaults, which come before those that they have."""
        return Fields(self._values, {**self._defaults, **defaults})

    def __iter__(self) -> Iterator[str]:
        """The names of all fields."""
        return iter({**self._defaults, **self._values})

    def get(self, *names: str) -> tuple[str, Any]:
        """Return the first of these names that is present and not null, with its value, or (names[0], None)."""
        for values in (self._values, self._defaults):
            for name in names:
                if (value := values.get(name)) is not None:
                    return name, value
        return names[0], None

    def number(self, *names: str, default: float, low: float = -1e9, high: float = 1e9) -> float:
        """A finite number within [low, high]."""
        name, value = self.get(*names)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise InvalidRequest(f"Field '{name}': must be a number", field=name)
        if not low <= value <= high:
            raise InvalidRequest(f"Field '{name}': must be between {low:g} and {high:g}", field=name)
        return float(value)

    def integer(self, *names: str, default: int, low: int = -(2**31), high: int = 2**31 - 1) -> int:
        """A whole number within [low, high]."""
        name, value = self.get(*names)
        if value is None:
            return default
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if isinstance(value, bool) or not whole:
            raise InvalidRequest(f"Field '{name}': must be an integer", field=name)
        if not low <= value <= high:
            raise InvalidRequest(f"Field '{name}': must be between {low} and {high}", field=name)
        return int(value)

    def boolean(self, *names: str, default: bool) -> bool:
        """True or false."""
        name, value = self.get(*names)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise InvalidRequest(f"Field '{name}': must be true or false", field=name)
        return value

    def string(self, *names: str, default: str = "") -> str:
        """A string."""
        name, value = self.get(*names)
        if value is None:
            return default
        if not isinstance(value, str):
            raise InvalidRequest(f"Field '{name}': must be a string", field=name)
        return value

    def strings(self, *names: str, default: Sequence[str] = (), limit: int = 1024) -> tuple[str, ...]:
        """A string or an array of at most `limit` strings."""
        name, value = self.get(*names)
        if value is None:
            return tuple(default)
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            raise InvalidRequest(f"Field '{name}': must be a string or an array of strings", field=name)
        if len(items) > limit:
            raise InvalidRequest(f"Field '{name}': must have at most {limit} entries", field=name)
        return tuple(items)

    def array(self, *names: str) -> list[Any]:
        """An array, empty when absent."""
        name, value = self.get(*names)
        if value is None:
            return []
        if not isinstance(value, list):
            raise InvalidRequest(f"Field '{name}': must be an array", field=name)
        return value

    def object(self, *names: str) -> dict[str, Any] | None:
        """An object, None when absent."""
        name, value = self.get(*names)
        if value is not None and not isinstance(value, dict):
            raise InvalidRequest(f"Field '{name}': must be an object", field=name)
        return value


def token_id(value: Any, n_vocab: int, field: str) -> int:
    """Check a token id: the library would crash on one that is not in the vocabulary. Raises InvalidRequest."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidRequest(f"Field '{field}': {value!r:.40} is not a token id", field=field)
    if not 0 <= value < n_vocab:
        raise InvalidRequest(f"Field '{field}': token id {value} is not in [0, {n_vocab})", field=field)
    return value


def token_ids(values: list[Any], n_vocab: int, name: Callable[[int], str]) -> list[int]:
    """Check many token ids. `name` gives the field of a place, for the error. Raises InvalidRequest."""
    fits = set(map(type, values)) <= {int} and min(values, default=0) >= 0 and max(values, default=0) < n_vocab
    return values if fits else [token_id(value, n_vocab, name(place)) for place, value in enumerate(values)]
