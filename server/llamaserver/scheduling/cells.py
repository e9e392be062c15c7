"""KV cells in use, counted by reference."""

from collections import Counter
from collections.abc import Iterable, Sequence


class CellLedger:
    """Counts the KV cells in use when sequences share them (unified layout).

    Every evaluated position gets an id. A copied prefix refers to the same ids. The library does
    not count them.
    """

    def __init__(self) -> None:
        self._references: Counter[int] = Counter()
        self._next = 0

    @property
    def used(self) -> int:
        """Distinct cells in use."""
        return len(self._references)

    def extend(self, cells: list[int], count: int) -> None:
        """Add `count` new cells to those of one sequence."""
        fresh = range(self._next, self._next + count)
        self._next += count
        for cell in fresh:
            self._references[cell] = 1
        cells.extend(fresh)

    def share(self, cells: Sequence[int]) -> list[int]:
        """The same cells for one more sequence."""
        for cell in cells:
            self._references[cell] += 1
        return list(cells)

    def release(self, cells: Iterable[int]) -> None:
        """Drop one reference to each cell. A cell without references is free."""
        references = self._references
        for cell in cells:
            if references[cell] == 1:
                del references[cell]
            else:
                references[cell] -= 1

    def shared(self, cells: Iterable[int]) -> bool:
        """Whether another sequence refers to any of these cells."""
        return any(self._references[cell] > 1 for cell in cells)
