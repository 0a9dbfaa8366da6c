"""Blocks about tags, answers and generated texts with their references, and about the loss of texts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any

from hfpipe.reporting.blocks import (
    CHARACTERS,
    EXAMPLES,
    Block,
    Example,
    Span,
    clip_text,
    get_inputs,
    holds_lists,
    holds_texts,
)
from hfpipe.reporting.charts import Curve, draw_curves, draw_histogram

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

GROUPS = 10
"""Number of groups of rows by length."""
COMPARED = 20_000
"""Maximum number of rows that are compared with the reference to find the best and the worst."""


def make_tag_blocks(frame: pd.DataFrame) -> Iterator[Block]:
    """Yield the sentences with the most wrong tags."""
    import numpy as np

    words = [name for name in frame.attrs.get("inputs", []) if holds_lists(frame[name].iloc[0])]
    if (
        not words
        or "reference" not in frame
        or not holds_lists(frame["reference"].iloc[0])
        or not holds_lists(frame["prediction"].iloc[0])
    ):
        return
    wrong = np.array(
        [_count_differences(*pair) for pair in zip(frame["reference"], frame["prediction"], strict=True)]
    )
    worst = [int(number) for number in np.argsort(-wrong, kind="stable")[:EXAMPLES] if wrong[number]]
    note = (
        f"{(wrong > 0).sum():,} of {len(wrong):,} sentences have a word whose tag is wrong; those with most."
    )
    yield Block(
        "Sentences with mistakes",
        note,
        examples=[_make_tag_example(frame.iloc[number], words[0]) for number in worst],
    )


def _count_differences(reference: Sequence[str], prediction: Sequence[str]) -> int:
    return sum(a != b for a, b in zip(reference, prediction, strict=False))


def _make_tag_example(row: Any, words: str) -> Example:
    answers = []
    for title, column, other in (
        ("predicted", "prediction", "reference"),
        ("reference", "reference", "prediction"),
    ):
        spans = []
        for word, tag, against in zip(row[words], row[column], row[other], strict=False):
            if tag == against:
                kind = "" if tag == "O" else "same"
            else:
                kind = "wrong" if column == "prediction" else "right"
            spans += [Span(f"{word} [{tag}]" if kind else str(word), kind), Span(" ")]
        answers.append((title, spans))
    return Example([], answers)


def make_answer_blocks(frame: pd.DataFrame) -> Iterator[Block]:
    """Yield the most confident wrong answers to questions, marked in their contexts."""
    import numpy as np

    inputs = frame.attrs.get("inputs", [])
    if not {"start", "end", "prediction", "reference", "score"} <= set(frame) or len(inputs) < 2:
        return
    pairs = zip(frame["prediction"], frame["reference"], strict=True)
    right = np.array([given in list(accepted) or not (given or len(accepted)) for given, accepted in pairs])
    order = np.argsort(np.where(right, -np.inf, frame["score"].to_numpy()))[::-1][:EXAMPLES]
    examples = [_make_answer_example(frame, int(number), inputs[-1]) for number in order if not right[number]]
    note = f"{right.sum():,} of {len(right):,} answers are exactly one of the accepted ones."
    yield Block("Most confident wrong answers", note, examples=examples)


def _make_answer_example(frame: pd.DataFrame, number: int, context_column: str) -> Example:
    row = frame.iloc[number]
    start, end, context = int(row["start"]), int(row["end"]), str(row[context_column])
    around = CHARACTERS // 2
    begin, stop = max(0, start - around), min(len(context), max(end, start) + around)
    spans = [
        Span(("…" if begin else "") + context[begin:start]),
        Span(context[start:end], "wrong"),
        Span(context[end:stop] + ("…" if stop < len(context) else "")),
    ]
    found = " / ".join(map(str, row["reference"])) or "no answer"
    inputs = [(name, spans) for name, spans in get_inputs(frame, row) if name != context_column]
    answers = [
        ("predicted", [Span(f"{row['prediction'] or 'no answer'} ({row['score']:.3f})", "wrong")]),
        ("reference", [Span(found, "right")]),
    ]
    return Example([*inputs, (context_column, spans)], answers)


def make_output_blocks(frame: pd.DataFrame) -> Iterator[Block]:
    """Yield the texts that share most and fewest words with the reference, with marked differences."""
    import numpy as np

    if (
        "scores" in frame
        or "start" in frame
        or not holds_texts(frame, "prediction")
        or not holds_texts(frame, "reference")
    ):
        return
    some = np.unique(np.linspace(0, len(frame) - 1, COMPARED).astype(int))
    found = frame.iloc[some]
    shared = np.array(
        [_compute_overlap(*pair) for pair in zip(found["prediction"], found["reference"], strict=True)]
    )
    order = np.argsort(shared, kind="stable")
    differs = (found["prediction"] != found["reference"]).to_numpy()
    inexact = [int(number) for number in order if differs[number]]
    exact = (frame["prediction"] == frame["reference"]).mean()  # of all rows, not only the compared ones
    note = f"{exact:.1%} of the outputs are the reference exactly. Marked: words that the other text lacks."
    if inexact:
        worst = [_make_output_example(found, number) for number in inexact[:EXAMPLES]]
        yield Block("Worst outputs", note, examples=worst)
    title = "Best outputs that are not exact" if inexact else "Outputs"
    best = inexact[::-1] or order[::-1].tolist()
    yield Block(
        title, note, examples=[_make_output_example(found, number) for number in best[: EXAMPLES // 2]]
    )


def _compute_overlap(prediction: str, reference: str) -> float:
    """Return the F1 of the shared words of two texts, with multiplicity."""
    first, second = Counter(_split_words(prediction)), Counter(_split_words(reference))
    both = (first & second).total()
    return 2 * both / (first.total() + second.total()) if both else float(prediction == reference)


def _split_words(text: str) -> list[str]:
    """Return the words of a text with trailing spaces, or its characters if it has no spaces."""
    return re.findall(r"\S+\s*", text) if " " in text else list(text)


def _make_output_example(frame: pd.DataFrame, number: int) -> Example:
    row = frame.iloc[number]
    answers = [
        ("predicted", list(mark_differences(row["prediction"], row["reference"], "wrong"))),
        ("reference", list(mark_differences(row["reference"], row["prediction"], "right"))),
    ]
    return Example(get_inputs(frame, row), answers)


def mark_differences(text: str, other: str, kind: str) -> Iterator[Span]:
    """Yield a text in parts; parts that are not in the other text in this order are marked with `kind`."""
    if not text:
        yield Span("(empty)", kind)
    mine, theirs = _split_words(clip_text(text)), _split_words(clip_text(other))
    same = SequenceMatcher(None, [word.strip() for word in mine], [word.strip() for word in theirs], False)
    for what, start, end, _, _ in same.get_opcodes():
        if end > start:
            yield Span("".join(mine[start:end]), "" if what == "equal" else kind)


def make_loss_blocks(frame: pd.DataFrame) -> Iterator[Block]:
    """Yield the distribution of the loss over rows, and the texts with the highest and lowest loss."""
    import numpy as np

    if "nll" not in frame or "tokens" not in frame or "prediction" in frame:
        return
    loss = frame["nll"].to_numpy(float) / np.maximum(frame["tokens"].to_numpy(float), 1)
    counted = np.flatnonzero((frame["tokens"].to_numpy() > 0) & np.isfinite(loss))
    if not len(counted):
        return
    counts, edges = np.histogram(loss[counted], bins=24)
    picture = draw_histogram(counts.tolist(), edges.tolist(), "loss of a row (nats per token)", "rows")
    yield Block("Loss by row", f"Median {np.median(loss[counted]):.3f} nats per token.", picture=picture)
    if by_length := _draw_loss_by_length(frame["tokens"].to_numpy()[counted], loss[counted]):
        yield Block("Loss by length", picture=by_length)
    order = counted[np.argsort(loss[counted], kind="stable")]
    yield Block(
        "Hardest texts",
        examples=[_make_loss_example(frame, int(number), loss) for number in order[::-1][: EXAMPLES // 2]],
    )
    yield Block(
        "Easiest texts",
        examples=[_make_loss_example(frame, int(number), loss) for number in order[: EXAMPLES // 2]],
    )


def _draw_loss_by_length(tokens: np.ndarray, loss: np.ndarray) -> str:
    """Return the mean loss by number of tokens, in groups of equally many rows; empty with too few rows."""
    import numpy as np

    groups = [group for group in np.array_split(np.argsort(tokens, kind="stable"), GROUPS) if len(group) > 1]
    if len(groups) < GROUPS or tokens.min() == tokens.max():
        return ""
    points = [(float(tokens[group].mean()), float(loss[group].mean())) for group in groups]
    return draw_curves([Curve("mean of a tenth of the rows", points)], "tokens of a row", "nats per token")


def _make_loss_example(frame: pd.DataFrame, number: int, loss: np.ndarray) -> Example:
    row = frame.iloc[number]
    sentence = f"{loss[number]:.3f} nats per token over {int(row['tokens']):,} tokens"
    return Example(get_inputs(frame, row), [("loss", [Span(sentence)])])
