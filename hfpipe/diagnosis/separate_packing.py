"""The gradient of packed documents that are kept apart, and that of each document on its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfpipe.diagnosis.toy import EXAMPLES, Toy, kept_settings
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
    """A comparison that a stage or a machine does not allow; its text is the reason."""


def separating_task(task: TaskConfig) -> TaskConfig:
    """Return the task with documents that are kept apart. Raises NotApplicable where it has none."""
    if not task.packed:
        raise NotApplicable(f"{task.kind} does not pack documents")
    if "documents" not in type(task).model_fields:
        raise NotApplicable(f"{task.kind} has no option that keeps packed documents apart")
    return task.model_copy(update={"documents": "separate"})


def packed_gradients(toy: Toy) -> tuple[Gradient, Gradient]:
    """Return the gradients of one batch of packed documents, and of its documents one at a time.

    Raises NotApplicable where the task packs nothing or the model cannot keep documents apart.
    """
    task = separating_task(toy.stage.task)
    tokenizer = load_tokenizer(toy.folder / "tokenizer")
    model = load_model(
        task.auto_class, Path(toy.model("model", dropout=False)), toy.seed, head=task.head(toy.facts)
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
    packed = _trainer(parts, toy)
    [batch] = (
        packed.data_collator(examples.__getitems__(keys)) for keys in packed.create_step_batches().of_step(0)
    )
    targets = runtime.objective.count(batch)
    together = _gradient(packed, [batch], targets)
    mixed = toy.stage.task.model_copy(update={"documents": "packed"}).runtime()
    single = _trainer(replace(parts, task=mixed), toy)
    return _gradient(single, list(_documents(batch)), targets), together


def _trainer(parts: Training, toy: Toy) -> TaskTrainer:
    layout = BatchLayout(EXAMPLES, 1, 1)
    plan = TrainingPlan(layout, 1, Speed(bf16=False, compiled=False))
    given = kept_settings(toy.stage.training, KEPT) | {"report_to": "none"}
    return TaskTrainer(
        parts,
        create_training_arguments(given, toy.folder / "packed", toy.seed, plan, None, early=False),
        layout,
    )


def _gradient(trainer: TaskTrainer, batches: list[Batch], targets: Any) -> Gradient:
    with silence_libraries(), trainer.fast_kernels():
        losses = [trainer.training_step(trainer.bare, batch, targets) for batch in batches]
    named = trainer.bare.named_parameters()
    found = {name: each.grad.clone() for name, each in named if each.grad is not None}
    trainer.bare.zero_grad(set_to_none=True)
    return Gradient(float(sum(losses)), found)


def _documents(batch: Batch) -> Iterator[Batch]:
    """Yield each document of a batch as a batch of its own."""
    for row, numbers in enumerate(batch["_documents"]):
        for number in sorted({*numbers.tolist()} - {0}):
            here = (numbers == number).nonzero().squeeze(-1)
            yield {name: batch[name][row, here][None] for name in ("input_ids", "labels")}
