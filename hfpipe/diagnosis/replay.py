"""Recomputes a crashed step in one process, and finds what produces the value that is not finite."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import shorten
from typing import TYPE_CHECKING, Any, cast

from hfpipe.errors import Problem, RecipeError, StageError
from hfpipe.references.places import Code, Place
from hfpipe.references.user_code import Trusted
from hfpipe.stages import restore_stage
from hfpipe.store.store import read_stage

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from transformers import PreTrainedModel

    from hfpipe.modeling.losses.training_loss import TrainingLoss
    from hfpipe.stages.finetune import Finetune
    from hfpipe.stages.pretrain import Pretrain
    from hfpipe.task import TaskConfig
    from hfpipe.training.crashes.folder import Crash, CrashDistillation, CrashExample, CrashTeachers
    from hfpipe.training.crashes.probe import NotFinite
    from hfpipe.training.trainer import TaskTrainer, Training


TEXT = 200
"""Maximum number of characters of an example that are shown."""


@dataclass(frozen=True)
class Replayed:
    """Result of recomputing a crashed step."""

    crash: Crash
    what: str | None = None
    """Description of the value that is not finite, such as `the loss is nan`; None if all are finite."""
    module: str | None = None
    """Name of the first module whose output is not finite; None if all outputs are finite."""
    weight: str | None = None
    """Name of a weight of that module that is not finite."""
    parameter: str | None = None
    """Name of the first parameter, in the order of the backward pass, whose gradient is not finite."""
    largest: str | None = None
    """Name of the parameter with the largest gradient, if all are finite but their norm is not."""
    culprits: tuple[CrashExample, ...] = ()
    """Examples of the micro-batch that each produce it alone."""
    compared: int = 0
    """Number of examples of the micro-batch."""

    def list_lines(self) -> Iterator[str]:
        """Yield the lines of the report."""
        crash = self.crash
        where = f"stage {crash.stage}, step {crash.step}"
        if crash.processes > 1:
            where += f", process {crash.process} of {crash.processes}"
        if crash.weights_after != crash.step - 1:
            where += f", with the weights after step {crash.weights_after}, the last that are whole"
        if self.what is None:
            yield f"{where}: the {crash.what} was {crash.value}, and everything is finite when computed again"
        else:
            yield f"{where}: {self.what}"
            yield from self._list_causes()
            yield from self._list_examples()

    def _list_causes(self) -> Iterator[str]:
        if self.module is not None:
            yield f"first module whose output is not finite: {self.module or 'the whole model'}"
        if self.weight is not None:
            yield f"its weight {self.weight} is not finite itself"
        if self.parameter is not None:
            yield f"first parameter whose gradient is not finite: {self.parameter}"
        if self.largest is not None:
            yield f"every gradient is finite, their norm is not; the largest is that of {self.largest}"
        if (self.module, self.parameter, self.largest) == (None, None, None):
            yield "the outputs of all modules are finite, and the loss that the task computes of them is not"

    def _list_examples(self) -> Iterator[str]:
        if len(self.culprits) == self.compared > 1:
            yield f"each of the {self.compared} examples of the micro-batch produces it alone"
            return
        if not self.culprits:
            yield f"no example produces it alone, only the {self.compared} of the micro-batch together"
        for each in self.culprits:
            text = shorten(each.text, TEXT, placeholder=" …")
            yield f"example that produces it alone: {each.place}: {text}"


def replay_crash(folder: Path, tasks: Sequence[str] = ()) -> Replayed:
    """Recompute the step of a crash folder.

    `tasks` names user code that may be executed, as `file.py:Class`. Raises RecipeError when there is no
    crash or its task is user code that is not named, and StageError when it cannot be recomputed.
    """
    from hfpipe.training.crashes.folder import RECORD, read_crash

    crash = read_crash(folder)
    if crash.weights_after is None:
        raise StageError(
            f"{folder}: contains no weights, because no process had all of them; run the stage in one "
            "process, or data parallel, to keep them"
        )
    stage = _read_stage(folder, tasks)
    if stage.trust_remote_code:
        raise StageError(
            f"{folder}: its model is code from the Hub, which hfpipe replay does not execute; its "
            f"{RECORD} lists the examples of the step with file and line: look at these, or train a copy of "
            "the model that needs no trust_remote_code"
        )
    from hfpipe.library_output import silence_libraries

    with TemporaryDirectory(prefix="hfpipe-replay-") as scratch, silence_libraries():
        found = _Replay(folder, crash, stage, Path(scratch)).run()
        return _add_packed_rows(found, folder, stage)


def _add_packed_rows(found: Replayed, folder: Path, stage: Pretrain | Finetune) -> Replayed:
    """Return the result with the rows of packed examples, if some of these produce it."""
    from hfpipe.diagnosis.packed_rows import name_packed_rows
    from hfpipe.tokenization.loading import load_tokenizer
    from hfpipe.training.crashes.folder import TOKENIZER

    packed = sorted({each.index for each in found.culprits if each.row is None})
    if not packed or len(found.culprits) == found.compared > 1:
        return found
    tokenizer = load_tokenizer(folder / TOKENIZER)
    places = name_packed_rows(folder, read_stage(folder), stage.data, stage.task, tokenizer, packed)
    culprits = (
        each.model_copy(update={"place": f"{each.place} ({places[each.index]})"})
        if each.index in places
        else each
        for each in found.culprits
    )
    return replace(found, culprits=tuple(culprits))


def _read_stage(folder: Path, tasks: Sequence[str]) -> Pretrain | Finetune:
    file = read_stage(folder)
    trusted = Trusted.from_code([_parse_code(task) for task in tasks], Path.cwd())
    return cast(
        "Pretrain | Finetune", restore_stage(file.identity.settings, Path(file.base), folder, trusted)
    )


def _parse_code(task: str) -> Code:
    if re.fullmatch(Code.pattern, task) is None:
        raise RecipeError([Problem(f"--task {task}: expected user code, as FILE.py:CLASS")])
    return Code(task)


class _Replay:
    """One step, recomputed until the cause is found."""

    def __init__(self, folder: Path, crash: Crash, stage: Pretrain | Finetune, scratch: Path) -> None:
        import torch
        from safetensors.torch import load_file

        from hfpipe.training.crashes.folder import RANDOM

        self.crash = crash
        self.random = load_file(folder / RANDOM)
        parts = _load_parts(folder, crash, stage)
        self.examples = parts.train
        self.trainer = _make_trainer(parts, crash, stage, scratch)
        self.targets = torch.tensor(crash.targets, device=self.trainer.args.device)

    def run(self) -> Replayed:
        """Compute the micro-batches of the step in order until one is not finite."""
        from hfpipe.training.crashes.random_states import read_random_states

        number, states = len(self.crash.examples), self.random
        with self.trainer.use_fast_kernels():
            for start in range(0, number, self.crash.micro):
                rows = range(start, min(start + self.crash.micro, number))
                if found := self._probe_rows(rows, states):
                    return self._explain(rows, states, found)
                states = read_random_states()
        return Replayed(self.crash)

    def _explain(self, rows: range, states: Mapping[str, Tensor], exact: NotFinite) -> Replayed:
        """Return what is not finite in a micro-batch, and the examples that produce it alone."""
        self.trainer.apply_head_in_model()
        found = self._probe_rows(rows, states) or exact
        alone = [row for row in rows if self._probe_rows(range(row, row + 1), states)]
        what = f"the loss is {found.loss}" if found.loss is not None else "the gradient norm is not finite"
        return Replayed(
            self.crash,
            what=what,
            module=found.module,
            weight=self._find_broken_weight(found.module),
            parameter=found.parameter,
            largest=found.largest,
            culprits=tuple(self.crash.examples[row] for row in alone),
            compared=len(rows),
        )

    def _probe_rows(self, rows: range, states: Mapping[str, Tensor]) -> NotFinite:
        from hfpipe.training.crashes.probe import probe_batches
        from hfpipe.training.crashes.random_states import restore_random_states

        known = [self.crash.examples[row] for row in rows]
        encoded = self.examples.__getitems__([(0, row) for row in rows])
        origins = [{"epoch": each.epoch, "index": each.index} for each in known]
        batches = self.trainer.data_collator([one | more for one, more in zip(encoded, origins, strict=True)])
        restore_random_states(states)
        return probe_batches(self.trainer, batches, self.targets)

    def _find_broken_weight(self, module: str | None) -> str | None:
        """Return the first weight of a module that is not finite."""
        if module is None:
            return None
        own = self.trainer.bare.get_submodule(module).named_parameters(prefix=module, recurse=False)
        return next((name for name, weight in own if not weight.isfinite().all()), None)


def _load_parts(folder: Path, crash: Crash, stage: Pretrain | Finetune) -> Training:
    """Return the model and the examples of a crash folder."""
    import datasets

    from hfpipe.encoding.encoded import Examples
    from hfpipe.tokenization.loading import load_tokenizer
    from hfpipe.training.crashes.folder import EXAMPLES, TOKENIZER
    from hfpipe.training.trainer import Training

    table = datasets.Dataset.from_file(str(folder / EXAMPLES))
    return Training(
        task=stage.task.runtime(),
        model=_load_model(folder, crash, stage),
        tokenizer=load_tokenizer(folder / TOKENIZER),
        train=Examples(table, table),
        validation=None,
        facts=crash.facts,
        attention_is_chosen=crash.attention is not None,
        training_loss=_load_training_loss(folder, crash, stage.task),
    )


def _load_training_loss(folder: Path, crash: Crash, task: TaskConfig) -> TrainingLoss | None:
    """Return the loss that replaced that of the task, with weights or soft targets of the examples."""
    import torch

    from hfpipe.modeling.losses.distillation import DistillationLoss
    from hfpipe.modeling.losses.weighted_loss import WeightedLoss
    from hfpipe.training.crashes.folder import CrashDistillation, CrashTeachers

    loss = crash.loss
    if loss is None:
        return None
    if isinstance(loss, CrashTeachers):
        return _load_loss_with_teachers(folder, loss, task)
    if isinstance(loss, CrashDistillation):
        targets, words = _read_soft_targets(crash, loss)
        return DistillationLoss(task.runtime().objective, targets, loss.temperature, loss.weight, words)
    rows = _spread_by_index(crash, loss.row_weights) if loss.row_weights is not None else None
    classes = torch.tensor(loss.class_weights) if loss.class_weights is not None else None
    return WeightedLoss(classes, loss.focal, rows)


def _read_soft_targets(crash: Crash, loss: CrashDistillation) -> tuple[np.ndarray, list[np.ndarray] | None]:
    """Return the soft targets, and the positions of those of each example if it has several."""
    import numpy as np

    if loss.counts is None:
        return _spread_by_index(crash, loss.soft_targets), None
    targets = np.asarray(loss.soft_targets, np.float32)
    index = [each.index for each in crash.examples]
    words = [np.empty(0, np.int64)] * (1 + max(index))
    for number, own in zip(
        index, np.split(np.arange(len(targets)), np.cumsum(loss.counts)[:-1]), strict=True
    ):
        words[number] = own
    return targets, words


def _load_loss_with_teachers(folder: Path, loss: CrashTeachers, task: TaskConfig) -> TrainingLoss:
    """Return the loss with the teachers, which are not in the crash folder but in their original location."""
    import datasets

    from hfpipe.evaluation.teachers import load_teachers
    from hfpipe.modeling.losses.token_distillation import TokenDistillation
    from hfpipe.tokenization.loading import load_tokenizer
    from hfpipe.training.crashes.folder import TOKENIZER

    places = [Place(each) for each in loss.teachers]
    teachers = [(place, Path(place) if Path(place).is_absolute() else place) for place in places]
    runtime, nothing = task.runtime(), datasets.Dataset.from_dict({name: [] for name in task.inputs})
    found = load_teachers(teachers, runtime, load_tokenizer(folder / TOKENIZER), nothing)
    return TokenDistillation(runtime.objective, found, loss.temperature, loss.weight)


def _spread_by_index(crash: Crash, values: Sequence[Any]) -> np.ndarray:
    """Return values of the examples of a step at their indices, float32; 0 elsewhere."""
    import numpy as np

    index, of_examples = [each.index for each in crash.examples], np.asarray(values, np.float32)
    found = np.zeros((1 + max(index), *of_examples.shape[1:]), np.float32)
    found[index] = of_examples
    return found


def _load_model(folder: Path, crash: Crash, stage: Pretrain | Finetune) -> PreTrainedModel:
    from safetensors.torch import load_model
    from transformers import AutoConfig

    from hfpipe.modeling.half_weights import halve_frozen
    from hfpipe.modeling.loading.lora import add_lora
    from hfpipe.modeling.loading.models import create_model, translate_loading_errors
    from hfpipe.training.crashes.folder import MODEL, WEIGHTS

    with translate_loading_errors(folder / MODEL):
        config = AutoConfig.from_pretrained(str(folder / MODEL), local_files_only=True)
        if crash.attention is not None:
            config._attn_implementation = crash.attention
        model: Any = create_model(stage.task.auto_class, config, crash.seed)
        if stage.adapter is not None:
            model = add_lora(model, stage.adapter.settings | {"modules_to_save": crash.modules_to_save})
        load_model(model, str(folder / WEIGHTS))
    if crash.bf16:
        halve_frozen(model)
    return cast("PreTrainedModel", model.train())


def _make_trainer(parts: Training, crash: Crash, stage: Pretrain | Finetune, scratch: Path) -> TaskTrainer:
    """Return the trainer of the stage, for one process and not compiled."""
    from hfpipe.encoding.sampler import BatchLayout
    from hfpipe.training.arguments import TrainingPlan, create_training_arguments
    from hfpipe.training.speed.choice import Speed
    from hfpipe.training.trainer import TaskTrainer

    shares = BatchLayout(crash.micro, crash.accumulation, 1)
    plan = TrainingPlan(shares, 1, Speed(bf16=crash.bf16, compiled=False))
    given = stage.training | {"report_to": "none"}
    arguments = create_training_arguments(given, scratch, crash.seed, plan, None, early=False)
    free = stage.training.get("padding_free", False)
    trainer = TaskTrainer(parts, arguments, shares, padding_free=free)
    trainer.model = trainer.accelerator.prepare_model(trainer.bare)
    return trainer
