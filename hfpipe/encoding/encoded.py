"""Encodes a split to model inputs on disk, once and in one process; later reads are memory-mapped."""

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
from hfpipe.encoding.row_batches import iterate_batches
from hfpipe.encoding.shards import TOKENS, Batch, Shards
from hfpipe.errors import DataError, StageError
from hfpipe.garbage import collect_garbage_rarely
from hfpipe.tokenization.encoding import encode_ids, encode_texts
from hfpipe.tokenization.prefetching import prefetch
from hfpipe.tokenization.ragged import Ragged

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hfpipe.encoding.sampler import Key
    from hfpipe.report import DataFacts
    from hfpipe.runtime import TaskRuntime
    from hfpipe.task import TaskConfig
    from hfpipe.tokenization.text import Text
    from hfpipe.types import Rows

ROWS_AT_ONCE = 1000
MOST_ROWS_AT_ONCE, BYTES_AT_ONCE = 4000, 1 << 22
"""Limits of a batch of documents that are concatenated: they do not depend on the batch, and the threads of
the tokenizer wait at the end of each."""
REQUIRED = {
    "string": "a text",
    "strings": "a list of texts",
    "label": "a class",
    "labels": "a list of classes",
}
"""Column type → the value that every row must have."""


class Examples(Dataset[dict[str, Any]]):
    """Encoded examples of one split, read from disk on access."""

    def __init__(
        self, table: datasets.Dataset, source: datasets.Dataset, chosen: np.ndarray | None = None
    ) -> None:
        self._stored, self._chosen = table, chosen
        self.table = (table if chosen is None else table.select(chosen)).with_format("numpy")
        self.source = source
        self.first = 0
        """Index of the first example, if earlier examples are in other files."""
        column = table.data.column("input_ids")
        lengths: np.ndarray = pc.list_value_length(column).to_numpy()
        self.lengths = lengths if chosen is None else lengths[chosen]

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def rows(self) -> np.ndarray:
        """Row position of each example in the data set's split, int64; a long row has several examples."""
        rows: np.ndarray = self._stored.data.column("row").to_numpy()
        return rows if self._chosen is None else rows[self._chosen]

    def read_ids(self, start: int, stop: int) -> np.ndarray:
        """Return the ids of the examples from `start` to `stop`, one example after the other, int."""
        column = self._stored.data.column("input_ids")
        part = column.slice(start, stop - start)
        if self._chosen is not None:
            part = column.take(self._chosen[start:stop])
        ids: np.ndarray = pc.list_flatten(part).to_numpy()
        return ids

    def select_rows(self, positions: np.ndarray) -> Examples:
        """Return the examples of some rows of the split, in the same order."""
        chosen = np.flatnonzero(np.isin(self.rows, positions))
        return Examples(self._stored, self.source, chosen if self._chosen is None else self._chosen[chosen])

    @cached_property
    def _reader(self) -> ExampleReader | None:
        table = self._stored.data.table
        return ExampleReader(table) if can_read(table) else None

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the reader; another process opens the files itself."""
        return {name: value for name, value in vars(self).items() if name != "_reader"}

    def __getitems__(self, keys: Sequence[Key]) -> list[dict[str, Any]]:
        wanted = [index for _, index in keys]
        origins = [{"epoch": epoch, "index": self.first + index} for epoch, index in keys]
        if self._reader is not None:
            stored = wanted if self._chosen is None else self._chosen[wanted].tolist()
            rows = self._reader.read(stored)
            return [row | more for row, more in zip(rows, origins, strict=True)]
        columns = self.table[wanted]
        return [
            {name: column[number] for name, column in columns.items()} | more
            for number, more in enumerate(origins)
        ]

    def __getitem__(self, key: Key) -> dict[str, Any]:
        return self.__getitems__([key])[0]


def encode(
    task: TaskRuntime,
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
    """Encode a split to Arrow files next to `path`, or open existing ones; return their ledger.

    An interrupted encoding resumes after the last finished file, each of `shard_tokens` or a few more tokens.
    Files that differ from what was written are encoded again. With `reads_all`, which one process requests
    before others open the files, digests are compared, otherwise only sizes.

    `packed` concatenates all documents and cuts them into examples of `length` tokens without padding
    (only the last may be shorter), or packs whole documents if the task sets `best_fit`. Otherwise the
    examples of a packed task are its `windows`. `name` returns the name of a row in messages; by default its
    location. The ledger counts rows read, tokens written, tokens truncated by the task, and examples. Raises
    DataError, with the location, at the first row without a required text or class or that the task cannot
    encode; StageError when there are no examples.
    """
    shards = Shards(path, shard_tokens)
    ledger = shards.read_ledger(reads_all=reads_all)
    if ledger is None:
        config, encoder = task.config, task.encoder
        concatenated = config.packed and packed
        encode_rows = encoder.encode if concatenated or not config.packed else encoder.encode_windows
        name, (number, state) = name or partial(name_row, rows), shards.resume()
        size = _choose_batch_size(rows) if concatenated and not config.best_fit else ROWS_AT_ONCE
        read = _check_batches(iterate_batches(rows, size, state.rows), config, facts, name)
        # Reading, encoding and writing run at the same time, in three threads.
        encoded = _encode_batches(encode_rows, prefetch(read), name, tokenizer, facts)
        batches = _count_rows(prefetch(encoded), advance)
        advance(state.rows)
        if concatenated and config.best_fit:
            batches = pack_best_fit(batches, config.length, config.shared, encoder.opening_ids(tokenizer))
        elif concatenated:
            batches = pack(batches, config.length, config.shared, state.rest)
        with collect_garbage_rarely():
            ledger = shards.write(batches, number, state)
    if ledger["examples"] == 0:
        raise StageError(
            f"{path.stem}: no example is left after encoding {len(rows)} rows; see the ledger of the data set"
        )
    return Examples(_open_files(shards.list_files()), rows), ledger


def _choose_batch_size(rows: datasets.Dataset) -> int:
    """Return the number of rows encoded at once, more than usual if they are short."""
    short = BYTES_AT_ONCE * len(rows.data) // max(1, rows.data.nbytes)
    return max(ROWS_AT_ONCE, min(MOST_ROWS_AT_ONCE, short))


def _open_files(files: Sequence[Path]) -> datasets.Dataset:
    parts = [datasets.Dataset.from_file(str(file)) for file in files]
    return parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)


def _check_batches(
    batches: Iterator[tuple[range, Rows]], config: TaskConfig, facts: DataFacts, name: Callable[[int], str]
) -> Iterator[tuple[range, Rows]]:
    """Yield the batches after checking that their rows have all required values."""
    for positions, batch in batches:
        for column in config.columns:
            kind, classes = facts.columns.get(column), facts.labels.get(column)
            if kind == "string" and classes is None and {*map(type, batch[column])} == {str}:
                continue  # the usual case
            for position, value in zip(positions, batch[column], strict=True):
                missing = value is None and column in config.optional
                if not missing and not _is_present(value, kind, classes):
                    raise _make_value_error(name(position), column, value, REQUIRED[facts.columns[column]])
        yield positions, batch


def _make_value_error(place: str, column: str, value: Any, what: str) -> DataError:
    if value is None:
        return DataError(
            f"{place}: {column!r} is null, not {what}; fill it in, or drop such rows in the dataset stage "
            f"with {advise_drop(column, None)}"
        )
    return DataError(f"{place}: {column!r} is {value!r:.60}, not {what}; fix or remove the row")


def _is_present(value: Any, kind: str | None, classes: Sequence[str] | None) -> bool:
    """Return whether a value is present; a data set may contain null, and -1 for an unknown class."""
    if kind not in REQUIRED:
        return True
    each = value if isinstance(value, list) else [value]
    if classes is None:
        return all(isinstance(one, str) for one in each)
    return all(one in range(len(classes)) for one in each)


def _encode_batches(
    encode_rows: Callable[..., Rows],
    batches: Iterator[tuple[range, Rows]],
    name: Callable[[int], str],
    tokenizer: PreTrainedTokenizerBase,
    facts: DataFacts,
) -> Iterator[Batch]:
    for positions, batch in batches:
        try:
            encoded: dict[str, Any] = dict(encode_rows(batch, tokenizer, facts))
        except DataError:
            # Encoding is pure, so the invalid row can be found by encoding each row alone.
            for number, position in enumerate(positions):
                try:
                    encode_rows(
                        {name: column[number : number + 1] for name, column in batch.items()},
                        tokenizer,
                        facts,
                    )
                except DataError as error:
                    raise DataError(f"{name(position)}: {error}") from error
            raise
        encoded["row"] = np.asarray(encoded["row"], dtype=np.int64) + positions.start
        yield Batch(encoded, len(positions), sum(encoded.pop("truncated", ())))


def _count_rows(batches: Iterator[Batch], advance: Callable[[int], None]) -> Iterator[Batch]:
    """Yield the batches, and advance by the rows of each once it has been used."""
    for batch in batches:
        yield batch
        advance(batch.rows)


def encode_truncated(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[Text], pairs: Sequence[Text] | None, length: int
) -> dict[str, Any]:
    """Tokenize texts or pairs to at most `length` tokens, truncating the longest first; count lost tokens.

    Token types distinguish the two texts of a pair if the tokenizer has them.
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
