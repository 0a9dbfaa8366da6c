"""Causal language modelling: predict the next token; evaluated by perplexity."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from hfpipe.tasks.shared.token_level import RunningText, at_first, utf8

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from hfpipe.errors import Problem
    from hfpipe.metrics.metric import Metric
    from hfpipe.report import DataFacts
    from hfpipe.types import Batch, Columns, Rows

ORDERS = {"unigram": 1, "trigram": 3}
"""Trivial baseline → order of its n-grams."""


class CausalLM(RunningText):
    """Learns to predict the next token of a text.

    In training, documents are concatenated, each followed by its end token. In evaluation, each document is
    encoded separately after a begin token, and every token of the text is predicted exactly once. The end
    token is learned, but not scored, because it is not part of the text.
    """

    kind: Literal["causal-lm"] = "causal-lm"
    baselines: ClassVar[tuple[str, ...]] = tuple(ORDERS)
    pipeline: ClassVar[str] = "text-generation"
    shared: ClassVar[int] = 1  # the last token is only a target, and an input of the next example
    length: int = Field(default=128, ge=8)
    """Number of tokens in the model's context window."""
    stride: int | None = Field(default=None, ge=1)
    """Tokens between the starts of consecutive evaluation windows, for texts longer than `length`; by default
    `length`.

    Every token is predicted from at least `length` - `stride` preceding tokens, if the text has that many. A
    smaller stride gives each token more context, but takes longer.
    """
    documents: Literal["packed", "separate"] = "packed"
    """`packed`: in training a document attends to the earlier documents of its example; `separate`: only to
    itself."""

    @model_validator(mode="after")
    def _leaves_no_gap(self) -> CausalLM:
        if self.stride is not None and self.stride > self.length:
            raise ValueError(f"stride {self.stride} would pass over tokens; it may not exceed {self.length}")
        return self

    @property
    def auto_class(self) -> str:
        return "AutoModelForCausalLM"

    @property
    def separates_documents(self) -> bool:
        return self.documents == "separate"

    def check_model(self, model: PreTrainedModel) -> Iterator[Problem]:
        from hfpipe.tasks.shared.documents import separation_problems

        if self.separates_documents:
            yield from separation_problems(model)

    def opening_ids(self, tokenizer: PreTrainedTokenizerBase) -> Sequence[int]:
        from hfpipe.tasks.shared.documents import bounds

        begin, end = bounds(tokenizer)
        return [begin] if begin == end else []  # otherwise every document has its own begin token

    @property
    def prediction_task(self) -> dict[str, Any]:
        half = self.length // 2  # prompt and answer together fit the length that the model was trained on
        lengths = {"length": half, "target_length": self.length - half}
        return {"kind": "text-generation", "template": f"{{{self.text}}}", **lengths}

    def encode(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, facts: DataFacts) -> Rows:
        from hfpipe.tasks.shared.documents import bounds
        from hfpipe.tokenization.encoding import encode_ids

        begin, end = bounds(tokenizer)
        opening = [begin] if begin != end else []  # one token between two documents is enough
        documents = encode_ids(tokenizer, rows[self.text]).input_ids.framed(opening, [end])
        return {"input_ids": documents, "row": range(len(documents))}

    def encode_windows(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, facts: DataFacts) -> Rows:
        from hfpipe.tasks.shared.documents import bounds, document_windows
        from hfpipe.tokenization.encoding import encode_plain
        from hfpipe.tokenization.round_trip import lost_bytes

        begin, _ = bounds(tokenizer)
        stride = self.stride or self.length
        encoded = encode_plain(tokenizer, rows[self.text])
        pieces = [
            (row, *window)
            for row, ids in enumerate(encoded)
            for window in document_windows(ids, begin, self.length, stride)
        ]
        numbers, read, said = zip(*pieces, strict=True)
        lost = at_first(lost_bytes(tokenizer, rows[self.text], encoded), numbers)
        return {"input_ids": read, "labels": said, "lost": lost, "row": numbers}

    def collate(
        self, examples: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, seed: int, *, train: bool
    ) -> Batch:
        import torch

        from hfpipe.encoding.padding import inputs, pad
        from hfpipe.modeling.losses.losses import IGNORED
        from hfpipe.tasks.shared.documents import bounds, following, separated

        ids = [example["input_ids"] for example in examples]
        batch = inputs(ids, tokenizer)
        if "labels" in examples[0]:
            batch["labels"] = pad([example["labels"] for example in examples], IGNORED)
            if "lost" in examples[0]:
                batch["_lost"] = torch.tensor([int(example["lost"]) for example in examples])
            return batch
        begin, end = bounds(tokenizer)
        batch["labels"] = pad([following(each, begin, end) for each in ids], IGNORED)
        if self.documents == "separate":
            del batch["attention_mask"]  # without it, positions mark where documents and padding begin
            batch |= separated(ids, begin)
        return batch

    def outputs_to_columns(self, outputs: Any, batch: Batch) -> Batch:
        lost = {"lost": batch["_lost"]} if "_lost" in batch else {}
        return {**super().outputs_to_columns(outputs, batch), **lost}

    def columns_by_row(
        self, columns: Columns, row_index: np.ndarray, rows: Rows, facts: DataFacts
    ) -> Columns:
        return {**super().columns_by_row(columns, row_index, rows, facts), "bytes": utf8(rows[self.text])}

    def metrics(self, facts: DataFacts) -> list[Metric]:
        from hfpipe.metrics.scores.language import language_modelling

        read = f"length:{self.length}|stride:{self.stride or self.length}"
        return language_modelling(read=read, bytes_known=True)

    def baseline_metrics(self, name: str, facts: DataFacts) -> list[Metric]:
        from hfpipe.metrics.scores.language import language_modelling

        return language_modelling(correct_known=False, bytes_known=True)

    def fit_baseline(
        self, name: str, train: Rows, facts: DataFacts, tokenizer: PreTrainedTokenizerBase
    ) -> Callable[[Rows], Columns]:
        import numpy as np

        from hfpipe.metrics.baselines.ngrams import NGrams
        from hfpipe.tasks.shared.documents import encode_with_eos
        from hfpipe.tokenization.encoding import encode_plain
        from hfpipe.tokenization.round_trip import lost_bytes

        model = NGrams(ORDERS[name], len(tokenizer)).fit(encode_with_eos(tokenizer, train[self.text]))

        def prediction(rows: Rows) -> Columns:
            encoded = encode_plain(tokenizer, rows[self.text])
            nll = model.nll(encoded)
            return {
                "lost": np.array(lost_bytes(tokenizer, rows[self.text], encoded)),
                "nll": np.array([each.sum() for each in nll]),
                "tokens": np.array([len(each) for each in nll]),
                "bytes": utf8(rows[self.text]),
            }

        return prediction
