"""Builds a data set: reads, cleans, labels and splits rows, and writes Arrow files and a ledger."""

from __future__ import annotations

import errno
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from hfpipe.contract import RunContext
from hfpipe.data.cleaning.cleaner import clean
from hfpipe.data.cleaning.steps import Clean
from hfpipe.data.column_types import find_conversations, find_text_columns
from hfpipe.data.columns import MISSING, select, take_first_rows, take_texts
from hfpipe.data.conversations import Conversations
from hfpipe.data.labels.labels import Label, find_labels, read_labels
from hfpipe.data.labels.notes import find_suspicious_values
from hfpipe.data.labels.rare_classes import name_rare_class_reason, remove_rare_classes
from hfpipe.data.labels.settings import LabelColumn
from hfpipe.data.ledger import Ledger
from hfpipe.data.rows import Limit, Row, SourceRows, get_limit
from hfpipe.data.spans import Spans, find_spans
from hfpipe.data.split import TRAIN, RowIds, make_splitter
from hfpipe.data.write import Writer, infer_schema
from hfpipe.encoding.io import extract_facts
from hfpipe.errors import DataError, StageError
from hfpipe.garbage import collect_garbage_rarely
from hfpipe.report import Report

T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """The settings of the stage: how rows are cleaned, labelled and split."""

    columns: Mapping[str, str]
    text: Sequence[str]
    labels: Mapping[str, LabelColumn]
    steps: Sequence[Clean]
    shares: Mapping[str, float]
    limit: Limit


@dataclass(frozen=True)
class OpenedRows:
    """The rows of a source before cleaning, and the kinds of their columns."""

    rows: Iterable[Row]
    head: Sequence[Row]
    """The first rows, from which the kinds of columns are detected."""
    labels: list[Label]
    texts: list[str]
    """Columns of text, which cleaning changes."""
    conversations: Conversations
    spans: Spans


def open_rows(
    given: SourceRows, plan: Plan, seed: int, filled: Counter[str], advance: Callable[[int], None]
) -> OpenedRows:
    """Return the rows of a source under their names in hfpipe, with labels and conversations converted.

    `filled` counts, by column, the rows that lack it. Raises DataError at the first invalid row.
    """
    rows = select(given.iterate_rows(plan.limit, seed, advance), plan.columns, filled)
    head = list(take_first_rows(rows))
    if not head:
        raise DataError("the source yielded no rows; fix the source")
    labels = find_labels(head, plan.labels, _rename_columns(given.names, plan))
    texts = find_text_columns(head, [label.column for label in labels], plan.text)
    converted, spans = Conversations(find_conversations(head)), find_spans(head, texts)
    read = spans.read(converted.read(read_labels(chain(head, rows), labels)))
    return OpenedRows(read, head, labels, texts, converted, spans)


def build(given: SourceRows, plan: Plan, ctx: RunContext) -> Report:
    """Write the data set into `ctx.folder`, loadable by `load_from_disk`, and return its report.

    Rows are streamed. Per row, only digests (for ids and exact duplicates), MinHashes (for near duplicates),
    label ids and a length are kept in memory. Raises DataError with the location of the first invalid row.
    """
    ledger = Ledger()
    filled: Counter[str] = Counter()
    with ctx.progress(f"{ctx.name}: reading and cleaning", None) as advance, collect_garbage_rarely():
        opened = open_rows(given, plan, ctx.seed, filled, advance)
        labels, texts, spans = opened.labels, opened.texts, opened.spans
        cleaned = clean(take_texts(opened.rows, texts, ledger), texts, plan.steps, ledger, spans)
        choose, ids = make_splitter(plan.shares, given.splits, ctx.seed), RowIds()
        scratch = ctx.work / "rows"
        types = infer_schema(opened.head, texts, labels, _rename_columns(given.found.types, plan))
        with _translate_disk_errors(ctx.folder), Writer(scratch, types, labels) as writer:
            for row in cleaned:
                split = choose(row)
                row.values["id"] = ids.make_id(row)
                for label in labels:
                    row.values[label.column] = label.encode(row, split)
                writer.add(row, split)
                ledger.keep(row, split)
            remove_rare_classes(labels, writer, ledger)
            closed = ledger.close(_list_reasons(plan, labels, ledger))
            _require_train(ledger, given)
            for label in labels:
                label.check()
            data = writer.save(ctx.folder)
    found = extract_facts(data).model_copy(update={"dropped": dict(+ledger.rows_lost)})
    del data  # it memory-maps the temporary files
    shutil.rmtree(scratch)
    converted = {**opened.conversations.changed, **spans.changed}
    columns = [
        *_describe_columns(texts, labels, ids),
        *(f"{what} in {count:,} rows" for what, count in converted.items()),
    ]
    return Report(
        kind="dataset",
        summary="; ".join(
            [*_describe_rows(ledger, found.splits), *columns, *_describe_reading(given, plan, filled)]
        ),
        data=found,
        ledger=closed,
        facts={"text": texts, **_read_facts(given, plan, filled)},
    )


