"""Distillation: golden loss, sums that do not depend on the split, a student that learns from a teacher."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import small
import torch
from torch.nn import functional as F

import hfpipe
from hfpipe.modeling.losses.distillation import DistillationLoss
from hfpipe.tasks.shared.objectives import LabelLoss

RANDOM = torch.Generator().manual_seed(3)
LOGITS, TEACHER = (torch.randn(6, 4, generator=RANDOM) * 2 for _ in range(2))
CLASSES = torch.tensor([0, 3, 1, 1, 2, 0])
MANY = (torch.rand(6, 4, generator=RANDOM) > 0.5).float()


def loss_of(labels: torch.Tensor, temperature: float, weight: float, rows: slice = slice(None)) -> Any:
    """Return the sum and the count of some rows."""
    several = labels.is_floating_point()
    scaled = TEACHER / temperature
    soft = (scaled.sigmoid() if several else scaled.softmax(-1)).numpy()
    loss = DistillationLoss(LabelLoss(), soft, temperature, weight)
    examples = [{"index": index} for index in range(6)[rows]]
    batch = loss.add_entries({"labels": labels[rows]}, examples)
    return loss.loss(SimpleNamespace(logits=LOGITS[rows]), batch)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_the_loss_is_the_one_of_the_paper(temperature: float) -> None:
    total, count = loss_of(CLASSES, temperature, weight=0.3)
    # As in Transformers' examples of distillation: kl_div of scaled logits, batchmean, times T ** 2.
    kl = F.kl_div(
        F.log_softmax(LOGITS / temperature, -1), F.softmax(TEACHER / temperature, -1), reduction="batchmean"
    )
    expected = 0.3 * temperature**2 * kl + 0.7 * F.cross_entropy(LOGITS, CLASSES)
    torch.testing.assert_close(total / count, expected)


@pytest.mark.parametrize("labels", [CLASSES, MANY], ids=["one label", "several labels"])
def test_a_student_that_equals_its_teacher_has_only_the_loss_of_the_labels(labels: torch.Tensor) -> None:
    several = labels.is_floating_point()
    soft = (LOGITS.sigmoid() if several else LOGITS.softmax(-1)).numpy()
    loss = DistillationLoss(LabelLoss(), soft, 1.0, 0.5)
    batch = loss.add_entries({"labels": labels}, [{"index": index} for index in range(6)])
    outputs = SimpleNamespace(logits=LOGITS)
    plain = LabelLoss().loss(outputs, batch).total
    torch.testing.assert_close(loss.loss(outputs, batch).total, plain / 2)


@pytest.mark.parametrize("labels", [CLASSES, MANY], ids=["one label", "several labels"])
def test_sums_do_not_depend_on_how_a_batch_is_split(labels: torch.Tensor) -> None:
    total, count = loss_of(labels, 2.0, 0.5)
    parts = [loss_of(labels, 2.0, 0.5, rows) for rows in (slice(0, 1), slice(1, 4), slice(4, 6))]
    torch.testing.assert_close(sum(part.total for part in parts), total)
    assert sum(int(part.targets) for part in parts) == int(count)


def test_without_weight_only_the_labels_count() -> None:
    total, count = loss_of(CLASSES, 2.0, 0.0)
    torch.testing.assert_close(total / count, F.cross_entropy(LOGITS, CLASSES))


def recipe(**student: Any) -> dict[str, Any]:
    """Return a recipe whose student learns from a teacher with another tokenizer."""
    made = small.recipe("bert", max_steps=12)
    stages = made["stages"]
    del stages["pretrain"]
    stages["letters"] = stages["words"] | {"vocab_size": 200}
    stages["topics"] |= {"tokenizer": "stage:words", "model": small.MODELS["bert"]}
    stages["student"] = stages["topics"] | {"tokenizer": "stage:letters", "teacher": "stage:topics"} | student
    order = ("wiki", "words", "letters", "topics", "student")
    return made | {"stages": {name: stages[name] for name in order}}


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("distilled")
    only = {"temperature": 1.0, "weight": 1.0}
    path = small.write(folder, recipe(distillation=only, training={"max_steps": 60, "learning_rate": 3e-3}))
    return hfpipe.run(hfpipe.load(path), folder / "runs", say=lambda _: None), folder


@pytest.mark.slow
def test_a_student_comes_closer_to_a_teacher_with_another_tokenizer(distilled: tuple[Any, Path]) -> None:
    run, _ = distilled
    losses = [entry["loss"] for entry in run.reports["student"].facts["history"] if "grad_norm" in entry]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    assert run.reports["student"].facts["teachers"] == ["stage:topics"]
    texts = ["The river flows through ten countries.", "The theorem was proved by a mathematician."]
    teacher, student = (hfpipe.predict(run.folder(name), texts) for name in ("topics", "student"))
    assert [each["label"] for each in teacher if each] == [each["label"] for each in student if each]


@pytest.mark.slow
def test_a_teacher_and_its_share_are_part_of_the_key_only_where_there_is_one(
    distilled: tuple[Any, Path],
) -> None:
    _, folder = distilled
    path = folder / "small.yaml"

    def done(*changes: str) -> dict[str, bool]:
        return {step.name: step.done for step in hfpipe.plan(hfpipe.load(path, changes), folder / "runs")}

    assert all(done().values())
    assert not done("student.distillation.weight=0.5")["student"]
    assert not done("student.teacher=[stage:topics, stage:topics]")["student"]
    file = next((folder / "runs" / "small").glob("topics-*/stage.json"))
    identity = json.loads(file.read_text(encoding="utf-8"))["identity"]
    assert {"teacher", "distillation"} <= identity["neutral"].keys()


@pytest.mark.slow
def test_a_teacher_of_other_classes_is_refused(tmp_path: Path) -> None:
    made = recipe()
    made["stages"]["half"] = made["stages"]["wiki"] | {"clean": ["unicode", {"drop": {"label": ["History"]}}]}
    made["stages"]["student"]["data"] = "stage:half"
    order = ("wiki", "half", "words", "letters", "topics", "student")
    made["stages"] = {name: made["stages"][name] for name in order}
    with pytest.raises(
        hfpipe.StageError, match=r"teacher stage:topics has the classes .* needs the classes of"
    ):
        hfpipe.run(hfpipe.load(small.write(tmp_path, made)), tmp_path / "runs", say=lambda _: None)


WRONG = {
    "a task without classes": (
        {"task": {"kind": "fill-mask", "length": 32}},
        "fill-mask cannot have a teacher; text-classification, token-classification, masked-lm and causal-lm "
        "can: delete teacher",
    ),
    "weights too": ({"loss": {"focal": 2.0}}, "teacher and loss exclude each other; delete one of them"),
    "no teacher": (
        {"teacher": None, "distillation": {"weight": 0.5}},
        "distillation has no effect without a teacher; delete it",
    ),
    "a share above 1": ({"distillation": {"weight": 1.5}}, "weight"),
    "no model": ({"teacher": "stage:words"}, "teacher"),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_refused_with_its_place(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(hfpipe.RecipeError, match=message) as caught:
        hfpipe.load(small.write(tmp_path, recipe(**change)))
    assert str(caught.value).startswith(str(tmp_path / "small.yaml") + ":1:")


def test_weights_that_the_data_set_implies_are_switched_off_next_to_a_teacher(tmp_path: Path) -> None:
    made = recipe()
    made["stages"]["wiki"]["columns"] |= {"weight": "votes"}
    with pytest.raises(hfpipe.RecipeError, match=r"teacher excludes the weights of rows .*; write `loss: \{"):
        hfpipe.load(small.write(tmp_path, made))
    made["stages"]["student"]["loss"] = {"row_weights": None}
    assert hfpipe.load(small.write(tmp_path, made)).stages["student"].teacher == "stage:topics"
