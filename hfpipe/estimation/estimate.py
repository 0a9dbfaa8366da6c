"""Estimates the cost of each stage of a plan: parameters, tokens, steps, FLOPs, memory and disk."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfpipe import number_format
from hfpipe.distributed.process_layout import Arrangement, ProcessLayout
from hfpipe.errors import HfpipeError, StageError
from hfpipe.estimation.disk import (
    DiskUse,
    compare_disk,
    estimate_data_disk,
    estimate_evaluation_disk,
    measure_bytes,
)
from hfpipe.estimation.local_artifacts import Known
from hfpipe.recipe import Recipe
from hfpipe.recipe.training import budget
from hfpipe.references.places import Place
from hfpipe.references.user_code import describe_failure
from hfpipe.runner import Launch, PlannedStage, arrange_processes
from hfpipe.stages.dataset import Dataset
from hfpipe.stages.evaluate import Evaluate
from hfpipe.stages.finetune import Finetune
from hfpipe.stages.pretrain import Pretrain
from hfpipe.stages.repeats.members import get_data_split
from hfpipe.stages.tokenizer import Tokenizer
from hfpipe.store.store import read_report

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from hfpipe.training.cost import Encoded, Shape


EXACT = ("weights", "gradients", "optimizer state", "gradient buckets")
"""Parts of the memory that are counted, not estimated, once the model is known."""
BYTES_PER_TOKEN = 100
"""Size of a tokenizer's file per token: vocabulary and merges."""


@dataclass(frozen=True)
class Amount:
    """A number, its unit, and whether it is estimated."""

    value: float
    bytes: bool = False
    estimated: bool = False

    def __str__(self) -> str:
        text = (
            number_format.format_bytes(self.value) if self.bytes else number_format.format_count(self.value)
        )
        return f"≈ {text}" if self.estimated else text


@dataclass
class Size:
    """The cost of one stage; unknown amounts are replaced by a note."""

    stage: str
    kind: str
    amounts: dict[str, Amount] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    disk: DiskUse | None = None
    """Disk use of the stage; None if unknown, and for a finished stage."""


def estimate_sizes(
    recipe: Recipe,
    steps: Sequence[PlannedStage],
    launch: Launch = Launch(),  # noqa: B008 - frozen
    *,
    sampled: bool = True,
) -> list[Size]:
    """Return the size of each stage; allocates no model and never accesses the network.

    `sampled` encodes a sample of the rows if the number of tokens is not known otherwise; without it, no
    memory is estimated either. Memory is per process of `launch`. Raises RecipeError when its Accelerate
    config is wrong.
    """
    known = Known(recipe.base, steps)
    # Only memory depends on the processes, and finding their device loads torch, before every run.
    processes = arrange_processes(launch) if sampled else Arrangement(ProcessLayout(1))
    return [_estimate_stage(step, known, processes, sampled=sampled) for step in steps]


def warn_of_disk(
    recipe: Recipe, steps: Sequence[PlannedStage], runs: Path, say: Callable[[str], None]
) -> None:
    """Warn in one line if the remaining stages clearly do not fit on the disk."""
    try:
        sizes = estimate_sizes(recipe, steps, sampled=False)
        space = compare_disk(steps, [size.disk for size in sizes], runs)
    except Exception:  # an estimate must not prevent a run, which reports errors itself
        return
    if space.clearly_lacking:
        say(f"disk: {space}; free disk space, or lower save_total_limit")


def _estimate_stage(step: PlannedStage, known: Known, processes: Arrangement, *, sampled: bool) -> Size:
    size = Size(step.name, step.stage.kind)
    try:
        if isinstance(step.stage, (Pretrain, Finetune)):
            _Training(step, step.stage, known, size, processes, sampled=sampled).fill()
        else:
            size.amounts.update(_list_known_amounts(step, known))
            size.disk = _estimate_disk(step, known)
    except HfpipeError as error:
        size.notes.append(str(error))
    except Exception as error:  # user code may raise any exception
        code = step.stage.task.code if isinstance(step.stage, (Pretrain, Finetune)) else None
        if code is None:
            raise
        size.notes.append(describe_failure(code, known.base, error))
    if not size.amounts and not size.notes:
        size.notes.append("not known before it is made")
    return size


