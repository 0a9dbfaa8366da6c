"""Summarization: generate a summary of a text."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from hfpipe.tasks.shared.generative import RougeTokenizer
from hfpipe.tasks.shared.text_to_text import TextToText

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hfpipe.metrics.metric import Metric
    from hfpipe.report import DataFacts
    from hfpipe.types import Columns, Rows


class Summarization(TextToText):
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

    def metrics(self, facts: DataFacts) -> list[Metric]:
        from hfpipe.metrics.scores.written import summary_scores, writing

        # While it is still `auto`, only the metrics' names are used; `configure_metrics` resolves it before
        # anything is scored.
        tokenize = "unicode" if self.rouge_tokenize == "auto" else self.rouge_tokenize
        return [*summary_scores(stem=self.stem, tokenize=tokenize), *writing()]

    def configure_metrics(self, rows: Rows) -> Summarization:
        from hfpipe.metrics.scores.written import rouge_tokenizer

        if self.rouge_tokenize != "auto":
            return self
        return self.model_copy(update={"rouge_tokenize": rouge_tokenizer(self.reference(rows))})

    def fit_baseline(
        self, name: str, train: Rows, facts: DataFacts, tokenizer: PreTrainedTokenizerBase
    ) -> Callable[[Rows], Columns]:
        return lambda rows: self.untold([first(text, self.lead) for text in rows[self.source]], rows)


def first(text: str, sentences: int) -> str:
    """Return the first sentences of a text, split at punctuation."""
    from hfpipe.metrics.scores.segmentation import sentence_ends

    text = text.strip()
    ends = sentence_ends(text)
    return text[: ends[sentences - 1]].rstrip() if len(ends) >= sentences else text
