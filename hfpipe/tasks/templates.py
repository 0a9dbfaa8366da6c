"""Templates: texts with names of columns in braces, and the columns that they read."""

from __future__ import annotations

from string import Formatter


def columns_of(template: str) -> tuple[str, ...]:
    """Return the columns that a template names, each once. Raises ValueError where it names none rightly."""
    try:
        names = [name for _, name, *_ in Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ValueError(f"{error}; write {{{{ for a brace") from None
    if not names or "" in names:
        raise ValueError("name a column in braces, as {text}; write {{ for a brace")
    return tuple(dict.fromkeys(names))
