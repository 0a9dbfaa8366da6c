"""Runs the base model of a padded batch on its tokens only, laid out one after the other in one row.

The batch, the head and the loss stay those of padded batches: only embeddings and layers run without padding.
The base model receives one row of tokens, whose positions restart at each example, and its output is padded
again before a pooler or a head reads it. Within the attention of each layer, queries, keys and values are
padded, and masked as the model's own mask functions do for the padded batch; on a GPU in half precision,
FlashAttention reads the bounds of the examples instead.

Whether a model supports this is tested by running it, not by its name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import bidirectional_mask_function, causal_mask_function
from transformers.trainer_utils import unwrap_peft_model

from hfpipe.modeling.attention.cpu import replace_attention
from hfpipe.modeling.attention.layout import Layout, make_layout, read_layout
from hfpipe.modeling.attention.varlen import attend_varlen, find_kernel, supports_varlen

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hfpipe.types import Batch

SDPA = "sdpa"
"""The attention implementation that is replaced; with another one, batches keep their padding."""
PROBE = (7, 3, 5)
"""Numbers of tokens per row in the test of a model."""
TOLERANCE, HALF_TOLERANCE = 1e-4, 3e-2
"""Maximum difference that counts as rounding, relative to the largest value."""


class PackedMask:
    """The mask of a layer for a batch without padding; the mask of the padded batch is made if it is read."""

    def __init__(self, layout: Layout, make: Callable[[], Tensor | None], window: int | None) -> None:
        self.layout = layout
        self.window = window
        """Size of the sliding window of the layer, as Transformers passes it to a mask function."""
        self._make = make
        self._made: list[Tensor | None] = []

    def read(self) -> Tensor | None:
        """Return the mask of the padded batch, bool (rows, 1, length, length); None if none is needed."""
        if not self._made:
            self._made.append(self._make())
        return self._made[0]


class _Masks:
    """A mask function that returns the masks of the padded batch for the row without padding.

    There is one object for all batches, because torch.compile would recompile the model for a new one.
    """

    def __init__(self) -> None:
        self.usual: Any = None
        self.layout: Layout | None = None
        self.functions: list[Any] | None = None
        """The mask functions that the model has passed, collected while there is a list."""

    def __call__(
        self, *, batch_size: int, q_length: int, kv_length: int, mask_function: Any, **options: Any
    ) -> PackedMask:
        layout, usual = self.layout, self.usual
        assert layout is not None
        if self.functions is not None:
            self.functions.append(mask_function)
        rows, length = layout.shape
        given = options | {"q_length": length, "kv_length": length, "q_offset": 0, "kv_offset": 0}
        given |= {"mask_function": mask_function, "attention_mask": layout.tokens}
        return PackedMask(layout, lambda: usual(batch_size=rows, **given), options.get("local_size"))


class _Attention:
    """An attention function for rows without padding; any other row has the usual one."""

    def __init__(self) -> None:
        self.usual: Any = None
        self.kernel: Callable[..., Any] | None = None
        """A kernel for examples of varying length, if the masks of the model are those that it knows."""

    def __call__(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Any,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        if not isinstance(mask, PackedMask):
            return self._call_usual(module, query, key, value, mask, **options)
        layout, given = mask.layout, (query, key, value)
        if self.kernel is not None and supports_varlen(*given, options):
            window, longest = mask.window, layout.longest
            return attend_varlen(self.kernel, module, given, layout.bounds, longest, window, options), None
        padded = [layout.pad(each.transpose(1, 2)).transpose(1, 2) for each in given]
        found, _ = self._call_usual(module, *padded, mask.read(), **options)
        return layout.pack(found), None

    def _call_usual(self, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor | None]:
        found: tuple[Tensor, Tensor | None] = self.usual(*arguments, **options)
        return found


class Unpadding:
    """Runs a model so that its base model computes no padding."""

    def __init__(self, model: PreTrainedModel, *, counted: bool) -> None:
        """`counted`: positions are counted over the ids that are not the padding id, from it on (RoBERTa)."""
        self._base: Any = unwrap_peft_model(model).base_model
        self._counted = counted
        self._names = list(inspect.signature(self._base.forward).parameters)
        self._masks, self._attention = _Masks(), _Attention()
        self._run: Callable[..., Any] = self._base.forward
        self._pool: Callable[..., Any] | None = None

    @contextmanager
    def __call__(self, batch: Batch) -> Iterator[Batch]:
        """Yield the batch, on which the model runs without padding if it has a layout."""
        self._masks.layout = read_layout(batch)
        if self._masks.layout is None:
            yield batch
            return
        with ExitStack() as stack:
            stack.enter_context(self.use_attention())
            stack.enter_context(self._use_masks())
            stack.enter_context(self._wrap_base())
            yield batch

    @contextmanager
    def use_attention(self) -> Iterator[None]:
        """Use the attention for rows without padding, which a backward pass that recomputes layers needs."""
        usual = AttentionInterface()[SDPA]
        if usual is self._attention:
            yield
            return
        self._attention.usual = usual
        with replace_attention(SDPA, self._attention):
            yield

    @property
    def attention(self) -> str:
        """Name of the attention of rows without padding, for messages."""
        return "varlen_attn" if self._attention.kernel is not None else f"{SDPA}, padded"

    def choose_kernel(self, model: PreTrainedModel) -> None:
        """Use torch's FlashAttention where it gives the results of padded batches, on a GPU."""
        if model.device.type != "cuda" or not self._has_plain_masks(model):
            return
        self._attention.kernel = find_kernel()
        if not is_equal(model, self, half=True):
            self._attention.kernel = None

    def _has_plain_masks(self, model: PreTrainedModel) -> bool:
        """Return whether the masks of the model are causal or bidirectional, with sliding windows or not."""
        found: list[Any] = []
        self._masks.functions = found
        is_equal(model, self)
        self._masks.functions = None
        return bool(found) and all(map(_is_plain, found))

    @contextmanager
    def _use_masks(self) -> Iterator[None]:
        self._masks.usual = usual = AttentionMaskInterface()[SDPA]
        AttentionMaskInterface.register(SDPA, self._masks)
        try:
            yield
        finally:
            AttentionMaskInterface.register(SDPA, usual)
            self._masks.layout = None

    @contextmanager
    def _wrap_base(self) -> Iterator[None]:
        base, pooler = self._base, getattr(self._base, "pooler", None)
        self._run = base.forward
        base.forward = self._run_base
        if pooler is not None:
            self._pool = pooler.forward
            pooler.forward = self._run_pooler
        try:
            yield
        finally:
            _restore_forward(base, self._run)
            if pooler is not None:
                _restore_forward(pooler, self._pool)

    def _run_base(self, *arguments: Any, **options: Any) -> Any:
        """Run the base model on the tokens of its arguments, and return padded hidden states."""
        layout = self._masks.layout
        assert layout is not None
        inputs = dict(zip(self._names, arguments, strict=False)) | options
        if inputs.get("position_ids") is None:
            inputs["position_ids"] = self._make_positions(inputs, layout)
        packed = {name: _pack_input(value, layout) for name, value in inputs.items()}
        packed["attention_mask"] = torch.ones_like(packed["position_ids"])
        outputs = self._run(**packed)
        outputs["last_hidden_state"] = layout.pad(outputs["last_hidden_state"])
        return outputs

    def _run_pooler(self, hidden: Tensor, *more: Any, **options: Any) -> Any:
        layout = self._masks.layout
        assert layout is not None
        assert self._pool is not None
        return self._pool(layout.pad(hidden), *more, **options)

    def _make_positions(self, inputs: dict[str, Any], layout: Layout) -> Tensor:
        """Return the position of each token of the padded batch, int64 (rows, length)."""
        if not self._counted:
            return torch.arange(layout.shape[1], device=layout.packed.device).expand(layout.shape)
        start = self._base.config.pad_token_id
        there = (inputs["input_ids"] != start).long()
        return there.cumsum(1) * there + start


