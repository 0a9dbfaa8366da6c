"""The README.md of a trained stage: a model card in the format of the Hub, created without network.

A card is written when its stage is finished, and again after an evaluation of the model. A comment at its end
contains a digest of its sources and a digest of its text: a card that is up to date or was edited is not
changed.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from hfpipe import number_format
from hfpipe.errors import StageError
from hfpipe.references.places import Place
from hfpipe.reporting.sections import list_score_lines
from hfpipe.reporting.verdict import describe_model, name_place, read_verdict
from hfpipe.runner import PlannedStage
from hfpipe.runs.run import Run, read_run
from hfpipe.stages.evaluate import Evaluate
from hfpipe.stages.repeats.members import find_members
from hfpipe.store.artifacts import CARD, MODEL, TRAINED
from hfpipe.store.files import write_atomically
from hfpipe.store.stage_names import make_folder_name
from hfpipe.store.store import StageFile, read_stage

FORM = 1
"""Version of the format; raise it if the same stages give another card."""
TEMPLATE = Path(__file__).parent / "templates" / "card.md.j2"
STAMP = re.compile(r"<!-- hfpipe ([0-9a-f]{16}) ([0-9a-f]{16}) -->")
SECRET = re.compile("token|password|secret|api_key|credential", re.IGNORECASE)
"""Settings whose names contain one of these are not shown."""
SOURCES = ("hub", "files", "package", "python", "stage")


class CardEvaluation(NamedTuple):
    """An evaluation of the model, as the card shows it."""

    stage: str
    title: str
    measured: str
    rows: list[list[str]]


def write_card(step: PlannedStage, licences: Mapping[str, str], say: Callable[[str], None]) -> None:
    """Update the model card of a trained or evaluated model; an error here does not fail the run."""
    model = step.stage.model.stage if isinstance(step.stage, Evaluate) else None
    if step.stage.kind in TRAINED:
        folder = step.folder
    elif model is not None:
        folder = step.folder.parent / make_folder_name(model, step.identity.inputs[model])
    else:
        return
    try:
        for trained in find_members(folder).values() or [folder]:
            refresh_card(trained, licences)
    except Exception as error:  # the stage is finished, and the next ones need no card
        say(f"{step.name}: the model card could not be written ({type(error).__name__}: {error})")


def refresh_card(folder: Path, licences: Mapping[str, str]) -> bool:
    """Write the card of a finished training stage where it is missing or out of date; return whether it was.

    `licences` has the licence of each stage for which the recipe names one. Raises StageError when a stage
    that it needs is damaged, OSError when the card cannot be written. A README.md of another origin is left.
    """
    made = read_stage(folder)
    evaluations = find_evaluations(folder)
    digest = _digest_reports(folder, evaluations, licences)
    path = folder / CARD
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    found = STAMP.search(before)
    if before and (found is None or found[1] == digest or found[2] != _digest_text(before)):
        return False  # not by hfpipe, up to date, or edited
    write_atomically(path, _fill_stamp(_render_card(folder, made, evaluations, licences), digest))
    return True


def find_evaluations(folder: Path) -> dict[str, Path]:
    """Return the newest finished evaluation of the model under each name."""
    found = []
    for report in folder.parent.glob("*/report.json"):
        with suppress(StageError):  # a damaged folder is reported by the stage that needs it
            other = read_stage(report.parent)
            settings = other.identity.settings
            model = Place(str(settings.get("model"))).stage if settings.get("kind") == "evaluate" else None
            measured = folder.parent / other.folders.get(model or "", "")
            if model is not None and folder in (measured, *find_members(measured).values()):
                found.append((report.stat().st_mtime, other.name, report.parent))
    return {name: path for _, name, path in sorted(found)}


def _digest_reports(folder: Path, evaluations: Mapping[str, Path], licences: Mapping[str, str]) -> str:
    reports = [path / "report.json" for path in (folder, *evaluations.values())]
    contents = [hashlib.sha256(path.read_bytes()).hexdigest() for path in reports]
    text = json.dumps([FORM, contents, sorted(licences.items())])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _digest_text(card: str) -> str:
    return hashlib.sha256(STAMP.sub("", card, count=1).encode()).hexdigest()[:16]


def _fill_stamp(card: str, digest: str) -> str:
    """Fill in the stamp, which the template leaves empty."""
    empty = f"<!-- hfpipe {digest} {'0' * 16} -->"
    card = card.replace("<!-- hfpipe -->", empty, 1)
    return card.replace(empty, f"<!-- hfpipe {digest} {_digest_text(card)} -->", 1)


def _render_card(
    folder: Path, made: StageFile, evaluations: Mapping[str, Path], licences: Mapping[str, str]
) -> str:
    from huggingface_hub import ModelCard

    run = _open_stage(folder, made, evaluations)
    stage, settings = made.name, made.identity.settings
    facts, task = run.reports[stage].facts, settings.get("task") or {}
    verdicts = {name: read_verdict(run, name) for name in evaluations if run.reports[name].scores}
    limits = [text for verdict in verdicts.values() for text in verdict.limits]
    scores = (f"{name} {value:.4g}" for name, value in facts.get("validation", {}).items() if "[" not in name)
    versions = (f"{library} {version}" for library, version in run.reports[stage].versions.items())
    card = ModelCard.from_template(
        _make_metadata(run, stage, task, licences),
        template_path=str(TEMPLATE),
        stamp="<!-- hfpipe -->",
        title=_escape_markdown(f"{folder.resolve().parent.name}: {stage}"),
        about=_escape_markdown(describe_model(run, f"stage:{stage}")),
        pipeline=facts.get("pipeline"),
        data=[[_escape_markdown(cell) for cell in row] for row in _list_data(run, made, licences)],
        model_licence=_escape_markdown(
            licences.get(stage) or "not named in the recipe (licence: of the stage)"
        ),
        training=[(name, _escape_markdown(value)) for name, value in _list_training(run, stage)],
        settings=number_format.make_lines_visible(_format_settings(settings)).replace("```", "'''"),
        evaluations=[_describe_evaluation(run, name, verdicts[name]) for name in verdicts],
        validation=_escape_markdown(", ".join(scores)),
        limits=[_escape_markdown(limit) for limit in dict.fromkeys(limits)],
        stage=_escape_markdown(stage),
        seed=made.identity.seed,
        key=made.identity.key,
        versions=_escape_markdown(", ".join(versions)),
    )
    return str(card).rstrip() + "\n"


def _open_stage(folder: Path, made: StageFile, evaluations: Mapping[str, Path]) -> Run:
    """Return the stage with the stages that it reads and its evaluations."""
    folders = {name: folder.parent / other for name, other in made.folders.items()}
    for path in evaluations.values():
        folders |= {name: folder.parent / other for name, other in read_stage(path).folders.items()}
    return read_run({**folders, made.name: folder, **evaluations})


def _make_metadata(run: Run, stage: str, task: Mapping[str, Any], licences: Mapping[str, str]) -> Any:
    from huggingface_hub import ModelCardData

    settings = run.made(stage).identity.settings
    base, hub = settings.get("model"), None
    data = Place(str(settings.get("data", ""))).stage
    if data in run.folders:
        hub = run.made(data).identity.settings.get("source", {}).get("hub")
    adapter = settings.get("adapter")
    return ModelCardData(
        license=licences.get(stage),
        library_name="peft" if adapter and not adapter.get("merge") else "transformers",
        pipeline_tag=run.reports[stage].facts.get("pipeline"),
        tags=["hfpipe", *([task["kind"]] if task.get("kind") else [])],
        base_model=base if isinstance(base, str) and Place(base).hub else None,
        datasets=[hub] if hub else None,
    )


def _list_data(run: Run, made: StageFile, licences: Mapping[str, str]) -> Iterator[tuple[str, ...]]:
    for name in made.folders:
        report = run.reports.get(name)
        if report is None or report.data is None:
            continue
        source = run.made(name).identity.settings.get("source", {})
        origin = next((f"{kind}: {source[kind]}" for kind in SOURCES if source.get(kind)), "")
        splits = ", ".join(f"{split} {rows:,}" for split, rows in report.data.splits.items())
        yield name, origin, splits, licences.get(name) or "not named in the recipe"


def _list_training(run: Run, stage: str) -> Iterator[tuple[str, str]]:
    report, settings = run.reports[stage], run.made(stage).identity.settings
    base = settings.get("model")
    start = f"scratch ({base.get('type')})" if isinstance(base, Mapping) else name_place(base)
    yield "started from", start
    for key in ("parameters", "trained_parameters", "steps", "examples_a_step", "tokens"):
        if key in report.facts:
            yield key.replace("_", " "), f"{report.facts[key]:,}"
    if report.kind == "export":
        yield "exported as", f"{settings['format']}, quantized: {settings['quantize']}"
    else:
        yield "precision", "bfloat16" if report.facts.get("bf16") else "float32 or as set below"
    yield "time", number_format.format_duration(report.seconds)


def _format_settings(settings: Mapping[str, Any]) -> str:
    """Return the settings of the training as YAML, without possible secrets."""
    names = ("task", "model", "tokenizer", "training", "adapter", "early_stopping")
    shown = {name: _remove_secrets(settings[name]) for name in names if settings.get(name)}
    return yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)


def _remove_secrets(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _remove_secrets(each) for name, each in value.items() if not _is_secret(name, each)}
    return [_remove_secrets(each) for each in value] if isinstance(value, list) else value


def _is_secret(name: str, value: Any) -> bool:
    return isinstance(value, str) and SECRET.search(str(name)) is not None


def _describe_evaluation(run: Run, stage: str, verdict: Any) -> CardEvaluation:
    lines = list_score_lines(run.main_scores(stage), MODEL)
    cells = [(each.metric, each.system, each.value, each.difference, each.p_value) for each in lines]
    rows = [[_escape_markdown(cell) for cell in row] for row in cells]
    return CardEvaluation(
        _escape_markdown(stage), _escape_markdown(verdict.title), _escape_markdown(verdict.measured), rows
    )


def _escape_markdown(text: str) -> str:
    """Return a text on one line, escaped for Markdown."""
    shown = html.escape(number_format.make_visible(text), quote=False)
    return re.sub(r"([\\`*_\[\]|#])", r"\\\1", shown)
