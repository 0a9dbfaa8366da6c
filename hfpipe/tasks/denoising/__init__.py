"""Denoising: an encoder-decoder reads a text with parts hidden, and says what they were."""

from hfpipe.tasks.denoising.task import Denoising

__all__ = ["Denoising"]
