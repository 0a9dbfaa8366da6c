"""Blocks of the page about predicted classes, labels and numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from hfpipe.reporting import diagrams
from hfpipe.reporting.blocks import (
    EXAMPLES,
    Block,
    Example,
    Matrix,
    Span,
    get_inputs,
    holds_lists,
    holds_texts,
)
from hfpipe.reporting.charts import draw_scatter

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

CLASSES = 20
"""Maximum number of classes of a complete confusion matrix; with more, the most frequent confusions are
shown."""
BINS = 10
"""Number of confidence bins in the reliability diagram."""
DOTS = 400
"""Maximum number of rows in a scatter plot."""
LEVELS = 10
"""Number of shades of cells of the confusion matrix."""
Z = 1.959964
"""Standard normal quantile of a 95 % interval."""


def _stack_scores(frame: pd.DataFrame) -> np.ndarray | None:
    import numpy as np

    if "scores" not in frame or "scores" not in frame.attrs.get("classes", {}):
        return None
    return np.stack(frame["scores"].to_list()).astype(np.float64)


def make_class_blocks(frame: pd.DataFrame) -> Iterator[Block]:
    """Yield confusions, scores by class, calibration and mistakes, if each row has one class."""
    scores = _stack_scores(frame)
    if scores is None or not holds_texts(frame, "prediction"):
        return
    names = [
        name
        for name in frame.attrs["classes"]["scores"]
        if (frame["reference"] == name).any() or (frame["prediction"] == name).any()
    ]
    counts = _count_confusions(frame, names)
    yield Block(
        "Confusion matrix",
        "Rows are the references, columns the predictions; the shade is the share of the row.",
        matrix=_make_matrix(names, counts) if len(names) <= CLASSES else None,
        head=("reference", "predicted as", "rows", "share of the class"),
        rows=list(_list_frequent(names, counts)),
    )
    yield Block(
        "Per class",
        head=("class", "rows", "precision", "recall", "F1"),
        rows=list(_score_classes(names, counts)),
    )
    right = (frame["reference"] == frame["prediction"]).to_numpy()
    yield _make_reliability(scores.max(axis=1), right)
    yield Block("Most confident mistakes", examples=list(_select_mistakes(frame, scores, right)))


def _make_reliability(confidence: np.ndarray, right: np.ndarray) -> Block:
    return Block(
        "Reliability",
        "How often predictions of a given confidence are right, with 95 % intervals; on the dashed line "
        "confidence and accuracy agree. Bars: how many predictions have that confidence.",
        picture=diagrams.draw_reliability(compute_reliability(confidence, right)),
    )


def _count_confusions(frame: pd.DataFrame, names: Sequence[str]) -> np.ndarray:
    import pandas as pd

    table = pd.crosstab(frame["reference"], frame["prediction"])
    return table.reindex(index=list(names), columns=list(names), fill_value=0).to_numpy()


def _make_matrix(names: Sequence[str], counts: np.ndarray) -> Matrix:
    cells = [
        [(int(count), round(LEVELS * count / total) if total else 0) for count in row]
        for row, total in zip(counts, counts.sum(axis=1), strict=True)
    ]
    return Matrix(list(names), cells)


def _list_frequent(names: Sequence[str], counts: np.ndarray) -> Iterator[tuple[str, ...]]:
    import numpy as np

    wrong = counts * (1 - np.eye(len(names), dtype=counts.dtype))
    for place in np.argsort(-wrong, axis=None, kind="stable")[:EXAMPLES]:
        row, column = divmod(int(place), len(names))
        if wrong[row, column]:
            share = wrong[row, column] / counts[row].sum()
            yield names[row], names[column], f"{wrong[row, column]:,}", f"{share:.1%}"


def _score_classes(names: Sequence[str], counts: np.ndarray) -> Iterator[tuple[str, ...]]:
    for number, name in enumerate(names):
        hits, of, predicted = counts[number, number], counts[number].sum(), counts[:, number].sum()
        yield (
            name,
            f"{of:,}",
            _format_ratio(hits, predicted),
            _format_ratio(hits, of),
            _format_ratio(2 * hits, of + predicted),
        )


def _format_ratio(part: float, whole: float) -> str:
    return f"{part / whole:.3f}" if whole else ""


def compute_reliability(confidence: np.ndarray, right: np.ndarray) -> list[diagrams.Bin]:
    """Return accuracy by confidence: both of shape (n,), `right` bool; empty bins are omitted."""
    import numpy as np

    place = np.clip(np.ceil(confidence * BINS) - 1, 0, BINS - 1).astype(int)
    bins = []
    for number in range(BINS):
        inside = place == number
        n = int(inside.sum())
        if n:
            accuracy = float(right[inside].mean())
            low, high = _compute_wilson(accuracy, n)
            ends = number / BINS, (number + 1) / BINS
            bins.append(diagrams.Bin(*ends, float(confidence[inside].mean()), accuracy, low, high, n))
    return bins


def _compute_wilson(share: float, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson, 1927)."""
    middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * (share * (1 - share) / n + Z**2 / (4 * n**2)) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)


