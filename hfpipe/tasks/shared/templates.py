"""Templates: texts with column names in braces."""

from __future__ import annotations

from collections.abc import Mapping
from string import Formatter
from typing import Any

from hfpipe.tokenization.text import Format


def format_template(template: str, row: Mapping[str, Any]) -> list[str]:
    """Return `template.format(**row)` in parts; only the text of the template itself is `Format`."""
    parts: list[str] = []
    for text, name, spec, conversion in Formatter().parse(template):
        parts.append(Format(text))
        if name is not None:
            field = f"{{{name}{f'!{conversion}' if conversion else ''}{f':{spec}' if spec else ''}}}"
            parts.append(field.format(**row))
    return parts


def find_template_columns(template: str) -> tuple[str, ...]:
    """Return the columns that a template names, each once. Raises ValueError for an invalid template."""
    try:
        names = [name for _, name, *_ in Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ValueError(f"{error}; write {{{{ for a literal brace") from None
    if not names or "" in names:
        raise ValueError("name a column in braces, as {text}; write {{ for a literal brace")
    return tuple(dict.fromkeys(names))
