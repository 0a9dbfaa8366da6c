"""Every metric is a module of `evaluate` that loads from the package, with the same value."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from math import exp, log
from pathlib import Path

import evaluate
import numpy as np
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer
from scipy.stats import spearmanr
from seqeval.metrics import f1_score as entity_f1
from sklearn import metrics as sk

import hfpipe
from hfpipe.metrics.metric import Metric
from hfpipe.metrics.module import Module, compute_value
from hfpipe.metrics.whole import WholeMetric

GOLD = [0, 1, 2, 2, 1, 0, 2, 1]
GUESS = [0, 2, 2, 2, 1, 1, 2, 1]
SCORES = [
    [0.8, 0.1, 0.1],
    [0.2, 0.3, 0.5],
    [0.1, 0.2, 0.7],
    [0.3, 0.1, 0.6],
    [0.1, 0.8, 0.1],
    [0.2, 0.5, 0.3],
    [0.1, 0.1, 0.8],
    [0.2, 0.6, 0.2],
]
SETS = {"predictions": [[1, 0], [0, 1], [1, 1]], "references": [[1, 0], [1, 1], [0, 1]]}
CLASSES = {"predictions": GUESS, "references": GOLD}
CHANCES = {"predictions": SCORES, "references": GOLD}
NUMBERS = {"predictions": [1.5, 2.0, 4.5, 3.0], "references": [1.0, 2.5, 4.0, 3.5]}
NATS, TOKENS, BYTES = [20.5, 7.25, 11.0], [8, 3, 4], [31, 12, 18]
TEXTS = {
    "predictions": ["the cat sat on a mat", "a dog barked at the moon"],
    "references": ["the cat sat on the mat", "the dog barked at the moon"],
}
TAGS = {
    "predictions": [["B-PER", "I-PER", "O", "B-LOC"], ["O", "B-ORG"]],
    "references": [["B-PER", "I-PER", "O", "B-LOC"], ["B-ORG", "I-ORG"]],
}
ANSWERS = {
    "predictions": ["the Nile", "", "in 1905"],
    "references": [["Nile", "The Nile river"], [], ["1905"]],
}


def rouge(kind):
    scorer = RougeScorer([kind], use_stemmer=True)
    pairs = zip(TEXTS["references"], TEXTS["predictions"], strict=True)
    return np.mean([scorer.score(reference, prediction)[kind].fmeasure for reference, prediction in pairs])


def corpus(score):
    return score(TEXTS["predictions"], [TEXTS["references"]]).score


EXPECTED = {
    "accuracy": (CLASSES, {"accuracy": sk.accuracy_score(GOLD, GUESS)}),
    "average_precision": (
        CHANCES,
        {"average_precision": sk.average_precision_score(GOLD, np.array(SCORES), average="macro")},
    ),
    "balanced_accuracy": (CLASSES, {"balanced_accuracy": sk.balanced_accuracy_score(GOLD, GUESS)}),
    "bits_per_byte": (
        {"nll": NATS, "bytes": BYTES},
        {"bits_per_byte": sum(NATS) / sum(BYTES) / log(2)},
    ),
    "bleu": (TEXTS, {"bleu": corpus(sacrebleu.corpus_bleu)}),
    "brier": (CHANCES, {"brier": sk.brier_score_loss(GOLD, np.array(SCORES), scale_by_half=False)}),
    "chrf": (TEXTS, {"chrf": corpus(sacrebleu.corpus_chrf)}),
    "cloze": (
        {"rank": [1, 2, 0, 7]},
        {"exact_match": 1 / 4, "top5_accuracy": 2 / 4, "mean_reciprocal_rank": (1 + 1 / 2 + 1 / 7) / 4},
    ),
    "cut_off": ({"cut": [0, 1, 1, 0]}, {"cut_off": 0.5}),
    "ece": ({"predictions": [0.9, 0.7], "references": [1, 0]}, {"ece": (0.1 + 0.7) / 2}),
    "entities": (TAGS, {"f1": entity_f1(TAGS["references"], TAGS["predictions"])}),
    "exact_match": (
        {"predictions": ["a", "b "], "references": [["c", "a"], ["b"]]},
        {"exact_match": 1.0},
    ),
    "f1_by_class": (
        CLASSES,
        {f"f1[{n}]": sk.f1_score(GOLD, GUESS, labels=[n], average="macro") for n in range(3)},
    ),
    "f1_macro": (CLASSES, {"f1_macro": sk.f1_score(GOLD, GUESS, average="macro")}),
    "f1_micro": (SETS, {"f1_micro": sk.f1_score(SETS["references"], SETS["predictions"], average="micro")}),
    "f1_weighted": (CLASSES, {"f1_weighted": sk.f1_score(GOLD, GUESS, average="weighted")}),
    "hamming_loss": (SETS, {"hamming_loss": sk.hamming_loss(SETS["references"], SETS["predictions"])}),
    "loss": ({"nll": NATS}, {"loss": np.mean(NATS)}),
    "mae": (NUMBERS, {"mae": sk.mean_absolute_error(NUMBERS["references"], NUMBERS["predictions"])}),
    "matthews": (CLASSES, {"matthews": sk.matthews_corrcoef(GOLD, GUESS)}),
    "mse": (NUMBERS, {"mse": sk.mean_squared_error(NUMBERS["references"], NUMBERS["predictions"])}),
    "next_sentence": (
        {"nll": NATS, "correct": [3, 2, 1], "pairs": TOKENS},
        {"next_sentence_loss": sum(NATS) / 15, "next_sentence_accuracy": 6 / 15},
    ),
    "pearson": (NUMBERS, {"pearson": np.corrcoef(NUMBERS["references"], NUMBERS["predictions"])[0, 1]}),
    "perplexity": ({"nll": NATS, "tokens": TOKENS}, {"perplexity": exp(sum(NATS) / sum(TOKENS))}),
    "pseudo_bits_per_byte": (
        {"nll": NATS, "bytes": BYTES},
        {"bits_per_byte": sum(NATS) / sum(BYTES) / log(2)},
    ),
    "pseudo_perplexity": (
        {"nll": NATS, "tokens": TOKENS},
        {"pseudo_perplexity": exp(sum(NATS) / sum(TOKENS))},
    ),
    "roc_auc": (CHANCES, {"roc_auc": sk.roc_auc_score(GOLD, SCORES, multi_class="ovr")}),
    "rouge": (TEXTS, {kind: rouge(kind) for kind in ("rouge1", "rouge2", "rougeL", "rougeLsum")}),
    "spearman": (
        NUMBERS,
        {"spearman": spearmanr(NUMBERS["references"], NUMBERS["predictions"]).statistic},
    ),
    "squad": (
        {name: [column[0], column[2]] for name, column in ANSWERS.items()},
        {"exact_match": 50.0, "f1": 100 * (1 + 2 / 3) / 2},
    ),
    "squad_v2": (ANSWERS, {"exact_match": 200 / 3, "f1": 100 * (1 + 1 + 2 / 3) / 3}),
    "subset_accuracy": (
        SETS,
        {"subset_accuracy": sk.accuracy_score(SETS["references"], SETS["predictions"])},
    ),
    "tag_accuracy": (TAGS, {"accuracy": 4 / 6}),
    "ter": (TEXTS, {"ter": corpus(sacrebleu.corpus_ter)}),
    "token_accuracy": ({"correct": [3, 2, 1], "tokens": TOKENS}, {"accuracy": 6 / 15}),
    "token_loss": ({"nll": NATS, "tokens": TOKENS}, {"loss": sum(NATS) / sum(TOKENS)}),
    "words": ({"predictions": TEXTS["predictions"]}, {"words": 6.0}),
}
"""Module → what it is given, and what scikit-learn, sacrebleu, seqeval, rouge-score or a sum say."""


@pytest.fixture(scope="module")
def loaded() -> dict[str, Module]:
    return {name: evaluate.load(hfpipe.metrics.path(name)) for name in hfpipe.metrics.module_names()}


def test_every_module_is_tested() -> None:
    assert hfpipe.metrics.module_names() == sorted(EXPECTED)
    assert len(EXPECTED) >= 37


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_module_gives_the_value_of_the_metric_and_of_the_reference(loaded, name):
    inputs, expected = EXPECTED[name]
    module = loaded[name]
    found = module.compute(**inputs)
    assert found | expected == pytest.approx(found, abs=1e-9)
    columns = module.columns(**inputs)
    assert found == {metric.name: compute_value(metric, columns) for metric in module.metrics(columns)}
    assert module.description


def test_every_metric_there_is_is_in_a_module(loaded):
    package = Path(hfpipe.metrics.__file__).parent
    for file in [*package.glob("[a-z]*.py"), *package.glob("scores/[a-z]*.py")]:
        importlib.import_module(
            ".".join(["hfpipe.metrics", *file.relative_to(package).with_suffix("").parts])
        )
    there = {kind for kind in below(Metric) | below(WholeMetric) if not inspect.isabstract(kind)}
    covered = {
        type(metric)
        for name, (inputs, _) in EXPECTED.items()
        for metric in loaded[name].metrics(loaded[name].columns(**inputs))
    }
    assert len(covered) > 35
    left = {kind.__name__ for kind in there - covered if kind.__module__.startswith("hfpipe.")}
    elsewhere = {"ChoiceAccuracy", "RowWeighted"}  # `accuracy` computes one; `sample_weight` is not an input
    assert left <= elsewhere


def below(kind):
    return {kind}.union(*(below(each) for each in kind.__subclasses__()))


def test_classes_may_be_named(loaded):
    assert loaded["accuracy"].compute(predictions=["a", "b"], references=["a", "a"]) == {"accuracy": 0.5}


def test_two_classes_need_one_probability(loaded):
    reference, chance = [0, 1, 1, 0], [0.2, 0.3, 0.9, 0.4]
    found = loaded["roc_auc"].compute(predictions=chance, references=reference)
    assert found["roc_auc"] == pytest.approx(sk.roc_auc_score(reference, chance))


def test_what_needs_one_class_an_example_takes_no_lists(loaded):
    for name in ("brier", "ece"):
        with pytest.raises(ValueError, match="don't match the expected format"):
            loaded[name].compute(predictions=[[0.2, 0.8]], references=[[0, 1]])


def test_results_may_come_in_batches(loaded):
    for start in (0, 4):
        batch = slice(start, start + 4)
        loaded["f1_macro"].add_batch(predictions=GUESS[batch], references=GOLD[batch])
    assert loaded["f1_macro"].compute()["f1_macro"] == pytest.approx(
        sk.f1_score(GOLD, GUESS, average="macro")
    )


def test_a_missing_metric_is_an_error_of_one_line():
    with pytest.raises(hfpipe.DataError, match=r"^there is no metric 'bits_per_bite'; did you mean"):
        hfpipe.metrics.path("bits_per_bite")
    with pytest.raises(hfpipe.DataError, match=r"^there is no metric 'xyz'; there are accuracy, .*words$"):
        hfpipe.metrics.path("xyz")


@pytest.mark.slow
def test_finding_a_metric_loads_nothing_heavy():
    code = "import sys, hfpipe; hfpipe.metrics.path('bleu'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "evaluate", "datasets"} & set(done.stdout.split())
