"""Summarization: the same in fewer words."""

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
    """Sums a text up; scored by ROUGE."""

    kind: Literal["summarization"] = "summarization"
    baselines: ClassVar[tuple[str, ...]] = ("lead",)
    answer: ClassVar[str] = "summary_text"
    source: str = "text"
    """Column to read."""
    target: str = "summary"
    """Column of the summary."""
    length: int = Field(default=512, ge=4)
    """Tokens of the text at most, prefix or prompt included; the ledger says what longer ones lost."""
    stem: bool = True
    """Whether ROUGE takes English words of one stem for the same, as its first version did."""
    rouge_tokenize: RougeTokenizer = "auto"
    """How ROUGE finds words: `rouge-score` as that library, which knows only the letters a-z; `unicode` in
    texts of any script, with characters for words where a script has no spaces. `auto` takes `rouge-score`
    where the references are English as far as their letters tell, else `unicode`; the signature names it."""
    lead: int = Field(default=3, ge=1)
    """Sentences that the baseline `lead` takes from the beginning of a text."""

    def metrics(self, facts: DataFacts) -> list[Metric]:
        from hfpipe.metrics.scores.written import summary_scores, writing

        # Where it is still `auto`, only the names are used; `configure_metrics` decides before anything is
        # scored.
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
    """Return the first sentences of a text, as its punctuation ends them."""
    from hfpipe.metrics.scores.segmentation import sentence_ends

    text = text.strip()
    ends = sentence_ends(text)
    return text[: ends[sentences - 1]].rstrip() if len(ends) >= sentences else text
