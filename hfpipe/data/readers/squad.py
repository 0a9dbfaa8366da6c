"""Reads the original files of SQuAD 1.1 and 2.0: articles with paragraphs with questions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hfpipe.data.rows import Row
from hfpipe.errors import DataError


def is_squad(data: Any) -> bool:
    """Return whether decoded JSON has SQuAD's format: `data` is a list of articles with paragraphs."""
    articles = data.get("data") if isinstance(data, Mapping) else None
    return isinstance(articles, list) and any(
        isinstance(article, Mapping) and isinstance(article.get("paragraphs"), list) for article in articles
    )


def read_squad(data: Mapping[str, Any], name: str) -> Iterator[Row]:
    """Yield one row per question: id, question, context and answers {text, answer_start}.

    These are the columns of `rajpurkar/squad` and `squad_v2`, except for the title of the article. A question
    without an answer (`is_impossible`) has empty lists; its `plausible_answers` are ignored.
    Raises DataError for a question without the keys of SQuAD, and for a contradictory one.
    """
    number = 0
    for article in data["data"]:
        for paragraph in _get_list(article, "paragraphs", f"{name}, after question {number}"):
            for question in _get_list(paragraph, "qas", f"{name}, after question {number}"):
                number += 1
                yield Row(
                    _read_question(question, paragraph, f"{name}, question {number}"),
                    f"{name}, question",
                    number,
                )


def _read_question(question: Any, paragraph: Mapping[str, Any], place: str) -> dict[str, Any]:
    answers = _get_list(question, "answers", place)
    if question.get("is_impossible") is True and answers:
        raise DataError(f"{place}: has answers and `is_impossible: true`; correct one of them")
    return {
        "id": _get(question, "id", place),
        "question": _get(question, "question", place),
        "context": _get(paragraph, "context", place),
        "answers": {
            key: [_get(answer, key, place) for answer in answers] for key in ("text", "answer_start")
        },
    }


def _get_list(value: Any, key: str, place: str) -> list[Any]:
    found = _get(value, key, place)
    if not isinstance(found, list):
        raise DataError(f"{place}: {key!r} is {found!r:.40}, not a list, as it is in a SQuAD file; fix it")
    return found


def _get(value: Any, key: str, place: str) -> Any:
    if not isinstance(value, Mapping) or key not in value:
        raise DataError(f"{place}: there is no {key!r}, which a SQuAD file has here; fix it, or name `field`")
    return value[key]
