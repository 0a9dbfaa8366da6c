"""The `finetune` stage: training for a task, with weights, teachers and calibration if given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hfpipe.contract import RunContext, Stage
from hfpipe.errors import Problem
from hfpipe.modeling.losses.distillation_settings import DistillationSettings
from hfpipe.modeling.losses.settings import ROW_WEIGHTS, LossSettings, check_calibration, check_loss
from hfpipe.references.places import ModelPlace
from hfpipe.report import DataFacts
from hfpipe.stages.distillation import check_teachers, create_distillation_loss
from hfpipe.stages.train import TrainStage

if TYPE_CHECKING:
    from hfpipe.encoding.encoded import Examples
    from hfpipe.modeling.losses.training_loss import TrainingLoss
    from hfpipe.training.trainer import Training


class Finetune(TrainStage):
    """Trains a model for a task; accepts every task."""

    kind: Literal["finetune"] = "finetune"
    loss: LossSettings | None = None
    """Weights of classes and rows, and focal loss; for text-classification and token-classification."""
    teacher: ModelPlace | list[ModelPlace] | None = None
    """A trained model, or several whose probabilities are averaged, to learn from in addition to the labels.

    For text-classification, token-classification, masked-lm and causal-lm. Classifiers and taggers need the
    same classes as their teachers, but may have other tokenizers; the probabilities for the train split are
    computed once, before training. A language model needs the tokenizer of its teachers, which process each
    batch.
    """
    distillation: DistillationSettings | None = None
    """Temperature and weight of the soft targets."""
    calibrate: list[Literal["temperature", "thresholds"]] = []
    """Parameters to fit on the validation split after training and save in the model's config.

    `temperature` is a number that logits are divided by (Guo et al., 2017), so that scores are calibrated
    probabilities; `thresholds`, for rows with lists of classes, are the probabilities above which predicting
    a class gives its best F1.
    """

    @property
    def teachers(self) -> list[ModelPlace]:
        """The models that are teachers."""
        if self.teacher is None:
            return []
        return self.teacher if isinstance(self.teacher, list) else [self.teacher]

    def resolve(self, above: Mapping[str, Stage]) -> Finetune:
        """Return the stage with `row_weights` set if the data set's stage names them in `columns`."""
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
            yield from check_teachers(self, above, known, base)
        elif self.distillation is not None:
            yield Problem("distillation has no effect without a teacher; delete it", ("distillation",))

    def find_neutral(self) -> dict[str, Any]:
        unused = [name for name in ("loss", "calibrate", "teacher") if not getattr(self, name)]
        return super().find_neutral() | dict.fromkeys(unused + ["distillation"] * ("teacher" in unused))

    def _create_training_loss(self, ctx: RunContext, train: Examples, data: DataFacts) -> TrainingLoss | None:
        from hfpipe.data.weighting import create_weighted_loss

        if self.loss is not None and not self.loss.is_plain:
            return create_weighted_loss(self.loss, self.task, train, data)
        return create_distillation_loss(self, ctx, train, data) if self.teachers else None

    def _finish(self, parts: Training, folder: Path) -> dict[str, Any]:
        from hfpipe.data.weighting import describe_weighting
        from hfpipe.evaluation.calibration import calibrate_saved
        from hfpipe.modeling.losses.weighted_loss import WeightedLoss

        found: dict[str, Any] = {}
        if isinstance(parts.training_loss, WeightedLoss):
            found["loss"] = describe_weighting(parts.training_loss, self.task, parts.facts)
        if self.teachers:
            found["teachers"] = [str(place) for place in self.teachers]
        if self.calibrate and parts.validation is not None:
            found["calibration"] = calibrate_saved(
                folder, self.task, self.calibrate, parts.validation, parts.tokenizer, parts.facts
            )
        return found
