"""Masked language modelling: predict hidden tokens (Devlin et al., 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from hfpipe.task import Requirements, TaskConfig
from hfpipe.tasks.shared.running_text import RunningText

if TYPE_CHECKING:
    from hfpipe.runtime import TaskRuntime


class MaskedLM(RunningText, TaskConfig):
    """Learns to predict hidden tokens from the context on both sides."""

    kind: Literal["masked-lm"] = "masked-lm"
    later: ClassVar[tuple[str, ...]] = ("packing", "documents")
    length: int = Field(default=128, ge=8)
    """Number of tokens per training example, including special tokens."""
    mask: float = Field(default=0.3, gt=0, lt=1)
    """Fraction of tokens hidden in training (Wettig et al., 2023)."""
    eval_mask: float = Field(default=0.15, gt=0, lt=1)
    """Fraction of tokens hidden in evaluation; every evaluation hides the same tokens."""
    whole_words: bool = False
    """Hide all tokens of a word or none (whole word masking)."""
    static: bool = False
    """Hide the same tokens in every epoch, as in BERT; by default masks are dynamic (Liu et al., 2019)."""
    next_sentence: bool = False
    """Also train on next-sentence prediction; needs a model with a next-sentence head, such as BERT."""
    pseudo_perplexity: bool = False
    """Evaluate by hiding one token at a time with all others visible, instead of using `eval_mask`;
    slower."""

    documents: Literal["packed", "separate"] = "packed"
    """`packed`: in training a document attends to the others of its example; `separate`: only to itself."""

    @model_validator(mode="after")
    def _check_packing(self) -> Self:
        if self.next_sentence and (self.best_fit or self.separates_documents):
            raise ValueError(
                "`next_sentence` makes examples of two segments, which are not packed; "
                "delete `packing` and `documents`"
            )
        if self.best_fit and not self.separates_documents:
            raise ValueError("`packing: bfd` pads examples, which needs `documents: separate`; add it")
        return self

    @model_validator(mode="after")
    def _check_evaluation(self) -> Self:
        if self.next_sentence and self.pseudo_perplexity:
            raise ValueError(
                "`pseudo_perplexity` needs whole texts, not the pairs of `next_sentence`; "
                "write a separate task for evaluation"
            )
        return self

    @property
    def auto_class(self) -> str:
        return "AutoModelForPreTraining" if self.next_sentence else "AutoModelForMaskedLM"

    @property
    def requires(self) -> Requirements:
        return Requirements(mask_token=True, token_types="next_sentence" if self.next_sentence else None)

    @property
    def pipeline(self) -> str:
        return "fill-mask"

    @property
    def packed(self) -> bool:
        return not self.next_sentence

    @property
    def separates_documents(self) -> bool:
        return self.documents == "separate"

    @property
    def taught_unit(self) -> Literal["token"] | None:
        return None if self.next_sentence else "token"

    @property
    def prediction_task(self) -> dict[str, Any]:
        return {"kind": "fill-mask", "text": self.text, "length": self.length}

    def runtime(self) -> TaskRuntime:
        from hfpipe.tasks.masked_lm.runtime import compose_masked_lm

        return compose_masked_lm(self)
