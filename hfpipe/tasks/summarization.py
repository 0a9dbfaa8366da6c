"""Summarization: the same in fewer words."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from hfpipe.tasks.text_to_text import TextToText

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hfpipe.contract import Columns, Rows
    from hfpipe.metrics.metric import Metric
    from hfpipe.report import DataFacts

SENTENCE_END = re.compile(r"[.!?…][\"')\]»]*(?=\s|$)|。|\n+")
"""Where a sentence ends: at a mark before a space, at a full stop that needs none, or with the line."""


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
    lead: int = Field(default=3, ge=1)
    """Sentences that the baseline `lead` takes from the beginning of a text."""

    def metrics(self, facts: DataFacts) -> list[Metric]:
        from hfpipe.metrics.written import summary_scores, writing

        return [*summary_scores(stem=self.stem), *writing()]

    def fit_baseline(
        self, name: str, train: Rows, facts: DataFacts, tokenizer: PreTrainedTokenizerBase
    ) -> Callable[[Rows], Columns]:
        return lambda rows: self.untold([first(text, self.lead) for text in rows[self.source]], rows)


def first(text: str, sentences: int) -> str:
    """Return the first sentences of a text, as its punctuation ends them."""
    text = text.strip()
    ends = [found.end() for found in SENTENCE_END.finditer(text)]
    return text[: ends[sentences - 1]].rstrip() if len(ends) >= sentences else text
