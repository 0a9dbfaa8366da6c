"""Every shipped recipe runs: most that need nothing from the Hub here, the others in their task's tests."""

from __future__ import annotations

import json
import sys
from itertools import product
from pathlib import Path

import pytest
import small

import hfpipe

FEW = 'wiki.clean=[unicode, {keep_matching: "^The "}, {max_chars: 360}]'
OFFLINE: dict[str, tuple[list[str], str]] = {
    "demo": ([FEW, "words.vocab_size=1000"], "accuracy"),
    "minilm-topics": ([FEW, "wiki.split={validation: 0.1, test: 0.1}"], "accuracy"),
    "gpt2-abstracts": ([FEW, "words.vocab_size=1000", "pretrain.task.length=64"], "bits_per_byte"),
    "distil-topics": (
        [
            FEW,
            "words.vocab_size=1000",
            f"large.model={json.dumps(small.MODELS['bert'])}",
            "large.tokenizer=stage:words",
            "from-labels.seeds=null",
            "distilled.seeds=[1, 2]",
        ],
        "accuracy",
    ),
    "cloze": ([FEW, "words.vocab_size=1000", "blanks.labels={}"], "exact_match"),
    "reliable-scores": (
        [
            FEW,
            "wiki.limit=null",
            "words.vocab_size=1000",
            "tuned.search.trials=2",
            "tuned.seeds=[1, 2]",
            "default.seeds=[1, 2]",
            "folded.folds=2",
        ],
        "accuracy",
    ),
    "translate-numbers": (["numbers.split={validation: 0.001, test: 0.002}"], "bleu"),
}
"""Recipe that needs no network → what makes it small, and the score that says it best."""
HUB = {
    "bert-wikitext": "test_recipes",
    "gpt2-wikitext": "test_perplexity",
    "marian-translate": "test_recipes",
    "minilm-int8": "test_export",
    "modernbert-domain": "test_recipes",
    "ner-conll": "test_token_classification",
    "perplexity-of-a-hub-model": "test_perplexity",
    "qwen-instruct-lora": "test_text_generation",
    "squad": "test_question_answering",
    "swag": "test_multiple_choice",
    "t5-denoise-summarize": "test_denoising",
}
"""Any other recipe → where it runs on other rows, or with a smaller model."""
TEXTS = [
    f"The {place} {what} was built in {year}. It stands on a hill. People come to see it every summer."
    for year, (place, what) in enumerate(product(("old", "new", "great", "small"), ("bridge", "tower")), 1880)
]
SHIPPED = {path.stem for path in (small.ROOT / "recipes").glob("*.yaml")}
TABLE = (small.ROOT / "recipes" / "README.md").read_text(encoding="utf-8")


def test_every_shipped_recipe_is_run_somewhere() -> None:
    assert len(SHIPPED) == 18
    assert OFFLINE.keys() | HUB.keys() == SHIPPED
    for name, where in HUB.items():
        assert f'"{name}' in (small.ROOT / "tests" / f"{where}.py").read_text(encoding="utf-8"), name


def test_user_code_of_a_shipped_recipe_has_no_name_of_the_standard_library() -> None:
    names = {path.stem for path in (small.ROOT / "recipes").rglob("*.py")}
    assert {"wiki", "cloze"} <= names
    assert not names & sys.stdlib_module_names


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_every_shipped_recipe_has_a_row_in_the_table(name: str) -> None:
    [row] = [line for line in TABLE.splitlines() if line.startswith(f"| [{name}]({name}.yaml)")]
    assert row.count("|") == 6


@pytest.mark.slow
@pytest.mark.parametrize("name", OFFLINE)
def test_an_offline_recipe_runs_whole(tmp_path: Path, name: str) -> None:
    sets, wanted = OFFLINE[name]
    run = tried(name, sets, tmp_path)
    trained = [stage for stage, report in run.reports.items() if "steps" in report.facts]
    assert trained
    [score] = [score for score in run.reports["score"].scores if score.metric == wanted]
    assert score.n > 10
    assert score.comparisons
    assert all(run.reports[stage].facts["steps"] == 3 for stage in trained)


def local(path: Path, columns: dict[str, list[object]]) -> str:
    """Write rows for every split and return them as a source."""
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    lines = small.to_json_lines(rows)
    files = {}
    for split in ("train", "validation", "test", "validation_matched"):
        files[split] = str(path / f"{split}-{len(columns)}.jsonl")
        Path(files[split]).write_text(lines.replace("hill", f"hill in the {split}"), encoding="utf-8")
    return json.dumps({"files": files})


