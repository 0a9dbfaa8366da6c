"""Attention of packed documents that must not see one another, by masks or by the bounds of the documents.

On a GPU, rows from `FLEX_FROM` tokens on take FlexAttention, which skips the blocks between documents;
shorter ones take `scaled_dot_product_attention` with a mask. FlashAttention, where the recipe asks for it, is
given the bounds of the documents (`cu_seq_lens`): by positions alone Transformers lets it separate documents
only in a batch of one row.

Most decoders mask documents by themselves where positions begin again at 0; encoders do not, and get masks
with the documents added. Which it is, is found out by running the model, not by its name.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import and_masks, packed_sequence_mask_function, sdpa_mask

from hfpipe.modeling.attention.masks import block_mask, implementation

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hfpipe.types import Batch

FLEX, SDPA = "flex_attention", "sdpa"
FLEX_FROM = 1024
"""Tokens of a row from which FlexAttention is taken on a GPU.

Tokens/s of a model of 125M on one H200: 278,000 at 512 with SDPA; 236,000 with SDPA and 310,000 with
FlexAttention at 2,048; 124,000 and 290,000 at 8,192.
"""
LEAST_HEAD = 16
"""Smallest size of an attention head that FlexAttention computes on a GPU."""
PROBE = 6
"""Tokens of each document by which a model is tried."""
ALIKE = 1e-4
"""Largest difference that passes for rounding, as a share of the largest logit."""
BOUNDS = 64
"""The number of bounds is padded to a multiple of this, so that there are few shapes to compile."""


@dataclass(frozen=True)
class Separation:
    """How a model is made to keep the documents of a row apart."""

    by: Literal["positions", "masks"]
    """`positions`: the model does it where they begin again at 0; `masks`: its masks get documents added."""
    attention: str
    """Name of the attention implementation that computes it."""


def separation_of(model: PreTrainedModel) -> Separation | None:
    """Return how a model keeps documents apart with its present attention, None where it cannot."""
    usual = model.config._attn_implementation
    tried = SDPA if usual == FLEX else usual  # whose kernel a CPU would compile first
    ways: tuple[Separation, ...] = (Separation("positions", tried), Separation("masks", tried))
    with _without_kernel(usual):
        found = next((way for way in ways if _keeps_apart(model, way)), None)
    return None if found is None else Separation(found.by, usual)


def choose_attention(
    model: PreTrainedModel, found: Separation, length: int, device: torch.device
) -> Separation:
    """Return the separation that is fastest on a device for rows of `length` tokens.

    An implementation other than SDPA, which is the default, was chosen and stays.
    """
    if found.attention != SDPA or device.type != "cuda" or length < FLEX_FROM:
        return found
    flexible = replace(found, attention=FLEX)
    return flexible if _drops_nothing(model) and _same_by_flex(model, flexible) else found


class SeparateDocuments:
    """Runs a model so that no document of a row sees another."""

    def __init__(self, model: PreTrainedModel, found: Separation) -> None:
        self._model = model
        self._found = found
        self._masks = _DocumentMasks()

    @contextmanager
    def __call__(self, batch: Batch) -> Iterator[Batch]:
        """Set the model's attention for a while, and yield what it is to be run on.

        `_documents` of the batch, int64 (rows, length), is the number of each token's document in its row.
        A batch without it is run as it is.
        """
        if "_documents" not in batch:
            yield batch
            return
        name = self._found.attention
        with ExitStack() as stack:
            stack.enter_context(implementation(self._model, name))
            if _is_flash(name):
                yield batch | _flash_arguments(batch)
                return
            documents = batch["_documents"] if self._found.by == "masks" else None
            if documents is not None or name == FLEX:
                stack.enter_context(self._masks.replacing(name, documents))
            yield batch


class _DocumentMasks:
    """A mask function in place of another, which it calls with documents added.

    It is one object for all batches, because torch.compile would compile the model again for another one.
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
    def replacing(self, name: str, documents: torch.Tensor | None) -> Iterator[None]:
        """Be the mask function of an implementation for a while; its name stays, as models depend on it.

        Without `documents` the model adds them by itself.
        """
        usual = AttentionMaskInterface()[name]
        self._make, self._documents = block_mask if name == FLEX else usual, documents
        AttentionMaskInterface.register(name, self)
        try:
            yield
        finally:
            AttentionMaskInterface.register(name, usual)
            self._documents = None


