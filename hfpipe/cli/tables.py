"""Tables in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hfpipe import number_format


def make_table(*columns: str) -> Table:
    """Return an empty table with these columns."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in columns:
        table.add_column(name, no_wrap=True)
    return table


def add_row(table: Table, *cells: str) -> None:
    """Add a row; markup and control characters in cells have no effect."""
    table.add_row(*(Text(number_format.make_visible(cell)) for cell in cells))  # a Text has no markup


def print_rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows below the names of their columns."""
    table = make_table(*head)
    for row in rows:
        add_row(table, *row)
    print_table(table)


def print_table(table: Table) -> None:
    """Print a table at full width; rich would truncate numbers to fit the 80 columns of a pipe.

    Lines end with their last character: a terminal would wrap the spaces after it, as empty lines.
    """
    console = Console()
    wanted = Console(width=10_000).measure(table).maximum
    wide = Console(width=max(console.width, wanted))
    for line in wide.render_lines(table, pad=False):
        text = Text.assemble(*((part.text, part.style or "") for part in line))
        text.rstrip()
        wide.print(text, soft_wrap=True)