def _describe_columns(texts: Sequence[str], labels: Sequence[Label], ids: RowIds) -> Iterator[str]:
    """Yield phrases that describe which columns are texts, labels and ids."""
    yield f"text: {', '.join(texts)}"
    yield from _describe_labels(labels)
    yield f"id: {'id' if ids.own else 'derived from the text'}"


def _list_reasons(plan: Plan, labels: Sequence[Label], ledger: Ledger) -> list[str]:
    """Return the reasons for which rows may be dropped, in the order of the steps, each once."""
    steps = (step.reason for step in plan.steps)
    rare = [name_rare_class_reason(label) for label in labels if label.settings.min_count is not None]
    return list(dict.fromkeys([MISSING, *steps, *rare, *ledger.rows_lost]))


def _rename_columns(known: Mapping[str, T], plan: Plan) -> dict[str, T]:
    """Return what the source reports about its columns, keyed by their new names."""
    if not plan.columns:
        return dict(known)
    return {ours: known[theirs] for ours, theirs in plan.columns.items() if theirs in known}


def _read_facts(given: SourceRows, plan: Plan, filled: Mapping[str, int]) -> dict[str, Any]:
    """Return what was detected, added or skipped while reading, as JSON for the report."""
    found = {"files": given.found.files, "left_out": given.found.left_out, "filled": dict(filled)}
    return found | _count_sampled(given, plan)


def _describe_reading(given: SourceRows, plan: Plan, filled: Mapping[str, int]) -> Iterator[str]:
    """Yield the facts of `_read_facts` as phrases for the summary."""
    if read := _count_sampled(given, plan).get("limit"):
        yield f"an even sample of {read['read']:,} rows"
    yield from given.found.summarize()
    for name, count in filled.items():
        yield f"{name!r} is null in {count:,} rows that lack it"


def _count_sampled(given: SourceRows, plan: Plan) -> dict[str, dict[str, int]]:
    kept = sum(min(count, get_limit(plan.limit, split) or count) for split, count in given.read.items())
    return {} if kept == given.read.total() else {"limit": {"read": given.read.total(), "kept": kept}}


@contextmanager
def _translate_disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        what = "the disk is full or the file too large" if full else "cannot be written"
        fix = "free disk space" if full else "fix its permissions"
        raise StageError(f"{folder}: {what} ({error.strerror or error}); {fix} and run again") from None


def _require_train(ledger: Ledger, given: SourceRows) -> None:
    if ledger.splits[TRAIN] or not {None, TRAIN} & given.splits.keys():
        return
    gone = ledger.describe_losses()
    held = ", ".join(f"{split} got {count:,}" for split, count in ledger.splits.items())
    where = "; ".join(filter(None, (gone, held)))
    raise DataError(f"no training rows are left of {ledger.rows_in:,} ({where}); loosen `clean` or `split`")


def _describe_rows(ledger: Ledger, splits: Mapping[str, int]) -> Iterator[str]:
    """Yield the number of rows in each split, and the reasons for which others were dropped."""
    parts = ", ".join(f"{split} {rows:,}" for split, rows in splits.items())
    lost = f" ({ledger.describe_losses()})" if ledger.rows_lost.total() else ""
    yield f"{ledger.splits.total():,} rows ({parts}), {ledger.rows_lost.total():,} dropped{lost}"


def _describe_labels(labels: Sequence[Label]) -> Iterator[str]:
    """Yield which columns are labels, and what they contain."""
    yield f"labels: {', '.join(label.describe() for label in labels) or 'none'}"
    for label in labels:
        yield from find_suspicious_values(label)
