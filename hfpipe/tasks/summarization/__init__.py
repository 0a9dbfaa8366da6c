"""Summarization: the same in fewer words."""

from hfpipe.tasks.summarization.task import Summarization

__all__ = ["Summarization"]
