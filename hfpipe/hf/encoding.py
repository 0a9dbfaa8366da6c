"""Text → model inputs on disk: made once, in one process, memory-mapped ever after, no token lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch.utils.data import Dataset

from hfpipe.advice import advise_drop
from hfpipe.errors import DataError, StageError
from hfpipe.hf.nested import read_rows
from hfpipe.hf.origins import name_row
from hfpipe.store import write_whole
from hfpipe.tokenization.encoding import encode_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hfpipe.contract import Rows, Task
    from hfpipe.hf.batches import Key
    from hfpipe.report import DataFacts
    from hfpipe.tokenization.text import Text

ROWS_AT_ONCE = 1000
TYPES = {"input_ids": pa.list_(pa.int32()), "token_type_ids": pa.list_(pa.int8()), "row": pa.int64()}
"""Column → how it lies on disk; Arrow infers the others from their first batch, empty lists as of numbers."""
TOLD = {"string": "a text", "strings": "a list of texts", "label": "a class", "labels": "a list of classes"}
"""Type of a column → what has to stand in every row of it."""


class Examples(Dataset[dict[str, Any]]):
    """Encoded examples of one split, read from disk as they are asked for."""

    def __init__(self, table: datasets.Dataset, source: datasets.Dataset) -> None:
        self.table = table.with_format("numpy")
        self.source = source
        self.first = 0
        """Index of the first example, where others came before in files of their own."""
        column = table.data.column("input_ids")
        self.lengths: np.ndarray = pc.list_value_length(column).to_numpy()

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def rows(self) -> np.ndarray:
        """Position in the data set's split of each example, int64; a long row has several examples."""
        return self.table.data.column("row").to_numpy()

    def __getitems__(self, keys: Sequence[Key]) -> list[dict[str, Any]]:
        columns = self.table[[index for _, index in keys]]
        return [
            {name: column[number] for name, column in columns.items()}
            | {"epoch": epoch, "index": self.first + index}
            for number, (epoch, index) in enumerate(keys)
        ]

    def __getitem__(self, key: Key) -> dict[str, Any]:
        return self.__getitems__([key])[0]


def encode(
    task: Task,
    rows: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    facts: DataFacts,
    path: Path,
    *,
    packed: bool,
    advance: Callable[[int], None],
    name: Callable[[int], str] | None = None,
) -> tuple[Examples, dict[str, int]]:
    """Encode a split into an Arrow file at `path`, or open it when it is there; return it and its ledger.

    `packed` lays all documents end to end and cuts them into examples of `task.length` tokens, so that
    nothing is padded (only the last may be shorter); otherwise a packed task is cut into its `windows`.
    `name` returns what a message calls a row; by default where it was read.
    The ledger counts rows read, tokens written, tokens the task truncated, and examples.
    Raises DataError at the first row that lacks a text or a class, or that the task cannot read, and names
    where it was read; StageError when no example is left.
    """
    ledger_file = path.with_suffix(".json")
    if not ledger_file.exists():
        laid_end_to_end = task.packed and packed
        made = task.encode if laid_end_to_end or not task.packed else task.windows
        name = name or partial(name_row, rows)
        read = _read(rows, task, facts, name)
        batches = _encoded(made, read, name, tokenizer, facts, advance)
        ledger = _write(_packed(batches, task) if laid_end_to_end else batches, path)
        write_whole(ledger_file, json.dumps(ledger))
    ledger = json.loads(ledger_file.read_text(encoding="utf-8"))
    if ledger["examples"] == 0:
        raise StageError(
            f"{path.stem}: no example is left after encoding {len(rows)} rows; look at the data set's ledger"
        )
    return Examples(datasets.Dataset.from_file(str(path)), rows), ledger


Encoded = dict[str, Any]
"""Columns of a batch, `input_ids` a list of integer lists, and under `rows` how many rows they are of."""


def _read(
    rows: datasets.Dataset, task: Task, facts: DataFacts, name: Callable[[int], str]
) -> Iterator[tuple[range, Rows]]:
    """Yield some rows at a time and their positions, once it is known that they hold what they have to."""
    for start in range(0, len(rows), ROWS_AT_ONCE):
        positions = range(start, min(start + ROWS_AT_ONCE, len(rows)))
        batch = read_rows(rows, positions)
        for column in task.columns:
            kind, classes = facts.columns.get(column), facts.labels.get(column)
            for position, value in zip(positions, batch[column], strict=True):
                missing = value is None and column in task.optional
                if not missing and not _fits(value, kind, classes):
                    raise _misfit(name(position), column, value, TOLD[facts.columns[column]])
        yield positions, batch


