"""Token classification: one tag per word, such as named entities or parts of speech."""

from hfpipe.tasks.token_classification.task import TokenClassification

__all__ = ["TokenClassification"]
