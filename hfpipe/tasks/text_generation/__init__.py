"""Text generation: answer a prompt, or take part in a conversation."""

from hfpipe.tasks.text_generation.task import TextGeneration

__all__ = ["TextGeneration"]
