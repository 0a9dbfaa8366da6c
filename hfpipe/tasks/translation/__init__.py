"""Translation: generate the text in another language or notation."""

from hfpipe.tasks.translation.task import Translation

__all__ = ["Translation"]
