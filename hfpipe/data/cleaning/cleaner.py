"""Runs the cleaning steps over rows, and records in the ledger what each step removed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from hfpipe.data.cleaning.edits import Edit
from hfpipe.data.cleaning.filters import Keep
from hfpipe.data.cleaning.steps import Clean
from hfpipe.data.ledger import Ledger
from hfpipe.data.rows import Row
from hfpipe.data.spans import Spans

Apply = Callable[[Row], bool]


def clean(
    rows: Iterable[Row], columns: Sequence[str], steps: Sequence[Clean], ledger: Ledger, spans: Spans
) -> Iterator[Row]:
    """Yield the rows that pass every step, in order, with edited text columns and updated answer positions.

    A row is dropped if an edit destroys an answer that is given by its position.
    """
    stages = [
        _apply_edit(one.step, one.reason, columns, ledger, spans)
        if isinstance(one.step, Edit)
        else _apply_filter(one.step.start(), one.reason, ledger)
        for one in steps
    ]
    if not stages:
        yield from rows
        return
    for row in rows:
        for stage in stages:
            if not stage(row):
                break
        else:
            yield row


def _apply_edit(step: Edit, reason: str, columns: Sequence[str], ledger: Ledger, spans: Spans) -> Apply:
    edit = step.edit

    def apply(row: Row) -> bool:
        texts = [*map(edit, row.texts)]
        if texts != row.texts:
            if not spans.move(row, step):
                ledger.drop(f"{reason}: destroys an answer", row.characters)
                return False
            before = row.characters
            row.rewrite(columns, texts)
            ledger.change(reason, before - row.characters)
        return True

    return apply


def _apply_filter(keep: Keep, reason: str, ledger: Ledger) -> Apply:
    def apply(row: Row) -> bool:
        kept = keep(row)
        if not kept:
            ledger.drop(reason, row.characters)
        return kept

    return apply
