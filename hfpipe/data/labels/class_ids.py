"""Ids of the classes of one label column: provisional while rows are read, final when all are counted."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence

from hfpipe.data.rows import Row
from hfpipe.data.split import TRAIN

Name = str | int | bool


class ClassIds:
    """Numbers classes in the order in which they occur, counts their rows, and determines their final order.

    `order` are class names in the order of their ids, if known in advance. With `declared`, they are all
    classes, and each has an id even if no row has that class.
    """

    def __init__(self, order: Sequence[str], *, declared: bool) -> None:
        self._order = {name: place for place, name in enumerate(order)}
        self.values: list[Name] = []
        """Provisional id → the class as in the data."""
        self._ids: dict[str, int] = {}
        self._places: dict[int, str] = {}
        self._counts: defaultdict[str, Counter[int]] = defaultdict(Counter)
        self._gone: set[int] = set()
        self._merged: set[int] = set()
        self._target: int | None = None
        for name in order if declared else ():
            self.assign_id(name)

    def __len__(self) -> int:
        return len(self.values)

    def assign_id(self, value: Name) -> int:
        """Return the provisional id of a class."""
        number = self._ids.setdefault(str(value), len(self._ids))
        if number == len(self.values):
            self.values.append(value)
        return number

    def find(self, value: object) -> int | None:
        """Return the provisional id of a class, None if it has no id."""
        return self._ids.get(value if type(value) is str else str(value))

    def count(self, ids: Iterable[int], split: str, row: Row) -> None:
        """Count one row with these classes."""
        counts = self._counts[split]
        for number in {*ids}:
            if number not in self._places:
                self._places[number] = row.place
            counts[number] += 1

    def remove_count(self, ids: Iterable[int], split: str) -> None:
        """Remove one row with these classes from the counts."""
        self._counts[split].subtract({*ids})

    @property
    def rows(self) -> int:
        """Sum of the counts: number of rows, each counted once per class."""
        return sum(counts.total() for counts in self._counts.values())

    def count_rows(self, number: int, splits: Collection[str] | None = None) -> int:
        """Return how many rows a class has in these splits; by default in all."""
        return sum(
            counts[number] for split, counts in self._counts.items() if splits is None or split in splits
        )

    def find_rare(self, least: int) -> set[int]:
        """Return the classes with fewer training rows than `least`; without a train split, all rows count."""
        splits = {TRAIN} & self._counts.keys() or None
        return {
            number
            for number in self._list_kept()
            if number != self._target and self.count_rows(number, splits) < least
        }

    def drop(self, numbers: Collection[int]) -> None:
        """Remove the ids of classes whose rows are dropped."""
        self._gone |= {*numbers}

    def merge(self, numbers: Collection[int], into: str) -> None:
        """Merge classes into another class, which may be new."""
        if not numbers:
            return
        self._target = self.assign_id(into)
        self._merged = {*numbers} - {self._target}
        for counts in self._counts.values():
            # A row with two of them is counted twice; after this only zero or nonzero matters.
            counts[self._target] += sum(counts[number] for number in self._merged)
        places = (self._places[number] for number in sorted(numbers) if number in self._places)
        self._places.setdefault(self._target, next(places, ""))

    def find_untrained(self) -> dict[int, dict[str, int]]:
        """Return the classes without training rows → their rows by split; empty without a train split."""
        if TRAIN not in self._counts:
            return {}
        rows = {
            number: {split: counts[number] for split, counts in self._counts.items() if counts[number] > 0}
            for number in self._list_kept()
        }
        return {number: splits for number, splits in rows.items() if splits and TRAIN not in splits}

    def find_unseen(self) -> list[str]:
        """Return the names of the classes with an id but without rows."""
        return [str(self.values[number]) for number in self._list_kept() if not self.count_rows(number)]

    def get_place(self, number: int) -> str:
        """Return the location of the first row of a class."""
        return self._places[number]

    def sort_names(self) -> list[str]:
        """Return the names in the order of their final ids: as known in advance, or sorted."""
        return [str(self.values[number]) for number in self._sort_kept()]

    def map_to_final(self) -> list[int]:
        """Return provisional id → final id; removed classes have 0, which no row refers to."""
        final = {number: place for place, number in enumerate(self._sort_kept())}
        if self._target is not None:
            final |= dict.fromkeys(self._merged, final[self._target])
        return [final.get(number, 0) for number in range(len(self))]

    def _list_kept(self) -> list[int]:
        gone = self._gone | self._merged
        return [number for number in range(len(self)) if number not in gone]

    def _sort_kept(self) -> list[int]:
        kept = self._list_kept()
        numeric = all(type(self.values[number]) is int for number in kept)

        def key(number: int) -> tuple[int, Name]:
            value = self.values[number]
            return self._order.get(str(value), len(self._order)), value if numeric else str(value)

        return sorted(kept, key=key)
