"""Rows of a stage in a terminal, with colours and marks that have the same meaning."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from rich.console import Console
from rich.text import Text

from hfpipe.inspection.differences import TextPart, compare_texts
from hfpipe.inspection.shown import Mark, ShownExample, ShownRow, ShownSequence, ShownStage, ShownToken
from hfpipe.number_format import make_lines_visible, make_visible

STYLES: dict[Mark, str] = {"target": "green", "masked": "bold yellow", "ignored": "", "padding": "dim"}
OPENS = "║"
"""Mark of the beginning of a document."""
TEMPLATE_LINES = 12
"""Maximum number of lines of a template that are shown."""
LEGEND = "⟦learned⟧  ⟦read→learned in its place⟧  read, not learned  ░padding × n░  ║ a document begins"


def show_rows(shown: ShownStage) -> None:
    """Print the rows of a stage: tokens and their targets, or texts before and after cleaning."""
    _print(Text(f"{shown.stage}: {shown.kind}, {shown.split}", style="bold"))
    for name, value in shown.facts:
        _print(Text(f"{name}: {make_visible(value)}"))
    for name, text in shown.templates:
        _print(Text(f"{name}:"))
        _print(Text(_shorten_template(text), style="dim"))
    if shown.examples:
        _print(Text(LEGEND, style="dim"))
    for example in shown.examples:
        _print_lines(_format_example(example))
    for row in shown.rows:
        _print_lines(_format_row(row))


def _print(line: Text) -> None:
    Console().print(line, soft_wrap=True)


def _print_lines(lines: Iterable[Text]) -> None:
    for line in lines:
        _print(line)


def _format_example(example: ShownExample) -> Iterator[Text]:
    yield Text(f"\n{make_visible(example.title)}", style="bold")
    for name, value in example.targets:
        yield Text.assemble(f"{name}: ", (f"⟦{make_visible(value)}⟧", STYLES["target"]))
    for sequence in example.sequences:
        yield _format_tokens(sequence)


def _shorten_template(text: str) -> str:
    lines = make_lines_visible(text).split("\n")
    more = len(lines) - TEMPLATE_LINES
    rest = [f"    … {more} more lines, in full with --format html"] if more > 0 else []
    return "\n".join([*(f"    {line}" for line in lines[:TEMPLATE_LINES]), *rest])


def _format_tokens(sequence: ShownSequence) -> Text:
    """Return tokens with marks around each run of one kind."""
    line = Text(f"{sequence.name}: " if sequence.name else "")
    for (mark, _), group in groupby(sequence.tokens, key=lambda token: (token.mark, bool(token.target))):
        line.append_text(_format_group(mark, list(group)))
        line.append(" ")
    return line


def _format_group(mark: Mark, tokens: Sequence[ShownToken]) -> Text:
    style = STYLES[mark]
    if mark == "padding":
        return Text(f"░{make_visible(tokens[0].text) or 'padding'} × {len(tokens)}░", style=style)
    found = Text()
    if not any(token.target for token in tokens):
        found.append_text(_join_tokens(tokens))
        found.stylize(style)
        return found if mark == "ignored" else Text.assemble("⟦", found, "⟧")
    for number, token in enumerate(tokens):
        opening = f"{OPENS} " if token.opens else ""
        found.append(
            f"{' ' if number else ''}{opening}⟦{make_visible(token.text)}→{make_visible(token.target)}⟧",
            style,
        )
    return found


def _join_tokens(tokens: Iterable[ShownToken]) -> Text:
    parts = [
        f"{OPENS} {make_visible(token.text)}" if token.opens else make_visible(token.text) for token in tokens
    ]
    return Text(" ".join(parts))


def _format_row(row: ShownRow) -> Iterator[Text]:
    about = "; ".join(filter(None, (row.split, *row.steps)))
    yield Text(f"\n{row.outcome}: {make_visible(row.place)}" + (f" ({about})" if about else ""), style="bold")
    for name, before, after in row.columns:
        old, new = compare_texts(before, after)
        yield _format_parts(f"{name}, before: " if row.outcome == "changed" else f"{name}: ", old)
        if row.outcome == "changed":
            yield _format_parts(f"{name}, after:  ", new)


def _format_parts(name: str, parts: Iterable[TextPart]) -> Text:
    line = Text(make_visible(name))
    for part in parts:
        text = make_visible(part.text.replace("\n", "\\n"))
        marked = {"": text, "removed": f"⟦-{text}-⟧", "added": f"⟦+{text}+⟧"}[part.change]
        line.append(marked, {"": "", "removed": "red", "added": "green"}[part.change])
    return line
