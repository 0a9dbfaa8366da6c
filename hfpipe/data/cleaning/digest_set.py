"""Remembers which digests of rows occurred, in less than a third of the memory of a set of `bytes`."""

from __future__ import annotations

SIZE = 16
"""Bytes of a digest."""
FIRST_BUCKETS, GROWTH, PER_BUCKET = 1 << 10, 4, 32
"""Number of buckets at first, the factor by which it grows, and the digests of each, on average, at which."""


class DigestSet:
    """A set of digests of 16 bytes, kept one after the other in buckets; exact.

    A set of `bytes` objects needs about 110 bytes for each, and half of the time.
    """

    def __init__(self) -> None:
        self._buckets: list[bytearray | None] = [None] * FIRST_BUCKETS
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, digest: bytes) -> bool:
        """Add a digest; return whether it is new."""
        place = hash(digest) & (len(self._buckets) - 1)
        bucket = self._buckets[place]
        if bucket is None:
            self._buckets[place] = bytearray(digest)
        else:
            start = bucket.find(digest)
            while start > 0 and start % SIZE:  # found across the boundary of two digests
                start = bucket.find(digest, start + 1)
            if start >= 0:
                return False
            bucket += digest
        self._count += 1
        if self._count > PER_BUCKET * len(self._buckets):
            self._grow()
        return True

    def _grow(self) -> None:
        """Distribute the digests over more buckets, so that finding one does not take longer."""
        old = self._buckets
        self._buckets, self._count = [None] * (GROWTH * len(old)), 0
        for place, bucket in enumerate(old):
            old[place] = None  # frees it
            kept = bytes(bucket or b"")
            for start in range(0, len(kept), SIZE):
                self.add(kept[start : start + SIZE])
