"""Which split a row belongs to, and the id that it keeps: both decided by content, not by position."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from hashlib import blake2b
from typing import Any

from hfpipe.data.rows import Row
from hfpipe.errors import DataError

TRAIN = "train"


def splitter(shares: Mapping[str, float], given: Collection[str | None], seed: int) -> Callable[[Row], str]:
    """Return the function that names a row's split.

    A split the source gives stays as it is; `shares` carve those it lacks out of train. Rows of equal
    text get the same split, and a row keeps its split when others are added.
    """
    # In an order of its own: keys of a recipe may be swapped, and the rows must not move with them.
    wanted = sorted(((name, share) for name, share in shares.items() if name not in given), reverse=True)
    begun = blake2b(digest_size=8, salt=seed.to_bytes(8, "little", signed=True))

    def choose(row: Row) -> str:
        if row.split not in (None, TRAIN):
            return str(row.split)
        drawn = begun.copy()
        drawn.update(row.digest())
        point = int.from_bytes(drawn.digest(), "little") / 2**64
        for name, share in wanted:
            if point < share:
                return name
            point -= share
        return TRAIN

    return choose if wanted else lambda row: row.split or TRAIN


class RowIds:
    """Gives each row an id: its own `id` if it has one, or else a digest of its text and a number."""

    def __init__(self) -> None:
        self._seen: set[str | bytes] = set()
        self._repeats: dict[bytes, int] = {}
        self.own = False
        """Whether the rows have ids of their own."""

    def of(self, row: Row) -> str:
        """Return the row's id. Raises DataError when the row's own is missing or was given before."""
        if "id" in row.values:
            self.own = True
            return self._own(row, row.values["id"])
        digest = row.digest()
        if digest not in self._seen:
            self._seen.add(digest)
            return digest.hex()
        self._repeats[digest] = self._repeats.get(digest, 1) + 1
        return f"{digest.hex()}-{self._repeats[digest]}"

    def _own(self, row: Row, value: Any) -> str:
        if value is None:
            raise DataError(f"{row.place}: the `id` is null; fill it in, or leave it out with `columns`")
        name = str(value)
        if name in self._seen:
            raise DataError(
                f"{row.place}: the `id` {name!r} was given before; make ids unique, or leave them "
                "out with `columns`"
            )
        self._seen.add(name)
        return name
