"""Weights of classes and rows, and focal loss: golden values, and sums that do not depend on the split."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest
import torch
from test_cut_batches import parts
from torch.nn import functional as F

from hfpipe.data.weighting import create_weighted_loss, read_row_weights
from hfpipe.encoding.sampler import BatchLayout
from hfpipe.errors import DataError, SettingError
from hfpipe.modeling.losses.class_weights import compute_class_weights, flatten_tags
from hfpipe.modeling.losses.settings import LossSettings
from hfpipe.modeling.losses.weighted_loss import BATCH_ENTRY, WeightedLoss
from hfpipe.runtime import TaskRuntime
from hfpipe.tasks.text_classification import TextClassification
from hfpipe.training.arguments import TrainingPlan, create_training_arguments
from hfpipe.training.speed.choice import Speed
from hfpipe.training.trainer import TaskTrainer

RANDOM = torch.Generator().manual_seed(5)
LOGITS = torch.randn(8, 3, generator=RANDOM) * 3
CLASSES = torch.tensor([0, 0, 0, 1, 2, 0, 1, 0])
TAGS = torch.tensor([[0, 2, -100, 1], [1, -100, -100, 0]])
MANY = torch.tensor(
    [[1.0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0], [1, 0, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1]]
)
WEIGHTS = torch.tensor([0.5, 2.0, 3.5])
ROWS = torch.tensor([1.0, 0.0, 2.5, 1.0, 0.25, 3.0, 1.0, 1.0])


def mean(loss: WeightedLoss, logits: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.0) -> Any:
    batch = {"labels": labels}
    total, count = loss.loss(SimpleNamespace(logits=logits), batch, smoothing)
    assert torch.equal(count, loss.count(batch))
    return total / count


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_weighted_cross_entropy_is_the_mean_of_torch(smoothing: float) -> None:
    expected = F.cross_entropy(LOGITS, CLASSES, weight=WEIGHTS, label_smoothing=smoothing)
    torch.testing.assert_close(mean(WeightedLoss(WEIGHTS), LOGITS, CLASSES, smoothing), expected)


def test_the_weighted_cross_entropy_of_tags_leaves_positions_without_one_out() -> None:
    logits = LOGITS.reshape(2, 4, 3)
    expected = F.cross_entropy(logits.transpose(1, 2), TAGS, weight=WEIGHTS)
    torch.testing.assert_close(mean(WeightedLoss(WEIGHTS), logits, TAGS), expected)


def test_weights_of_several_labels_are_the_pos_weight_of_torch() -> None:
    expected = F.binary_cross_entropy_with_logits(LOGITS, MANY, pos_weight=WEIGHTS)
    torch.testing.assert_close(mean(WeightedLoss(WEIGHTS), LOGITS, MANY), expected)


@pytest.mark.parametrize("gamma", [0.5, 2.0, 5.0])
def test_focal_loss_of_several_labels_is_that_of_torchvision(gamma: float) -> None:
    # torchvision.ops.sigmoid_focal_loss(inputs, targets, alpha=-1, gamma, reduction="mean")
    p = torch.sigmoid(LOGITS)
    ce_loss = F.binary_cross_entropy_with_logits(LOGITS, MANY, reduction="none")
    p_t = p * MANY + (1 - p) * (1 - MANY)
    expected = (ce_loss * ((1 - p_t) ** gamma)).mean()
    torch.testing.assert_close(mean(WeightedLoss(focal=gamma), LOGITS, MANY), expected)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_of_one_label_weighs_by_what_is_missing_to_certainty(gamma: float) -> None:
    p = LOGITS.softmax(-1)[torch.arange(8), CLASSES]
    each = -WEIGHTS[CLASSES] * (1 - p) ** gamma * p.log()
    found = mean(WeightedLoss(WEIGHTS, gamma), LOGITS, CLASSES)
    torch.testing.assert_close(found, each.sum() / WEIGHTS[CLASSES].sum())


@pytest.mark.parametrize(
    "labels", [torch.tensor([0, 1]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])], ids=["one", "several"]
)
def test_focal_loss_has_finite_gradients_where_a_model_is_certain(labels: torch.Tensor) -> None:
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    WeightedLoss(focal=0.5).loss(SimpleNamespace(logits=logits), {"labels": labels}).total.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(
    "labels", [CLASSES, MANY, torch.linspace(-1, 1, 8)], ids=["one label", "several labels", "a number"]
)
def test_a_row_of_weight_two_is_two_rows(labels: torch.Tensor) -> None:
    logits = LOGITS if labels.dim() == 2 or not labels.is_floating_point() else LOGITS[:, :1]
    loss = WeightedLoss(WEIGHTS if logits.shape[1] == 3 else None, 2.0 if logits.shape[1] == 3 else 0.0)
    whole = torch.tensor([1, 0, 2, 1, 0, 3, 1, 1])
    repeated = torch.arange(8).repeat_interleave(whole)
    batch = {"labels": labels, BATCH_ENTRY: whole.float()}
    total, count = loss.loss(SimpleNamespace(logits=logits), batch)
    again = {"labels": labels[repeated]}
    expected, number = loss.loss(SimpleNamespace(logits=logits[repeated]), again)
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(count, number)
    torch.testing.assert_close(loss.count(batch), number)


def test_without_weights_the_loss_is_that_of_the_tasks() -> None:
    from hfpipe.modeling.losses.losses import compute_label_loss, compute_token_loss

    for labels, logits in ((CLASSES, LOGITS), (MANY, LOGITS), (torch.linspace(-1, 1, 8), LOGITS[:, :1])):
        expected = compute_label_loss(logits, labels)
        found = WeightedLoss().loss(SimpleNamespace(logits=logits), {"labels": labels})
        torch.testing.assert_close(found.total, expected.total)
        assert found.targets == expected.targets
    logits = LOGITS.reshape(2, 4, 3)
    expected, found = (
        compute_token_loss(logits, TAGS),
        WeightedLoss().loss(SimpleNamespace(logits=logits), {"labels": TAGS}),
    )
    torch.testing.assert_close(found.total, expected.total)
    assert found.targets == expected.targets


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    found = compute_class_weights("balanced", CLASSES.tolist(), ["a", "b", "c"], "label")
    torch.testing.assert_close(found, torch.tensor([8 / (3 * 5), 8 / (3 * 2), 8 / (3 * 1)]))
    tags = flatten_tags([[0, 0, 1], [0, 2]])
    torch.testing.assert_close(
        compute_class_weights("balanced", tags, ["a", "b", "c"], "label"), torch.tensor([5 / 9, 5 / 3, 5 / 3])
    )


def test_the_balanced_weight_of_one_of_several_labels_is_the_rows_without_it_over_those_with_it() -> None:
    found = compute_class_weights("balanced", [[0], [0, 1], [0], []], ["a", "b"], "labels")
    torch.testing.assert_close(found, torch.tensor([1 / 3, 3.0]))


def test_a_class_that_is_not_named_has_weight_one() -> None:
    assert compute_class_weights({"b": 4}, [], ["a", "b"], "label").tolist() == [1, 4]


@pytest.mark.parametrize(
    ("labels", "kind", "message"),
    [
        ([0, 0, 1], "label", r"class \('c'\) is in no row of the train split"),
        ([0, 0], "label", r"2 classes \('b' and 'c'\) are in no row"),
        ([[0], [1]], "labels", r"class \('c'\) is in no row"),
        ([[0, 1], [0, 2], [0]], "labels", r"class \('a'\) is in every row"),
    ],
)
def test_a_class_without_a_balanced_weight_is_named(labels: Any, kind: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        compute_class_weights("balanced", labels, ["a", "b", "c"], kind)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, -0.5], "train, row 2: 'w' is -0.5"),
        ([1.0, float("nan")], "train, row 2: 'w' is missing"),
        ([1.0, None], "row 2: 'w' is missing"),
        ([1.0, float("inf")], "row 2: 'w' is inf"),
        (["2", "much"], "row 2: 'w' is 'much'"),
        (["2", " "], "row 2: 'w' is missing"),
        (["2", "-1"], "row 2: 'w' is -1"),
    ],
)
def test_a_row_whose_weight_is_not_a_number_from_zero_is_named(values: list[Any], message: str) -> None:
    rows = datasets.Dataset.from_dict({"w": values}, split="train")
    with pytest.raises(DataError, match=message):
        read_row_weights(rows, "w")


def test_weights_of_rows_may_be_texts_of_numbers_but_not_all_zero() -> None:
    rows = datasets.Dataset.from_dict({"w": ["2", "0", "0.5"], "none": [0, 0, 0]})
    assert read_row_weights(rows, "w").tolist() == [2, 0, 0.5]
    with pytest.raises(SettingError, match="'none' is 0 in every row"):
        read_row_weights(rows, "none")


def test_a_loss_of_user_code_is_not_replaced_by_a_weighted_one(tmp_path: Path) -> None:
    made = parts(tmp_path, "bert")
    own = type("Own", (type(made.task.objective),), {"__module__": "mine"})

    class Mine(TextClassification):
        def runtime(self) -> TaskRuntime:
            return replace(super().runtime(), objective=own())

    with pytest.raises(SettingError, match="computes its loss by Own, which does not support weights"):
        create_weighted_loss(LossSettings(focal=2.0), Mine(), made.train, made.facts)


def test_a_loss_without_weights_is_the_one_of_the_task() -> None:
    assert LossSettings(row_weights=None).is_plain
    assert not LossSettings(row_weights="w").is_plain
    assert not LossSettings(weights="balanced").is_plain
    assert LossSettings(focal=0.0).is_plain
    assert not LossSettings(focal=0.5).is_plain


def weighted_parts(folder: Path) -> Any:
    """Return a training whose rows have weights, some of them 0."""
    made = parts(folder, "bert")
    made.train.source = made.train.source.add_column(
        "w", [number % 3 / 4 for number in range(len(made.train))]
    )
    settings = LossSettings(weights={"long": 3.0}, focal=2.0, row_weights="w")
    loss = create_weighted_loss(settings, made.task.config, made.train, made.facts)
    return replace(made, training_loss=loss)


def step_gradients(made: Any, shares: BatchLayout, folder: Path) -> tuple[float, dict[str, torch.Tensor]]:
    """Return loss and gradients of one optimizer step."""
    course = TrainingPlan(shares, 1, Speed(bf16=False, compiled=False))
    trainer = TaskTrainer(made, create_training_arguments({}, folder, 5, course, None, early=False), shares)
    made.model.zero_grad()
    loader = iter(trainer.get_train_dataloader())
    batches, count = trainer.get_batch_samples(loader, shares.accumulation, torch.device("cpu"))
    loss = sum(float(trainer.training_step(trainer.model, batch, count)) for batch in batches)
    gradients = {n: w.grad.clone() for n, w in made.model.named_parameters() if w.grad is not None}
    return loss, gradients


def test_accumulation_changes_no_weighted_loss_and_no_gradient(tmp_path: Path) -> None:
    made = weighted_parts(tmp_path)
    for module in made.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    rows = len(made.train) // 4 * 4
    one, whole = step_gradients(made, BatchLayout(rows, 1, 1), tmp_path)
    other, split = step_gradients(made, BatchLayout(rows // 4, 4, 1), tmp_path)
    assert other == pytest.approx(one, rel=1e-5)
    assert max(float(each.abs().max()) for each in whole.values()) > 1e-3
    for name, gradient in whole.items():
        torch.testing.assert_close(split[name], gradient, rtol=1e-4, atol=1e-6)