def _list_known_amounts(step: PlannedStage, known: Known) -> Iterator[tuple[str, Amount]]:
    """Yield the known amounts of a stage that trains no model."""
    stage = step.stage
    if isinstance(stage, Evaluate):
        data = known.find_facts(stage.data)
        split = get_data_split(stage.split)
        if data is not None and split in data.splits:
            yield "rows", Amount(data.splits[split])
            yield "models", Amount(1 + sum(not place.is_trivial for place in stage.baselines))
    if isinstance(stage, Tokenizer) and not step.done and stage.algorithm is not None:
        yield "vocabulary", Amount(stage.vocab_size, estimated=True)
    if not step.done:
        return
    report = read_report(step.folder)
    if isinstance(stage, Dataset) and report.data is not None:
        yield "rows", Amount(sum(report.data.splits.values()))
        yield "characters", Amount(report.ledger["characters"]["kept"])
    if isinstance(stage, Tokenizer):
        yield "vocabulary", Amount(report.facts["vocab_size"])
    yield "disk", Amount(measure_bytes([step.folder]), bytes=True)


def _estimate_disk(step: PlannedStage, known: Known) -> DiskUse | None:
    """Return the disk use of a stage that trains no model."""
    if isinstance(step.stage, Tokenizer):
        return DiskUse(
            peak=BYTES_PER_TOKEN * step.stage.vocab_size, kept=BYTES_PER_TOKEN * step.stage.vocab_size
        )
    if isinstance(step.stage, Evaluate):
        return estimate_evaluation_disk(step.stage, known)
    return estimate_data_disk(step.stage, known.base)


