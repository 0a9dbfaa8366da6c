"""The `evaluate` stage: scores of a model and of its baselines over one split, in one pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, SerializeAsAny

from hfpipe.advice import advise
from hfpipe.contract import RunContext, Stage
from hfpipe.errors import Problem, RecipeError, StageError
from hfpipe.references.places import (
    BaselineName,
    BaselinePlace,
    DataPlace,
    ModelPlace,
    Place,
    locate_place,
    slug,
)
from hfpipe.references.user_code import Trusted
from hfpipe.report import DataFacts, Report, Score
from hfpipe.stages import custom_metrics
from hfpipe.stages.clusters import ClusterSetting, check_cluster, cluster_column, resampled_by
from hfpipe.stages.custom_metrics import NamedMetricSettings
from hfpipe.stages.data_folder import folder_of
from hfpipe.stages.leakage_audit import LeakageSetting, audit, leakage_facts, leakage_notes
from hfpipe.stages.power_notes import power_notes
from hfpipe.stages.scores import (
    Bound,
    describe_doubtful_bounds,
    explain_left_out,
    summarize,
    unknown_scores,
    unmet_bounds,
    with_comparisons,
)
from hfpipe.store.artifacts import MODEL, predictions_path
from hfpipe.store.store import read_stage
from hfpipe.task import Task

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedTokenizerBase

    from hfpipe.encoding.encoded import Examples
    from hfpipe.evaluation.class_alignment import Alignment
    from hfpipe.evaluation.evaluate import EvaluationSetup
    from hfpipe.metrics.tally import Tally


class Evaluate(Stage):
    """Evaluates a model on one split, together with simple baselines and other models."""

    version: ClassVar[int] = 5
    distributed: ClassVar[bool] = True
    kind: Literal["evaluate"] = "evaluate"
    model: ModelPlace
    """The model to evaluate."""
    data: DataPlace
    """Data set that has the split."""
    split: str = "test"
    """Split to evaluate on."""
    task: SerializeAsAny[Task] | None = None
    """What the model does; by default what its stage trained it for."""
    labels: dict[str, str] = {}
    """Class of the model → its name in the data, as `{LABEL_0: neg, LABEL_1: pos}`, where the two differ."""
    baselines: list[BaselinePlace] = []
    """Simple ones by name (`majority`, `tfidf`), any other model by reference."""
    metrics: list[NamedMetricSettings] = []
    """Metrics of `evaluate` to compute in addition to those of the task, by path or Hub id."""
    require: dict[str, Bound] = {}
    """Metric → bounds; the stage fails when a score misses them."""
    cluster: ClusterSetting = None
    """Column whose equal values make rows depend on one another; intervals and tests then draw such groups.

    By default `document_id`, `doc_id` or the context of questions, where there is one; `false` draws rows.
    """
    leakage: LeakageSetting = "warn"
    """Whether rows that are in the model's training data are noted or an error; `false` looks for none."""
    batch_size: int = Field(default=64, ge=1, json_schema_extra={"changes_result": False})
    """Examples per forward pass on each device; changes speed and memory, not scores."""
    resamples: int = Field(default=1000, ge=100, le=1_000_000)
    """Bootstrap resamples behind an interval, and tosses behind a randomization test."""
    trust_remote_code: bool = False
    """Run the code that comes with a model or a metric from the Hub."""

    def check(
        self, above: Mapping[str, Stage], facts: Mapping[str, DataFacts], base: Path
    ) -> Iterator[Problem]:
        from hfpipe.stages import checks  # which reads the stages' classes

        yield from checks.evaluate(self, above, facts, base)
        yield from custom_metrics.check(self.metrics, base, trusted=self.trust_remote_code)

    def resolved(self, above: Mapping[str, Stage]) -> Evaluate:
        """Return the stage with those baselines marked as names that its task declares as such."""
        task = self.task_of(above)
        lost = self.model.stage is not None and self.model.stage not in above  # it is wrong, and reported
        names = task.baselines if task is not None else self.baselines if lost else ()
        own = {place for place in self.baselines if place in names and place.hub and "/" not in place}
        found = [BaselineName(place) if place in own else place for place in self.baselines]
        return self.model_copy(update={"baselines": found})

    def task_of(self, above: Mapping[str, Stage]) -> Task | None:
        """Return the task of the model, if this stage or the one above that trains the model names it."""
        task = self.task or getattr(above.get(self.model.stage or ""), "task", None)
        return task if isinstance(task, Task) else None

    def check_ahead(self, above: Mapping[str, Stage], facts: Mapping[str, DataFacts]) -> Iterator[Problem]:
        from hfpipe.stages import checks

        task = self.task_of(above)
        name = self.data.stage or ""
        if task is not None and name in facts:
            aligned, _ = checks.with_classes(self, task, above, facts)
            yield from unknown_scores(self.require, self.metrics, task, aligned[name])

    def plan_notes(self, above: Mapping[str, Stage], facts: Mapping[str, DataFacts]) -> Iterator[str]:
        return power_notes(self, self.task_of(above), facts.get(self.data.stage or ""))

    def prepare(self, ctx: RunContext) -> None:
        ground, systems = self._setup(ctx)
        for system in systems:
            for problem in (*system.task.check_settings(), *system.task.check(ground.facts)):
                raise StageError(f"stage {ctx.name}: {problem.message}")
        unknown = check_cluster(self.cluster, set(ground.facts.columns))
        required = unknown_scores(self.require, self.metrics, systems[0].task, ground.facts)
        for problem in (*unknown, *required):
            raise StageError(f"stage {ctx.name}: {problem.message}")
        audit(self, systems[0].task, ground, ctx)
        for metric in self.metrics:
            metric.load(ctx)  # before anything is measured
        tokenizers = [self._examples(system, ground, ctx, reads_all=True)[0] for system in systems]
        self._measure_trivial(systems[0].task, tokenizers[0], ground, ctx)

    def run(self, ctx: RunContext) -> Report:
        from hfpipe.evaluation.evaluate import new_accelerator
        from hfpipe.metrics.tally import compare_tallies

        accelerator = new_accelerator()
        ground, (model, *others) = self._setup(ctx)
        mine = self._measure(model, ground, accelerator, ctx)
        tallies = {
            name: self._other(name, model.task, others, ground, accelerator, ctx) for name in self.baselines
        }
        accelerator.wait_for_everyone()  # they read their scratch, which goes when the first returns
        comparisons = {str(name): compare_tallies(mine, theirs, name) for name, theirs in tallies.items()}
        scores = [with_comparisons(score, comparisons.values()) for score in mine.scores()]
        left_out = list(explain_left_out(mine, tallies, comparisons))
        leaked = leakage_facts(model.task, ground, ctx) if accelerator.is_main_process else {}
        if accelerator.is_main_process:
            more, without = self._afterwards(model.task, ground, ctx)
            scores += more
            left_out += without
        unmet = list(unmet_bounds(self.require, scores))
        return Report(
            kind=self.kind,
            summary=summarize(scores, len(ground.rows)),
            facts={
                "task": model.task.model_dump(mode="json"),
                "pipeline": model.task.opened_by,
                "data": ground.facts.model_dump(mode="json"),
                "left_out": left_out,
                "notes": [
                    *describe_doubtful_bounds(self.require, scores),
                    *leakage_notes(leaked, len(ground.rows)),
                ],
                **resampled_by(ground.sample),
                **leaked,
            },
            scores=scores,
            unmet=unmet,
        )

    def _other(
        self,
        name: BaselinePlace,
        task: Task,
        others: Sequence[EvaluatedSystem],
        ground: EvaluationSetup,
        accelerator: Accelerator,
        ctx: RunContext,
    ) -> Tally:
        from hfpipe.evaluation.evaluate import load_tally

        if name in task.baselines:
            empty = ground.tally(task.baseline_metrics(name, ground.facts))
            return load_tally(empty, ctx.work / f"{name}.npz")
        return self._measure(next(it for it in others if it.place == name), ground, accelerator, ctx)

    def _afterwards(
        self, task: Task, ground: EvaluationSetup, ctx: RunContext
    ) -> tuple[list[Score], list[str]]:
        from hfpipe.evaluation.dataset_metrics import DatasetMetrics

        metrics, facts = [metric.load(ctx) for metric in self.metrics], ground.facts
        after = DatasetMetrics(task.whole_metrics(facts), metrics, task.class_names(facts), ground)
        with ctx.progress(f"{ctx.name}: scores of all rows at once", None):
            files = {str(name): predictions_path(ctx.folder, name) for name in self.baselines}
            return after.scores(predictions_path(ctx.folder, MODEL), files)

    def _setup(self, ctx: RunContext) -> tuple[EvaluationSetup, list[EvaluatedSystem]]:
        """Return the split under the classes of the model, and the systems as they are measured on it."""
        from hfpipe.encoding.io import facts, open_split
        from hfpipe.evaluation.evaluate import EvaluationSetup

        folder, systems = folder_of(self.data, ctx), self._systems(ctx)
        classes = self._aligned(facts(folder), systems, ctx)
        split = classes.rows(open_split(folder, self.split))
        cluster = cluster_column(self.cluster, systems[0].task, classes.facts)
        ground = EvaluationSetup(
            split, classes.facts, ctx.seed, self.resamples, self.batch_size, classes, cluster
        )
        rows = {column: split[column] for column in split.column_names}
        return ground, [
            replace(each, task=each.task.configure_metrics(rows), outputs=classes.outputs.get(each.place, ()))
            for each in systems
        ]

    def _aligned(self, facts: DataFacts, systems: Sequence[EvaluatedSystem], ctx: RunContext) -> Alignment:
        """Align the classes of the data with those of every model. Raises StageError where that cannot be."""
        from hfpipe.evaluation import class_alignment
        from hfpipe.modeling.loading.models import headed_config, loading

        found = []
        for system in systems:
            place, task = locate_place(system.place, ctx.base, ctx.inputs) or system.place, system.task
            headed = "id2label" in task.head(facts)
            auto_class = task.auto_class if headed else None
            config = headed_config(place, auto_class, trust_remote_code=self.trust_remote_code)
            with loading(place):
                found.append(
                    class_alignment.AlignedSystem(system.place, task.facts_from_config(config), headed)
                )
        for problem in class_alignment.alignment_problems(facts, self.data, found, self.labels):
            raise StageError(f"stage {ctx.name}: {problem.message}")
        return class_alignment.align(facts, found, self.labels)

    def _systems(self, ctx: RunContext) -> list[EvaluatedSystem]:
        """Return the model, then every baseline that is a model too."""
        task = self.task or self._trained_for(self.model, ctx)
        if task is None:
            raise StageError(
                f"stage {ctx.name}: {self.model} does not name the task it was trained for; add task:"
            )
        models = [place for place in self.baselines if place not in task.baselines]
        own = [self._trained_for(place, ctx) or task for place in models]
        # A system that was trained for another task, as a pretrained model, gets that of the model.
        asked = [other if other.kind == task.kind else task for other in own]
        return [EvaluatedSystem(self.model, task), *map(EvaluatedSystem, models, asked)]

    def _trained_for(self, place: Place, ctx: RunContext) -> Task | None:
        """Return the task that a model was trained for, if its folder says so.

        User code is executed only where this recipe names it, for a stage above or this one, or sets
        `trust_remote_code`; never because the folder of a model names it.
        """
        from hfpipe.tasks import revive_task

        path = locate_place(place, ctx.base, ctx.inputs)
        if path is None or not (path / "stage.json").is_file():
            return None
        file = read_stage(path)
        settings, base = file.identity.settings.get("task"), Path(file.base)
        if not isinstance(settings, Mapping):
            return None
        if place.stage is not None:
            if not path.name.endswith(f"-{file.identity.key}"):
                raise StageError(
                    f"{path}: its stage.json is another stage's; delete the folder and run again"
                )
            return revive_task(settings, ctx.base, Trusted(all=True), path)  # the key is that of this recipe
        own = [self.task.code] if self.task is not None and self.task.code is not None else []
        trusted = replace(Trusted.of(own, ctx.base), all=self.trust_remote_code)
        try:
            return revive_task(settings, base, trusted, path)
        except RecipeError as error:
            raise StageError(
                f"{place}: its task is user code ({settings.get('kind')} next to {base}), which this recipe "
                f"does not name; write it as task:, or add {advise(trust_remote_code=True)}"
            ) from error

    def _measure_trivial(
        self, task: Task, tokenizer: PreTrainedTokenizerBase, ground: EvaluationSetup, ctx: RunContext
    ) -> None:
        from hfpipe.encoding.io import open_split
        from hfpipe.evaluation.evaluate import measure_baseline, save

        names = [name for name in self.baselines if name in task.baselines]
        if not names:
            return
        split = ground.classes.rows(open_split(folder_of(self.data, ctx), "train"))
        train = {column: split[column] for column in split.column_names}  # read as they are asked for
        for name in names:
            with ctx.progress(f"{ctx.name}: {name}", len(ground.rows)) as advance:
                prediction = task.fit_baseline(name, train, ground.facts, tokenizer)
                out = predictions_path(ctx.folder, name)
                tally = ground.tally(task.baseline_metrics(name, ground.facts))
                measured = measure_baseline(prediction, task, tally, ground, out, advance)
                save(measured, ctx.work / f"{name}.npz")

    def _measure(
        self, system: EvaluatedSystem, ground: EvaluationSetup, accelerator: Accelerator, ctx: RunContext
    ) -> Tally:
        from hfpipe.evaluation.evaluate import measure_model
        from hfpipe.modeling.loading.class_head import align_outputs
        from hfpipe.modeling.loading.models import load_model
        from hfpipe.modeling.max_length import refusals

        place = locate_place(system.place, ctx.base, ctx.inputs) or system.place
        task = system.task
        model = load_model(
            task.auto_class, place, ctx.seed, whole=True, trust_remote_code=self.trust_remote_code
        )
        for why in refusals(task, model):
            raise StageError(f"stage {ctx.name}: {system.place}: {why}")
        if system.outputs:
            align_outputs(model, system.outputs)
        tokenizer, examples = self._examples(system, ground, ctx, reads_all=False)
        name = MODEL if system.place == self.model else system.place
        with ctx.progress(f"{ctx.name}: {system.place}", len(examples)) as advance:
            out = predictions_path(ctx.folder, name)
            return measure_model(model, task, tokenizer, examples, ground, accelerator, out, advance)

    def _examples(
        self, system: EvaluatedSystem, ground: EvaluationSetup, ctx: RunContext, *, reads_all: bool
    ) -> tuple[PreTrainedTokenizerBase, Examples]:
        from hfpipe.encoding.encoded import encode
        from hfpipe.modeling.loading.embeddings import check_rows, rows_of
        from hfpipe.modeling.loading.models import load_config
        from hfpipe.tokenization.loading import load_tokenizer

        place = locate_place(system.place, ctx.base, ctx.inputs) or system.place
        tokenizer = load_tokenizer(place, trust_remote_code=self.trust_remote_code)
        config = load_config(place, trust_remote_code=self.trust_remote_code)
        check_rows(system.place, rows_of(config), tokenizer)
        path = ctx.work / "encoded" / f"{slug(system.place)}.arrow"
        with ctx.progress(f"{ctx.name}: encoding for {system.place}", len(ground.rows)) as advance:
            encoded = partial(encode, system.task, ground.rows, tokenizer, ground.facts, path)
            examples, _ = encoded(packed=False, advance=advance, reads_all=reads_all)
        return tokenizer, examples


@dataclass(frozen=True)
class EvaluatedSystem:
    """A model to measure and what it does."""

    place: Place
    task: Task
    outputs: Sequence[int] = ()
    """For each class, its place in the outputs of the model, where they have another order."""
