"""A report that records which missing keys were read."""

from typing import Any


class Recorded(dict[str, Any]):
    """A dict, with inner dicts of the same type. `missing` has the paths of keys that were read and are absent."""

    def __init__(self, values: dict[str, Any], missing: set[str] | None = None, path: str = "") -> None:
        self.missing: set[str] = set() if missing is None else missing
        self.asked: set[str] = set()
        self._path = path
        super().__init__(
            {
                key: Recorded(value, self.missing, f"{path}{key}.") if isinstance(value, dict) else value
                for key, value in values.items()
            }
        )

    def _note(self, key: str) -> None:
        self.asked.add(key)
        if not super().__contains__(key):
            self.missing.add(f"{self._path}{key}")

    def get(self, key: str, default: Any = None) -> Any:
        """Like dict.get."""
        self._note(key)
        return super().get(key, default)

    def __getitem__(self, key: str) -> Any:
        self._note(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self._note(str(key))
        return super().__contains__(key)
