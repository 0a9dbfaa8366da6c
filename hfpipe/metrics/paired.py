"""One system beside several others on the same examples, the number of comparisons allowed for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hfpipe.metrics.tally import Series, compare_systems, score_tally

if TYPE_CHECKING:
    from hfpipe.report import Score


def beside(series: Series, others: Mapping[str, Series]) -> Score:
    """Return a score compared with that of other systems over the same resamples, p corrected by Holm."""
    found = [compare_systems(series.values, other.values, name) for name, other in others.items()]
    p_values = holm([comparison.p_value for comparison in found])
    corrected = [c.model_copy(update={"p_value": p}) for c, p in zip(found, p_values, strict=True)]
    score = score_tally(series)
    signature = f"{score.signature}|p:holm-{len(found)}"
    return score.model_copy(update={"comparisons": corrected, "signature": signature})


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number, by the step-down procedure of Holm (1979)."""
    corrected, highest = list(p_values), 0.0
    for rank, number in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[number]))
        corrected[number] = highest
    return corrected
