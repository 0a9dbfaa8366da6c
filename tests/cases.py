"""A small recipe for every task of the table, so that the same tests can run on all of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from small import MODELS, ROOT, SUMMARIES

ENCODER = MODELS["bert"]
DECODER: dict[str, Any] = {
    "type": "gpt2",
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 2,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}
BOTH: dict[str, Any] = {
    "type": "t5",
    "d_model": 32,
    "d_kv": 16,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 2,
    "dropout_rate": 0.0,
}


@dataclass(frozen=True)
class Case:
    """What a task learns from, and with."""

    rows: str
    """Function of rows.py."""
    columns: dict[str, str]
    """Columns of the data set."""
    task: dict[str, Any]
    """Options of the task."""
    model: dict[str, Any]
    style: str = "bert"
    text: list[str] = field(default_factory=lambda: ["text"])
    """Columns that the tokenizer learns from."""
    kind: str = "finetune"


CASES: dict[str, Case] = {
    "causal-lm": Case(
        "abstracts", {"text": "extract"}, {"length": 32}, DECODER, style="gpt", kind="pretrain"
    ),
    "denoising": Case("abstracts", {"text": "extract"}, {"length": 32}, BOTH, style="t5", kind="pretrain"),
    "fill-mask": Case("cloze", {"text": "text", "answer": "answer"}, {"length": 32}, ENCODER),
    "masked-lm": Case("abstracts", {"text": "extract"}, {"length": 32}, ENCODER, kind="pretrain"),
    "multiple-choice": Case(
        "endings",
        {name: name for name in ("context", "endings", "label")},
        {"length": 32},
        ENCODER,
        text=["context"],
    ),
    "question-answering": Case(
        "questions",
        {name: name for name in ("question", "context", "answers")},
        {"length": 96, "stride": 16},
        ENCODER,
        text=["question", "context"],
    ),
    "text-classification": Case("abstracts", {"text": "extract", "label": "topic"}, {"length": 32}, ENCODER),
    "summarization": Case(
        "abstracts",
        {"text": "extract", "summary": "description"},
        {"length": 64, "target_length": 96, "generation": {"max_new_tokens": 12, "num_beams": 2}},
        BOTH,
        style="t5",
        text=["text", "summary"],
    ),
    "text-generation": Case(
        "abstracts",
        {"prompt": "title", "completion": "description"},
        {"template": "{prompt}:", "length": 32, "target_length": 96, "generation": {"max_new_tokens": 12}},
        DECODER,
        style="gpt",
        text=["prompt", "completion"],
    ),
    "token-classification": Case(
        "tagged", {"words": "words", "tags": "tags"}, {"length": 24, "stride": 8}, ENCODER, text=["words"]
    ),
    "translation": Case(
        "abstracts",
        {"source": "title", "target": "description"},
        {"prompt": "{source}:", "length": 32, "target_length": 96, "generation": {"max_new_tokens": 12}},
        DECODER,
        style="gpt",
        text=["source", "target"],
    ),
}


def stages(name: str, batch_sizes: tuple[int, ...] = (64, 1, 7)) -> dict[str, Any]:
    """Return the stages of one task, named after it: rows, pieces, learn, and a score for each batch size."""
    case = CASES[name]
    return {
        f"{name}-rows": {
            "kind": "dataset",
            "source": {"python": f"{ROOT}/tests/rows.py:{case.rows}", "reads": [SUMMARIES]},
            "columns": case.columns,
            "clean": [],
            "split": {"validation": 0.1, "test": 0.2},
        },
        f"{name}-pieces": {
            "kind": "tokenizer",
            "data": f"stage:{name}-rows",
            "text": case.text,
            "algorithm": "wordpiece" if case.style == "bert" else "bpe",
            "style": case.style,
            "vocab_size": 600,
        },
        f"{name}-learn": {
            "kind": case.kind,
            "task": {"kind": name} | case.task,
            "data": f"stage:{name}-rows",
            "tokenizer": f"stage:{name}-pieces",
            "model": case.model,
            "training": {
                "max_steps": 30,
                "per_device_train_batch_size": 8,
                "learning_rate": 5e-3,
                "logging_steps": 1,
                "save_steps": 10,
                "bf16": False,
            },
        },
    } | {
        f"{name}-score-{size}": {
            "kind": "evaluate",
            "model": f"stage:{name}-learn",
            "data": f"stage:{name}-rows",
            "batch_size": size,
        }
        for size in batch_sizes
    }


def recipe(*names: str, **options: Any) -> dict[str, Any]:
    """Return one recipe of some tasks."""
    made: dict[str, Any] = {}
    for name in names:
        made |= stages(name, **options)
    return {"name": "small", "seed": 5, "stages": made}
