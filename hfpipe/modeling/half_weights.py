"""Stores frozen weights of linear layers in bfloat16 if products are computed in bfloat16 anyway.

Autocast rounds such a weight in every forward and backward pass; rounding it once gives the same products
with half the memory. Trainable weights, and weights with other uses (embeddings, norms, tied weights), are
kept.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import nn


def halve_frozen(model: nn.Module) -> int:
    """Round the frozen weights of linear layers to bfloat16 and return their number of elements.

    The results of a model under bfloat16 autocast are bit-identical.
    """
    holders = Counter(id(each) for module in model.modules() for each in module.parameters(recurse=False))
    halved = 0
    for module in model.modules():
        if type(module) is not nn.Linear:
            continue
        for each in module.parameters(recurse=False):
            if not each.requires_grad and each.dtype == torch.float32 and holders[id(each)] == 1:
                each.data = each.data.to(torch.bfloat16)
                halved += each.numel()
    return halved