def tried(name: str, sets: list[str], runs: Path) -> hfpipe.Run:
    """Run a recipe with every training cut short."""
    few = {"max_steps": 3, "per_device_train_batch_size": 4}
    path = small.ROOT / "recipes" / f"{name}.yaml"
    trained = [stage for stage, given in hfpipe.load(path, sets).stages.items() if hasattr(given, "training")]
    written = dict.fromkeys(stage.partition("@")[0] for stage in trained)
    cut = [f"{stage}.training={json.dumps(few)}" for stage in written]
    return hfpipe.run(hfpipe.load(path, [*sets, *cut]), runs, say=lambda _: None)


@pytest.mark.slow
def test_bert_wikitext_runs_on_rows_of_a_user(tmp_path: Path) -> None:
    labels = ["even", "odd"] * (len(TEXTS) // 2)
    pairs = local(tmp_path, {"premise": TEXTS, "hypothesis": TEXTS[::-1], "label": labels})
    sets = [
        f"wikitext.source={local(tmp_path, {'text': TEXTS})}",
        f"sst2.source={local(tmp_path, {'sentence': TEXTS, 'label': labels})}",
        f"mnli.source={pairs}",
        "mnli.split={validation: 0.2}",
        "words.vocab_size=200",
        f"pretrain.model={json.dumps(small.MODELS['bert'])}",
        "pretrain.task.length=64",
    ]
    run = tried("bert-wikitext", sets, tmp_path / "runs")
    validation = run.reports["pretrain"].facts["validation"]
    assert {"loss", "accuracy", "next_sentence_loss", "next_sentence_accuracy"} <= validation.keys()
    for stage in ("sentiment-score", "inference-score"):
        assert run.reports[stage].scores[0].n == len(TEXTS)


def base(path: Path, style: str, model: dict[str, object], auto_class: str) -> str:
    """Save a model from scratch with a tokenizer, as the Hub would give it; return where."""
    from hfpipe.modeling.loading.models import create_config, create_model
    from hfpipe.tokenization.loading import complete_tokenizer
    from hfpipe.tokenization.special_tokens import STYLES
    from hfpipe.tokenization.training import Learner

    learner = Learner("unigram", STYLES[style], [], 120, 1, lowercase=True)
    tokenizer = complete_tokenizer(learner.learn(TEXTS), STYLES[style])
    for part in (create_model(auto_class, create_config(model, tokenizer, {}), 1), tokenizer):
        part.save_pretrained(path)
    return str(path)


@pytest.mark.slow
def test_marian_translate_runs_on_rows_of_a_user(tmp_path: Path) -> None:
    marian = {"type": "marian", "d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2}
    place = base(tmp_path / "base", "t5", marian | {"encoder_ffn_dim": 48}, "AutoModelForSeq2SeqLM")
    pairs = [{"en": text, "fr": text[::-1]} for text in TEXTS]
    sets = [
        f"books.source={local(tmp_path, {'translation': pairs})}",
        "books.split={validation: 0.2, test: 0.4}",
        f"translate.model={place}",
        "translate.task.generation={num_beams: 2, max_new_tokens: 5}",
        f"score.baselines=[copy, {place}]",
    ]
    run = tried("marian-translate", sets, tmp_path / "runs")
    bleu = run.reports["score"].scores[0]
    assert bleu.metric == "bleu"
    assert [each.baseline for each in bleu.comparisons] == ["copy", place]


@pytest.mark.slow
def test_modernbert_domain_runs_on_rows_of_a_user(tmp_path: Path) -> None:
    place = base(tmp_path / "base", "bert", small.MODELS["modernbert"], "AutoModelForMaskedLM")
    labels = ["even", "odd"] * (len(TEXTS) // 2)
    sets = [
        f"contracts.source={local(tmp_path, {'text': TEXTS, 'label': labels})}",
        *(f"{stage}.model={place}" for stage in ("pretrain", "undirected")),
        *(f"{stage}.task.length=32" for stage in ("pretrain", "topics", "undirected")),
    ]
    run = tried("modernbert-domain", sets, tmp_path / "runs")
    accuracy = run.reports["score"].scores[0]
    assert [each.baseline for each in accuracy.comparisons] == ["majority", "tfidf", "stage:undirected"]
