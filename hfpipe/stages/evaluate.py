"""The `evaluate` stage: scores of a model and of its baselines over one split, in one pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, SerializeAsAny

from hfpipe.contract import RunContext, Stage
from hfpipe.errors import Problem, StageError
from hfpipe.modeling.exports.formats import is_export
from hfpipe.references.places import BaselineName, BaselinePlace, DataPlace, EvaluatedPlace, make_slug
from hfpipe.report import DataFacts, Report, Score
from hfpipe.stages.data_folder import get_data_folder
from hfpipe.stages.repeats.folds import read_held_out
from hfpipe.stages.repeats.matrix import Tabulated
from hfpipe.stages.repeats.members import get_data_split
from hfpipe.stages.scoring import custom_metrics
from hfpipe.stages.scoring.bounds import (
    Bound,
    compare_score,
    describe_doubtful_bounds,
    explain_left_out,
    find_unknown_scores,
    find_unmet_bounds,
    summarize,
)
from hfpipe.stages.scoring.clusters import (
    ClusterSetting,
    check_cluster,
    describe_resampling,
    select_cluster_column,
)
from hfpipe.stages.scoring.custom_metrics import NamedMetricSettings
from hfpipe.stages.scoring.implied_baselines import find_implied_baselines
from hfpipe.stages.scoring.leakage_audit import (
    LeakageSetting,
    audit_leakage,
    format_leakage_notes,
    get_leakage_facts,
)
from hfpipe.stages.scoring.measurements import get_measured_facts, record_measurements
from hfpipe.stages.scoring.power_notes import format_power_notes
from hfpipe.stages.scoring.row_weights import (
    RowWeightsSetting,
    describe_weights,
    explain_unweighted,
    get_row_weights_setting,
    load_row_weights,
)
from hfpipe.stages.scoring.systems import (
    EvaluatedSystem,
    add_checkpoints,
    align_classes,
    list_repeated_systems,
    list_systems,
    load_system,
)
from hfpipe.store.artifacts import get_predictions_path
from hfpipe.task import TaskConfig

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedTokenizerBase

    from hfpipe.encoding.encoded import Examples
    from hfpipe.evaluation.evaluate import EvaluationSetup
    from hfpipe.metrics.tally import Counts, Tally


class Evaluate(Tabulated):
    """Evaluates a model on one split, together with simple baselines and other models."""

    version: ClassVar[int] = 8
    distributed: ClassVar[bool] = True
    kind: Literal["evaluate"] = "evaluate"
    model: EvaluatedPlace
    """The model to evaluate."""
    data: DataPlace
    """Data set that has the split."""
    split: str = "test"
    """Split to evaluate on.

    `out-of-fold` is the train split of a model that was trained with `folds`: each row is predicted by the
    training that did not see it.
    """
    task: SerializeAsAny[TaskConfig] | None = None
    """Task of the model; by default the one that its stage trained it for."""
    labels: dict[str, str] = {}
    """Class of the model → its name in the data, as `{LABEL_0: neg, LABEL_1: pos}`, if they differ."""
    baselines: list[BaselinePlace] = []
    """Simple baselines by name (`majority`, `tfidf`), other models by reference."""
    metrics: list[NamedMetricSettings] = []
    """Metrics of `evaluate` to compute in addition to those of the task, by path or Hub id."""
    require: dict[str, Bound] = {}
    """Metric → bounds; the stage fails when a score misses them."""
    cluster: ClusterSetting = None
    """Column whose equal values mark dependent rows; intervals and tests then resample these groups.

    By default `document_id`, `doc_id` or the context of questions, if it exists; `false` resamples rows.
    """
    row_weights: RowWeightsSetting = None
    """Column of numbers, at least 0: the weights of rows in `weighted_accuracy` and `weighted_f1_…`.

    By default `weight`, if `columns` of the data set's stage names it; `false` uses none.
    """
    leakage: LeakageSetting = "warn"
    """Whether rows in the model's training data are a warning or an error; `false` skips the search."""
    batch_size: int = Field(default=64, ge=1, json_schema_extra={"changes_result": False})
    """Examples per forward pass on each device; changes speed and memory, not scores."""
    resamples: int = Field(default=1000, ge=100, le=1_000_000)
    """Number of bootstrap resamples per interval, and of random permutations per test."""
    trust_remote_code: bool = False
    """Run the code that comes with a model or a metric from the Hub."""

    def check(
        self, above: Mapping[str, Stage], facts: Mapping[str, DataFacts], base: Path
    ) -> Iterator[Problem]:
        from hfpipe.stages.checks.evaluation import check_evaluation  # which reads the stages' classes

        yield from check_evaluation(self, above, facts, base)
        yield from custom_metrics.check(self.metrics, base, trusted=self.trust_remote_code)

    def resolve(self, above: Mapping[str, Stage]) -> Evaluate:
        """Return the stage with the baselines marked that its task declares by name.

        An export is also compared with its original, and a student with its teachers.
        """
        task = self.get_task(above)
        lost = self.model.stage is not None and self.model.stage not in above  # reported as an error
        names = task.baselines if task is not None else self.baselines if lost else ()
        own = {place for place in self.baselines if place in names and place.hub and "/" not in place}
        found = [BaselineName(place) if place in own else place for place in self.baselines]
        found += [place for place in find_implied_baselines(self.model, above) if place not in found]
        weights = get_row_weights_setting(self.row_weights, self.data, task, above)
        return self.model_copy(update={"baselines": found, "row_weights": weights})

    def find_neutral(self) -> dict[str, Any]:
        return super().find_neutral() | ({} if self.row_weights else {"row_weights": None})

    def get_task(self, above: Mapping[str, Stage]) -> TaskConfig | None:
        """Return the task of the model, if this stage or the one above that trains the model names it."""
        task = self.task or getattr(above.get(self.model.stage or ""), "task", None)
        return task if isinstance(task, TaskConfig) else None

    def check_ahead(self, above: Mapping[str, Stage], facts: Mapping[str, DataFacts]) -> Iterator[Problem]:
        from hfpipe.stages.checks.evaluation import add_classes

        task = self.get_task(above)
        name = self.data.stage or ""
        if task is not None and name in facts:
            aligned, _ = add_classes(self, task, above, facts)
            yield from find_unknown_scores(self, task, aligned[name])

    def plan_notes(self, above: Mapping[str, Stage], facts: Mapping[str, DataFacts]) -> Iterator[str]:
        return format_power_notes(self, self.get_task(above), facts.get(self.data.stage or ""))

    def prepare(self, ctx: RunContext) -> None:
        setup, systems = self.open_systems(ctx)
        for system in systems:
            for problem in (*system.task.check_settings(), *system.task.check(setup.facts)):
                raise StageError(f"stage {ctx.name}: {problem.message}")
        unknown = check_cluster(self.cluster, set(setup.facts.columns))
        required = find_unknown_scores(self, systems[0].task, setup.facts)
        for problem in (*unknown, *required):
            raise StageError(f"stage {ctx.name}: {problem.message}")
        audit_leakage(self, systems[0].task, setup, ctx)
        for metric in self.metrics:
            metric.load(ctx)  # before the evaluation starts
        tokenizers = [self.encode_for(system, setup, ctx, reads_all=True)[0] for system in systems]
        self._measure_trivial(systems[0], tokenizers[0], setup, ctx)

    def run(self, ctx: RunContext) -> Report:
        from hfpipe.evaluation.evaluate import create_accelerator
        from hfpipe.metrics.tally import compare_tallies, compute_scores

        accelerator = create_accelerator()
        setup, (model, *others) = self.open_systems(ctx)
        mine = self._measure(model, setup, accelerator, ctx)
        tallies = {
            name: self._score_other(name, model.task, others, setup, accelerator, ctx)
            for name in self.baselines
        }
        accelerator.wait_for_everyone()  # their scratch folder is removed when the first returns
        comparisons = {str(name): compare_tallies(mine, theirs, name) for name, theirs in tallies.items()}
        scores = [compare_score(score, comparisons.values()) for score in compute_scores(mine)]
        left_out = list(explain_left_out(mine, tallies, comparisons))
        left_out += explain_unweighted(setup.row_weights, scores)
        leaked = get_leakage_facts(model, setup, ctx) if accelerator.is_main_process else {}
        if accelerator.is_main_process:
            more, without = self._score_dataset_metrics(model, others, setup, ctx)
            scores += more
            left_out += without
        scores = add_checkpoints(scores, model.place, ctx)
        unmet = list(find_unmet_bounds(self.require, scores))
        return Report(
            kind=self.kind,
            summary=summarize(scores, len(setup.rows)),
            facts={
                "task": model.task.model_dump(mode="json"),
                "pipeline": None if is_export(model.get_first_model(ctx)) else model.task.opened_by,
                "data": setup.facts.model_dump(mode="json"),
                "left_out": left_out,
                "notes": [
                    *describe_doubtful_bounds(self.require, scores),
                    *format_leakage_notes(leaked, len(setup.rows)),
                ],
                **describe_resampling(setup.sample),
                **describe_weights(setup.row_weights),
                **get_measured_facts([model, *others], ctx),
                **leaked,
                **list_repeated_systems([model, *others]),
            },
            scores=scores,
            unmet=unmet,
        )

    def _score_other(
        self,
        name: BaselinePlace,
        task: TaskConfig,
        others: Sequence[EvaluatedSystem],
        setup: EvaluationSetup,
        accelerator: Accelerator,
        ctx: RunContext,
    ) -> Counts:
        from hfpipe.evaluation.evaluate import load_tally

        if name in task.baselines:
            empty = setup.create_tally(task.runtime().baseline_metrics(name, setup.facts))
            return load_tally(empty, ctx.work / f"{name}.npz")
        return self._measure(next(it for it in others if it.place == name), setup, accelerator, ctx)

    def _score_dataset_metrics(
        self,
        model: EvaluatedSystem,
        others: Sequence[EvaluatedSystem],
        setup: EvaluationSetup,
        ctx: RunContext,
    ) -> tuple[list[Score], list[str]]:
        from hfpipe.evaluation.dataset_metrics import DatasetMetrics

        task = model.task
        metrics, facts = [metric.load(ctx) for metric in self.metrics], setup.facts
        evaluator = task.runtime().evaluator
        after = DatasetMetrics(evaluator.whole_metrics(facts), metrics, evaluator.class_names(facts), setup)
        with ctx.progress(f"{ctx.name}: scores of all rows at once", None):
            files = {
                str(name): {str(name): get_predictions_path(ctx.folder, name)} for name in self.baselines
            }
            files |= {other.name: other.list_predictions(ctx.folder) for other in others}
            return after.compute_scores(model.list_predictions(ctx.folder), files)

    def open_systems(self, ctx: RunContext) -> tuple[EvaluationSetup, list[EvaluatedSystem]]:
        """Return the split with the classes of the model, and the systems to measure on it."""
        from hfpipe.encoding.io import open_split, read_facts
        from hfpipe.evaluation.evaluate import EvaluationSetup

        folder, systems = get_data_folder(self.data, ctx), list_systems(self, ctx)
        classes = align_classes(self, read_facts(folder), systems, ctx)
        split = classes.align_rows(open_split(folder, get_data_split(self.split)))
        cluster = select_cluster_column(self.cluster, systems[0].task, classes.facts)
        weights = load_row_weights(self.row_weights, split)
        setup = EvaluationSetup(
            split, classes.facts, ctx.seed, self.resamples, self.batch_size, classes, cluster, weights
        )
        rows = {column: split[column] for column in split.column_names}
        systems = [replace(each, outputs=classes.outputs.get(each.place, ())) for each in systems]
        return setup, [
            replace(each, task=each.task.runtime().evaluator.configure_metrics(rows)) for each in systems
        ]

    def _measure_trivial(
        self,
        system: EvaluatedSystem,
        tokenizer: PreTrainedTokenizerBase,
        setup: EvaluationSetup,
        ctx: RunContext,
    ) -> None:
        from hfpipe.encoding.io import open_split
        from hfpipe.evaluation.evaluate import fit_baseline, measure_baseline, save_tally

        task = system.task.runtime()
        names = [name for name in self.baselines if name in task.config.baselines]
        if not names:
            return
        split = setup.classes.align_rows(open_split(get_data_folder(self.data, ctx), "train"))
        held_out = list(read_held_out(system.members, len(split)).values()) if system.folded else [None]
        for name in names:
            with ctx.progress(f"{ctx.name}: {name}", len(setup.rows)) as advance:
                out = get_predictions_path(ctx.folder, name)
                tally = setup.create_tally(task.baseline_metrics(name, setup.facts))
                fitted = partial(fit_baseline, task, name, split, setup.facts, tokenizer)
                predictions = [(fitted(rows), rows) for rows in held_out]
                save_tally(
                    measure_baseline(predictions, task, tally, setup, out, advance), ctx.work / f"{name}.npz"
                )

    def _measure(
        self, system: EvaluatedSystem, setup: EvaluationSetup, accelerator: Accelerator, ctx: RunContext
    ) -> Counts:
        """Return the counts of a system over the split, for each training if there are several."""
        from hfpipe.evaluation.evaluate import join_predictions, measure_model
        from hfpipe.evaluation.loop import ModelReader
        from hfpipe.metrics.repeated import RepeatedCounts, pool_folds

        tokenizer, examples = self.encode_for(system, setup, ctx, reads_all=False)
        held_out = read_held_out(system.members, len(setup.rows)) if system.folded else {}
        found: dict[str, Tally] = {}
        for name, place in system.list_models(ctx).items():
            (model, task), out = load_system(self, system, place, ctx), get_predictions_path(ctx.folder, name)
            own = examples.select_rows(held_out[name]) if system.folded else examples
            title = f"{ctx.name}: {name if system.members else system.place}"
            with ctx.progress(title, len(own)) as advance:
                found[name] = measure_model(model, task, tokenizer, own, setup, accelerator, out, advance)
            if len(found) == 1 and accelerator.is_main_process:
                reader, device = ModelReader(task, setup.facts, tokenizer, setup.seed), accelerator.device
                record_measurements(self, system, place, model, reader, own, device, ctx)
        if system.folded:
            if accelerator.is_main_process:
                join_predictions(ctx.folder, list(found), system.name)
            return pool_folds(found)
        return RepeatedCounts(found) if system.members else next(iter(found.values()))

    def encode_for(
        self, system: EvaluatedSystem, setup: EvaluationSetup, ctx: RunContext, *, reads_all: bool
    ) -> tuple[PreTrainedTokenizerBase, Examples]:
        """Return a system's tokenizer, and the split encoded for its model under `ctx.work`."""
        from hfpipe.encoding.encoded import encode
        from hfpipe.modeling.loading.embeddings import check_rows, get_embedding_rows
        from hfpipe.modeling.loading.models import load_config
        from hfpipe.tokenization.loading import load_tokenizer

        place = system.get_first_model(ctx)
        tokenizer = load_tokenizer(place, trust_remote_code=self.trust_remote_code)
        config = load_config(place, trust_remote_code=self.trust_remote_code)
        check_rows(system.place, get_embedding_rows(config), tokenizer)
        path = ctx.work / "encoded" / f"{make_slug(system.place)}.arrow"
        with ctx.progress(f"{ctx.name}: encoding for {system.place}", len(setup.rows)) as advance:
            encoded = partial(encode, system.task.runtime(), setup.rows, tokenizer, setup.facts, path)
            examples, _ = encoded(packed=False, advance=advance, reads_all=reads_all)
        return tokenizer, examples
