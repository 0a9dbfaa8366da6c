"""The `adapter` of a training stage, under the names of PEFT's LoraConfig; imports no torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from hfpipe.contract import Settings


class Adapter(Settings):
    """Trains small matrices in addition to frozen weights; the names are those of PEFT's LoraConfig."""

    type: Literal["lora"]
    """Which kind of adapter: low-rank matrices (Hu et al., 2021)."""
    r: int = Field(default=8, ge=1)
    """Rank of the matrices."""
    lora_alpha: int = Field(default=16, ge=1)
    """What they add is multiplied by `lora_alpha / r`."""
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of their inputs that is dropped in training."""
    target_modules: str | list[str] = "all-linear"
    """Layers that get one, by the ends of their names; `all-linear` means all but the output layer."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Which biases are trained as well."""
    modules_to_save: list[str] = []
    """Layers to train whole and save with the adapter; a head that is new is always among them."""
    merge: bool = False
    """Save a whole model with the adapter added into its weights, in place of adapter and base.

    Without it, Transformers opens the folder as long as the base is where it was, a new head with the config
    in `model/`: `from_pretrained(FOLDER, config=AutoConfig.from_pretrained(FOLDER + "/model"))`.
    """

    @property
    def settings(self) -> dict[str, Any]:
        """What PEFT's LoraConfig is given."""
        return self.model_dump(exclude={"type", "merge"})
