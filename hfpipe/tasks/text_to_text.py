"""What translation and summarization share: a text in, another text out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator

from hfpipe.contract import Counted, Task
from hfpipe.errors import Problem
from hfpipe.generation import Generation

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from hfpipe.contract import Batch, Columns, Rows
    from hfpipe.metrics.metric import Metric
    from hfpipe.report import DataFacts


class TextToText(Task):
    """Writes a text for a text, by an encoder-decoder, or by a decoder that is given a prompt.

    It is trained on the given texts token by token, and measured by what it writes itself.
    """

    answer: ClassVar[str]
    """What Transformers' pipeline calls the text it gives."""
    source: str = "source"
    """Column to read."""
    target: str = "target"
    """Column of what is to be written."""
    references: list[str] = []
    """Columns of other texts that are as right as the target; scores count the best."""
    prefix: str = ""
    """Put before each source, as T5 wants: `translate English to French: `."""
    prompt: str | None = None
    """For a decoder without an encoder: what it reads, with `{source}` in it; it is to write what follows."""
    length: int = Field(default=128, ge=4)
    """Tokens of the source at most, prefix or prompt included; the ledger says what longer ones lost."""
    target_length: int = Field(default=128, ge=4)
    """Tokens of the target at most, its end included; the ledger counts what is cut here, too."""
    generation: Generation = Generation()
    """How it writes; as many new tokens as `target_length` where max_new_tokens is not set."""
    predict_with_generate: bool = False
    """Whether validation during training writes texts and scores them, which is slow, or foresees tokens."""

    @field_validator("prompt")
    @classmethod
    def _holds_the_source(cls, prompt: str | None) -> str | None:
        if prompt is not None and "{source}" not in prompt:
            raise ValueError("write {source} where the text belongs")
        return prompt

    @property
    def auto_class(self) -> str:
        return "AutoModelForSeq2SeqLM" if self.prompt is None else "AutoModelForCausalLM"

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.source, self.target, *self.references)

    def check(self, facts: DataFacts) -> Iterator[Problem]:
        yield from super().check(facts)
        for column in self.columns:
            kind = facts.columns.get(column, "string")
            if kind != "string":
                yield Problem(f"column {column!r} holds {kind} values, no texts; name a column of texts")

    def fits(self, config: PretrainedConfig, facts: DataFacts) -> Iterator[Problem]:
        most = getattr(config, "max_position_embeddings", None)
        written = max(self.target_length, self._generation.max_new_tokens)
        needed = max(self.length, written) if self.prompt is None else self.length + written
        if isinstance(most, int) and needed > most:
            sides = "of source or target" if self.prompt is None else "of prompt and target together"
            yield Problem(f"up to {needed} tokens {sides} are more than the {most} positions of the model")

    def suits(self, model: PreTrainedModel) -> Iterator[Problem]:
        from hfpipe.report import DataFacts

        yield from self.fits(model.config, DataFacts(columns={}, splits={}))

    @property
    def _generation(self) -> Generation:
        if "max_new_tokens" in self.generation.model_fields_set:
            return self.generation
        return self.generation.model_copy(update={"max_new_tokens": self.target_length})

    def speak(self, tokenizer: PreTrainedTokenizerBase) -> int | None:
        """Set the languages of the tokenizer; return the id of the token that a text begins with, if set."""
        return None

    def encode(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, facts: DataFacts) -> Rows:
        from hfpipe.hf.encoding import cut
        from hfpipe.hf.source_target import prompts, targets

        self.speak(tokenizer)
        texts = [self.prefix + text for text in rows[self.source]]
        wanted, lost = targets(tokenizer, rows[self.target], self.target_length, alone=self.prompt is None)
        number = range(len(texts))
        if self.prompt is not None:
            read, missed = prompts(tokenizer, self.prompt, texts, self.length)
            whole = [[*ids, *more] for ids, more in zip(read, wanted, strict=True)]
            columns: Rows = {"input_ids": whole, "prompt": [len(ids) for ids in read]}
        else:
            encoded = cut(tokenizer, texts, None, self.length)
            missed = encoded["truncated"]
            columns = {"input_ids": encoded["input_ids"], "labels": wanted}
        truncated = [one + other for one, other in zip(missed, lost, strict=True)]
        return {**columns, "truncated": truncated, "row": number}

    def collate(
        self, examples: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, seed: int, *, train: bool
    ) -> Batch:
        from hfpipe.hf.collating import inputs, pad
        from hfpipe.hf.losses import IGNORED

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

    def positions(self, batch: Batch) -> torch.Tensor:
        from hfpipe.hf.losses import target_positions

        return target_positions(batch["labels"])

    def count(self, batch: Batch) -> torch.Tensor:
        from hfpipe.hf.losses import IGNORED

        return (batch["labels"] != IGNORED).sum()

    def loss(self, outputs: Any, batch: Batch, smoothing: float = 0.0) -> Counted:
        from hfpipe.hf.losses import token_loss

        return token_loss(outputs.logits, batch["labels"], smoothing)

    def columns_out(self, outputs: Any, batch: Batch) -> Batch:
        from hfpipe.hf.losses import token_columns

        return token_columns(outputs.logits, batch["labels"])

    def generates(self, *, training: bool) -> bool:
        return self.predict_with_generate or not training

    def generate(self, model: Any, batch: Batch, tokenizer: PreTrainedTokenizerBase) -> Columns:
        from hfpipe.hf.generating import write

        asked = batch
        if self.prompt is not None:
            asked = {name: batch[f"_{name}"] for name in ("input_ids", "attention_mask")}
        begin = self.speak(tokenizer)
        out = write(model, asked, tokenizer, self._generation, forced_bos_token_id=begin)
        return {"guess": out.texts, "tokens": out.tokens, "cut": out.cut}

    def by_row(self, columns: Columns, pieces: np.ndarray, rows: Rows, facts: DataFacts) -> Columns:
        return {**columns, "gold": self.gold(rows)} if "guess" in columns else columns

    def gold(self, rows: Rows) -> np.ndarray:
        """Return what is right for each row, object (rows,): a text, or a list where there are references."""
        import numpy as np

        texts = np.empty(len(rows[self.target]), dtype=object)
        sides = [rows[column] for column in (self.target, *self.references)]
        texts[:] = list(map(list, zip(*sides, strict=True))) if self.references else list(sides[0])
        return texts

    def untold(self, guess: list[str], rows: Rows) -> Columns:
        """Return the columns of a trivial baseline, which no limit cuts."""
        import numpy as np

        texts = np.empty(len(guess), dtype=object)
        texts[:] = guess
        return {"guess": texts, "gold": self.gold(rows), "cut": np.zeros(len(guess), dtype=bool)}

    def validation_metrics(self, facts: DataFacts) -> list[Metric]:
        from hfpipe.metrics.language import language_modelling

        return self.metrics(facts) if self.predict_with_generate else language_modelling()

    def answers(self, columns: Columns, rows: Rows, facts: DataFacts) -> list[dict[str, Any]]:
        return [{self.answer: text} for text in columns["guess"]]
