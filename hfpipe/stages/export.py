"""The `export` stage: a trained model in a format that runs without training code, smaller or faster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import SerializeAsAny

from hfpipe.contract import RunContext, Stage
from hfpipe.errors import Problem, StageError
from hfpipe.modeling.exports.formats import (
    ExportFormat,
    compute_model_bytes,
    find_missing_packages,
    is_generative,
    writes_text,
)
from hfpipe.number_format import format_bytes
from hfpipe.references.places import ModelPlace, locate_place
from hfpipe.report import DataFacts, Report
from hfpipe.task import TaskConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Export(Stage):
    """Exports a trained model as ONNX or torch-export; it is evaluated and run like the original."""

    version: ClassVar[int] = 1
    kind: Literal["export"] = "export"
    model: ModelPlace
    """The model to export; an adapter is merged into its base."""
    format: ExportFormat = "onnx"
    """`onnx` runs in ONNX Runtime, `torch-export` in torch without Transformers.

    The files of `torch-export` can execute code when they are opened, as pickles can.
    """
    quantize: Literal["int8", "none"] = "none"
    """`int8`: 8-bit weights, activations quantized at run time (ONNX Runtime's dynamic quantization)."""
    task: SerializeAsAny[TaskConfig] | None = None
    """Task of the model; by default the one that its stage trained it for."""
    trust_remote_code: bool = False
    """Run the code that comes with a model from the Hub."""

    def resolve(self, above: Mapping[str, Stage]) -> Export:
        """Return the stage with the task of the stage that trained the model."""
        task = getattr(above.get(self.model.stage or ""), "task", None)
        if self.task is not None or not isinstance(task, TaskConfig):
            return self
        return self.model_copy(update={"task": task})

    def check(
        self, above: Mapping[str, Stage], facts: Mapping[str, DataFacts], base: Path
    ) -> Iterator[Problem]:
        from hfpipe.stages.repeats.expansion import check_single  # which reads the stages' classes

        yield from check_single(self, above)
        if missing := [*find_missing_packages(self.format)]:
            needs = f"format: {self.format} needs {' and '.join(missing)}, which is not installed"
            yield Problem(f"{needs}; pip install 'hfpipe[export]'", ("format",))
        if self.quantize == "int8" and self.format != "onnx":
            yield Problem("quantize: int8 needs format: onnx; change one of them", ("quantize",))
        if self.task is None:
            if self.model.stage is None:
                yield Problem("missing key 'task'; write the task that the model was trained for", ("model",))
        elif is_generative(self.task):
            where = ("model",) if self.model.stage is not None else ("task",)
            yield Problem(
                f"task {self.task.kind!r} generates text, which an exported forward pass cannot; "
                "export a model of another task",
                where,
            )

    def run(self, ctx: RunContext) -> Report:
        from hfpipe.modeling.exports.writing import export_model
        from hfpipe.tokenization.loading import load_tokenizer, set_pad_token_id

        task = self.task
        if task is None:
            raise StageError(f"stage {ctx.name}: {self.model} does not name its task; add task:")
        place = locate_place(self.model, ctx.base, ctx.inputs) or self.model
        tokenizer = load_tokenizer(place, trust_remote_code=self.trust_remote_code)
        model = self._load(task, ctx)
        set_pad_token_id(model, tokenizer)
        with ctx.progress(f"{ctx.name}: exporting to {self.format}", None):
            found = export_model(
                model,
                task.auto_class,
                ctx.folder,
                self.format,
                int8=self.quantize == "int8",
                length=task.length,
            )
        tokenizer.save_pretrained(str(ctx.folder))
        before = compute_model_bytes(place) if isinstance(place, Path) else None
        before_text = f" of {format_bytes(before)}" if before else ""
        quantized = ", int8" if self.quantize == "int8" else ""
        return Report(
            kind=self.kind,
            summary=(
                f"{self.format}{quantized}, {format_bytes(found.bytes)}{before_text}; "
                f"outputs differ from the original by at most {found.difference:.1g} of the largest"
            ),
            facts={
                "bytes": found.bytes,
                "original_bytes": before,
                "difference": found.difference,
                "parameters": model.num_parameters(),
            },
        )

    def _load(self, task: TaskConfig, ctx: RunContext) -> PreTrainedModel:
        """Return the original model. Raises StageError when it cannot run its task."""
        from hfpipe.modeling.loading.models import load_model
        from hfpipe.modeling.max_length import find_refusals

        place = locate_place(self.model, ctx.base, ctx.inputs) or self.model
        if writes_text(task.runtime()):  # a user-defined task, whose settings do not show it
            raise StageError(f"stage {ctx.name}: task {task.kind!r} generates text, which an export cannot")
        remote = self.trust_remote_code
        model = load_model(task.auto_class, place, ctx.seed, whole=True, trust_remote_code=remote)
        for why in find_refusals(task.runtime(), model):
            raise StageError(f"stage {ctx.name}: {self.model}: {why}")
        return model
