"""Filling blanks: the word that belongs into a text, or a class told by the word that fits a pattern."""

from hfpipe.tasks.fill_mask.task import FillMask

__all__ = ["FillMask"]
