"""Masked language modelling: guess the tokens that were hidden (Devlin et al., 2019)."""

from hfpipe.tasks.masked_lm.task import MaskedLM

__all__ = ["MaskedLM"]
