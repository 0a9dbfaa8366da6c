"""Filling blanks: predict the word in a blank, or classify by the likeliest word in a pattern's blank."""

from hfpipe.tasks.fill_mask.task import FillMask

__all__ = ["FillMask"]
