"""Denoising: an encoder-decoder reads a corrupted text and reconstructs the hidden spans."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from hfpipe.advice import advise
from hfpipe.errors import Problem, StageError
from hfpipe.task import Requirements
from hfpipe.tasks.shared.generation_config import Generation
from hfpipe.tasks.shared.token_level import RunningText

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from hfpipe.metrics.metric import Metric
    from hfpipe.report import DataFacts
    from hfpipe.types import Batch, Columns, Rows

SHARES = {"spans": 0.15, "infilling": 0.3}
"""Kind of noise → share of tokens that is hidden in its paper."""
FRAME = 2
"""Number of special tokens that BART's tokenizer adds to a text."""


class Denoising(RunningText):
    """Hides spans of a text from the encoder; the decoder generates the spans or the whole text."""

    kind: Literal["denoising"] = "denoising"
    length: int = Field(default=512, ge=8)
    """Tokens of a training example before spans are hidden; the encoder's input is shorter."""
    noise: Literal["spans", "infilling"] = "spans"
    """`spans`: the targets are the hidden spans, as in T5; `infilling`: the whole text, as in BART."""
    mask: float | None = Field(default=None, gt=0, lt=1)
    """Fraction of tokens to hide; by default 0.15 for `spans` and 0.3 for `infilling`, as in their papers."""
    span: float = Field(default=3.0, ge=1)
    """Mean number of tokens per hidden span."""
    generation: Generation | None = None
    """Generate text in evaluation and prediction, with options such as `{num_beams: 4}`; by default only the
    loss is computed.

    If set, no spans are hidden in a text that already contains `<extra_id_0>` or the mask token.
    """

    @property
    def auto_class(self) -> str:
        return "AutoModelForSeq2SeqLM"

    @property
    def requires(self) -> Requirements:
        if self.noise == "infilling":
            return Requirements(mask_token=True, style="bart")
        return Requirements(sentinels=True, style="t5")

    @property
    def share(self) -> float:
        """Fraction of tokens that is hidden."""
        return SHARES[self.noise] if self.mask is None else self.mask

    def check_model(self, model: PreTrainedModel) -> Iterator[Problem]:
        most = getattr(model.config, "max_position_embeddings", None)
        if most is not None and self.length + FRAME > most:
            message = f"length {self.length} and {FRAME} special tokens are more than the {most} positions"
            yield Problem(f"{message} of the model; shorten it to {most - FRAME}", ("length",))

    def encode(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, facts: DataFacts) -> Rows:
        from hfpipe.tasks.denoising.span_corruption import counts, frame, sentinels
        from hfpipe.tokenization.encoding import encode_ids

        frame(tokenizer)
        if self.noise == "spans":
            sentinels(tokenizer, counts(self.length, self.share, self.span)[1])
        elif tokenizer.mask_token_id is None:
            raise StageError(
                "noise: infilling needs a mask token, and this tokenizer has none; give its stage "
                f"{advise(style='bart')}"
            )
        texts = rows[self.text]
        return {"input_ids": encode_ids(tokenizer, texts).input_ids, "row": range(len(texts))}

    def encode_windows(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, facts: DataFacts) -> Rows:
        """Return the examples of `encode`; mask strings in a text become mask tokens only if it generates."""
        from hfpipe.tokenization.spelling import SENTINEL
        from hfpipe.tokenization.text import mark

        if self.generation is None:
            return super().encode_windows(rows, tokenizer, facts)
        blank = SENTINEL if self.noise == "spans" else re.escape(str(tokenizer.mask_token))
        marked = {**rows, self.text: [mark(text, blank) for text in rows[self.text]]}
        return super().encode_windows(marked, tokenizer, facts)

    def collate(
        self, examples: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, seed: int, *, train: bool
    ) -> Batch:
        import numpy as np

        from hfpipe.encoding.padding import inputs, pad
        from hfpipe.modeling.losses.losses import IGNORED
        from hfpipe.modeling.random import generator
        from hfpipe.tasks.denoising.span_corruption import frame

        around = frame(tokenizer).around
        pairs = []
        for example in examples:
            ids = example["input_ids"]
            if not train and self.generation is not None and np.isin(self._blanks(ids, tokenizer), ids).any():
                pairs.append((ids, ids[:0]))
                continue
            random = generator(seed, example["epoch"] if train else None, example["index"])
            pairs.append(self._noised(ids, tokenizer, random))
        labels = pad([around(said) for _, said in pairs], IGNORED)
        return inputs([around(read) for read, _ in pairs], tokenizer) | {"labels": labels}

    def _noised(
        self, ids: np.ndarray, tokenizer: PreTrainedTokenizerBase, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the inputs and the targets made from a text, int64 each."""
        from hfpipe.tasks.denoising.span_corruption import hide, infill, spans

        blanks = self._blanks(ids, tokenizer)
        if self.noise == "infilling":
            return infill(ids, self.share, self.span, int(blanks[0]), random), ids
        return hide(ids, spans(len(ids), self.share, self.span, random), blanks)

    def _blanks(self, ids: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
        """Return the ids that replace the hidden spans of a text, int64 (spans,) or (1,)."""
        import numpy as np

        from hfpipe.tasks.denoising.span_corruption import counts, sentinels

        if self.noise == "infilling":
            return np.array([tokenizer.mask_token_id])
        return sentinels(tokenizer, counts(len(ids), self.share, self.span)[1])

    def generates(self, *, training: bool) -> bool:
        return self.generation is not None and not training

    def generate(self, model: Any, batch: Batch, tokenizer: PreTrainedTokenizerBase) -> Columns:
        from hfpipe.modeling.losses.losses import forward
        from hfpipe.tasks.shared.generation import write

        assert self.generation is not None
        foreseen = self.outputs_to_columns(forward(model, batch, self.positions(batch)), batch)
        limit = {"max_new_tokens": self.length} | self.generation.model_dump(exclude_none=True)
        out = write(model, batch, tokenizer, self.generation.model_copy(update=limit))
        return {"prediction": out.texts} | {name: tensor.cpu().numpy() for name, tensor in foreseen.items()}

    def format_predictions(self, columns: Columns, rows: Rows, facts: DataFacts) -> list[dict[str, Any]]:
        if "prediction" in columns:
            return [{"generated_text": text} for text in columns["prediction"]]
        sums = zip(columns["nll"], columns["correct"], columns["tokens"], strict=True)
        return [
            {"loss": float(nll / tokens), "accuracy": float(right / tokens)} for nll, right, tokens in sums
        ]

    def metrics(self, facts: DataFacts) -> list[Metric]:
        from hfpipe.metrics.scores.language import language_modelling

        return language_modelling()
