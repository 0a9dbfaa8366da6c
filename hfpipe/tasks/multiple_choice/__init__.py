"""Multiple choice: which of several endings goes with a context, as in SWAG."""

from hfpipe.tasks.multiple_choice.task import MultipleChoice

__all__ = ["MultipleChoice"]
