"""Shows rows of a source before and after cleaning, without writing a data set."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from hfpipe.contract import RunContext
from hfpipe.data.build import OpenedRows, Plan, open_rows
from hfpipe.data.cleaning.cleaner import clean
from hfpipe.data.columns import take_texts
from hfpipe.data.ledger import Ledger
from hfpipe.data.rows import Row
from hfpipe.data.split import make_splitter
from hfpipe.inspection.shown import Outcome, ShownRow, ShownStage

if TYPE_CHECKING:
    from hfpipe.stages.dataset import Dataset

MOST = 100_000
"""Maximum number of rows to read in search of each outcome."""
OUTCOMES: tuple[Outcome, ...] = ("changed", "dropped", "kept")


def show_cleaning(stage: Dataset, ctx: RunContext, split: str | None, rows: int) -> ShownStage:
    """Return up to `rows` rows that cleaning changed, as many that it dropped, and as many that it kept.

    The source is read from its beginning until there are enough of each, at most `MOST` rows. With `split`,
    only rows of that split are returned. Raises DataError at an invalid row.
    """
    given, plan = stage.open_source(ctx)
    found: dict[str, list[ShownRow]] = {outcome: [] for outcome in OUTCOMES}
    looked: Counter[str] = Counter()
    with ctx.progress(f"{ctx.name}: reading and cleaning", None) as advance:
        opened = open_rows(given, plan, ctx.seed, Counter(), advance)
        for row in CleaningTrace(opened, plan).trace_rows(make_splitter(plan.shares, given.splits, ctx.seed)):
            looked[row.outcome] += 1
            if split in (None, row.split) or (row.outcome == "dropped" and not row.split):
                found[row.outcome].append(row)
            if all(len(alike) >= rows for alike in found.values()):
                break
    counts = ", ".join(f"{number:,} {outcome}" for outcome, number in looked.items())
    return ShownStage(
        stage=ctx.name,
        kind=stage.kind,
        split=split or "every split",
        facts=[
            ("text columns", ", ".join(opened.texts)),
            ("cleaning", "; ".join(step.reason for step in plan.steps) or "none"),
            *_describe_rare_classes(opened),
            ("rows read", f"{looked.total():,}: {counts}" + "; no more are read" * (looked.total() >= MOST)),
        ],
        rows=[row for outcome in OUTCOMES for row in found[outcome][:rows]],
    )


def _describe_rare_classes(opened: OpenedRows) -> Iterator[tuple[str, str]]:
    """Yield rows that are dropped only after reading all rows, and shown here as kept."""
    for label in opened.labels:
        if label.settings.min_count is not None:
            what = f"rows of classes of {label.column!r} with fewer than {label.settings.min_count} rows"
            yield "dropped at the end", what


class CleaningTrace:
    """Traces rows through the cleaning steps of a data set stage."""

    def __init__(self, opened: OpenedRows, plan: Plan) -> None:
        self._opened, self._plan, self._ledger = opened, plan, Ledger()
        self._waiting: tuple[Row, dict[str, Any]] | None = None
        self._before = Counter[str]()
        self._dropped: list[ShownRow] = []

    def trace_rows(self, choose: Callable[[Row], str]) -> Iterator[ShownRow]:
        """Yield the outcome of each row; `choose` returns the split of a kept row."""
        texts, ledger = self._opened.texts, self._ledger
        read = take_texts(self._watch_source(), texts, ledger)
        for row in clean(read, texts, self._plan.steps, ledger, self._opened.spans):
            yield from self._take_dropped()
            assert self._waiting is not None
            _, before = self._waiting
            self._waiting = None
            steps = [*(ledger.rows_changed - self._before)]
            yield self._show_row(row, before, "changed" if steps else "kept", choose(row), steps)
        yield from self._take_dropped()

    def _watch_source(self) -> Iterator[Row]:
        for row in islice(self._opened.rows, MOST):
            self._record_last_row()
            self._waiting = row, {name: row.values[name] for name in self._opened.texts}
            self._before = self._ledger.rows_lost + self._ledger.rows_changed
            yield row
        self._record_last_row()

    def _record_last_row(self) -> None:
        """Record the previous row as dropped, unless it has passed the last step."""
        if self._waiting is None:
            return
        row, before = self._waiting
        self._waiting = None
        steps = [*(self._ledger.rows_lost - self._before)]
        self._dropped.append(self._show_row(row, before, "dropped", row.split or "", steps))

    def _take_dropped(self) -> list[ShownRow]:
        dropped, self._dropped = self._dropped, []
        return dropped

    def _show_row(
        self, row: Row, before: Mapping[str, Any], outcome: Outcome, split: str, steps: list[str]
    ) -> ShownRow:
        columns = [(name, _to_text(value), _to_text(row.values[name])) for name, value in before.items()]
        return ShownRow(row.place, outcome, split, steps, columns)


def _to_text(value: Any) -> str:
    """Return a text unchanged, and words or a conversation as JSON."""
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False, default=str)
