"""Words that a model fills in for masks, next to the right ones, as blocks of the page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hfpipe.reporting.blocks import CHARACTERS, EXAMPLES, Block, Example, Span, get_inputs

if TYPE_CHECKING:
    import pandas as pd

HIDDEN = "[MASK]"
"""Stands for the hidden word on the page, whatever token the model reads in its place."""
AROUND = CHARACTERS // 2
"""Characters on each side of a hidden word that are shown."""


def make_fill_blocks(frame: pd.DataFrame) -> Iterator[Block]:
    """Yield how often the right word was the first fill, fills of any masks, and of the hardest ones."""
    import numpy as np

    if frame.empty or not {"rank", "nll", "fills", "fill_scores"} <= set(frame):
        return
    yield _count_places(frame["rank"].to_numpy(), frame.attrs.get("note", ""))
    some = np.unique(np.linspace(0, len(frame) - 1, EXAMPLES).astype(int))
    note = "Words that the model takes for most probable, with their probabilities; the right word is marked."
    yield Block("Top fills", note, examples=[_make_fill_example(frame, int(number)) for number in some])
    if len(frame) > EXAMPLES:
        loss = np.where(np.isfinite(frame["nll"]), frame["nll"], np.inf)
        order = np.argsort(-loss, kind="stable")[:EXAMPLES]
        hardest = [_make_fill_example(frame, int(number)) for number in order]
        yield Block("Hardest masks", "Those whose right word is the least probable.", examples=hardest)


def make_hidden_word_blocks(frame: pd.DataFrame) -> Iterator[Block]:
    """Yield the fills of words that an evaluation of a masked model hid, as `Run.fills` opens them."""
    frame.attrs["note"] = (
        f"One word of each of {len(frame):,} texts was hidden, with the rest of the text visible, as in a "
        "prediction; the scores above hide many tokens of a text at once. Only words that are a single token "
        "were hidden."
    )
    yield from make_fill_blocks(frame)


def _count_places(rank: Any, note: str) -> Block:
    found = [
        ("first", rank == 1),
        ("2 to 5", (rank > 1) & (rank <= 5)),
        ("6 to 100", rank > 5),
        ("not found", rank == 0),
    ]
    rows = [(name, f"{there.sum():,}", f"{there.mean():.1%}") for name, there in found]
    return Block("Place of the right word among the fills", note, head=("place", "rows", "share"), rows=rows)


def _make_fill_example(frame: pd.DataFrame, number: int) -> Example:
    row = frame.iloc[number]
    fills: list[Span] = []
    for rank, (fill, score) in enumerate(zip(row["fills"], row["fill_scores"], strict=True), start=1):
        fills += [Span(f"{fill} ({score:.3f})", "right" if row["rank"] == rank else ""), Span("  ")]
    place = f"place {row['rank']}" if row["rank"] else "not among the first 100"
    word = [Span(row["reference"], "right"), Span(" ")] if "reference" in frame else []
    return Example(
        [("text", _clip_context(row))] if "before" in frame else get_inputs(frame, row),
        [("top fills", fills[:-1]), ("right word", [*word, Span(f"({place}, loss {row['nll']:.2f} nats)")])],
    )


def _clip_context(row: Any) -> list[Span]:
    """Return the text around a hidden word."""
    before, after = row["before"], row["after"]
    start = before if len(before) < AROUND else f"…{before[1 - AROUND :]}"
    end = after if len(after) < AROUND else f"{after[: AROUND - 1]}…"
    return [Span(start), Span(HIDDEN, "same"), Span(end)]
