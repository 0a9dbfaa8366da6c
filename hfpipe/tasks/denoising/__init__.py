"""Denoising: an encoder-decoder reads a corrupted text and reconstructs the hidden spans."""

from hfpipe.tasks.denoising.task import Denoising

__all__ = ["Denoising"]
