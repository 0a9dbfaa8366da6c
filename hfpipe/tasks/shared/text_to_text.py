"""Base of translation and summarization: a source text is mapped to a target text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from hfpipe.task import Requirements
from hfpipe.tasks.shared.generative import Writing

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

    from hfpipe.report import DataFacts
    from hfpipe.types import Batch, Columns, Rows


class TextToText(Writing):
    """Generates a target text from a source text with an encoder-decoder, or with a decoder and a prompt."""

    source: str = "source"
    """Column of the source text."""
    target: str = "target"
    """Column of the target text."""
    references: list[str] = []
    """Columns of additional references; metrics use the best match, and a null is ignored."""
    prefix: str = ""
    """Text added before each source, as T5 expects: `translate English to French: `."""
    prompt: str | None = None
    """For a decoder without an encoder: the prompt, with `{source}` in it; the model generates the rest."""
    length: int = Field(default=128, ge=4)
    """Maximum number of source tokens, including prefix or prompt; the ledger counts the tokens lost by
    truncation."""

    @field_validator("prompt")
    @classmethod
    def _holds_the_source(cls, prompt: str | None) -> str | None:
        if prompt is not None and "{source}" not in prompt:
            raise ValueError("write {source} where the text belongs")
        return prompt

    @property
    def prompted(self) -> bool:
        return self.prompt is not None

    @property
    def requires(self) -> Requirements:
        return Requirements(prompt=True)

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.source, self.target, *self.references)

    @property
    def optional(self) -> tuple[str, ...]:
        return tuple(self.references)

    @property
    def texts(self) -> tuple[str, ...]:
        return self.columns

    def encode(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, facts: DataFacts) -> Rows:
        from hfpipe.encoding.encoded import cut
        from hfpipe.tasks.shared.prompts import PLACE, encode_targets, prompts
        from hfpipe.tokenization.text import fill_template

        self.speak(tokenizer)
        texts = rows[self.source]
        wanted, lost = encode_targets(
            tokenizer, rows[self.target], self.target_length, alone=self.prompt is None
        )
        number = range(len(texts))
        if self.prompt is not None:
            template = self.prompt.replace(PLACE, self.prefix + PLACE)
            read, missed = prompts(tokenizer, template, texts, self.length)
            whole = [[*ids, *more] for ids, more in zip(read, wanted, strict=True)]
            columns: Rows = {"input_ids": whole, "prompt": [len(ids) for ids in read]}
        else:
            prefixed = [fill_template(self.prefix + PLACE, PLACE, text) for text in texts]
            encoded = cut(tokenizer, prefixed, None, self.length)
            missed = encoded["truncated"]
            columns = {"input_ids": encoded["input_ids"], "labels": wanted}
        truncated = [one + other for one, other in zip(missed, lost, strict=True)]
        return {**columns, "truncated": truncated, "row": number}

    def collate(
        self, examples: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, seed: int, *, train: bool
    ) -> Batch:
        from hfpipe.encoding.padding import inputs, pad
        from hfpipe.modeling.losses.losses import IGNORED

        ids = [example["input_ids"] for example in examples]
        batch = inputs(ids, tokenizer)
        if self.prompt is None:
            return batch | {"labels": pad([example["labels"] for example in examples], IGNORED)}
        starts = [int(example["prompt"]) for example in examples]
        labels = [
            [IGNORED] * (start - 1) + each[start:].tolist() + [IGNORED]
            for start, each in zip(starts, ids, strict=True)
        ]
        batch["labels"] = pad(labels, IGNORED)
        if not train:
            asked = inputs([each[:start] for start, each in zip(starts, ids, strict=True)], tokenizer)
            batch |= {f"_{name}": tensor for name, tensor in asked.items()}
        return batch

    def columns_by_row(
        self, columns: Columns, row_index: np.ndarray, rows: Rows, facts: DataFacts
    ) -> Columns:
        return {**columns, "reference": self.reference(rows)} if "prediction" in columns else columns

    def reference(self, rows: Rows) -> np.ndarray:
        """Return the reference of each row, object (rows,): a text, or a list if `references` are set."""
        from hfpipe.metrics.metric import objects

        sides = [rows[column] for column in (self.target, *self.references)]
        if not self.references:
            return objects(sides[0])
        return objects([text for text in texts if text is not None] for texts in zip(*sides, strict=True))
