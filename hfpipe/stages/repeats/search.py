"""The stage that searches for the best settings of a training with Optuna.

The trials are stored in an SQLite file in the stage's work folder. The sampler of a trial is seeded by the
stage's seed and the trial's number and uses only that file, so that interruptions do not change the trials.
An interrupted trial resumes from its checkpoint.

If the run has several jobs, the first trials train in parallel: their settings are random, and they are not
pruned, so that they are independent. Each later trial depends on all trials before it.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import SerializeAsAny

from hfpipe.contract import RunAtOnce, RunContext, Stage
from hfpipe.distributed.world import is_launched
from hfpipe.errors import Problem, StageError
from hfpipe.number_format import format_number, format_setting
from hfpipe.report import DataFacts, Report
from hfpipe.stages.data_folder import get_data_folder
from hfpipe.stages.repeats.parameters import BEST, check_search, replace_parameters
from hfpipe.stages.repeats.pruning import TrialScores
from hfpipe.stages.repeats.settings import Range, Search
from hfpipe.stages.train import TrainStage
from hfpipe.store.files import write_atomically
from hfpipe.store.store import Store, read_stage
from hfpipe.task import TaskConfig

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner

log = logging.getLogger(__name__)

STARTUP = 10
"""Number of random trials before the sampler learns from them; at most half of all trials."""


class ParameterSearch(Stage):
    """Trains with different settings and selects those with the best score on the validation split."""

    version: ClassVar[int] = 1
    kind: Literal["search"] = "search"
    search: Search
    """Settings to search, and how."""
    task: SerializeAsAny[TaskConfig]
    """Task of the trainings."""
    trained: SerializeAsAny[TrainStage]
    """Training stage of all trials, except for the settings that vary."""

    def find_neutral(self) -> dict[str, Any]:
        inner = self.trained.find_neutral().items()
        return super().find_neutral() | {f"trained.{path}": value for path, value in inner}

    def get_seed(self, seed: int) -> int:
        return self.trained.get_seed(seed)

    def check(
        self, above: Mapping[str, Stage], facts: Mapping[str, DataFacts], base: Path
    ) -> Iterator[Problem]:
        return check_search(self.trained, self.search, above, facts)

    def run(self, ctx: RunContext) -> Report:
        from hfpipe.encoding.io import read_facts
        from hfpipe.training.arguments import select_best_metric

        if is_launched():
            raise StageError(
                f"stage {ctx.name}: trials train in one process; run this stage by "
                f"`hfpipe run RECIPE --until {ctx.name}` without a launcher first"
            )
        known = read_facts(get_data_folder(self.trained.data, ctx))
        metrics = self.trained.task.runtime().evaluator.validation_metrics(known)
        metric = select_best_metric({"metric_for_best_model": self.search.metric}, metrics)
        with _open_study(ctx.work / "trials.db", self.search, maximize=metric.higher_is_better) as study:
            with ctx.progress(ctx.name, self.search.trials) as advance:
                if ctx.run_at_once is not None:
                    advance(self._try_at_once(ctx.run_at_once, study, ctx))
                while (trial := _get_next_trial(study, self.search, ctx.seed)) is not None:
                    self._run_trial(trial, study, ctx)
                    advance(1)
            return self._report(study, ctx)

    def _run_trial(self, trial: Trial, study: Study, ctx: RunContext) -> None:
        """Train with the settings of a trial and report its score to the study."""
        from optuna.trial import TrialState

        from hfpipe.training.callbacks import EvaluationCallback

        stage = replace_parameters(self.trained, trial.params)
        inner = _create_trial_context(stage, trial.number, ctx)
        scores = TrialScores(trial, self.search.metric, prunes=self.search.prune is not False)
        with Store(inner.folder.parent).lock(inner.folder, log.info), _report_failure(trial, study):
            _prepare(stage, inner)
            scores.repeat(inner.folder)  # scores of another process before it was killed
            stage.train(inner, [EvaluationCallback(scores.observe)])
            value = None if scores.pruned else scores.get_final_score(inner.folder)
            study.tell(trial, value, state=TrialState.PRUNED if value is None else None)
        shutil.rmtree(inner.folder, ignore_errors=True)

    def _try_at_once(self, run_at_once: RunAtOnce, study: Study, ctx: RunContext) -> int:
        """Train the independent trials in parallel, and return their number."""
        prepared: dict[Path, Trial] = {}
        for trial in _list_independent_trials(study, self.search, ctx.seed):
            stage = replace_parameters(self.trained, trial.params)
            inner = _create_trial_context(stage, trial.number, ctx)
            with _report_failure(trial, study):
                _prepare(stage, inner)
                prepared[inner.folder] = trial
        failures = run_at_once(list(prepared))
        for (folder, trial), failure in zip(prepared.items(), failures, strict=True):
            scores = TrialScores(trial, self.search.metric, prunes=False)
            with _report_failure(trial, study):
                if failure is not None:
                    raise StageError(failure)
                scores.repeat(folder)
                study.tell(trial, scores.get_final_score(folder))
            shutil.rmtree(folder, ignore_errors=True)
        return len(prepared)

    def _report(self, study: Study, ctx: RunContext) -> Report:
        """Write the best settings and return the report. Raises StageError if no trial was completed."""
        from optuna.trial import TrialState

        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if not done:
            failed = [each.user_attrs["failed"] for each in study.trials if "failed" in each.user_attrs]
            why = failed[0] if failed else "all were stopped early; set prune: false"
            raise StageError(f"stage {ctx.name}: no trial was completed; {why}")
        best, metric = study.best_trial, self.search.metric
        found = {"parameters": best.params, "metric": metric, "value": best.value, "trial": best.number}
        write_atomically(ctx.folder / BEST, json.dumps(found, indent=1))
        trials = [
            {
                "trial": each.number,
                "state": each.state.name.lower(),
                "value": each.value,
                "evaluations": len(each.intermediate_values),
                "parameters": each.params,
            }
            for each in study.trials
        ]
        chosen = ", ".join(f"{name} {format_setting(value)}" for name, value in best.params.items())
        stopped = sum(each["state"] == "pruned" for each in trials)
        summary = (
            f"{len(trials)} trials, {stopped} stopped early; best validation {metric} "
            f"{format_number(best.value or 0.0)} with {chosen}"
        )
        return Report(kind=self.kind, summary=summary, facts={"search": {"best": found, "trials": trials}})


@contextmanager
def _report_failure(trial: Trial, study: Study) -> Iterator[None]:
    """Report a failed trial to the study, and continue."""
    from optuna.trial import TrialState

    try:
        yield
    except StageError as error:
        log.warning("trial %d failed: %s", trial.number, error)
        trial.set_user_attr("failed", str(error))
        study.tell(trial, state=TrialState.FAIL)


def _prepare(stage: TrainStage, inner: RunContext) -> None:
    for notice in stage.list_notices(inner, alone=True):
        log.warning(notice)
    stage.prepare(inner)


def _create_trial_context(stage: TrainStage, number: int, ctx: RunContext) -> RunContext:
    """Return the context of a trial: a stage folder in the work folder of the search."""
    folder = ctx.work / "trials" / f"{number:04d}"
    (folder / ".work").mkdir(parents=True, exist_ok=True)
    file = read_stage(ctx.folder)
    made = {"settings": stage.model_dump(mode="json"), "neutral": stage.find_neutral()}
    update = {
        "name": f"{ctx.name}.{number}",
        "folders": {name: os.path.relpath(path, folder.parent) for name, path in ctx.inputs.items()},
        "identity": file.identity.model_copy(update=made),
    }
    write_atomically(folder / "stage.json", file.model_copy(update=update).model_dump_json())
    return replace(ctx, folder=folder)


def _get_next_trial(study: Study, search: Search, seed: int) -> Trial | None:
    """Return the interrupted trial, or a new one; None if all are done."""
    from optuna.trial import Trial, TrialState

    trials = study.get_trials(deepcopy=False)
    for each in trials:
        if each.state == TrialState.RUNNING:
            return Trial(study, each._trial_id)
    return _create_trial(study, search, seed) if len(trials) < search.trials else None


def _create_trial(study: Study, search: Search, seed: int) -> Trial:
    from optuna.samplers import TPESampler

    number = len(study.get_trials(deepcopy=False))
    study.sampler = TPESampler(
        seed=(seed + 7919 * number) % 2**32, n_startup_trials=_count_random_trials(search)
    )
    return study.ask({name: _create_distribution(values) for name, values in search.parameters.items()})


def _count_random_trials(search: Search) -> int:
    """Return the number of random trials before the sampler learns from them."""
    return min(STARTUP, search.trials // 2)


def _count_unpruned_trials(search: Search) -> int:
    """Return the number of first trials that are never pruned."""
    if search.prune == "median":
        return min(5, search.trials // 4)
    return search.trials if search.prune is False else 0


def _list_independent_trials(study: Study, search: Search, seed: int) -> list[Trial]:
    """Return the independent trials among the first that are not finished yet."""
    from optuna.trial import Trial, TrialState

    first = min(_count_random_trials(search), _count_unpruned_trials(search))
    while len(study.get_trials(deepcopy=False)) < first:
        _create_trial(study, search, seed)
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [Trial(study, each._trial_id) for each in running if each.number < first]


def _create_distribution(values: Range) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if values.choice is not None:
        return CategoricalDistribution(values.choice)
    low, high = values.ends
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=values.log is not None)
    return FloatDistribution(low, high, log=values.log is not None)


def _create_pruner(search: Search) -> BasePruner:
    from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner

    if search.prune == "hyperband":
        return HyperbandPruner()
    return (
        NopPruner()
        if search.prune is False
        else MedianPruner(n_startup_trials=_count_unpruned_trials(search))
    )


@contextmanager
def _open_study(path: Path, search: Search, *, maximize: bool) -> Iterator[Study]:
    """Open the study in an SQLite file, and close the file again."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.RDBStorage(f"sqlite:///{path.absolute()}")
    try:
        yield optuna.create_study(
            storage=storage,
            study_name="search",
            direction="maximize" if maximize else "minimize",
            pruner=_create_pruner(search),
            load_if_exists=True,
        )
    finally:
        storage.remove_session()
        storage.engine.dispose()
