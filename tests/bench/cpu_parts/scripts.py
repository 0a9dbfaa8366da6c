"""Transformers' Trainer as its example scripts use it: run_mlm, run_clm, run_translation and run_glue.

`trainer` is a script with its own defaults, `trainer-fast` has every speed flag set: bf16, torch_compile,
fused AdamW, no dropout, and for rows of uneven length batches of similar length, padded to the longest row.
`trainer-eager` is the same without torch_compile, which compiles again and again where shapes vary.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
)

from cpu_parts.clock import Clock
from cpu_parts.records import Settings, emit
from cpu_parts.works import DROPOUTS, LOGGED, Work

Batch = dict[str, Any]


def load(path: Any, settings: Settings) -> datasets.Dataset:
    """Return the rows of a JSON lines file."""
    cache = str(settings.work / f"cache-{os.getpid()}")  # nobody finds what another has encoded
    return datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=cache)


def grouped(rows: datasets.Dataset, tokenizer: Any, length: int, *, masked: bool) -> datasets.Dataset:
    """Return texts laid end to end and cut into blocks, as run_mlm and run_clm do."""
    encoded = rows.map(
        lambda batch: tokenizer(batch["text"], return_special_tokens_mask=masked, verbose=False),
        batched=True,
        remove_columns=rows.column_names,
    )

    def group(examples: Mapping[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        joined = {name: list(chain(*lists)) for name, lists in examples.items()}
        total = len(joined["input_ids"]) // length * length
        cut = {
            name: [ids[at : at + length] for at in range(0, total, length)] for name, ids in joined.items()
        }
        return cut if masked else cut | {"labels": [*cut["input_ids"]]}

    return encoded.map(group, batched=True)


def blocks(work: Work, settings: Settings) -> datasets.Dataset:
    """Return the examples of a language model."""
    tokenizer = AutoTokenizer.from_pretrained(work.tokenizer(settings))
    rows = load(work.texts(settings), settings)
    return grouped(rows, tokenizer, work.length, masked=work.task == "masked-lm")


def pairs(work: Work, settings: Settings) -> datasets.Dataset:
    """Return the examples of a translation, as run_translation makes them."""
    tokenizer = AutoTokenizer.from_pretrained(work.tokenizer(settings))
    cut = {"max_length": work.length, "truncation": True}
    rows = load(work.texts(settings), settings)
    return rows.map(
        lambda batch: tokenizer(batch["source"], text_target=batch["target"], **cut),
        batched=True,
        remove_columns=rows.column_names,
    )


def labelled(work: Work, settings: Settings, *, padded: bool) -> datasets.Dataset:
    """Return the examples of a classification as run_glue makes them, `padded` to one length by default."""
    tokenizer = AutoTokenizer.from_pretrained(work.tokenizer(settings))
    rows = load(work.texts(settings), settings)
    names = sorted(set(rows["label"]))
    how = {"padding": "max_length" if padded else False, "max_length": work.length, "truncation": True}
    return rows.map(
        lambda batch: (
            tokenizer(batch["text"], **how) | {"labels": [names.index(label) for label in batch["label"]]}
        ),
        batched=True,
        remove_columns=rows.column_names,
    )


def lengths(work: Work, settings: Settings) -> list[int]:
    """Return the tokens of each row, source and target together, without padding."""
    if work.task == "translation":
        found = pairs(work, settings)
        return [len(row["input_ids"]) + len(row["labels"]) for row in found]
    return [len(row["input_ids"]) for row in labelled(work, settings, padded=False)]


class Counting:
    """A collator that counts the tokens and the targets of each batch."""

    def __init__(self, collate: Callable[[list[Any]], Batch]) -> None:
        self._collate = collate
        self.tokens: list[int] = []
        self.targets: list[int] = []

    def __call__(self, rows: list[Any]) -> Batch:
        batch = self._collate(rows)
        tokens = (
            int(batch["attention_mask"].sum()) if "attention_mask" in batch else batch["input_ids"].numel()
        )
        targets = int((batch["labels"] != -100).sum())
        self.tokens.append(tokens + (targets if "decoder_input_ids" in batch else 0))
        self.targets.append(targets)
        return batch


class Ticks(TrainerCallback):
    """Passes the steps on to a clock, and ends the training when it has enough."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._clock.tick():
            control.should_training_stop = control.should_log = True


