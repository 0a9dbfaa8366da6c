"""Summarization: generate a summary of a text."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from hfpipe.task import TaskConfig
from hfpipe.tasks.shared.generative import GenerativeSettings, RougeTokenizer
from hfpipe.tasks.shared.text_to_text import TextToText

if TYPE_CHECKING:
    from hfpipe.runtime import TaskRuntime


class Summarization(TextToText, GenerativeSettings, TaskConfig):
    """Generates a summary of a text; evaluated by ROUGE."""

    kind: Literal["summarization"] = "summarization"
    baselines: ClassVar[tuple[str, ...]] = ("lead",)
    answer: ClassVar[str] = "summary_text"
    source: str = "text"
    """Column of the text to summarize."""
    target: str = "summary"
    """Column of the summary."""
    length: int = Field(default=512, ge=4)
    """Maximum number of text tokens, including prefix or prompt; the ledger counts the tokens lost by
    truncation."""
    stem: bool = True
    """Whether ROUGE stems English words (Porter stemmer), as the original ROUGE did."""
    rouge_tokenize: RougeTokenizer = "auto"
    """How ROUGE splits texts into words: `rouge-score` as in that library, which keeps only a-z and 0-9;
    `unicode` for any script, with single characters as words in scripts without spaces. `auto` selects
    `rouge-score` if the references appear to be English by their letters, else `unicode`; the signature names
    the choice."""
    lead: int = Field(default=3, ge=1)
    """Number of sentences in the baseline `lead`, taken from the beginning of a text."""

    def runtime(self) -> TaskRuntime:
        from hfpipe.tasks.summarization.runtime import compose_summarization

        return compose_summarization(self)
