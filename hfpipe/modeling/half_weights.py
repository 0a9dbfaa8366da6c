"""Frozen weights of linear layers in bfloat16, where products are computed in bfloat16 anyway.

Autocast rounds such a weight in every forward and backward pass; rounded once, it gives the same products in
half the memory. What learns, and what is not only multiplied (embeddings, norms, tied weights), stays.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import nn


def halve_frozen(model: nn.Module) -> int:
    """Round the weights of linear layers that do not learn to bfloat16 and return how many numbers those are.

    The results of a model under bfloat16 autocast stay the same bit for bit.
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
