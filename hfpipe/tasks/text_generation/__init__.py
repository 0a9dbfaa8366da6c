"""Text generation: complete a prompt or answer in a conversation."""

from hfpipe.tasks.text_generation.task import TextGeneration

__all__ = ["TextGeneration"]
