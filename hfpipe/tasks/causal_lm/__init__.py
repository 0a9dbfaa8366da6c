"""Causal language modelling: predict the next token; evaluated by perplexity."""

from hfpipe.tasks.causal_lm.task import CausalLM

__all__ = ["CausalLM"]
