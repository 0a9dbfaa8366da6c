"""Causal language modelling: predict the next token; evaluated by perplexity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from hfpipe.task import TaskConfig
from hfpipe.tasks.shared.running_text import RunningText

if TYPE_CHECKING:
    from hfpipe.runtime import TaskRuntime


class CausalLM(RunningText, TaskConfig):
    """Learns to predict the next token of a text.

    In training, documents are concatenated, each followed by its end token. In evaluation, each document is
    encoded separately after a begin token, and every token of the text is predicted exactly once. The end
    token is learned, but not scored, because it is not part of the text.
    """

    kind: Literal["causal-lm"] = "causal-lm"
    baselines: ClassVar[tuple[str, ...]] = ("unigram", "trigram")
    pipeline: ClassVar[str] = "text-generation"
    taught_unit: ClassVar[Literal["token"]] = "token"
    shared: ClassVar[int] = 1  # the last token is only a target, and an input of the next example
    length: int = Field(default=128, ge=8)
    """Number of tokens in the model's context window."""
    stride: int | None = Field(default=None, ge=1)
    """Tokens between the starts of consecutive evaluation windows, for texts longer than `length`; the
    default is `length`.

    Every token is predicted from at least `length` - `stride` preceding tokens, if the text has that many. A
    smaller `stride` gives each token more context, but takes longer.
    """
    documents: Literal["packed", "separate"] = "packed"
    """`packed`: in training a document attends to the earlier documents of its example; `separate`: only to
    itself."""

    @model_validator(mode="after")
    def _check_stride(self) -> CausalLM:
        if self.stride is not None and self.stride > self.length:
            raise ValueError(f"stride {self.stride} would skip tokens; write at most {self.length}")
        return self

    @property
    def auto_class(self) -> str:
        return "AutoModelForCausalLM"

    @property
    def separates_documents(self) -> bool:
        return self.documents == "separate"

    @property
    def prediction_task(self) -> dict[str, Any]:
        half = self.length // 2  # prompt and answer together fit the length that the model was trained on
        lengths = {"length": half, "target_length": self.length - half}
        return {"kind": "text-generation", "template": f"{{{self.text}}}", **lengths}

    def runtime(self) -> TaskRuntime:
        from hfpipe.tasks.causal_lm.runtime import compose_causal_lm

        return compose_causal_lm(self)
