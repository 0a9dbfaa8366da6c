"""Text classification: one label, several, sentence pairs, or a number."""

from hfpipe.tasks.text_classification.task import TextClassification

__all__ = ["TextClassification"]
