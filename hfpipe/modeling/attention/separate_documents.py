"""Attention within packed documents that must not attend to each other, by masks or document bounds.

On a GPU, rows of at least `FLEX_FROM` tokens use FlexAttention, which skips the blocks between documents;
shorter rows use `scaled_dot_product_attention` with a mask. FlashAttention, if set in the recipe, receives
the bounds of the documents (`cu_seq_lens`): from positions alone, Transformers separates documents only in a
batch of one row.

Most decoders separate documents if positions restart at 0; encoders do not, and need masks that include the
documents. This is tested by running the model, not by its name.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from transformers import AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import and_masks, packed_sequence_mask_function, sdpa_mask

from hfpipe.modeling.attention.cpu import replace_attention
from hfpipe.modeling.attention.masks import block_mask, use_attention

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hfpipe.types import Batch

FLEX, SDPA = "flex_attention", "sdpa"
FLEX_FROM = 1024
"""Minimum number of tokens per row for FlexAttention on a GPU.

Tokens/s of a model of 125M on one H200: 278,000 at 512 with SDPA; 236,000 with SDPA and 310,000 with
FlexAttention at 2,048; 124,000 and 290,000 at 8,192.
"""
MIN_HEAD_SIZE = 16
"""Minimum head size that FlexAttention supports on a GPU."""
PROBE = 6
"""Number of tokens per document in the test of a model."""
TOLERANCE = 1e-4
"""Maximum difference that counts as rounding, relative to the largest logit."""
BOUNDS = 64
"""The number of bounds is padded to a multiple of this number, so that few shapes are compiled."""


@dataclass(frozen=True)
class Separation:
    """Method by which a model separates the documents of a row."""

    by: Literal["positions", "masks"]
    """`positions`: the model separates documents where positions restart at 0; `masks`: by masks."""
    attention: str
    """Name of the attention implementation that computes it."""


def find_separation(model: PreTrainedModel) -> Separation | None:
    """Return how a model separates documents with its current attention, None if it cannot."""
    usual = model.config._attn_implementation
    tried = SDPA if usual == FLEX else usual  # a CPU would have to compile FlexAttention
    ways: tuple[Separation, ...] = (Separation("positions", tried), Separation("masks", tried))
    with _replace_kernel(usual):
        found = next((way for way in ways if _separates(model, way)), None)
    return None if found is None else Separation(found.by, usual)


def choose_attention(
    model: PreTrainedModel, found: Separation, length: int, device: torch.device
) -> Separation:
    """Return the separation that is fastest on a device for rows of `length` tokens.

    An implementation other than the default SDPA was chosen by the user and is kept.
    """
    if found.attention != SDPA or device.type != "cuda" or length < FLEX_FROM:
        return found
    flexible = replace(found, attention=FLEX)
    return flexible if _supports_flex_attention(model) and _flex_separates(model, flexible) else found


class SeparateDocuments:
    """Runs a model so that the documents of a row do not attend to each other."""

    def __init__(self, model: PreTrainedModel, found: Separation) -> None:
        self._model = model
        self._found = found
        self._masks = _DocumentMasks()

    @contextmanager
    def __call__(self, batch: Batch) -> Iterator[Batch]:
        """Temporarily set the model's attention, and yield the batch to run it on.

        `_documents` of the batch, int64 (rows, length), are the document numbers of tokens within their row.
        A batch without `_documents` is yielded unchanged.
        """
        if "_documents" not in batch:
            yield batch
            return
        name = self._found.attention
        with ExitStack() as stack:
            stack.enter_context(use_attention(self._model, name))
            if _is_flash(name):
                yield batch | _create_flash_arguments(batch)
                return
            documents = batch["_documents"] if self._found.by == "masks" else None
            if documents is not None or name == FLEX:
                stack.enter_context(self._masks.replace_mask(name, documents))
            yield batch


class _DocumentMasks:
    """A mask function that wraps another and adds the documents.

    There is one object for all batches, because torch.compile would recompile the model for a new one.
    """

    def __init__(self) -> None:
        self._make: Any = sdpa_mask
        self._documents: torch.Tensor | None = None

    def __call__(self, *, mask_function: Any, **options: Any) -> Any:
        if self._documents is not None:
            mask_function = and_masks(packed_sequence_mask_function(self._documents), mask_function)
        never = {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
        return self._make(mask_function=mask_function, **(options | never))

    @contextmanager
    def replace_mask(self, name: str, documents: torch.Tensor | None) -> Iterator[None]:
        """Temporarily replace the mask function of an implementation, without changing its name.

        Without `documents`, the model separates them itself.
        """
        usual = AttentionMaskInterface()[name]
        self._make, self._documents = block_mask if name == FLEX else usual, documents
        AttentionMaskInterface.register(name, self)
        try:
            yield
        finally:
            AttentionMaskInterface.register(name, usual)
            self._documents = None


def find_document_bounds(documents: torch.Tensor) -> torch.Tensor:
    """Return the start of each document in the flattened batch, and the batch's end: int32, one-dimensional.

    `documents`, int64 (rows, length), are document numbers within a row. The end is repeated up to a multiple
    of `BOUNDS`, which means documents without tokens.
    """
    first = torch.ones_like(documents, dtype=torch.bool)
    first[:, 1:] = documents[:, 1:] != documents[:, :-1]
    begins = first.reshape(-1).nonzero().squeeze(-1)
    size = -(-(len(begins) + 1) // BOUNDS) * BOUNDS
    ends = begins.new_full((size - len(begins),), documents.numel())
    return torch.cat([begins, ends]).to(torch.int32)


def _create_flash_arguments(batch: Batch) -> Any:
    """Return the arguments of FlashAttention for the documents (Transformers' `FlashAttentionKwargs`)."""
    bounds = batch["_bounds"] if "_bounds" in batch else find_document_bounds(batch["_documents"])
    longest = batch["_documents"].shape[1]
    return {
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def _replace_kernel(name: str) -> AbstractContextManager[None]:
    """Temporarily compute FlashAttention, which needs a GPU and half precision, by SDPA."""
    return replace_attention(name, _attend_within_bounds) if _is_flash(name) else nullcontext()


def _attend_within_bounds(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, _: Any, **options: Any
) -> Any:
    """Compute attention within documents of one row by their bounds; without bounds, over the row."""
    bounds, length = options.get("cu_seq_lens_q"), query.shape[2]
    seen = torch.ones((length, length), dtype=torch.bool, device=query.device)
    if getattr(module, "is_causal", False):
        seen = seen.tril()
    if bounds is not None:
        documents = torch.bucketize(torch.arange(length, device=query.device), bounds, right=True)
        seen = seen & (documents[:, None] == documents[None])
    chosen = {name: options[name] for name in ("scaling", "dropout") if name in options}
    return sdpa_attention_forward(module, query, key, value, seen[None, None], is_causal=False, **chosen)


def _is_flash(name: str | None) -> bool:
    return "flash" in str(name)


def _separates(model: PreTrainedModel, way: Separation) -> bool:
    """Return whether the outputs for the second of two documents in a row do not depend on the first."""
    numbers = torch.arange(2 * PROBE, device=model.device).unsqueeze(0)
    ids = numbers % model.config.get_text_config().vocab_size
    batch = {"input_ids": ids, "position_ids": numbers % PROBE, "_documents": numbers // PROBE}
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), SeparateDocuments(model, way)(batch) as inputs:
            given = {name: each for name, each in inputs.items() if not name.startswith("_")}
            together = _compute_logits(model, **given)[:, PROBE:]
        with (
            torch.no_grad(),
            use_attention(model, SDPA if way.attention == FLEX else way.attention),
        ):
            alone = _compute_logits(model, input_ids=ids[:, PROBE:])
    except (KeyError, TypeError):  # no position_ids, or its masks are not in Transformers' table
        return False
    finally:
        model.train(training)
    return bool((together - alone).abs().max() <= TOLERANCE * alone.abs().max())


def _compute_logits(model: PreTrainedModel, **inputs: torch.Tensor) -> torch.Tensor:
    more = {"use_cache": False} if model.can_generate() else {}
    logits: torch.Tensor = model(**inputs, **more).logits
    return logits


def _flex_separates(model: PreTrainedModel, found: Separation) -> bool:
    """Return whether FlexAttention separates documents as well; tested without compiling its kernel."""
    with warnings.catch_warnings(), torch.compiler.set_stance("force_eager"):
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        return _separates(model, found)


def _supports_flex_attention(model: PreTrainedModel) -> bool:
    """Return whether FlexAttention supports a model in training: no attention dropout, and large heads.

    Random states are restored.
    """
    fine: list[bool] = []

    def probe(module: Any, query: torch.Tensor, *more: Any, **options: Any) -> Any:
        fine.append(not options.get("dropout") and query.shape[-1] >= MIN_HEAD_SIZE)
        return sdpa_attention_forward(module, query, *more, **options)

    ids = torch.zeros((1, PROBE), dtype=torch.int64, device=model.device)
    more = {"use_cache": False} if model.can_generate() else {}
    devices = [model.device] if model.device.type == "cuda" else []
    training = model.training
    model.train()
    try:
        with replace_attention(SDPA, probe), torch.random.fork_rng(devices), torch.no_grad():
            model(input_ids=ids, **more)
    finally:
        model.train(training)
    return bool(fine) and all(fine)
