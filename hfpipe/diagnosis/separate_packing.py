"""The gradient of packed documents that are masked from each other, and that of separate documents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfpipe.diagnosis.toy import EXAMPLES, Toy, keep_settings
from hfpipe.diagnosis.trials import KEPT, Gradient
from hfpipe.encoding.encoded import encode
from hfpipe.encoding.io import open_split
from hfpipe.encoding.sampler import BatchLayout
from hfpipe.library_output import silence_libraries
from hfpipe.modeling.loading.models import load_model
from hfpipe.tokenization.loading import load_tokenizer, set_pad_token_id
from hfpipe.training.arguments import TrainingPlan, create_training_arguments
from hfpipe.training.speed.choice import Speed
from hfpipe.training.trainer import TaskTrainer, Training

if TYPE_CHECKING:
    from hfpipe.task import TaskConfig
    from hfpipe.types import Batch


class NotApplicable(Exception):  # noqa: N818 - not an error of the recipe
    """A comparison is not applicable to a stage or machine; the text is the reason."""


def make_separating_task(task: TaskConfig) -> TaskConfig:
    """Return the task with `documents: separate`. Raises NotApplicable if it has no such option."""
    if not task.packed:
        raise NotApplicable(f"{task.kind} does not pack documents")
    if "documents" not in type(task).model_fields:
        raise NotApplicable(f"{task.kind} has no option that masks packed documents from each other")
    return task.model_copy(update={"documents": "separate"})


def compute_packed_gradients(toy: Toy) -> tuple[Gradient, Gradient]:
    """Return the gradient of a batch of separate documents, and that of the same documents packed.

    Raises NotApplicable if the task packs nothing or the model cannot mask documents from each other.
    """
    task = make_separating_task(toy.stage.task)
    tokenizer = load_tokenizer(toy.folder / "tokenizer")
    model = load_model(
        task.auto_class, Path(toy.create_model("model", dropout=False)), toy.seed, head=task.head(toy.facts)
    )
    runtime = task.runtime()
    for problem in runtime.model_setup.check(model):
        raise NotApplicable(problem.message)
    set_pad_token_id(model, tokenizer)
    examples, _ = encode(
        runtime,
        open_split(toy.folder / "step", "train"),
        tokenizer,
        toy.facts,
        toy.folder / "packed" / "train.arrow",
        packed=True,
        advance=lambda _: None,
    )
    parts = Training(runtime, model.train(), tokenizer, examples, None, toy.facts)
    packed = _make_trainer(parts, toy)
    [batch] = (
        packed.data_collator(examples.__getitems__(keys)) for keys in packed.create_step_batches().get_step(0)
    )
    targets = runtime.objective.count(batch)
    together = _compute_gradient(packed, [batch], targets)
    mixed = toy.stage.task.model_copy(update={"documents": "packed"}).runtime()
    single = _make_trainer(replace(parts, task=mixed), toy)
    return _compute_gradient(single, list(_split_documents(batch)), targets), together


def _make_trainer(parts: Training, toy: Toy) -> TaskTrainer:
    layout = BatchLayout(EXAMPLES, 1, 1)
    plan = TrainingPlan(layout, 1, Speed(bf16=False, compiled=False))
    given = keep_settings(toy.stage.training, KEPT) | {"report_to": "none"}
    return TaskTrainer(
        parts,
        create_training_arguments(given, toy.folder / "packed", toy.seed, plan, None, early=False),
        layout,
    )


def _compute_gradient(trainer: TaskTrainer, batches: list[Batch], targets: Any) -> Gradient:
    with silence_libraries(), trainer.use_fast_kernels():
        losses = [trainer.training_step(trainer.bare, batch, targets) for batch in batches]
    named = trainer.bare.named_parameters()
    found = {name: each.grad.clone() for name, each in named if each.grad is not None}
    trainer.bare.zero_grad(set_to_none=True)
    return Gradient(float(sum(losses)), found)


def _split_documents(batch: Batch) -> Iterator[Batch]:
    """Yield each document of a batch as a batch of its own."""
    for row, numbers in enumerate(batch["_documents"]):
        for number in sorted({*numbers.tolist()} - {0}):
            here = (numbers == number).nonzero().squeeze(-1)
            yield {name: batch[name][row, here][None] for name in ("input_ids", "labels")}
