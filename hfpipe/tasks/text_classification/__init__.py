"""Text classification: one label, several labels, sentence pairs, or regression."""

from hfpipe.tasks.text_classification.task import TextClassification

__all__ = ["TextClassification"]
