"""The main score of each evaluation in the format of the Hub: `.eval_results/STAGE.yaml`."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import yaml

from hfpipe.number_format import format_interval
from hfpipe.references.places import Place
from hfpipe.reporting.model_card import find_evaluations
from hfpipe.store.store import read_report, read_stage

FOLDER = ".eval_results"
DEFAULT_TASK = "default"
"""Name of a benchmark's task if its configuration has none."""


def create_result_files(folder: Path) -> dict[str, str]:
    """Return the files of results of a trained stage's evaluations, by their path in the repository.

    Results on the Hub refer to a data set of the Hub, so evaluations on other data have no file; the card
    contains their scores too.
    """
    found = {}
    for name, path in find_evaluations(folder).items():
        if (text := _create_entry(path)) is not None:
            found[f"{FOLDER}/{name}.yaml"] = text
    return found


def _create_entry(evaluation: Path) -> str | None:
    """Return the main score of an evaluation as YAML; None if its data are not from the Hub."""
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    made, report = read_stage(evaluation), read_report(evaluation)
    data = Place(str(made.identity.settings.get("data", ""))).stage
    other = evaluation.parent / made.folders[data] if data in made.folders else None
    source = read_stage(other).identity.settings.get("source", {}) if other is not None else {}
    if not report.scores or not source.get("hub"):
        return None
    score = report.scores[0]
    written = datetime.fromtimestamp((evaluation / "report.json").stat().st_mtime, tz=timezone.utc)
    split = made.identity.settings.get("split")
    interval = format_interval(score.value, score.low, score.high)
    entry = EvalResultEntry(
        dataset_id=source["hub"],
        task_id=source.get("config") or DEFAULT_TASK,
        value=score.value,
        dataset_revision=source.get("revision"),
        date=written.strftime("%Y-%m-%dT%H:%M:%SZ"),
        notes=f"{score.metric} {interval} on {score.n:,} rows of {split} (hfpipe's split); {score.signature}",
    )
    return yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False, allow_unicode=True)
