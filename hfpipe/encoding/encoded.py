"""Text → model inputs on disk: made once, in one process, memory-mapped ever after, no token lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import pyarrow.compute as pc
from torch.utils.data import Dataset

from hfpipe.advice import advise_drop
from hfpipe.encoding.best_fit import pack_best_fit
from hfpipe.encoding.example_reader import ExampleReader, can_read
from hfpipe.encoding.origins import name_row
from hfpipe.encoding.packing import pack
from hfpipe.encoding.row_batches import batches_of
from hfpipe.encoding.shards import TOKENS, Batch, Shards
from hfpipe.errors import DataError, StageError
from hfpipe.tokenization.encoding import encode_ids, encode_texts
from hfpipe.tokenization.prefetching import prefetch
from hfpipe.tokenization.ragged import Ragged

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hfpipe.encoding.sampler import Key
    from hfpipe.report import DataFacts
    from hfpipe.task import Task
    from hfpipe.tokenization.text import Text
    from hfpipe.types import Rows

ROWS_AT_ONCE = 1000
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

    @cached_property
    def _reader(self) -> ExampleReader | None:
        table = self.table.data.table
        return ExampleReader(table) if can_read(table) else None

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process is given, which reads the files by itself."""
        return {name: value for name, value in vars(self).items() if name != "_reader"}

    def __getitems__(self, keys: Sequence[Key]) -> list[dict[str, Any]]:
        wanted = [index for _, index in keys]
        told = [{"epoch": epoch, "index": self.first + index} for epoch, index in keys]
        if self._reader is not None:
            rows = self._reader.rows(wanted)
            return [row | more for row, more in zip(rows, told, strict=True)]
        columns = self.table[wanted]
        return [
            {name: column[number] for name, column in columns.items()} | more
            for number, more in enumerate(told)
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
    shard_tokens: int = TOKENS,
    reads_all: bool = True,
) -> tuple[Examples, dict[str, int]]:
    """Encode a split into Arrow files next to `path`, or open them when they are there; return their ledger.

    An encoding that was killed resumes after the last finished file, each of `shard_tokens` or a few more.
    Files that are not what was written are made again. Their digests are compared if `reads_all`, which one
    process asks for before others open them, else their sizes.

    `packed` lays all documents end to end and cuts them into examples of `task.length` tokens, so that
    nothing is padded (only the last may be shorter), or makes examples of whole documents where the task says
    `best_fit`; otherwise a packed task is cut into its `windows`.
    `name` returns what a message calls a row; by default where it was read.
    The ledger counts rows read, tokens written, tokens the task truncated, and examples.
    Raises DataError at the first row that lacks a text or a class, or that the task cannot read, and names
    where it was read; StageError when no example is left.
    """
    shards = Shards(path, shard_tokens)
    ledger = shards.ledger(reads_all=reads_all)
    if ledger is None:
        laid_end_to_end = task.packed and packed
        made = task.encode if laid_end_to_end or not task.packed else task.encode_windows
        name = name or partial(name_row, rows)
        number, state = shards.resume()
        read = _checked(batches_of(rows, ROWS_AT_ONCE, state.rows), task, facts, name)
        batches = _encoded(made, prefetch(read), name, tokenizer, facts, advance)
        advance(state.rows)
        if laid_end_to_end and task.best_fit:
            batches = pack_best_fit(batches, task.length, task.shared, task.opening_ids(tokenizer))
        elif laid_end_to_end:
            batches = pack(batches, task.length, task.shared, state.rest)
        ledger = shards.write(batches, number, state)
    if ledger["examples"] == 0:
        raise StageError(
            f"{path.stem}: no example is left after encoding {len(rows)} rows; look at the data set's ledger"
        )
    return Examples(_open(shards.files()), rows), ledger


def _open(files: Sequence[Path]) -> datasets.Dataset:
    parts = [datasets.Dataset.from_file(str(file)) for file in files]
    return parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)


def _checked(
    batches: Iterator[tuple[range, Rows]], task: Task, facts: DataFacts, name: Callable[[int], str]
) -> Iterator[tuple[range, Rows]]:
    """Yield the batches once it is known that their rows hold what they have to."""
    for positions, batch in batches:
        for column in task.columns:
            kind, classes = facts.columns.get(column), facts.labels.get(column)
            if kind == "string" and classes is None and {*map(type, batch[column])} == {str}:
                continue  # the usual case
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
) -> Iterator[Batch]:
    for positions, batch in batches:
        try:
            encoded: dict[str, Any] = dict(made(batch, tokenizer, facts))
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
        yield Batch(encoded, len(positions), sum(encoded.pop("truncated", ())))
        advance(len(positions))


def cut(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[Text], pairs: Sequence[Text] | None, length: int
) -> dict[str, Any]:
    """Tokenize texts, or pairs of texts, to at most `length` tokens, longest first; counts what that cuts.

    Token types tell the two texts of a pair apart, where the tokenizer has them.
    """
    typed = pairs is not None and "token_type_ids" in tokenizer.model_input_names
    whole = encode_ids(tokenizer, texts, pairs, special_tokens=True, token_types=typed)
    columns = {"input_ids": whole.input_ids, "token_type_ids": whole.token_type_ids}
    encoded: dict[str, Any] = {name: column for name, column in columns.items() if column is not None}
    before = whole.input_ids.lengths
    long = np.flatnonzero(before > length).tolist()
    if long:
        shorter = encode_texts(
            tokenizer,
            [texts[row] for row in long],
            [pairs[row] for row in long] if pairs is not None else None,
            truncation="longest_first",
            max_length=length,
            return_attention_mask=False,
            return_token_type_ids=typed,
            verbose=False,
        )
        for name, column in encoded.items():
            rows: list[Any] = list(column)
            for row, ids in zip(long, shorter[name], strict=True):
                rows[row] = ids
            encoded[name] = Ragged.from_rows(rows)
    return encoded | {"truncated": (before - encoded["input_ids"].lengths).tolist()}
