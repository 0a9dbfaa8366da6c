"""Encodes source and target texts for encoder-decoders, or as prompt and continuation for decoders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hfpipe.encoding.encoded import encode_truncated
from hfpipe.encoding.padding import pad, pad_inputs
from hfpipe.metrics.metric import to_object_array
from hfpipe.modeling.losses.losses import IGNORED
from hfpipe.runtime import Encoder
from hfpipe.tasks.shared.prompts import PLACEHOLDER, encode_prompts, encode_targets, set_languages
from hfpipe.tokenization.text import fill_template

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

    from hfpipe.report import DataFacts
    from hfpipe.tasks.shared.text_to_text import TextToText
    from hfpipe.tasks.summarization.task import Summarization
    from hfpipe.tasks.translation.task import Translation
    from hfpipe.types import Batch, Rows


@dataclass(frozen=True)
class TextToTextEncoder(Encoder):
    """Encodes a source text and the target text that the model learns to generate."""

    config: Translation | Summarization

    def encode(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, facts: DataFacts) -> Rows:
        config = self.config
        set_languages(tokenizer, *config.languages)
        texts = rows[config.source]
        wanted, lost = encode_targets(
            tokenizer, rows[config.target], config.target_length, alone=config.prompt is None
        )
        number = range(len(texts))
        if config.prompt is not None:
            template = config.prompt.replace(PLACEHOLDER, config.prefix + PLACEHOLDER)
            read, missed = encode_prompts(tokenizer, template, texts, config.length)
            whole = [[*ids, *more] for ids, more in zip(read, wanted, strict=True)]
            columns: Rows = {"input_ids": whole, "prompt": [len(ids) for ids in read]}
        else:
            prefixed = [fill_template(config.prefix + PLACEHOLDER, PLACEHOLDER, text) for text in texts]
            encoded = encode_truncated(tokenizer, prefixed, None, config.length)
            missed = encoded["truncated"]
            columns = {"input_ids": encoded["input_ids"], "labels": wanted}
        truncated = [one + other for one, other in zip(missed, lost, strict=True)]
        return {**columns, "truncated": truncated, "row": number}

    def collate(
        self, examples: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, seed: int, *, train: bool
    ) -> Batch:
        ids = [example["input_ids"] for example in examples]
        batch = pad_inputs(ids, tokenizer)
        if self.config.prompt is None:
            return batch | {"labels": pad([example["labels"] for example in examples], IGNORED)}
        starts = [int(example["prompt"]) for example in examples]
        labels = [
            [IGNORED] * (start - 1) + each[start:].tolist() + [IGNORED]
            for start, each in zip(starts, ids, strict=True)
        ]
        batch["labels"] = pad(labels, IGNORED)
        if not train:
            asked = pad_inputs([each[:start] for start, each in zip(starts, ids, strict=True)], tokenizer)
            batch |= {f"_{name}": tensor for name, tensor in asked.items()}
        return batch


def get_references(config: TextToText, rows: Rows) -> np.ndarray:
    """Return the reference of each row, object (rows,): a text, or a list if `references` are set."""
    sides = [rows[column] for column in (config.target, *config.references)]
    if not config.references:
        return to_object_array(sides[0])
    return to_object_array([text for text in texts if text is not None] for texts in zip(*sides, strict=True))
