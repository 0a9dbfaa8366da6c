"""Extractive question answering: find the span of a text that answers a question, as in SQuAD."""

from hfpipe.tasks.question_answering.task import QuestionAnswering

__all__ = ["QuestionAnswering"]