def _select_mistakes(frame: pd.DataFrame, scores: np.ndarray, right: np.ndarray) -> Iterator[Example]:
    import numpy as np

    place = {name: number for number, name in enumerate(frame.attrs["classes"]["scores"])}
    confidence = np.where(right, -1.0, scores.max(axis=1))
    for number in np.argsort(-confidence, kind="stable")[:EXAMPLES]:
        if right[number]:
            return
        row = frame.iloc[int(number)]
        own = scores[number, place[row["reference"]]] if row["reference"] in place else float("nan")
        answers = [
            ("predicted", [Span(f"{row['prediction']} ({confidence[number]:.3f})", "wrong")]),
            ("reference", [Span(f"{row['reference']} ({own:.3f})", "right")]),
        ]
        yield Example(get_inputs(frame, row), answers)


def make_choice_blocks(frame: pd.DataFrame) -> Iterator[Block]:
    """Yield calibration and mistakes, if one of several endings was chosen by its index."""
    import numpy as np

    there = {"scores", "prediction", "reference"} <= set(frame) and "scores" not in frame.attrs.get(
        "classes", {}
    )
    if not there or frame["prediction"].dtype.kind != "i":
        return
    right = (frame["reference"] == frame["prediction"]).to_numpy()
    confidence = np.array([max(scores) for scores in frame["scores"]], dtype=np.float64)
    yield _make_reliability(confidence, right)
    order = np.argsort(np.where(right, np.inf, -confidence), kind="stable")[:EXAMPLES]
    examples = [_make_class_example(frame, int(number)) for number in order if not right[number]]
    yield Block("Most confident mistakes", examples=examples)


def _make_class_example(frame: pd.DataFrame, number: int) -> Example:
    row = frame.iloc[number]
    inputs = frame.attrs.get("inputs", [])
    lists = [name for name in inputs if holds_lists(row[name])]
    endings = row[lists[0]] if lists else [row[name] for name in inputs[-len(row["scores"]) :]]
    answers = [
        (title, [Span(f"{endings[row[column]]} ({row['scores'][row[column]]:.3f})", kind)])
        for title, column, kind in (("predicted", "prediction", "wrong"), ("reference", "reference", "right"))
    ]
    return Example(get_inputs(frame, row), answers)


def make_label_blocks(frame: pd.DataFrame) -> Iterator[Block]:
    """Yield scores by class, if each row may have several classes."""
    import numpy as np

    classes = frame.attrs.get("classes", {})
    if not {"reference", "prediction"} <= classes.keys():
        return
    reference, prediction = (
        np.stack(frame[name].to_list()).astype(int) for name in ("reference", "prediction")
    )
    counts = zip(
        classes["reference"],
        (reference & prediction).sum(0),
        reference.sum(0),
        prediction.sum(0),
        strict=True,
    )
    rows = [
        (
            name,
            f"{of:,}",
            _format_ratio(hits, predicted),
            _format_ratio(hits, of),
            _format_ratio(2 * hits, of + predicted),
        )
        for name, hits, of, predicted in counts
    ]
    yield Block("Per class", head=("class", "rows", "precision", "recall", "F1"), rows=rows)


def make_number_blocks(frame: pd.DataFrame) -> Iterator[Block]:
    """Yield predicted against expected numbers, and the largest errors."""
    import numpy as np

    if not {"reference", "prediction"} <= set(frame) or frame["prediction"].dtype.kind != "f":
        return
    reference, prediction = frame["reference"].to_numpy(), frame["prediction"].to_numpy()
    some = np.unique(np.linspace(0, len(reference) - 1, DOTS).astype(int))
    points = [(float(reference[number]), float(prediction[number])) for number in some]
    yield Block("Predicted and expected", picture=draw_scatter(points, "reference", "prediction"))
    worst = np.argsort(-np.abs(prediction - reference), kind="stable")[:EXAMPLES]
    yield Block("Largest errors", examples=[_make_number_example(frame, int(number)) for number in worst])


def _make_number_example(frame: pd.DataFrame, number: int) -> Example:
    row = frame.iloc[number]
    answers = [
        ("predicted", [Span(f"{row['prediction']:.4g}", "wrong")]),
        ("reference", [Span(f"{row['reference']:.4g}", "right")]),
    ]
    return Example(get_inputs(frame, row), answers)
