"""Trains a toy with the stage, runner and trainer of a normal run, and compares the results.

One step of plain SGD with learning rate 64 changes each weight by 64 times its gradient. The gradient is
therefore computed from the saved weights, and the trainer needs no special code.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from hfpipe.contract import Advance, Progress, RunContext
from hfpipe.diagnosis.toy import EXAMPLES, Toy, keep_settings, make_toy_context
from hfpipe.errors import StageError
from hfpipe.interruption import Interrupted
from hfpipe.library_output import silence_libraries
from hfpipe.report import Report
from hfpipe.runner.launch import Launch, start
from hfpipe.store.identity import StageIdentity
from hfpipe.store.store import StageFile, Store

RATE = 64.0
SGD: dict[str, Any] = {
    "max_steps": 1,
    "learning_rate": RATE,
    "optim": "sgd",
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
    "max_grad_norm": 0.0,
    "weight_decay": 0.0,
    "save_strategy": "no",
}
SIZE: dict[str, Any] = {
    "per_device_train_batch_size": EXAMPLES,
    "gradient_accumulation_steps": 1,
    "logging_steps": 1,
    "bf16": False,
    "compile": False,
    "report_to": "none",
}
KEPT = ("label_smoothing", "activation_checkpointing", "gradient_checkpointing")
"""Settings that every toy training takes from the recipe."""
OPTIMIZER = ("optim", "adam_", "learning_rate", "weight_decay", "lr_scheduler", "max_grad_norm", "warmup")
"""Settings that toy trainings of several steps also take from the recipe."""


@dataclass(frozen=True)
class Outcome:
    """The result of a training."""

    loss: float
    """Mean loss of its steps, in nats."""
    weights: Mapping[str, Tensor]


@dataclass(frozen=True)
class Gradient:
    """The loss of one step, and its gradient."""

    loss: float
    by_name: Mapping[str, Tensor]

    def compare(self, other: Gradient) -> tuple[float, float]:
        """Return the relative differences of another loss and gradient from these."""
        loss = abs(other.loss - self.loss) / max(abs(self.loss), 1e-30)
        return loss, compute_distance(self.by_name, other.by_name)


def compute_distance(mine: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> float:
    """Return the norm of the difference of two sets of tensors, relative to the norm of the first."""
    if mine.keys() != others.keys():
        return float("inf")
    far = _compute_norm(others[name].double() - each.double() for name, each in mine.items())
    return far / max(_compute_norm(each.double() for each in mine.values()), 1e-30)


def _compute_norm(tensors: Iterable[Tensor]) -> float:
    return float(torch.stack([each.norm() for each in tensors]).norm())


class Trials:
    """Trains a toy with different settings."""

    def __init__(self, toy: Toy, progress: Progress) -> None:
        self.toy = toy
        self._progress = progress
        self._before: Mapping[str, Tensor] | None = None
        self._plain: Gradient | None = None

    @property
    def plain(self) -> Gradient:
        """The gradient of one batch in one process, in float32 and eagerly."""
        if self._plain is None:
            self._plain = self.compute_gradient("plain")
        return self._plain

    def compute_gradient(self, name: str, processes: int = 1, **training: Any) -> Gradient:
        """Return loss and gradient of one step with these settings; `name` is that of its folder."""
        if self._before is None:
            self._before = self._train("before", SGD | {"learning_rate": 0.0}).weights
        after = self._train(name, SGD | training, processes)
        moved = {key: (self._before[key] - each) / RATE for key, each in after.weights.items()}
        return Gradient(after.loss, moved)

    def train_steps(self, name: str, *, stopped_after: int | None = None) -> Outcome:
        """Train four steps with the optimizer and dropout of the recipe; optionally stop and resume."""
        mine = keep_settings(self.toy.stage.training, OPTIMIZER)
        training = (
            {"learning_rate": 1e-3} | mine | {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
        )
        if stopped_after is not None:
            try:
                self._train(name, training, dropout=True, stopped_after=stopped_after)
            except Interrupted:
                pass
            else:
                raise StageError("a training that was requested to stop did not stop")
        return self._train(name, training, dropout=True)

    def _train(
        self,
        name: str,
        training: Mapping[str, Any],
        processes: int = 1,
        *,
        dropout: bool = False,
        stopped_after: int | None = None,
    ) -> Outcome:
        toy = self.toy
        stage = toy.stage.model_copy(
            update={
                "model": toy.create_model("with-dropout" if dropout else "model", dropout=dropout),
                "training": keep_settings(toy.stage.training, KEPT) | SIZE | dict(training),
            }
        )
        ctx = make_toy_context(toy.folder / name, toy.base, toy.seed, self._progress)
        if stopped_after is not None:
            ctx = _make_stopping_context(ctx, stopped_after)
        settings = stage.model_dump(mode="json")
        identity = StageIdentity(
            kind=stage.kind, version=stage.version, seed=toy.seed, settings=settings, files={}, inputs={}
        )
        file = StageFile(name=name, base=str(toy.base.absolute()), folders={}, identity=identity)
        Store(toy.folder).begin(ctx.folder, file)
        for _ in stage.list_notices(ctx, alone=processes == 1):  # chooses the checkpoint to resume from
            continue
        with silence_libraries():
            stage.prepare(ctx)
            report = stage.run(ctx) if processes == 1 else _launch(processes, ctx)
        [loss] = (each["train_loss"] for each in report.facts["history"] if "train_loss" in each)
        return Outcome(loss, _load_weights(ctx.folder))


def _make_stopping_context(ctx: RunContext, steps: int) -> RunContext:
    """Return a context whose training receives a stop request, as by a scheduler, after some steps."""

    @contextmanager
    def progress(title: str, total: int | None) -> Iterator[Advance]:
        reached = 0

        def advance_until(done: int, note: str = "") -> None:
            nonlocal reached
            advance(done, note)
            reached += done
            if title == ctx.name and reached >= steps:
                ctx.stop.ask(signal.SIGTERM)

        with ctx.progress(title, total) as advance:
            yield advance_until

    return replace(ctx, progress=progress)


def _launch(processes: int, ctx: RunContext) -> Report:
    start(Launch(processes, oversubscribe=True), ctx.folder, ctx.stop)
    return Report.model_validate_json((ctx.work / "result.json").read_text(encoding="utf-8"))


def _load_weights(folder: Path) -> dict[str, Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    return {name: each for file in files for name, each in load_file(file).items()}