class _Training:
    """Computes the size of a training stage, as far as its upstream stages are known."""

    def __init__(
        self,
        step: PlannedStage,
        stage: Pretrain | Finetune,
        known: Known,
        size: Size,
        processes: Arrangement,
        *,
        sampled: bool,
    ) -> None:
        self._sampled = sampled
        self.step, self.stage, self.known, self.size = step, stage, known, size
        self.processes = processes
        self.predicted = stage.task.runtime().objective.predicted_share
        """Fraction of tokens whose vocabulary logits are computed."""

    def fill(self) -> None:
        """Add the known amounts, in an order in which each follows from the previous ones."""
        from hfpipe.training.cost import shape_of

        encoded = self._measure_encoded()
        steps = self._count_steps(encoded)
        config, exact = self.known.find_config(self.stage, self.stage.task)
        place = self.stage.tokenizer if isinstance(self.stage.model, dict) else self.stage.model
        if config is None and place is not None and place.stage is None:  # otherwise reported at that stage
            self.size.notes.append(f"{place} is not on this machine, so the model's size is not known")
        adapter = self.stage.adapter.settings if self.stage.adapter is not None else None
        shape = shape_of(self.stage.task.auto_class, config, adapter) if config is not None else None
        if shape is not None:
            self._add("parameters", shape.parameters, estimated=not exact)
            if adapter is not None:
                self._add("trained parameters", shape.trained, estimated=not exact)
        self._add_tokens(encoded, steps, shape)
        if config is not None and shape is not None:
            if self._sampled:
                self._add_memory(config, shape, steps, estimated=not exact)
            self._add_disk_space(shape, encoded, steps, estimated=not exact)

    def _add(self, name: str, value: float, *, estimated: bool, memory: bool = False) -> None:
        self.size.amounts[name] = Amount(value, bytes=memory, estimated=estimated)

    def _measure_encoded(self) -> Encoded | None:
        """Return the size of the encoded train split: exact if it was encoded, otherwise from a sample."""
        from hfpipe.encoding.io import open_split
        from hfpipe.training.cost import Encoded, encode_sample

        made = self.step.folder / ".work" / "encoded" / "train.json"
        ledger = read_report(self.step.folder).ledger.get("train") if self.step.done else _read_json(made)
        if ledger:
            return Encoded(ledger["examples"], ledger["tokens"], estimated=False)
        if not self._sampled:
            return None
        folder, facts = self.known.find_folder(self.stage.data), self.known.find_facts(self.stage.data)
        tokenizer = self.known.find_tokenizer(self.stage)
        if folder is not None and facts is not None and tokenizer is not None:
            return encode_sample(self.stage.task.runtime(), open_split(folder, "train"), tokenizer, facts)
        missing = self.stage.data if folder is None else self.stage.tokenizer or self.stage.model
        come = "made" if isinstance(missing, Place) and missing.stage is not None else "here"
        self.size.notes.append(f"tokens per epoch are not known before {missing} is {come}")
        return None

    def _count_steps(self, encoded: Encoded | None) -> int | None:
        """Return the number of optimizer steps, or None if it is unknown."""
        from hfpipe.training.arguments import compute_shares, compute_steps

        training, task = self.stage.training, self.stage.task
        if self.step.done:
            return int(read_report(self.step.folder).facts["steps"])
        total = compute_shares(training).total
        if encoded is not None:
            steps = compute_steps(training, encoded.examples, encoded.tokens, total)
        elif training.get("max_steps", -1) > 0 or (_has_fixed_length(training) and task.packed):
            steps = compute_steps(
                training, 1, task.length, total
            )  # examples of a packed task have no padding
        else:
            return None
        if steps is None:
            steps = _read_measured_steps(self.step.folder / ".work")
        if steps is None:
            self.size.notes.append(
                f"steps: as many as fit into {training['budget']}, measured when it starts"
            )
        if self.stage.early_stopping is not None:
            self.size.notes.append("steps: at most, as it may stop early")
        return steps

    def _add_tokens(self, encoded: Encoded | None, steps: int | None, shape: Shape | None) -> None:
        from hfpipe.training.arguments import compute_shares
        from hfpipe.training.cost import compute_flops

        estimated = encoded is None or encoded.estimated
        length = float(self.stage.task.length) if encoded is None else encoded.tokens / encoded.examples
        if encoded is not None:
            self._add("tokens per epoch", encoded.tokens, estimated=estimated)
        if steps is None:
            return
        self._add("optimizer steps", steps, estimated=estimated and not self.step.done)
        if encoded is None and not self.stage.task.packed:
            return
        tokens = steps * compute_shares(self.stage.training).total * length
        self._add("tokens in all", tokens, estimated=estimated)
        if shape is not None:
            self._add("training FLOPs", compute_flops(shape, tokens, length, self.predicted), estimated=True)

    def _add_memory(
        self, config: PretrainedConfig, shape: Shape, steps: int | None, *, estimated: bool
    ) -> None:
        """Add the memory of one process: its shards, and its own activations."""
        from hfpipe.estimation.memory import Work, estimate_memory

        training, task = self.stage.training, self.stage.task
        adapter = self.stage.adapter.settings if self.stage.adapter is not None else None
        work = Work(
            task.auto_class,
            config,
            adapter,
            training,
            task.length + task.continued_length,
            self.predicted,
            task.packed,
            steps,
            self.processes,
        )
        found = estimate_memory(work, shape)
        if "optimizer state" not in found:
            self.size.notes.append(f"optimizer state: that of {training['optim']} is not known here")
        for name, size in found.items():
            self._add(name, size, estimated=estimated or name not in EXACT, memory=True)
        self._add("memory per device", sum(found.values()), estimated=True, memory=True)

    def _add_disk_space(
        self, shape: Shape, encoded: Encoded | None, steps: int | None, *, estimated: bool
    ) -> None:
        """Add the peak disk usage: while a checkpoint is written, there is one more than are kept."""
        from hfpipe.recipe.training.defaults import DEFAULTS
        from hfpipe.training.cost import FLOAT, compute_optimizer_state

        training = DEFAULTS | self.stage.training
        adapter = self.stage.adapter
        learned = shape.trained * FLOAT
        weights = learned if adapter is not None and not adapter.merge else shape.parameters * FLOAT
        state = compute_optimizer_state(shape, training.get("optim")) or 0
        saves = _count_checkpoints(training, steps)
        limit = training["save_total_limit"]
        checkpoints = (saves if limit is None else min(saves, limit + 1)) * (learned + state)
        self._add("checkpoints", checkpoints, estimated=estimated, memory=True)
        ids = 4 * encoded.tokens if encoded is not None else 0
        self._add("disk", weights + checkpoints + ids, estimated=True, memory=True)
        if not self.step.done:
            self.size.disk = DiskUse(peak=weights + checkpoints + ids, kept=weights)


def _count_checkpoints(training: Mapping[str, Any], steps: int | None) -> int:
    """Return how many checkpoints a training writes, including the final one."""
    if training["save_strategy"] == "no":
        return 0
    if training["save_strategy"] == "epoch":
        return math.ceil(training.get("num_train_epochs", 3))
    every = training["save_steps"]
    if every < 1:
        return math.ceil(1 / every)
    return math.ceil((steps or every) / every)


def _has_fixed_length(training: Mapping[str, Any]) -> bool:
    """Return whether the length of a training is independent of the amount of data."""
    if "budget" in training:
        return budget.parse_budget(training["budget"]).epochs is None
    return bool(training.get("max_steps", -1) > 0)


def _read_measured_steps(work: Path) -> int | None:
    """Return the number of steps of an interrupted training with a time budget, None before it is known."""
    from hfpipe.training.speed.decision import STEPS, StepCount, read_decision

    try:
        found = read_decision(work / STEPS, StepCount)
    except StageError:  # which the training itself reports
        return None
    return None if found is None else found.steps


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
