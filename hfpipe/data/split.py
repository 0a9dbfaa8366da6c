"""Assigns splits and ids to rows by their content, not by their position."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from hashlib import blake2b
from typing import Any

from hfpipe.data.cleaning.digest_set import SIZE, DigestSet
from hfpipe.data.rows import Row
from hfpipe.errors import DataError

TRAIN = "train"


def make_splitter(
    shares: Mapping[str, float], given: Collection[str | None], seed: int
) -> Callable[[Row], str]:
    """Return the function that assigns a row to a split.

    Splits of the source are kept; those in `shares` that it lacks are split off from train. Rows with equal
    texts get the same split, and adding rows does not change the split of existing rows.
    """
    # A fixed order: reordering the keys of a recipe must not move rows.
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
    """Assigns an id to each row: its `id` column if present, otherwise a digest of its text and a number."""

    def __init__(self) -> None:
        self._seen = DigestSet()
        self._repeats: dict[bytes, int] = {}
        self.own = False
        """Whether the rows have an `id` column."""

    def make_id(self, row: Row) -> str:
        """Return the id of a row. Raises DataError when its `id` is missing or repeated."""
        if "id" in row.values:
            self.own = True
            return self._check_own_id(row, row.values["id"])
        digest = row.digest()
        if self._seen.add(digest):
            return digest.hex()
        self._repeats[digest] = self._repeats.get(digest, 1) + 1
        return f"{digest.hex()}-{self._repeats[digest]}"

    def _check_own_id(self, row: Row, value: Any) -> str:
        if value is None:
            raise DataError(f"{row.place}: the `id` is null; fill it in, or leave it out with `columns`")
        name = str(value)
        if not self._seen.add(blake2b(name.encode("utf-8", "surrogatepass"), digest_size=SIZE).digest()):
            raise DataError(
                f"{row.place}: the `id` {name!r} was given before; make ids unique, or leave them "
                "out with `columns`"
            )
        return name
