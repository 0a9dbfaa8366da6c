"""Muon for the weight matrices of the layers and AdamW for all other parameters, as one optimizer.

Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/) replaces the momentum of a matrix by
the nearest orthogonal matrix. Its update is scaled to the size of AdamW's (Liu et al., 2025, arXiv
2502.16982), so that learning rate and weight decay of AdamW can be kept. Both algorithms are PyTorch's own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer
from transformers.pytorch_utils import Conv1D
from transformers.trainer_utils import unwrap_peft_model

from hfpipe.errors import StageError

MATRICES = (nn.Linear, Conv1D)
"""Layers whose `weight` is a matrix that multiplies hidden states."""

Group = dict[str, Any]
"""Parameters and their options, as every optimizer takes them."""


class MuonWithAdamW(Optimizer):
    """Updates some parameter groups with Muon, the others with AdamW; state and schedules are shared.

    Learning rate schedulers, checkpoints and Accelerate see one optimizer with several groups.
    """

    def __init__(
        self, matrices: list[Group], others: list[Group], muon: dict[str, Any], adamw: dict[str, Any]
    ) -> None:
        """Build both optimizers; `muon` and `adamw` are their options, apart from those of a group."""
        from torch.optim import Muon  # since torch 2.9; the recipe is checked for it

        self._muon = Muon(matrices, adjust_lr_fn="match_rms_adamw", **muon)
        self._adamw = AdamW(others, fused=True, **adamw)
        super().__init__([*self._muon.param_groups, *self._adamw.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters; return what `closure` returns, if given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # Loading a checkpoint replaces groups and state, so they are passed on at each step.
        for optimizer in (self._muon, self._adamw):
            own = optimizer.defaults.keys()
            optimizer.param_groups = [group for group in self.param_groups if own <= group.keys()]
            optimizer.state = self.state
            optimizer.step()
        return loss


def create_muon(
    model: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float,
    decayed: Collection[str],
    muon: dict[str, Any],
    adamw: dict[str, Any],
) -> MuonWithAdamW:
    """Return the optimizer of a model; weight decay applies to the parameters named in `decayed`.

    Muon gets the matrices of linear layers inside the model's body; AdamW gets embeddings, the output layer
    or head, norms, biases and anything that is not a matrix. Frozen parameters are left out. Raises
    StageError when no matrix is left for Muon.
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    hidden = {id(parameter) for parameter in find_hidden_matrices(model)}
    split: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in trained.items():
        split.setdefault((id(parameter) in hidden, name in decayed), []).append(parameter)

    def groups(of_muon: bool) -> list[Group]:
        return [
            {"params": split.get((of_muon, decay), []), "weight_decay": weight_decay if decay else 0.0}
            for decay in (True, False)
        ]

    if not any(group["params"] for group in groups(True)):
        raise StageError("optim: muon trains matrices of layers, and this training has none; delete optim")
    rate = {"lr": learning_rate}
    return MuonWithAdamW(groups(True), groups(False), rate | muon, rate | adamw)


def find_hidden_matrices(model: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the weights of linear layers in the body of a model, except those shared with embeddings."""
    bare: Any = unwrap_peft_model(model)
    head = bare.get_output_embeddings()
    outside = {id(module.weight) for module in bare.modules() if isinstance(module, nn.Embedding)}
    outside |= {id(head.weight)} if head is not None else set()
    for module in bare.base_model.modules():
        weight = module.weight if isinstance(module, MATRICES) else None
        if isinstance(weight, nn.Parameter) and weight.ndim == 2 and id(weight) not in outside:
            yield weight
