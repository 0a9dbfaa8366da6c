"""Summarization: generate a summary of a text."""

from hfpipe.tasks.summarization.task import Summarization

__all__ = ["Summarization"]
