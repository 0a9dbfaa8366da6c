"""Counts the memory of a forward and backward pass on a CPU by running it on tensors without memory.

How much a pass holds depends on the kernels and on how the model is written: the activation function of GPT-2
keeps seven tensors where that of BERT keeps two, and attention keeps its weights or does not. Torch's fake
tensors have shapes and dtypes but no contents, so that the pass takes a second for any size of model.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PretrainedConfig
from transformers.trainer_utils import unwrap_peft_model

from hfpipe.library_output import silence_libraries
from hfpipe.modeling.attention.cpu import use_eager_kernels
from hfpipe.modeling.loading.lora import add_lora
from hfpipe.modeling.losses.chunked_loss import compute_linear_cross_entropy
from hfpipe.modeling.losses.head_loss import get_product_dtype, skip_head
from hfpipe.modeling.losses.losses import forward
from hfpipe.training.arguments import CHECKPOINTING


@dataclass(frozen=True)
class Pass:
    """What a process computes at once."""

    rows: int
    length: int
    """Tokens of a row; in an encoder-decoder, of its source and of its target each."""
    predicted: float
    """Share of the tokens whose vocabulary logits are computed."""
    padded: bool
    """Whether rows have different lengths, so that there is a mask."""
    bf16: bool
    recomputed: bool
    """Whether layers are recomputed in the backward pass."""
    chunked: bool = True
    """Whether the loss may apply the output layer in chunks, which needs whole weights."""


def trace_pass(
    auto_class: str, config: PretrainedConfig, adapter: Mapping[str, Any] | None, computed: Pass
) -> int | None:
    """Return the most bytes that tensors take during a pass, without weights; None if it cannot be traced.

    Gradients of weights are included as far as they exist at that moment.
    """
    try:
        with silence_libraries(), torch.device("meta"):  # where weights are not initialized
            model = getattr(transformers, auto_class).from_config(config, dtype=torch.float32)
            if adapter is not None:
                add_lora(model, adapter)
        with silence_libraries(), FakeTensorMode(allow_non_fake_inputs=True):
            unwrap_peft_model(model.to_empty(device="cpu")).tie_weights()
            return count_pass_bytes(model, computed)
    except Exception:  # a model may read its inputs, which have no contents, or need other inputs
        return None


def count_pass_bytes(model: Any, computed: Pass) -> int:
    """Run a pass of a model as a training on a CPU does, and return the most bytes that it held at once."""
    model.train()
    if computed.recomputed:
        getattr(model, f"{CHECKPOINTING}_enable")({"use_reentrant": False})
    batch = _create_batch(computed)
    head = model.get_output_embeddings()
    separable = type(head) is nn.Linear and computed.chunked
    counting = TensorBytes()
    with counting:
        with (
            use_eager_kernels(model),
            torch.autocast("cpu", torch.bfloat16, enabled=computed.bf16),
            skip_head(head) if separable else nullcontext(),
        ):
            logits = forward(model, batch, None)[0]  # or those of the first of several heads
            loss = _compute_loss(logits, head if separable else None, computed)
            del logits
        loss.backward()
    return counting.peak


def _create_batch(computed: Pass) -> dict[str, Tensor]:
    ids = torch.zeros((computed.rows, computed.length), dtype=torch.int64)
    batch = {"input_ids": ids, "labels": ids}
    return batch | ({"attention_mask": torch.ones_like(ids)} if computed.padded else {})


def _compute_loss(outputs: Tensor, head: nn.Linear | None, computed: Pass) -> Tensor:
    """Return a loss: of hidden states by the output layer in chunks, or of logits."""
    if outputs.dim() < 3:
        return outputs.float().sum()
    flat = outputs.reshape(-1, outputs.shape[-1])
    flat = flat[: max(1, round(len(flat) * computed.predicted))]
    targets = torch.zeros(len(flat), dtype=torch.int64)
    if head is None:
        return F.cross_entropy(flat.float(), targets, reduction="sum")
    dtype = get_product_dtype(head, flat.device)
    return compute_linear_cross_entropy(flat, head.weight, head.bias, targets, dtype=dtype)


class TensorBytes(TorchDispatchMode):
    """Counts the bytes of all storages that operations create while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        """The most bytes at one moment."""
        self._bytes = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count its results."""
        results = func(*args, **(kwargs or {}))
        for result in tree_leaves(results):
            if isinstance(result, Tensor):
                self._count(result.untyped_storage())
        return results

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = id(storage)
        if key in self._sizes:
            return
        self._sizes[key] = storage.nbytes()
        self._bytes += storage.nbytes()
        self.peak = max(self.peak, self._bytes)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self._bytes -= self._sizes.pop(key, 0)
