"""Translation: generate the text in another language or notation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

from hfpipe.errors import Problem
from hfpipe.task import TaskConfig
from hfpipe.tasks.shared.generative import BleuTokenizer, GenerativeSettings, check_sacrebleu_tokenizer
from hfpipe.tasks.shared.text_to_text import TextToText

if TYPE_CHECKING:
    from hfpipe.runtime import TaskRuntime


class Translation(TextToText, GenerativeSettings, TaskConfig):
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

    @property
    def languages(self) -> tuple[str | None, str | None]:
        return self.src_lang, self.tgt_lang

    def check_settings(self) -> Iterator[Problem]:
        return check_sacrebleu_tokenizer(self.tokenize)

    def runtime(self) -> TaskRuntime:
        from hfpipe.tasks.translation.runtime import compose_translation

        return compose_translation(self)
