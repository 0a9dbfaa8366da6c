"""Question answering: the stretch of a text that answers a question, or none, as in SQuAD."""

from hfpipe.tasks.question_answering.task import QuestionAnswering

__all__ = ["QuestionAnswering"]
