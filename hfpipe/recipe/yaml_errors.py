"""Rewrites PyYAML's syntax errors in plain English."""

from __future__ import annotations

import re

import yaml

_PLAIN = (
    (r"'\\t'", "a tab is not allowed here; indent with spaces"),
    (
        r"expected <block end>, but found",
        "this line is not indented as the lines before it; lines of one mapping or list begin in one column",
    ),
    (
        r"mapping values are not allowed here",
        "there is a second ': ' on this line, or it is indented too far, or the key before it has no ':'; "
        "put a text that holds ': ' in quotes",
    ),
    (
        r"could not find expected ':'",
        "a key has no ':' after it; write `key: value`, and indent every line of a mapping alike",
    ),
    (r"found unexpected end of stream", "a quote is opened and never closed; close it"),
    (
        r"found unexpected document separator",
        "a quote or bracket is still open where the document ends; close it",
    ),
    (
        r"cannot start any token",
        "a value cannot begin with this character; put the text in quotes",
    ),
    (r"expected the node content", "a value is missing here; write one, or delete its key or '-'"),
)
"""Pattern of PyYAML's message → an explanation for users who do not know YAML's grammar."""


def describe_yaml_error(error: yaml.MarkedYAMLError) -> str:
    """Return a one-line explanation of a PyYAML error."""
    problem = str(error.problem)
    if "single document" in str(error.context):
        return "broken YAML: a recipe is one document; remove the second '---'"
    for pattern, words in _PLAIN:
        if re.search(pattern, problem):
            return f"broken YAML: {words}{_describe_begin(error)}"
    problem = problem.replace("'<stream end>'", "the end of the file")
    return f"broken YAML: {problem}{_describe_begin(error)}"


def _describe_begin(error: yaml.MarkedYAMLError) -> str:
    """Return where the construct begins, if it begins on another line."""
    if error.context is None or error.context_mark is None:
        return ""
    line = error.context_mark.line
    if line == getattr(error.problem_mark, "line", None):
        return ""
    what = re.sub(r"^while (parsing|scanning) (an? )?", "", error.context)
    what = what.replace("flow ", "").replace("sequence", "list")
    what = {
        "simple key": "key",
        "block collection": "list",
        "block mapping": "mapping",
        "quoted scalar": "text",
    }.get(what, what)
    return f" ({what} that begins on line {line + 1})"
