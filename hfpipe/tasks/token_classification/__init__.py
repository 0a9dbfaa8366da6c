"""Token classification: a tag for each word, as of entities or parts of speech."""

from hfpipe.tasks.token_classification.task import TokenClassification

__all__ = ["TokenClassification"]
