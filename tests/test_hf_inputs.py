"""What models, tokenizers and data must be like, told before anything is trained or measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import small

import hfpipe
from hfpipe.contract import RunContext
from hfpipe.encoding.encoded import encode, encode_truncated
from hfpipe.encoding.io import extract_facts
from hfpipe.errors import DataError, HfpipeError, StageError
from hfpipe.modeling.loading.models import create_config, create_model, load_model
from hfpipe.stages.evaluate import Evaluate
from hfpipe.stages.finetune import Finetune
from hfpipe.tasks.masked_lm import MaskedLM
from hfpipe.tasks.text_classification import TextClassification
from hfpipe.tokenization.loading import complete_tokenizer, load_tokenizer
from hfpipe.tokenization.special_tokens import STYLES
from hfpipe.tokenization.training import Learner

Make = Callable[..., RunContext]
TEXTS = [
    "The Nile flows north.",
    "Everest is high.",
    "The Amazon carries more water than any other river.",
    "K2 is the second highest mountain and harder to climb than Everest.",
]
KINDS = {
    "label": datasets.ClassLabel(names=["river", "mountain"]),
    "labels": datasets.List(datasets.ClassLabel(names=["river", "mountain"])),
    "float": datasets.Value("float64"),
}
LABELS: dict[str, list[Any]] = {
    "label": [0, 1, 0, 1],
    "labels": [[0], [1], [], [0, 1]],
    "float": [1.0, 2, 3, 4],
}
BERT = {
    "type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}


def tokenizer(style: str = "bert", extra: tuple[str, ...] = ()) -> Any:
    learner = Learner("wordpiece" if style == "bert" else "bpe", STYLES[style], extra, 300, 1, lowercase=True)
    return complete_tokenizer(learner.learn(TEXTS), STYLES[style])


def rows(kind: str = "label") -> datasets.Dataset:
    features = datasets.Features({"text": datasets.Value("string"), "label": KINDS[kind]})
    return datasets.Dataset.from_dict({"text": TEXTS, "label": LABELS[kind]}, features=features)


def saved(folder: Path, kind: str = "label", head: str = "AutoModelForMaskedLM", **splits: Any) -> None:
    """Leave a data set and a model that no stage of hfpipe made."""
    made = {"train": rows(kind)} | splits
    datasets.DatasetDict(made).save_to_disk(folder / "data")
    words = tokenizer()
    words.save_pretrained(folder / "model")
    entries = {"problem_type": None, "id2label": {0: "river", 1: "mountain"}} if "Sequence" in head else {}
    create_model(head, create_config(BERT, words, entries), 3).save_pretrained(folder / "model")


def encoded(path: Path, texts: list[str], words: Any, *, packed: bool = True) -> tuple[Any, dict[str, int]]:
    table = datasets.Dataset.from_dict({"text": texts})
    facts = extract_facts(datasets.DatasetDict(train=table))
    return encode(
        MaskedLM(length=8).runtime(), table, words, facts, path, packed=packed, advance=lambda _: None
    )


def test_the_two_texts_of_a_pair_are_distinguished_by_token_types(tmp_path: Path) -> None:
    tokenizer().save_pretrained(tmp_path)
    words = load_tokenizer(tmp_path)
    pair = encode_truncated(words, TEXTS[:2], TEXTS[2:], 12)
    assert [len(types) for types in pair["token_type_ids"]] == [len(ids) for ids in pair["input_ids"]]
    assert all(set(types) == {0, 1} for types in pair["token_type_ids"])
    assert "token_type_ids" not in encode_truncated(words, TEXTS, None, 12)
    assert "token_type_ids" not in encode_truncated(tokenizer("gpt"), TEXTS[:2], TEXTS[2:], 12)


def test_an_encoding_that_was_cut_short_is_made_again(tmp_path: Path) -> None:
    words = tokenizer()
    whole, ledger = encoded(tmp_path / "train.arrow", TEXTS, words)
    (tmp_path / "train.json").unlink()
    shard = tmp_path / "train-00000.arrow"
    shard.write_bytes(shard.read_bytes()[:100])
    again, same = encoded(tmp_path / "train.arrow", TEXTS, words)
    assert same == ledger
    assert ledger.items() <= json.loads((tmp_path / "train.json").read_text()).items()
    assert again.lengths.tolist() == whole.lengths.tolist()


def test_rows_without_a_token_come_to_no_harm_however_many_there_are(tmp_path: Path) -> None:
    words = tokenizer("gpt", ("[MASK]",))
    words.add_special_tokens({"mask_token": "[MASK]"})
    examples, ledger = encoded(tmp_path / "test.arrow", [""] * 1000 + TEXTS, words, packed=False)
    assert ledger["rows"] == 1004
    assert set(examples.rows.tolist()) == set(range(1004))
    batch = (
        MaskedLM(length=8)
        .runtime()
        .encoder.collate(examples.__getitems__([(0, 0), (0, 1)]), words, 3, train=False)
    )
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[words.pad_token_id]] * 2,
        "attention_mask": [[1]] * 2,
        "labels": [[-100]] * 2,
    }
    with pytest.raises(StageError, match="none: no example is left after encoding 1 rows"):
        encoded(tmp_path / "none.arrow", [""], words)


def test_masked_lm_says_that_a_tokenizer_has_no_mask(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="masked-lm needs a mask token, and this tokenizer has none"):
        encoded(tmp_path / "train.arrow", TEXTS, tokenizer("gpt"))


@pytest.mark.parametrize(
    ("kind", "labels", "message"),
    [
        ("label", [0, -1, 1, 0], "holds -1, not a class from 0 to 1"),
        ("label", [0, None, 1, 0], "holds None, not a class from 0 to 1"),
        ("label", [0, 2, 1, 0], "holds 2, not a class from 0 to 1"),
        ("labels", [[], None, [1], [0]], "holds None, not a class from 0 to 1"),
        ("labels", [[], [7], [1], [0]], "holds 7, not a class from 0 to 1"),
        ("float", [0.5, float("nan"), 1.0, 2.0], "holds nan, not a number"),
        ("float", [0.5, None, 1.0, 2.0], "holds None, not a number"),
    ],
)
def test_a_missing_label_is_reported_and_not_trained_on(kind: str, labels: list[Any], message: str) -> None:
    facts = extract_facts(datasets.DatasetDict(train=rows(kind)))
    with pytest.raises(DataError, match=f"column 'label' {message}; drop such rows"):
        TextClassification().runtime().encoder.encode({"text": TEXTS, "label": labels}, tokenizer(), facts)


@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_every_kind_are_encoded_one_a_row(kind: str) -> None:
    facts = extract_facts(datasets.DatasetDict(train=rows(kind)))
    found = (
        TextClassification()
        .runtime()
        .encoder.encode({"text": TEXTS, "label": LABELS[kind]}, tokenizer(), facts)["label"]
    )
    assert found == ([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [1.0, 1.0]] if kind == "labels" else LABELS[kind])


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (
            "labels",
            {"training": {"label_smoothing_factor": 0.1}},
            "label_smoothing_factor is not supported for",
        ),
        (
            "float",
            {"training": {"label_smoothing_factor": 0.1}},
            "is not supported for regression; delete it",
        ),
        (
            "label",
            {"training": {"metric_for_best_model": "bleu"}},
            "no score 'bleu' on a validation split; there are accuracy, f1_macro",
        ),
        ("label", {"early_stopping": {"patience": 2}}, "early_stopping needs a validation split"),
        ("label", {"training": {"eval_strategy": "epoch"}}, "eval_strategy needs a validation split"),
        (
            "label",
            {"training": {"load_best_model_at_end": True}},
            "load_best_model_at_end needs a validation",
        ),
        ("label", {"task": {"length": 600}}, "length 600 exceeds the 512 positions of the model"),
        ("label", {"task": {"label": "topic"}}, "the data set has no column 'topic'; it has label, text"),
    ],
)
def test_what_a_training_cannot_do_with_a_folder_is_reported_before_it_encodes(
    context: Make, tmp_path: Path, kind: str, settings: dict[str, Any], message: str
) -> None:
    saved(tmp_path, kind)
    task = TextClassification(**settings.pop("task", {}))
    stage = Finetune.model_validate(
        {"kind": "finetune", "task": task, "data": "./data", "model": "./model"} | settings
    )
    ctx = context("topics")
    with pytest.raises(HfpipeError, match=message):
        stage.prepare(ctx)
    assert not (ctx.work / "encoded").exists()


def measured(ctx: RunContext, task: Any, **settings: Any) -> Any:
    given = {"kind": "evaluate", "model": "./model", "data": "./data", "split": "train", "task": task}
    stage = Evaluate.model_validate(given | settings)
    stage.prepare(ctx)
    return stage.run(ctx)


def test_an_unknown_score_to_require_is_reported_before_anything_is_measured(
    context: Make, tmp_path: Path
) -> None:
    saved(tmp_path, head="AutoModelForSequenceClassification")
    ctx = context("score")
    with pytest.raises(StageError, match="there is no score 'bleu' to require; there are accuracy, f1_macro"):
        measured(ctx, TextClassification(), require={"bleu": {"min": 0.5}})
    assert not (ctx.work / "encoded").exists()


def test_a_model_without_a_trained_head_is_not_measured(context: Make, tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(
        StageError, match=r"was not trained for this task: it lacks .*classifier.*; finetune it first"
    ):
        measured(context("score"), TextClassification())


def test_a_model_of_one_objective_is_not_measured_by_two(context: Make, tmp_path: Path) -> None:
    saved(tmp_path)
    config = create_config(BERT | {"type": "roberta"}, tokenizer(), {})
    create_model("AutoModelForMaskedLM", config, 3).save_pretrained(tmp_path / "model")
    with pytest.raises(StageError, match="roberta has no head for sentence pairs"):
        measured(context("score"), MaskedLM(length=16, next_sentence=True))


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_no_model_reads_more_than_it_has_positions_for(context: Make, tmp_path: Path, kind: str) -> None:
    saved(tmp_path)
    config = create_config(BERT | {"type": kind, "max_position_embeddings": 64}, tokenizer(), {})
    create_model("AutoModelForMaskedLM", config, 3).save_pretrained(tmp_path / "model")
    room = 64 if kind == "bert" else 64 - config.pad_token_id - 1
    told = f"length {room + 1} exceeds the {room} positions of the model; lower it"
    with pytest.raises(StageError, match=told):
        measured(context("score"), MaskedLM(length=room + 1))
    with pytest.raises(StageError, match=told):
        hfpipe.predict(tmp_path / "model", "Everest is [MASK].", options=[f"length={room + 1}"])
    [answer] = hfpipe.predict(tmp_path / "model", "[MASK]" + TEXTS[2] * 20, options=[f"length={room}"])
    assert answer["token_str"]


@pytest.mark.slow
def test_a_baseline_that_was_trained_for_another_task_predicts_the_same_as_the_model(tmp_path: Path) -> None:
    path = small.write(tmp_path, small.recipe(max_steps=1))
    recipe = hfpipe.load(path, ["score.baselines=[stage:pretrain]"])
    with pytest.raises(StageError, match=r"pretrain-.*was not trained for this task: it lacks"):
        hfpipe.run(recipe, tmp_path / "runs", say=lambda _: None)


def test_an_encoder_is_not_measured_as_if_it_foresaw(tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(StageError, match=r"bert reads what comes after a token as well.*use a decoder"):
        load_model("AutoModelForCausalLM", tmp_path / "model", 3)


def test_a_classifier_goes_on_to_other_classes_with_a_new_head_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved(tmp_path, head="AutoModelForSequenceClassification")
    head = {"num_labels": 3, "id2label": {0: "river", 1: "mountain", 2: "lake"}}
    with caplog.at_level("INFO", "hfpipe"):
        model = load_model("AutoModelForSequenceClassification", tmp_path / "model", 3, head=head)
    assert model.classifier.out_features == 3
    assert "newly initialized weights: classifier.bias, classifier.weight" in caplog.text


def test_a_model_without_such_a_task_is_refused_without_the_list_of_those_that_have_it() -> None:
    words = tokenizer()
    with pytest.raises(
        StageError, match="model: gpt2 cannot be built: Unrecognized configuration class"
    ) as caught:
        create_model("AutoModelForMaskedLM", create_config({"type": "gpt2", "n_layer": 1}, words, {}), 3)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_decoder_whose_tokenizer_has_no_padding_is_measured_alike_in_any_batch(
    context: Make, tmp_path: Path, kind: str
) -> None:
    saved(tmp_path)
    words = tokenizer("gpt")
    words.pad_token = None
    words.save_pretrained(tmp_path / "model")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2} | (
        {"intermediate_size": 16} if kind == "llama" else {}
    )
    entries = {"id2label": {0: "river", 1: "mountain"}, "pad_token_id": None}
    model = create_model(
        "AutoModelForSequenceClassification", create_config({"type": kind} | small, words, entries), 3
    )
    model.save_pretrained(tmp_path / "model")
    found = [
        measured(context(f"by-{size}"), TextClassification(), batch_size=size, resamples=100).scores
        for size in (1, 3)
    ]
    assert [score.value for score in found[0]] == pytest.approx([score.value for score in found[1]], abs=1e-6)


def test_rows_of_a_data_set_without_ids_are_known_by_their_position(context: Make, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    saved(tmp_path, head="AutoModelForSequenceClassification")
    ctx = context("score")
    assert measured(ctx, TextClassification(), baselines=["majority"], resamples=100).scores[0].n == len(
        TEXTS
    )
    for name in ("predictions", "predictions-majority"):
        ids = pq.read_table(ctx.folder / f"{name}.parquet").column("id").to_pylist()
        assert sorted(ids) == ["0", "1", "2", "3"]


def test_an_evaluation_resamples_the_rows_of_a_document_together(context: Make, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    once = rows().add_column("document_id", ["a", "a", "b", None])
    many = datasets.concatenate_datasets([once] * 5)
    saved(tmp_path, head="AutoModelForSequenceClassification", train=many)
    ctx = context("score")
    report = measured(ctx, TextClassification(), baselines=["majority"], resamples=100)
    # Two documents of ten and five rows, and five rows that name none.
    assert report.facts["cluster"] == {"column": "document_id", "groups": 7}
    assert all("|cluster:document_id|groups:7|" in score.signature for score in report.scores)
    assert report.scores[0].comparisons[0].test == "randomization-midp"
    groups = pq.read_table(ctx.folder / "predictions-majority.parquet").column("resampling_group")
    assert len(set(groups.to_pylist())) == 7
    alone = measured(context("alone"), TextClassification(), resamples=100, cluster=False)
    assert "cluster" not in alone.facts
    assert "cluster" not in alone.scores[0].signature


def test_a_column_to_resample_by_that_there_is_not_is_an_error(context: Make, tmp_path: Path) -> None:
    saved(tmp_path, head="AutoModelForSequenceClassification")
    with pytest.raises(StageError, match="there is no column 'patient' to resample by; there is 'label' and"):
        measured(context("score"), TextClassification(), cluster="patient")


def test_a_model_pretrained_from_scratch_has_only_the_dropout_that_the_recipe_sets() -> None:
    words = tokenizer()
    sizes = {"type": "bert", "hidden_size": 32, "attention_probs_dropout_prob": 0.25}
    made = create_config(sizes, words, {}, dropout=False)
    assert made.hidden_dropout_prob == 0.0
    assert made.attention_probs_dropout_prob == 0.25
    gpt2 = create_config({"type": "gpt2", "n_embd": 32}, words, {}, dropout=False)
    assert gpt2.resid_pdrop == gpt2.embd_pdrop == gpt2.attn_pdrop == 0.0
    assert gpt2.summary_first_dropout == 0.1  # which belongs to a classifier
    assert (
        create_config({"type": "distilbert", "attention_dropout": 0.5}, words, {}, dropout=False).dropout
        == 0.0
    )
    assert create_config({"type": "gpt2"}, words, {}).resid_pdrop == 0.1