def bounds_of(documents: torch.Tensor) -> torch.Tensor:
    """Return where documents begin among all tokens of a batch, and its end: int32, one-dimensional.

    `documents`, int64 (rows, length), are their numbers within a row. The end is repeated up to a multiple of
    `BOUNDS`, which stands for documents without tokens.
    """
    first = torch.ones_like(documents, dtype=torch.bool)
    first[:, 1:] = documents[:, 1:] != documents[:, :-1]
    begins = first.reshape(-1).nonzero().squeeze(-1)
    size = -(-(len(begins) + 1) // BOUNDS) * BOUNDS
    ends = begins.new_full((size - len(begins),), documents.numel())
    return torch.cat([begins, ends]).to(torch.int32)


def _flash_arguments(batch: Batch) -> Any:
    """Return what FlashAttention is told of the documents (`FlashAttentionKwargs` of Transformers)."""
    bounds = batch["_bounds"] if "_bounds" in batch else bounds_of(batch["_documents"])
    longest = batch["_documents"].shape[1]
    return {
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": longest,
        "max_length_k": longest,
    }


@contextmanager
def _without_kernel(name: str) -> Iterator[None]:
    """Let FlashAttention, which needs a GPU and half precision, be computed by SDPA for a while."""
    if not _is_flash(name):
        yield
        return
    usual = AttentionInterface()[name]
    AttentionInterface.register(name, _attend_within_bounds)
    try:
        yield
    finally:
        AttentionInterface.register(name, usual)


def _attend_within_bounds(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, _: Any, **options: Any
) -> Any:
    """Attend within documents of one row by their bounds, or over all of it where there are none."""
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


def _keeps_apart(model: PreTrainedModel, way: Separation) -> bool:
    """Tell whether a model reads the second of two short documents of a row as if it were alone."""
    numbers = torch.arange(2 * PROBE, device=model.device).unsqueeze(0)
    ids = numbers % model.config.get_text_config().vocab_size
    batch = {"input_ids": ids, "position_ids": numbers % PROBE, "_documents": numbers // PROBE}
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), SeparateDocuments(model, way)(batch) as inputs:
            given = {name: each for name, each in inputs.items() if not name.startswith("_")}
            together = _logits(model, **given)[:, PROBE:]
        with torch.no_grad(), implementation(model, SDPA if way.attention == FLEX else way.attention):
            alone = _logits(model, input_ids=ids[:, PROBE:])
    except (KeyError, TypeError):  # it knows no position_ids, or its masks are not of Transformers' table
        return False
    finally:
        model.train(training)
    return bool((together - alone).abs().max() <= ALIKE * alone.abs().max())


def _logits(model: PreTrainedModel, **inputs: torch.Tensor) -> torch.Tensor:
    more = {"use_cache": False} if model.can_generate() else {}
    logits: torch.Tensor = model(**inputs, **more).logits
    return logits


def _same_by_flex(model: PreTrainedModel, found: Separation) -> bool:
    """Tell whether a model reads documents the same by FlexAttention; tried without compiling its kernel."""
    with warnings.catch_warnings(), torch.compiler.set_stance("force_eager"):
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        return _keeps_apart(model, found)


def _drops_nothing(model: PreTrainedModel) -> bool:
    """Tell whether FlexAttention can compute a model's layers in training, where it drops no weights.

    Random states stay as they are.
    """
    fine: list[bool] = []

    def probe(module: Any, query: torch.Tensor, *more: Any, **options: Any) -> Any:
        fine.append(not options.get("dropout") and query.shape[-1] >= LEAST_HEAD)
        return sdpa_attention_forward(module, query, *more, **options)

    ids = torch.zeros((1, PROBE), dtype=torch.int64, device=model.device)
    more = {"use_cache": False} if model.can_generate() else {}
    training, usual = model.training, AttentionInterface()[SDPA]
    AttentionInterface.register(SDPA, probe)
    model.train()
    try:
        devices = [model.device] if model.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.no_grad():
            model(input_ids=ids, **more)
    finally:
        AttentionInterface.register(SDPA, usual)
        model.train(training)
    return bool(fine) and all(fine)
