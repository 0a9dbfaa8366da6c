"""Translation: the same in another language, or in another notation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Literal

from hfpipe.tasks.text_to_text import TextToText

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hfpipe.contract import Columns, Rows
    from hfpipe.metrics.metric import Metric
    from hfpipe.report import DataFacts


class Translation(TextToText):
    """Translates; scored by BLEU, chrF and TER."""

    kind: Literal["translation"] = "translation"
    baselines: ClassVar[tuple[str, ...]] = ("copy",)
    answer: ClassVar[str] = "translation_text"
    src_lang: str | None = None
    """Language of the source as a tokenizer of several writes it: `eng_Latn`, `en_XX`, `en`."""
    tgt_lang: str | None = None
    """Language of the target, written likewise; the model is made to begin with its token."""
    tokenize: Literal["13a", "intl", "zh", "char", "none"] = "13a"
    """How BLEU cuts words, as sacrebleu calls it; `zh` for Chinese, `char` where nothing parts words."""

    def speak(self, tokenizer: PreTrainedTokenizerBase) -> int | None:
        from hfpipe.hf.source_target import speak

        return speak(tokenizer, self.src_lang, self.tgt_lang)

    def metrics(self, facts: DataFacts) -> list[Metric]:
        from hfpipe.metrics.overlap import translation_scores
        from hfpipe.metrics.written import writing

        return [*translation_scores(1 + len(self.references), self.tokenize), *writing()]

    def fit_baseline(
        self, name: str, train: Rows, facts: DataFacts, tokenizer: PreTrainedTokenizerBase
    ) -> Callable[[Rows], Columns]:
        return lambda rows: self.untold(list(rows[self.source]), rows)
