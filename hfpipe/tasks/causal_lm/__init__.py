"""Causal language modelling: say the next token, and be measured by how well each was foreseen."""

from hfpipe.tasks.causal_lm.task import CausalLM

__all__ = ["CausalLM"]