def run(work: Work, settings: Settings, contender: str) -> None:
    """Train and write one line."""
    fast, compiled = contender != "trainer", contender == "trainer-fast" and not settings.toy
    rows = _rows(work, settings, fast=fast)
    clock = Clock(settings, f"{work.name}, {contender}", **_warm(work, fast=fast))
    clock.start()
    transformers.set_seed(17)
    model = _model(work, settings, fast=fast)
    tokenizer = AutoTokenizer.from_pretrained(work.tokenizer(settings))
    counting = Counting(_collator(work, tokenizer, model, fast=fast))
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(settings.work / work.name / f"{contender}-{settings.round}"),
            per_device_train_batch_size=work.batch,
            max_steps=work.steps,
            logging_steps=LOGGED,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            **(_flags(work, compiled=compiled) if fast else {}),
        ),
        train_dataset=rows,
        data_collator=counting,
        processing_class=tokenizer,
        callbacks=[Ticks(clock)],
    )
    trainer.train()
    # Trainer divides by all tokens of a causal model's rows, of which the first is never predicted.
    share = (work.length - 1) / work.length if work.task == "causal-lm" else 1.0
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    losses = {entry["step"]: entry["loss"] / share for entry in logged}
    more = {"targets_step": round(float(np.mean(counting.targets)), 1)}
    facts = clock.facts(work, counting.tokens, losses) | more
    emit("train", work=work.name, contender=contender, round=settings.round, **facts)


def _warm(work: Work, *, fast: bool) -> dict[str, int]:
    """Return how many steps do not count, and what their number is a multiple of."""
    if not fast:
        return {"warm": 1}
    return {"warm": work.epoch, "unit": work.epoch} if work.uneven else {"warm": 3}


def _flags(work: Work, *, compiled: bool) -> dict[str, Any]:
    grouped = {"train_sampling_strategy": "group_by_length"} if work.uneven else {}
    return {"bf16": True, "torch_compile": compiled, "optim": "adamw_torch_fused", **grouped}


def _rows(work: Work, settings: Settings, *, fast: bool) -> datasets.Dataset:
    if work.task == "translation":
        return pairs(work, settings)
    if work.task == "text-classification":
        return labelled(work, settings, padded=not fast)
    return blocks(work, settings)


def _model(work: Work, settings: Settings, *, fast: bool) -> Any:
    if work.bench is None:
        labels = {json.loads(line)["label"] for line in work.texts(settings).read_text().splitlines()}
        config = AutoConfig.from_pretrained(work.tokenizer(settings), num_labels=len(labels))
        config.update(DROPOUTS["bert"] if fast else {})
        return AutoModelForSequenceClassification.from_pretrained(
            work.tokenizer(settings), config=config, dtype=torch.float32
        )
    config = work.bench.config()
    config.update(DROPOUTS[work.bench.kind] if fast else {})
    return getattr(transformers, work.bench.auto_class).from_config(config, dtype=torch.float32)


def _collator(work: Work, tokenizer: Any, model: Any, *, fast: bool) -> Callable[[list[Any]], Batch]:
    if work.task == "masked-lm":
        assert work.bench is not None
        return DataCollatorForLanguageModeling(tokenizer, mlm_probability=work.bench.mask)
    if work.task == "translation":
        return DataCollatorForSeq2Seq(tokenizer, model=model)
    if work.task == "text-classification" and fast:
        return DataCollatorWithPadding(tokenizer)
    return default_data_collator
