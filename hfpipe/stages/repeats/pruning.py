"""Reports the scores of a trial during training, and stops unpromising trials."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfpipe.errors import StageError
from hfpipe.store.artifacts import read_metrics

if TYPE_CHECKING:
    from optuna import Trial

PRUNED = "stopped"
"""Attribute of a trial that was stopped early, stored in case of an interruption."""


class TrialScores:
    """Reports the validation scores of a trial to Optuna."""

    def __init__(self, trial: Trial, metric: str, *, prunes: bool) -> None:
        self._trial, self._name, self._prunes = trial, f"eval_{metric}", prunes

    def observe(self, number: int, scores: Mapping[str, Any], last: bool) -> bool:
        """Report the score of an evaluation; return whether to stop the training."""
        value = scores.get(self._name)
        if not isinstance(value, (int, float)):
            return False
        if (
            number not in self._recorded_trial.intermediate_values
        ):  # reported before, if an interrupted trial resumed
            self._trial.report(float(value), number)
        if not self._prunes or last or not self._trial.should_prune():
            return False
        self._trial.set_user_attr(PRUNED, True)
        return True

    def repeat(self, folder: Path) -> None:
        """Report the scores of the training that another process has logged, without stopping."""
        evaluations = [entry for entry in read_metrics(folder) if "eval_runtime" in entry]
        for number, scores in enumerate(evaluations, 1):
            self.observe(number, scores, last=True)

    @property
    def _recorded_trial(self) -> Any:
        return self._trial.study.get_trials(deepcopy=False)[self._trial.number]

    @property
    def pruned(self) -> bool:
        """Whether the trial was stopped early."""
        return PRUNED in self._recorded_trial.user_attrs

    def get_final_score(self, folder: Path) -> float:
        """Return the last score of a training that has ended. Raises StageError when there is none."""
        values = [entry[self._name] for entry in read_metrics(folder) if self._name in entry]
        if not values or values[-1] is None:
            name = self._name.removeprefix("eval_")
            raise StageError(f"the training had no {name} on the validation split; set eval_steps")
        return float(values[-1])
