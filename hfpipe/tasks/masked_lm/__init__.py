"""Masked language modelling: predict hidden tokens (Devlin et al., 2019)."""

from hfpipe.tasks.masked_lm.task import MaskedLM

__all__ = ["MaskedLM"]
