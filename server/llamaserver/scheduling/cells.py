"""KV cells in use, counted by reference."""

from collections import Counter
from collections.abc import Iterable
from collections.abc import Sequence as Many


class CellLedger:
    """Counts the KV cells in use when sequences share them (unified layout).

    Every evaluated position gets an id; a copied prefix refers to the same ids. The library has no
    counter of its own.
    """

    def __init__(self) -> None:
        self._references: Counter[int] = Counter()
        self._next = 0

    @property
    def used(self) -> int:
        """Distinct cells held by anybody."""
        return len(self._references)

    def extend(self, cells: list[int], count: int) -> None:
        """Add `count` new cells to one holder's."""
        fresh = range(self._next, self._next + count)
        self._next += count
        for cell in fresh:
            self._references[cell] = 1
        cells.extend(fresh)

    def share(self, cells: Many[int]) -> list[int]:
        """The same cells for one more holder."""
        for cell in cells:
            self._references[cell] += 1
        return list(cells)

    def release(self, cells: Iterable[int]) -> None:
        """One holder fewer; a cell without holders is free."""
        references = self._references
        for cell in cells:
            if references[cell] == 1:
                del references[cell]
            else:
                references[cell] -= 1

    def shared(self, cells: Iterable[int]) -> bool:
        """Whether any of these cells has another holder."""
        return any(self._references[cell] > 1 for cell in cells)
