"""A run as one self-contained page: the verdict first, then the evidence."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from hfpipe import number_format
from hfpipe.errors import HfpipeError
from hfpipe.inspection.differences import compare_texts
from hfpipe.inspection.shown import MARKS
from hfpipe.reporting import sections
from hfpipe.reporting.blocks import Block
from hfpipe.reporting.fill_blocks import make_hidden_word_blocks
from hfpipe.reporting.leakage import (
    DUPLICATES,
    SCORES,
    SOURCES,
    StageLeakage,
    find_unsearched,
    join_equal,
    list_duplicates,
    read_stage_leakage,
)
from hfpipe.reporting.model_blocks import make_explanation_blocks, make_token_loss_blocks
from hfpipe.reporting.predictions import read_blocks
from hfpipe.reporting.training import read_trainings
from hfpipe.reporting.verdict import Verdict, read_verdict
from hfpipe.runs.run import Run
from hfpipe.store.artifacts import MODEL, get_predictions_path
from hfpipe.store.stage_names import is_copy

if TYPE_CHECKING:
    import pandas as pd

    from hfpipe.inspection.shown import ShownStage
    from hfpipe.runs.comparison import ComparisonRecord

TEMPLATES = Path(__file__).parent / "templates"


class CombinationTable(NamedTuple):
    """The copies of a stage that a matrix made."""

    stage: str
    summary: str
    trained: str
    """Description of the model of the first evaluated combination."""
    chart: str
    """Chart of the main score of each combination, if they were evaluated."""
    caption: str
    head: list[str]
    rows: list[list[str]]


class EvaluatedCopy(NamedTuple):
    """An evaluate stage that a matrix made."""

    stage: str
    tables: sections.Scores
    verdict: Verdict


class Evaluation(NamedTuple):
    """An evaluate stage on the page."""

    stage: str
    verdict: Verdict
    tables: sections.Scores
    model: str
    """Location of the model."""
    blocks: list[Block]
    speeds: list[tuple[str, ...]]
    """Main score, size and speed of each system, if they were timed."""
    unreadable: str
    """Reason why the predictions could not be read, empty if they could."""
    leakage: StageLeakage | None


def render_page(run: Run) -> str:
    """Return a complete HTML page; all texts are escaped, and it loads nothing."""
    scored = [stage for stage, report in run.reports.items() if report.scores]
    evaluations = [_read_evaluation(run, stage) for stage in scored if not is_copy(stage)]
    copies = [stage for stage in scored if is_copy(stage)]
    audits = [each.leakage for each in evaluations]
    audits += join_equal(read_stage_leakage(stage, run.reports[stage], None) for stage in copies)
    ledgers = (sections.read_ledger(stage, report) for stage, report in run.reports.items())
    return _render(
        "page.html.j2",
        title=_get_title(run),
        speed_head=number_format.SPEED_HEAD,
        evaluations=evaluations,
        matrices=_list_matrices(run),
        copies=[
            EvaluatedCopy(stage, _make_score_tables(run, stage), read_verdict(run, stage)) for stage in copies
        ],
        chain=sections.draw_stages(run) if run.reports else "",
        stages=sections.list_stage_lines(run),
        trained=read_trainings(run),
        searches=[
            (stage, report.summary, *number_format.format_trials(report))
            for stage, report in run.reports.items()
            if report.kind == "search"
        ],
        ledgers=[ledger for ledger in ledgers if ledger is not None],
        leakages=[audit for audit in audits if audit is not None],
        source_head=SOURCES,
        clean_head=SCORES,
        duplicates=(DUPLICATES, list_duplicates(run)),
        unsearched=find_unsearched(run),
        settings=sections.format_settings(run),
        versions=sections.list_versions(run),
        files=sections.list_files_read(run),
        made=sections.list_provenance(run),
        command=sections.format_rerun(run),
    )


def render_comparison(found: ComparisonRecord) -> str:
    """Return a page that compares several systems, created like `render_page`."""
    first, *others = found.systems
    corrected = f"; p corrected for {len(others)} comparisons (Holm)" if len(others) > 1 else ""
    lines = [
        f"{'; '.join(number_format.describe_verdict(found.scores[0]))}.",
        f"{found.n:,} rows that all were measured on; difference = {first} - the other{corrected}.",
        *(f"Left out: {rows:,} rows of {name}." for name, rows in found.left_out.items()),
    ]
    main = number_format.select_main_scores(found.scores)
    tables = sections.make_score_tables(found.scores, main, first)
    return _render("comparison.html.j2", title=", ".join(found.systems), lines=lines, tables=tables)


def render_rows(shown: ShownStage) -> str:
    """Return a page of rows as a stage reads them, created like `render_page`."""
    rows = [
        (row, [(name, *compare_texts(before, after)) for name, before, after in row.columns])
        for row in shown.rows
    ]
    return _render("rows.html.j2", title=f"{shown.stage}: {shown.split}", shown=shown, rows=rows, marks=MARKS)


def _list_matrices(run: Run) -> list[CombinationTable]:
    """Return the tables of a matrix, those of evaluations first."""
    found = [_read_matrix(run, stage) for stage, report in run.reports.items() if report.kind == "matrix"]
    return sorted(found, key=lambda each: "verdict" not in each.head)


def _read_matrix(run: Run, stage: str) -> CombinationTable:
    """Return the combinations as a table, with the verdict on each one that was evaluated."""
    report = run.reports[stage]
    head, rows = number_format.format_matrix(report)
    members = [row["stage"] for row in report.facts.get("matrix", [])]
    if not members or not all(member in run.reports and run.reports[member].scores for member in members):
        caption = "A row for each combination; scores are of the validation split"
        return CombinationTable(stage, report.summary, "", "", caption, head, rows)
    verdicts = [read_verdict(run, member) for member in members]
    rows = [[*row, verdict.title] for row, verdict in zip(rows, verdicts, strict=True)]
    scores = {member.partition("@")[2]: run.reports[member].scores[0] for member in members}
    chart = sections.draw_combinations(scores)
    caption = "A row for each combination, with 95 % intervals"
    trained = f"{len(members)} models. The first one: {verdicts[0].trained}"
    return CombinationTable(stage, report.summary, trained, chart, caption, [*head, "verdict"], rows)


def _read_evaluation(run: Run, stage: str) -> Evaluation:
    report, tables = run.reports[stage], _make_score_tables(run, stage)
    frame, unreadable = _read_predictions(run, stage)
    return Evaluation(
        stage,
        read_verdict(run, stage),
        tables,
        run.model(stage),
        list(_make_blocks(run, stage, frame)),
        number_format.make_speed_rows(report),
        unreadable,
        read_stage_leakage(stage, report, frame),
    )


def _make_score_tables(run: Run, stage: str) -> sections.Scores:
    return sections.make_score_tables(run.reports[stage].scores, run.main_scores(stage), MODEL)


def _read_predictions(run: Run, stage: str) -> tuple[pd.DataFrame | None, str]:
    """Return the predictions of a stage, or why they cannot be read; the scores are shown anyway."""
    system = next(iter(run.reports[stage].facts.get("trainings", {}).get(MODEL, [])), MODEL)
    if not get_predictions_path(run.folders[stage], system).is_file():
        return None, ""
    try:
        return run.predictions(stage, system), ""
    except HfpipeError as error:
        return None, str(error)


def _make_blocks(run: Run, stage: str, frame: pd.DataFrame | None) -> Iterator[Block]:
    yield from make_hidden_word_blocks(run.fills(stage))
    if frame is not None:
        yield from read_blocks(frame)
        yield from make_explanation_blocks(run.explanations(stage))
    yield from make_token_loss_blocks(run.reports[stage].facts)


def _get_title(run: Run) -> str:
    folder = next(iter(run.folders.values()), None)
    return folder.resolve().parent.name if folder is not None else "hfpipe"


def _render(template: str, **values: Any) -> str:
    text = _create_environment().get_template(template).render(**values)
    return number_format.make_lines_visible(text)


@cache
def _create_environment() -> Environment:
    """Return the environment that compiles and caches the templates."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["spread_head"] = number_format.SPREAD
    environment.filters["score"] = number_format.format_number
    environment.filters["svg"] = Markup  # charts escape the texts in them
    return environment
