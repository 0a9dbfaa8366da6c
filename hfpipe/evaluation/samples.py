"""Generates texts for a few rows during training, without changing the training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import extract_model_from_parallel

from hfpipe.encoding.encoded import encode
from hfpipe.encoding.nested import to_dataset
from hfpipe.evaluation.lazy_rows import LazyRows
from hfpipe.evaluation.loop import ModelReader

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hfpipe.runtime import TaskRuntime


class SampleWriter:
    """Generates a text for each of several rows.

    `given` maps the columns that a prediction needs to their values; `path` is a file for the encoded rows.
    """

    def __init__(
        self,
        task: TaskRuntime,
        tokenizer: PreTrainedTokenizerBase,
        given: Mapping[str, Sequence[Any]],
        path: Path,
    ) -> None:
        self._task, self._tokenizer, self._given, self._path = task, tokenizer, given, path

    def generate(self, model: Any) -> list[dict[str, str]]:
        """Return `input` and `output` of each row, with the model in evaluation mode.

        Random states and the mode of the model are restored afterwards.
        """
        bare = extract_model_from_parallel(model, keep_torch_compile=False)
        mode, devices = bare.training, [bare.device] if bare.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.no_grad():
            bare.eval()
            try:
                texts = self._generate_texts(bare)
            finally:
                bare.train(mode)
        inputs = zip(*self._given.values(), strict=True)
        return [
            {"input": " ".join(map(str, values)), "output": text}
            for values, text in zip(inputs, texts, strict=True)
        ]

    def _generate_texts(self, model: Any) -> list[str]:
        task, tokenizer = self._task, self._tokenizer
        facts = task.config.facts_from_config(model.config)
        rows = to_dataset(task.prediction_columns(self._given, facts))
        examples, _ = encode(task, rows, tokenizer, facts, self._path, packed=False, advance=lambda _: None)
        reader, index = ModelReader(task, facts, tokenizer, seed=0), np.arange(len(examples))
        outputs = reader.predict_batch(model, examples, index, model.device)
        positions, columns = reader.compute_rows(outputs, examples, index)
        answers = task.evaluator.format_predictions(columns, LazyRows(examples.source, positions), facts)
        return [next(str(value) for value in answer.values()) for answer in answers]
