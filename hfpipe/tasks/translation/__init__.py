"""Translation: the same in another language, or in another notation."""

from hfpipe.tasks.translation.task import Translation

__all__ = ["Translation"]