def _pack_input(value: Any, layout: Layout) -> Any:
    fits = isinstance(value, Tensor) and tuple(value.shape[:2]) == layout.shape
    return layout.pack(value) if fits else value


def _restore_forward(module: Any, usual: Any) -> None:
    """Restore a method of a module, which is not kept in the module if it is that of its class."""
    del module.forward
    if getattr(usual, "__func__", None) is not type(module).forward:
        module.forward = usual


def _is_plain(function: Any) -> bool:
    """Return whether a mask function is one of Transformers', of those that FlashAttention computes."""
    if function in (causal_mask_function, bidirectional_mask_function):
        return True
    held = [cell.cell_contents for cell in function.__closure__ or ()]
    parts = [part for each in held if isinstance(each, tuple) for part in each]
    windows = ("sliding_window_overlay", "sliding_window_bidirectional_overlay")
    return len(parts) == 2 and parts[0].__qualname__.partition(".")[0] in windows and _is_plain(parts[1])


def find_unpadding(model: PreTrainedModel) -> Unpadding | None:
    """Return what runs a model without padding; None if it would give other results, or cannot."""
    if model.config._attn_implementation != SDPA or model.config.is_encoder_decoder:
        return None
    ways = (Unpadding(model, counted=counted) for counted in (False, True))
    return next((way for way in ways if is_equal(model, way)), None)


def is_equal(model: PreTrainedModel, way: Unpadding, *, half: bool = False) -> bool:
    """Return whether the base model gives the same results for a small batch with and without padding.

    `half` computes in bfloat16.
    """
    base: Any = unwrap_peft_model(model).base_model
    config, device = model.config.get_text_config(), model.device
    mask = torch.tensor([[number < size for number in range(max(PROBE))] for size in PROBE]).long()
    ids = (torch.arange(mask.numel()).reshape(mask.shape) + 3) % config.vocab_size
    filled = ids.masked_fill(mask == 0, config.pad_token_id or 0)
    batch = {name: each.to(device) for name, each in make_layout(mask).items()}
    inputs: dict[str, Any] = {"input_ids": filled.to(device), "attention_mask": mask.to(device)}
    if model.can_generate():
        inputs["use_cache"] = False
    training = base.training
    base.eval()
    try:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=half):
            usual = base(**inputs)
            with way(batch):
                found = base(**inputs)
    except Exception:  # a model may raise any exception where its masks or positions are others
        return False
    finally:
        base.train(training)
    narrow = half or usual.last_hidden_state.dtype != torch.float32
    return _have_equal_outputs(usual, found, mask != 0, HALF_TOLERANCE if narrow else TOLERANCE)


def _have_equal_outputs(usual: Any, found: Any, there: Tensor, tolerance: float) -> bool:
    there = there.to(usual.last_hidden_state.device)
    pairs = [(usual.last_hidden_state[there], found.last_hidden_state[there])]
    if getattr(usual, "pooler_output", None) is not None:
        pairs.append((usual.pooler_output, found.pooler_output))
    return all(bool((one - other).abs().max() <= tolerance * one.abs().max()) for one, other in pairs)
