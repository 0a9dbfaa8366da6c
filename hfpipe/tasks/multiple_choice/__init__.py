"""Multiple choice: select the correct ending of a context, as in SWAG."""

from hfpipe.tasks.multiple_choice.task import MultipleChoice

__all__ = ["MultipleChoice"]
