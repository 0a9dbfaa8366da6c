"""The `finetune` stage: training for a task, with weights, teachers and calibration if given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hfpipe.contract import RunContext, Stage
from hfpipe.errors import Problem
from hfpipe.modeling.losses.distillation_settings import DistillationSettings, check_teachers
from hfpipe.modeling.losses.settings import ROW_WEIGHTS, LossSettings, check_calibration, check_loss
from hfpipe.references.places import ModelPlace, locate_place
from hfpipe.report import DataFacts
from hfpipe.stages.train import TrainStage

if TYPE_CHECKING:
    from hfpipe.encoding.encoded import Examples
    from hfpipe.modeling.losses.distillation import DistillationLoss
    from hfpipe.modeling.losses.training_loss import TrainingLoss
    from hfpipe.training.trainer import Training


class Finetune(TrainStage):
    """Trains a model for a task; accepts every task."""

    kind: Literal["finetune"] = "finetune"
    loss: LossSettings | None = None
    """Weights of classes and rows, and focal loss; for text-classification and token-classification."""
    teacher: ModelPlace | list[ModelPlace] | None = None
    """A trained classifier, or several whose probabilities are averaged, to learn from in addition to labels.

    For text-classification. The model and its teachers may have different tokenizers; the classes are the
    same. The probabilities for the train split are computed once, before training.
    """
    distillation: DistillationSettings | None = None
    """How much the teachers count."""
    calibrate: list[Literal["temperature", "thresholds"]] = []
    """What is fitted on the validation split after training and saved in the model's config.

    `temperature` is one number that logits are divided by (Guo et al., 2017), so that scores are
    probabilities; `thresholds`, where rows have lists of classes, the probability for each class above which
    predicting it gives its best F1.
    """

    @property
    def teachers(self) -> list[ModelPlace]:
        """The models whose probabilities are learned in addition to the labels."""
        if self.teacher is None:
            return []
        return self.teacher if isinstance(self.teacher, list) else [self.teacher]

    def resolved(self, above: Mapping[str, Stage]) -> Finetune:
        """Return the stage with the weights of rows that the data set's stage names in `columns`."""
        named = ROW_WEIGHTS in getattr(above.get(self.data.stage or ""), "columns", {})
        is_given = self.loss is not None and "row_weights" in self.loss.model_fields_set
        if not named or is_given or self.task.weighted_column is None:
            return self
        loss = (self.loss or LossSettings()).model_copy(update={"row_weights": ROW_WEIGHTS})
        return self.model_copy(update={"loss": loss})

    def check(
        self, above: Mapping[str, Stage], facts: Mapping[str, DataFacts], base: Path
    ) -> Iterator[Problem]:
        yield from super().check(above, facts, base)
        known = facts.get(self.data.stage or "")
        if self.loss is not None:
            smoothed = bool(self.training.get("label_smoothing_factor"))
            yield from check_loss(self.loss, self.task, known, smoothed=smoothed)
        yield from check_calibration(self.calibrate, self.task, known)
        if self.teacher is not None:
            yield from check_teachers(self.task, known, weighted=self.loss is not None)
        elif self.distillation is not None:
            yield Problem("distillation has no effect without a teacher; delete it", ("distillation",))

    def neutral(self) -> dict[str, Any]:
        unused = [name for name in ("loss", "calibrate", "teacher") if not getattr(self, name)]
        return super().neutral() | dict.fromkeys(unused + ["distillation"] * ("teacher" in unused))

    def _training_loss(self, ctx: RunContext, train: Examples, data: DataFacts) -> TrainingLoss | None:
        from hfpipe.data.weighting import create_weighted_loss

        if self.loss is not None and not self.loss.is_plain:
            return create_weighted_loss(self.loss, self.task, train, data)
        return self._distillation_loss(ctx, train, data) if self.teachers else None

    def _distillation_loss(self, ctx: RunContext, train: Examples, data: DataFacts) -> DistillationLoss:
        """Return the loss with the teachers' probabilities, which the first process computes and keeps."""
        from hfpipe.evaluation.soft_targets import compute_soft_targets
        from hfpipe.modeling.losses.distillation import DistillationLoss

        task, rows, how = self.task.runtime(), train.source, self.distillation or DistillationSettings()
        teachers = [(place, locate_place(place, ctx.base, ctx.inputs) or place) for place in self.teachers]
        with ctx.progress(f"{ctx.name}: predictions of the teachers", len(rows) * len(teachers)) as advance:
            targets = compute_soft_targets(
                teachers,
                task,
                rows,
                data,
                how.temperature,
                ctx.work,
                advance,
                trust=self.trust_remote_code,
            )
        return DistillationLoss(task.objective, targets[train.rows], how.temperature, how.weight)

    def _finish(self, parts: Training, folder: Path) -> dict[str, Any]:
        from hfpipe.data.weighting import weighting_facts
        from hfpipe.evaluation.calibration import calibrate_saved
        from hfpipe.modeling.losses.weighted_loss import WeightedLoss

        found: dict[str, Any] = {}
        if isinstance(parts.training_loss, WeightedLoss):
            found["loss"] = weighting_facts(parts.training_loss, self.task, parts.facts)
        if self.teachers:
            found["teachers"] = [str(place) for place in self.teachers]
        if self.calibrate and parts.validation is not None:
            found["calibration"] = calibrate_saved(
                folder, self.task, self.calibrate, parts.validation, parts.tokenizer, parts.facts
            )
        return found
