"""Translation: generate the text in another language or notation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

from hfpipe.errors import Problem
from hfpipe.tasks.shared.generative import BleuTokenizer, check_sacrebleu_tokenizer
from hfpipe.tasks.shared.text_to_text import TextToText

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hfpipe.metrics.metric import Metric
    from hfpipe.report import DataFacts
    from hfpipe.types import Columns, Rows


class Translation(TextToText):
    """Translates a text; evaluated by BLEU, chrF and TER."""

    kind: Literal["translation"] = "translation"
    baselines: ClassVar[tuple[str, ...]] = ("copy",)
    answer: ClassVar[str] = "translation_text"
    src_lang: str | None = None
    """Source language as a multilingual tokenizer names it: `eng_Latn`, `en_XX`, `en`."""
    tgt_lang: str | None = None
    """Target language, named in the same way; generation begins with its token."""
    tokenize: BleuTokenizer = "auto"
    """BLEU's tokenizer, by its name in sacrebleu. `auto` selects by the script of the references: `zh` for
    Chinese, `char` for Japanese, Korean, Thai and other scripts without spaces, else `13a`; the signature
    names it. Published scores often use `ja-mecab` and `ko-mecab`, which need `sacrebleu[ja]` and
    `sacrebleu[ko]`."""
    ter_words: Literal["auto", "spaces", "bleu"] = "auto"
    """How TER splits texts into words: at spaces, as sacrebleu's command does, or into BLEU's tokens. `auto`
    selects BLEU's tokens for scripts for which `tokenize: auto` does not select `13a`."""

    def speak(self, tokenizer: PreTrainedTokenizerBase) -> int | None:
        from hfpipe.tasks.shared.prompts import speak

        return speak(tokenizer, self.src_lang, self.tgt_lang)

    def metrics(self, facts: DataFacts) -> list[Metric]:
        from hfpipe.metrics.scores.overlap import translation_scores
        from hfpipe.metrics.scores.written import writing

        # While it is still `auto`, only the metrics' names are used; `configure_metrics` resolves it before
        # anything is scored.
        tokenize = "13a" if self.tokenize == "auto" else self.tokenize
        return [*translation_scores(1 + len(self.references), tokenize, self.ter_words), *writing()]

    def check_settings(self) -> Iterator[Problem]:
        return check_sacrebleu_tokenizer(self.tokenize)

    def configure_metrics(self, rows: Rows) -> Translation:
        from hfpipe.metrics.scores.overlap import tokenizer_for

        if "auto" not in (self.tokenize, self.ter_words):
            return self
        tokenize = tokenizer_for(self.reference(rows))
        suited = {"tokenize": tokenize, "ter_words": "spaces" if tokenize == "13a" else "bleu"}
        left = {name: value for name, value in suited.items() if getattr(self, name) == "auto"}
        return self.model_copy(update=left)

    def fit_baseline(
        self, name: str, train: Rows, facts: DataFacts, tokenizer: PreTrainedTokenizerBase
    ) -> Callable[[Rows], Columns]:
        return lambda rows: self.untold(list(rows[self.source]), rows)
