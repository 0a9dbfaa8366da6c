"""The `adapter` of a training stage, under the names of PEFT's LoraConfig; imports no torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from hfpipe.contract import Settings


class Adapter(Settings):
    """Trains small matrices in addition to frozen weights; the names are those of PEFT's LoraConfig."""

    type: Literal["lora"]
    """Kind of adapter: low-rank matrices (LoRA; Hu et al., 2021)."""
    r: int = Field(default=8, ge=1)
    """Rank of the matrices."""
    lora_alpha: int = Field(default=16, ge=1)
    """Scale of the adapter: the product of its matrices is multiplied by `lora_alpha / r`."""
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout probability of the adapter's inputs in training."""
    target_modules: str | list[str] = "all-linear"
    """Layers to adapt, by the ends of their names; `all-linear` means all linear layers except the output
    layer."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Biases that are trained too."""
    modules_to_save: list[str] = []
    """Layers to train in full and save with the adapter; a new head is always included."""
    merge: bool = False
    """Save a complete model with the adapter merged into its weights, instead of the adapter.

    If false, Transformers can open the folder as long as the base is not moved; a new head needs the config
    in `model/`: `from_pretrained(FOLDER, config=AutoConfig.from_pretrained(FOLDER + "/model"))`.
    """

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments of PEFT's LoraConfig."""
        return self.model_dump(exclude={"type", "merge"})
