"""The ledger of a data set: every row and character read, kept, or lost with a reason."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hfpipe.data.rows import Row
from hfpipe.errors import StageError


class Ledger:
    """Counts rows and characters read, kept, and lost by reason; the counts must balance."""

    def __init__(self) -> None:
        self.rows_in = 0
        self.characters_in = 0
        self.splits: Counter[str] = Counter()
        self.characters_kept = 0
        self.rows_lost: Counter[str] = Counter()
        self.characters_lost: Counter[str] = Counter()
        self.rows_changed: Counter[str] = Counter()

    def enter(self, characters: int) -> None:
        """Count a row that was read."""
        self.rows_in += 1
        self.characters_in += characters

    def drop(self, reason: str, characters: int) -> None:
        """Count a row that is dropped."""
        self.rows_lost[reason] += 1
        self.characters_lost[reason] += characters

    def change(self, reason: str, shorter: int) -> None:
        """Count a row whose text became shorter (or longer, if negative)."""
        self.rows_changed[reason] += 1
        self.characters_lost[reason] += shorter

    def keep(self, row: Row, split: str) -> None:
        """Count a row that was written."""
        self.splits[split] += 1
        self.characters_kept += row.characters

    def take_back(self, split: str, reason: str, characters: int) -> None:
        """Count a row that was already written as dropped."""
        self.splits[split] -= 1
        self.splits += Counter()  # removes splits without rows
        self.characters_kept -= characters
        self.drop(reason, characters)

    def close(self, reasons: list[str]) -> dict[str, Any]:
        """Return the ledger as JSON; `in` equals the sum of the other entries, for rows and for characters.

        `reasons` are listed even if they dropped nothing. Raises StageError when the ledger does not balance.
        """
        rows = {"kept": self.splits.total(), **{why: self.rows_lost[why] for why in reasons}}
        characters = {"kept": self.characters_kept, **{why: self.characters_lost[why] for why in reasons}}
        if sum(rows.values()) != self.rows_in or sum(characters.values()) != self.characters_in:
            raise StageError(
                f"the ledger does not balance: {self.rows_in} rows and "
                f"{self.characters_in} characters were read, but {rows} and {characters} are accounted for; "
                "this is a bug in hfpipe, please report it"
            )
        return {
            "rows": {"in": self.rows_in, **rows},
            "characters": {"in": self.characters_in, **characters},
            "changed": dict(self.rows_changed),
        }

    def describe_losses(self) -> str:
        """Return the reasons that dropped rows, largest first, as `min_chars: 40 took 10, …`."""
        return ", ".join(f"{why} took {count:,}" for why, count in self.rows_lost.most_common())