def _misfit(place: str, column: str, value: Any, what: str) -> DataError:
    if value is None:
        return DataError(
            f"{place}: {column!r} is null where {what} belongs; fill it in, or drop such rows in the dataset "
            f"stage by {advise_drop(column, None)}"
        )
    return DataError(
        f"{place}: {column!r} holds {value!r:.60} where {what} belongs; fix the row or take it out"
    )


def _fits(value: Any, kind: str | None, classes: Sequence[str] | None) -> bool:
    """Tell whether a value is there; a data set may hold null, and -1 for a class that is not known."""
    if kind not in TOLD:
        return True
    each = value if isinstance(value, list) else [value]
    if classes is None:
        return all(isinstance(one, str) for one in each)
    return all(one in range(len(classes)) for one in each)


def _encoded(
    made: Callable[..., Rows],
    batches: Iterator[tuple[range, Rows]],
    name: Callable[[int], str],
    tokenizer: PreTrainedTokenizerBase,
    facts: DataFacts,
    advance: Callable[[int], None],
) -> Iterator[Encoded]:
    for positions, batch in batches:
        try:
            encoded: Encoded = dict(made(batch, tokenizer, facts)) | {"rows": len(positions)}
        except DataError:
            # Encoding is pure, so that the row at fault is found by encoding each alone.
            for number, position in enumerate(positions):
                try:
                    made(
                        {name: column[number : number + 1] for name, column in batch.items()},
                        tokenizer,
                        facts,
                    )
                except DataError as error:
                    raise DataError(f"{name(position)}: {error}") from error
            raise
        encoded["row"] = np.asarray(encoded["row"], dtype=np.int64) + positions.start
        yield encoded
        advance(len(positions))


def _packed(batches: Iterator[Encoded], task: Task) -> Iterator[Encoded]:
    step = task.length - task.shared
    rest = np.empty(0, dtype=np.int32)
    for batch in batches:
        stream = np.concatenate([rest, *(np.asarray(ids, dtype=np.int32) for ids in batch["input_ids"])])
        whole = max(0, len(stream) - task.shared) // step * step
        examples = [stream[start : start + task.length] for start in range(0, whole, step)]
        yield {"input_ids": examples, "rows": batch["rows"]}
        rest = stream[whole:]
    yield {"input_ids": [rest] if len(rest) > task.shared else [], "rows": 0}


def _write(batches: Iterator[Encoded], path: Path) -> dict[str, int]:
    path.parent.mkdir(parents=True, exist_ok=True)
    ledger = dict.fromkeys(("rows", "tokens", "truncated", "examples"), 0)
    writer: pa.RecordBatchStreamWriter | None = None
    try:
        for batch in batches:
            ledger["rows"] += batch.pop("rows")
            ledger["truncated"] += sum(batch.pop("truncated", ()))
            ledger["tokens"] += sum(map(len, batch["input_ids"]))
            ledger["examples"] += len(batch["input_ids"])
            table = pa.table({name: pa.array(column, TYPES.get(name)) for name, column in batch.items()})
            table = table.cast(pa.schema([field.with_type(_told(field.type)) for field in table.schema]))
            writer = writer or pa.ipc.new_stream(str(path), table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()
    return ledger


def _told(kind: pa.DataType) -> pa.DataType:
    """Return the type of a column whose lists may all be empty in one batch and not in another."""
    if pa.types.is_list(kind):
        return pa.list_(_told(kind.value_type))
    return pa.int64() if pa.types.is_null(kind) else kind


def cut(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[Text], pairs: Sequence[Text] | None, length: int
) -> dict[str, Any]:
    """Tokenize texts, or pairs of texts, to at most `length` tokens, longest first; counts what that cuts.

    Token types tell the two texts of a pair apart, where the tokenizer has them.
    """
    typed = pairs is not None and "token_type_ids" in tokenizer.model_input_names
    wanted: dict[str, Any] = {
        "return_attention_mask": False,
        "return_token_type_ids": typed,
        "verbose": False,
    }
    encoded = dict(encode_texts(tokenizer, texts, pairs, **wanted))
    whole = [len(ids) for ids in encoded["input_ids"]]
    for row, tokens in enumerate(whole):
        if tokens > length:
            pair = [pairs[row]] if pairs is not None else None
            limit: dict[str, Any] = {"truncation": "longest_first", "max_length": length}
            shorter = encode_texts(tokenizer, [texts[row]], pair, **limit, **wanted)
            for name, column in encoded.items():
                column[row] = shorter[name][0]
    return encoded | {"truncated": [n - len(ids) for n, ids in zip(whole, encoded["input_ids"], strict=True)]}
