"""A training of only the rows of the embeddings that it reads gives the weights of a training of all rows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import processes
import pyarrow as pa
import pytest
import small
import torch
from safetensors.torch import load_file
from test_equal_gradients import data, training
from test_processes import outcome
from test_read_positions import batch, classifier
from test_resume import killed_after
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

import hfpipe
from hfpipe.contract import RunContext
from hfpipe.encoding.encoded import Examples, encode
from hfpipe.encoding.sampler import BatchLayout
from hfpipe.modeling.loading.lora import add_lora
from hfpipe.modeling.read_rows import RowsEmbedding, find_word_embedding, skip_unread_rows
from hfpipe.tasks.text_classification import TextClassification
from hfpipe.training import loop as hf_training
from hfpipe.training.arguments import CHECKPOINTING, TrainingPlan, create_training_arguments
from hfpipe.training.speed import trained_rows
from hfpipe.training.speed.choice import Speed
from hfpipe.training.speed.trained_rows import find_read_rows, train_read_rows
from hfpipe.training.trainer import TaskTrainer, Training

Make = Callable[..., RunContext]
ROWS = 1500
"""Rows of the embeddings, of which the tokenizers of the tests use less than a third."""
USED = "word embeddings: only "
"""Beginning of the line of the log about it."""
STEADY = {
    "per_device_train_batch_size": 4,
    "max_steps": 6,
    "save_steps": 3,
    "eval_steps": 3,
    "logging_steps": 1,
    "learning_rate": 1e-2,
    "max_grad_norm": 1e6,
    "bf16": False,
}
FEW = [
    ("the king of the north was born in the old town", "person"),
    ("the old town has a church and a river", "place"),
    ("she was a writer and the mother of a king", "person"),
    ("a small island in the north of the sea", "place"),
] * 4
OTHERS = [
    ("football clubs won several championships during nineteenth century seasons", "place"),
    ("physicists discovered chemical elements using scientific experiments", "person"),
] * 2


@pytest.fixture
def trains_all_rows(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function after which all rows are trained."""
    return lambda: monkeypatch.setattr(trained_rows, "SAVED", 1.0)


def parts(name: str, kind: str, folder: Path, *, validated: bool = False) -> Training:
    """Return a training with many more embeddings than ids, and validation texts with ids of their own."""
    folder.mkdir()
    made = training(name, kind, folder)
    torch.manual_seed(2)
    made.model.resize_token_embeddings(ROWS, mean_resizing=False)
    if not validated:
        return made
    rows = datasets.Dataset.from_dict({"text": [text for text, _ in OTHERS], "label": [0, 1] * 2})
    rows = rows.cast_column("label", data(name).features["label"])
    path = folder / "validation.arrow"
    other, _ = encode(made.task, rows, made.tokenizer, made.facts, path, packed=False, advance=lambda _: None)
    ids, known = (each.read_ids(0, len(each)) for each in (other, made.train))
    assert not np.isin(ids, known).all()
    return replace(made, validation=other)


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same(one: dict[str, Any], other: dict[str, Any], *keys: str) -> None:
    """Compare what two trainings logged."""
    for key in keys:
        mine, theirs = ([entry[key] for entry in each["history"] if key in entry] for each in (one, other))
        assert mine
        assert mine == theirs, key


