"""Blocks of the page about the predictions of an evaluation; the columns determine which.

The page contains only counts and a few examples of each kind, so that it stays small for any number of rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfpipe.reporting.class_blocks import choices_blocks, classes_blocks, labels_blocks, numbers_blocks
from hfpipe.reporting.fill_blocks import fills_blocks
from hfpipe.reporting.text_blocks import answers_blocks, losses_blocks, outputs_blocks, tags_blocks

if TYPE_CHECKING:
    import pandas as pd

    from hfpipe.reporting.blocks import Block

KINDS = (
    classes_blocks,
    choices_blocks,
    labels_blocks,
    numbers_blocks,
    tags_blocks,
    answers_blocks,
    fills_blocks,
    outputs_blocks,
    losses_blocks,
)
"""Each yields its blocks if its columns exist."""


def read_blocks(frame: pd.DataFrame) -> list[Block]:
    """Return the blocks for the predictions of a model, as `Run.predictions` opens them."""
    return [] if frame.empty else [block for blocks in KINDS for block in blocks(frame)]
