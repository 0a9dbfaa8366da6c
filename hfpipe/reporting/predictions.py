"""Blocks of the page about the predictions of an evaluation; the columns determine which.

The page contains only counts and a few examples of each kind, so that it stays small for any number of rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfpipe.reporting.class_blocks import (
    make_choice_blocks,
    make_class_blocks,
    make_label_blocks,
    make_number_blocks,
)
from hfpipe.reporting.fill_blocks import make_fill_blocks
from hfpipe.reporting.text_blocks import (
    make_answer_blocks,
    make_loss_blocks,
    make_output_blocks,
    make_tag_blocks,
)

if TYPE_CHECKING:
    import pandas as pd

    from hfpipe.reporting.blocks import Block

KINDS = (
    make_class_blocks,
    make_choice_blocks,
    make_label_blocks,
    make_number_blocks,
    make_tag_blocks,
    make_answer_blocks,
    make_fill_blocks,
    make_output_blocks,
    make_loss_blocks,
)
"""Each yields its blocks if its columns exist."""


def read_blocks(frame: pd.DataFrame) -> list[Block]:
    """Return the blocks for the predictions of a model, as `Run.predictions` opens them."""
    return [] if frame.empty else [block for blocks in KINDS for block in blocks(frame)]