MODELS = ["bert", "roberta", "distilbert", "electra", "modernbert", "deberta-v2", "gpt2"]
PAIRS = [("text-classification", kind) for kind in MODELS]
PAIRS += [(name, "bert") for name in ("token-classification", "multiple-choice", "question-answering")]


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_losses_and_weights_are_those_of_all_rows(
    name: str,
    kind: str,
    tmp_path: Path,
    context: Make,
    trains_all_rows: Callable[[], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    one, other = context("some"), context("all")
    with caplog.at_level("INFO"):
        some = hf_training.train_model(parts(name, kind, tmp_path / "some"), STEADY, None, one)
        trains_all_rows()
        assert caplog.text.count(USED) == 1
        every = hf_training.train_model(parts(name, kind, tmp_path / "all"), STEADY, None, other)
        assert caplog.text.count(USED) == 1
    assert_same(some, every, "loss", "learning_rate", "train_loss")
    assert small.hash_weights(one.folder) == small.hash_weights(other.folder)


def test_clipping_differs_by_the_rounding_of_the_norm(
    tmp_path: Path, context: Make, trains_all_rows: Callable[[], None]
) -> None:
    one, other, clipped = context("some"), context("all"), STEADY | {"max_grad_norm": 0.05}
    some = hf_training.train_model(
        parts("text-classification", "bert", tmp_path / "some"), clipped, None, one
    )
    trains_all_rows()
    every = hf_training.train_model(
        parts("text-classification", "bert", tmp_path / "all"), clipped, None, other
    )
    for mine, theirs in zip(small.history({"facts": some}), small.history({"facts": every}), strict=True):
        assert mine["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-5)
        assert mine["grad_norm"] > 0.05
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    found, expected = weights(one.folder), weights(other.folder)
    assert max((found[name] - expected[name]).abs().max().item() for name in found) < 1e-4


@pytest.mark.parametrize("more", [{}, {"load_best_model_at_end": True}, {"optim": "muon"}], ids=str)
def test_validation_texts_with_other_ids_have_the_scores_of_all_rows(
    more: dict[str, Any], tmp_path: Path, context: Make, trains_all_rows: Callable[[], None]
) -> None:
    given = STEADY | {"eval_strategy": "steps", "save_strategy": "steps"} | more
    folders, found = [], []
    for name in ("some", "all"):
        made = parts("text-classification", "bert", tmp_path / name, validated=True)
        folders.append(context(name).folder)
        found.append(hf_training.train_model(made, given, None, context(name)))
        trains_all_rows()
    assert_same(*found, "loss", "eval_loss", "eval_accuracy")
    assert small.hash_weights(folders[0]) == small.hash_weights(folders[1])


def test_checkpoints_have_all_rows_and_the_model_is_afterwards_what_it_was(
    tmp_path: Path, context: Make, trains_all_rows: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    ctx, made = context("some"), parts("text-classification", "bert", tmp_path / "some")
    embedding, weight = made.model.get_input_embeddings(), made.model.get_input_embeddings().weight
    before = weight.detach().clone()
    with caplog.at_level("INFO"):
        hf_training.train_model(made, STEADY, None, ctx)
    [line] = [each for each in caplog.messages if each.startswith(USED)]
    assert line.endswith(" of 1,500 rows, which the training texts contain, are trained")
    assert type(embedding) is nn.Embedding
    assert made.model.get_input_embeddings().weight is weight
    same = (weight == before).all(1)
    read = torch.zeros(ROWS, dtype=torch.bool)
    read[torch.from_numpy(made.train.read_ids(0, len(made.train)).copy()).long()] = True
    assert same[~read].all()
    assert not same[read].any()
    checkpoint = ctx.work / "checkpoint-6"
    opened, report = AutoModelForSequenceClassification.from_pretrained(checkpoint, output_loading_info=True)
    assert not any(report.values())
    assert torch.equal(opened.get_input_embeddings().weight, weight)
    trains_all_rows()
    other = context("all")
    hf_training.train_model(parts("text-classification", "bert", tmp_path / "all"), STEADY, None, other)
    mine, theirs = (
        torch.load(each.work / "checkpoint-6" / "optimizer.pt", weights_only=True)["state"]
        for each in (ctx, other)
    )
    assert mine.keys() == theirs.keys()
    for number, state in mine.items():
        for name, value in state.items():
            assert torch.equal(value, theirs[number][name])


@pytest.mark.parametrize("first", ["some", "all"])
def test_a_checkpoint_of_some_or_of_all_rows_is_resumed_with_the_other(
    first: str, tmp_path: Path, context: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(name: str, saved: float) -> str:
        monkeypatch.setattr(trained_rows, "SAVED", saved)
        made = parts("text-classification", "bert", tmp_path / f"{name} {saved}")
        hf_training.train_model(made, STEADY, None, context(name))
        return small.hash_weights(context(name).folder)

    shares = (0.25, 1.0) if first == "some" else (1.0, 0.25)
    straight = train("whole", shares[0])
    train("resumed", shares[0])
    for path in (context("resumed").work / "checkpoint-6").iterdir():
        path.unlink()
    (context("resumed").work / "checkpoint-6").rmdir()
    (context("resumed").folder / "model.safetensors").unlink()
    assert train("resumed", shares[1]) == straight


def trainer_of(made: Training, folder: Path, **more: Any) -> TaskTrainer:
    shares = BatchLayout(4, 1, 1)
    plan = TrainingPlan(shares, 1, Speed(bf16=False, compiled=False))
    return TaskTrainer(made, create_training_arguments(more, folder, 5, plan, None, early=False), shares)


def is_used(trainer: TaskTrainer, *, compiled: bool = False) -> bool:
    with train_read_rows(trainer, compiled=compiled):
        return any(isinstance(module, RowsEmbedding) for module in trainer.bare.modules())


class Own(TextClassification):
    """A task that counts as user code."""

    kind: str = "own.py:Own"


def test_all_rows_are_trained_where_others_could_change_or_be_read(tmp_path: Path) -> None:
    made = parts("text-classification", "bert", tmp_path / "some")
    assert is_used(trainer_of(made, tmp_path))
    assert not is_used(trainer_of(made, tmp_path), compiled=True)
    for setting in ({"weight_decay": 0.01}, {"optim": "sgd"}, {"optim": "adafactor"}, {"adam_epsilon": 0.0}):
        assert not is_used(trainer_of(made, tmp_path, **setting)), setting
    own = replace(made, task=Own(**made.task.config.model_dump(exclude={"kind"})).runtime())
    assert not is_used(trainer_of(own, tmp_path))
    frozen = made.model.get_input_embeddings().weight.requires_grad_(False)
    assert not is_used(trainer_of(made, tmp_path))
    frozen.requires_grad_(True)
    adapted = add_lora(
        made.model, {"r": 2, "target_modules": ["query"], "modules_to_save": ["word_embeddings"]}
    )
    assert not is_used(trainer_of(replace(made, model=adapted), tmp_path))
    hidden = parts("masked-lm", "bert", tmp_path / "hidden")
    assert not is_used(trainer_of(hidden, tmp_path))


def test_embeddings_that_are_tied_or_special_are_not_found() -> None:
    model = classifier("bert")
    assert find_word_embedding(model) is model.bert.embeddings.word_embeddings
    assert find_word_embedding(classifier("bert", AutoModelForMaskedLM)) is None  # the output layer is tied
    assert find_word_embedding(classifier("t5")) is None  # encoder and decoder share it
    model.bert.embeddings.word_embeddings.max_norm = 1.0
    assert find_word_embedding(model) is None


def test_a_model_that_reads_the_weight_itself_is_found_by_running_it() -> None:
    model, read = classifier("bert"), torch.arange(300) % 2 < 1
    embedding = model.get_input_embeddings()
    before = embedding.weight.detach().clone()
    with skip_unread_rows(model, embedding, read) as used:
        assert used
        assert embedding.weight.shape == (150, 32)
    model.register_forward_hook(
        lambda *given: given[2].__setitem__("logits", given[2].logits + embedding.weight.sum())
    )
    with skip_unread_rows(model, embedding, read) as used:
        assert not used
        assert type(embedding) is nn.Embedding
    assert torch.equal(embedding.weight, before)
    assert model.training


def test_the_row_of_padding_gets_no_gradient_and_an_unread_row_cannot_be_trained() -> None:
    model, read = classifier("bert"), torch.arange(300) % 4 != 1
    embedding, given = model.get_input_embeddings(), batch()
    assert embedding.padding_idx == 0
    given["input_ids"] = given["input_ids"] // 4 * 4 + 2
    given["input_ids"][0, 0] = 0
    with skip_unread_rows(model, embedding, read):
        model(**given).logits.sum().backward()
        gradient = embedding.expand(embedding.weight.grad)
        assert not gradient[0].any()
        assert set(gradient.any(1).nonzero().flatten().tolist()) <= set(given["input_ids"].flatten().tolist())
        given["input_ids"][0, 0] = 1
        with pytest.raises(IndexError):
            model(**given)
        assert model.eval()(**given).logits.isfinite().all()
    assert embedding.weight.grad is None


def few_examples(ids: np.ndarray, each: int) -> Examples:
    offsets = np.arange(0, len(ids) + 1, each, dtype=np.int32)
    lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(ids))
    table = datasets.Dataset(pa.table({"input_ids": lists}))
    return Examples(table, table)


def test_rows_are_those_of_all_chosen_examples_and_none_if_they_are_many_or_missing() -> None:
    ids = np.repeat(np.arange(20000, dtype=np.int32) // 200, 1)
    examples = few_examples(ids, 2)
    found = find_read_rows(examples, [0, 500], 1000)
    assert found is not None
    assert np.flatnonzero(found).tolist() == [*range(100), 500]
    chosen = Examples(examples.table, examples.source, np.array([0, 9999]))
    assert np.flatnonzero(find_read_rows(chosen, [], 1000)).tolist() == [0, 99]
    assert find_read_rows(examples, [], 133) is None
    assert find_read_rows(examples, [], 134) is not None
    assert find_read_rows(examples, [], 99) is None  # there is no row for the last id


def test_twenty_megabytes_of_tokens_are_looked_at_in_a_moment() -> None:
    ids = np.random.default_rng(3).integers(0, 12000, 5_000_000, dtype=np.int32)
    examples = few_examples(ids, 25)
    before = time.process_time()
    assert find_read_rows(examples, [], 30522) is not None
    assert time.process_time() - before < 2


def few_recipe(folder: Path, **training: Any) -> dict[str, Any]:
    """Return a recipe that classifies a few texts with a tokenizer of many."""
    for split, rows in {"train": FEW, "validation": OTHERS, "test": OTHERS}.items():
        small.write_json_lines(
            folder / f"{split}.jsonl", [{"text": text, "label": label} for text, label in rows]
        )
    made = small.recipe("bert", **{"max_steps": 12, "save_steps": 4, "eval_steps": 4, **training})
    files = {split: str(folder / f"{split}.jsonl") for split in ("train", "validation", "test")}
    stages = made["stages"]
    few = {"kind": "dataset", "source": {"files": files}, "clean": []}
    made["stages"] = {"few": few, **{name: each for name, each in stages.items() if name != "pretrain"}}
    made["stages"]["topics"] |= {"tokenizer": "stage:words", "model": small.MODELS["bert"]}
    made["stages"]["topics"]["data"] = made["stages"]["score"]["data"] = "stage:few"
    return made


def log_of(run: Any) -> str:
    return (run.folders["topics"] / "stage.log").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_killed_training_of_some_rows_ends_with_the_same_weights_bit_for_bit(tmp_path: Path) -> None:
    path = small.write(tmp_path, few_recipe(tmp_path, max_steps=60, save_steps=15, eval_steps=15))
    straight = hfpipe.run(hfpipe.load(path), tmp_path / "straight", say=lambda _: None)
    assert USED in log_of(straight)
    killed_after("checkpoint-15", "topics", path, tmp_path / "killed")
    resumed = hfpipe.run(hfpipe.load(path), tmp_path / "killed", say=lambda _: None)
    assert "resuming from checkpoint-" in log_of(resumed)
    assert USED in log_of(resumed)
    assert small.hash_weights(resumed.folders["topics"]) == small.hash_weights(straight.folders["topics"])
    assert outcome(resumed, ["topics"]) == outcome(straight, ["topics"])


@pytest.mark.slow
def test_two_processes_train_the_same_rows_as_one(tmp_path: Path) -> None:
    path = small.write(tmp_path, few_recipe(tmp_path))
    alone = hfpipe.run(hfpipe.load(path), tmp_path / "alone", say=lambda _: None)
    processes.run(path, tmp_path / "two", processes.config_file(tmp_path, "ddp-cpu", 2))
    together = hfpipe.open(path, tmp_path / "two")
    lines = [
        [line.partition(USED)[2] for line in log_of(run).splitlines() if USED in line]
        for run in (alone, together)
    ]
    assert lines[0]
    assert set(lines[0]) == set(lines[1])
    expected, found = outcome(alone, ["topics"]), outcome(together, ["topics"])
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        for mine, theirs in zip(found[key], value, strict=True):
            assert mine == pytest.approx(theirs, abs=1e-4), key


def test_layers_that_are_recomputed_give_the_same_weights(
    tmp_path: Path, context: Make, trains_all_rows: Callable[[], None]
) -> None:
    given = STEADY | {CHECKPOINTING: True}
    digests = []
    for name in ("some", "all"):
        made = parts("text-classification", "bert", tmp_path / name)
        hf_training.train_model(made, given, None, context(name))
        digests.append(small.hash_weights(context(name).folder))
        trains_all_rows()
    assert digests[0] == digests[1]
