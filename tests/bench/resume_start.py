"""Measures how long a resumed training takes to its first step, deep in an epoch of a million rows.

`python tests/bench/resume_start.py [ROWS]` prints the seconds from the call of `train` to the end of the
first step: of a training that begins, and of one that is resumed after 80 % of the epoch.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from transformers import TrainerCallback

from hfpipe.encoding.encoded import Examples
from hfpipe.encoding.sampler import BatchLayout
from hfpipe.library_output import silence_libraries
from hfpipe.modeling.loading.models import create_config, create_model
from hfpipe.report import DataFacts
from hfpipe.tasks.causal_lm import CausalLM
from hfpipe.tasks.text_classification import TextClassification
from hfpipe.tokenization.loading import complete_tokenizer
from hfpipe.tokenization.special_tokens import STYLES
from hfpipe.tokenization.training import Learner
from hfpipe.training.arguments import TrainingPlan, create_training_arguments
from hfpipe.training.speed.choice import Speed
from hfpipe.training.trainer import TaskTrainer, Training

MODEL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
BATCH, LENGTH, REACHED = 8, 16, 0.8
FACTS = DataFacts(columns={"text": "string", "label": "label"}, splits={}, labels={"label": ["a", "b"]})


class FirstStep(TrainerCallback):
    """Notes when the first step has ended, and ends the training there, with a checkpoint."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.ended = time.monotonic()
        control.should_save = control.should_training_stop = True


def write_examples(path: Path, rows: int, *, packed: bool) -> Examples:
    """Write rows of random ids, all of one length if they are packed."""
    random = np.random.default_rng(3)
    lengths = np.full(rows, LENGTH) if packed else random.integers(4, LENGTH + 1, rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    ids = random.integers(5, 100, offsets[-1]).astype(np.int32)
    columns = {"input_ids": pa.ListArray.from_arrays(offsets, ids)}
    if not packed:
        columns |= {"label": pa.array(random.integers(0, 2, rows)), "row": pa.array(np.arange(rows))}
    table = pa.table(columns)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table, max_chunksize=1000)
    data = datasets.Dataset.from_file(str(path))
    return Examples(data, data)


def first_step(examples: Examples, folder: Path, checkpoint: Path | None, *, packed: bool) -> float:
    """Return the seconds to the end of the first step."""
    style = STYLES["gpt" if packed else "bert"]
    text = ["The Nile is a river in Africa.", "Everest is the highest mountain."] * 9
    tokenizer = complete_tokenizer(Learner("bpe", style, (), 300, 1, lowercase=False).learn(text), style)
    task = CausalLM(length=LENGTH) if packed else TextClassification(length=LENGTH)
    config = create_config({"type": "llama" if packed else "bert"} | MODEL, tokenizer, task.head(FACTS))
    parts = Training(task, create_model(task.auto_class, config, 3), tokenizer, examples, None, FACTS)
    layout = BatchLayout(BATCH, 1, 1)
    plan = TrainingPlan(layout, len(examples) // BATCH, Speed(bf16=False, compiled=False))
    trainer = TaskTrainer(parts, create_training_arguments({}, folder, 3, plan, None, early=False), layout)
    seen = FirstStep()
    trainer.add_callback(seen)
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint is not None else None)
    return seen.ended - started


def advance_checkpoint(folder: Path, step: int) -> Path:
    """Turn the checkpoint after the first step into one after `step`."""
    checkpoint = folder / f"checkpoint-{step}"
    (folder / "checkpoint-1").rename(checkpoint)
    file = checkpoint / "trainer_state.json"
    state = json.loads(file.read_text()) | {"global_step": step}
    state["stateful_callbacks"]["TrainerControl"]["args"]["should_training_stop"] = False
    file.write_text(json.dumps(state))
    return checkpoint


def main(rows: int) -> None:
    """Print a line for each kind of order."""
    with silence_libraries():
        for packed in (True, False):
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch)
                examples = write_examples(folder / "train.arrow", rows, packed=packed)
                begun = first_step(examples, folder, None, packed=packed)
                checkpoint = advance_checkpoint(folder, int(REACHED * rows / BATCH))
                resumed = first_step(examples, folder, checkpoint, packed=packed)
            order = "shuffled (packed)" if packed else "grouped by length"
            print(f"{rows:,} rows, {order}: first step {begun:.2f} s, resumed at 80 % {resumed:.2f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
