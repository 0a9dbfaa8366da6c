"""What a training costs, counted on a model without memory: parameters, FLOPs, bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from transformers import PretrainedConfig, TrainingArguments

from hfpipe.errors import StageError, one_line
from hfpipe.modeling.loading.config import TOKEN_IDS
from hfpipe.modeling.loading.lora import add_lora, read_merged_config
from hfpipe.modeling.loading.models import loading, read_config
from hfpipe.recipe.training import muon
from hfpipe.training.muon import hidden_matrices

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase

    from hfpipe.report import DataFacts
    from hfpipe.runtime import TaskRuntime

SAMPLE = 1000
"""Rows that are encoded to tell how many tokens a split has."""
FLOAT = 4
"""Bytes of a float32, which weights, gradients and optimizer state are kept in."""
STATE = {"adamw": 8.0, "sgd": 0.0, "adagrad": 4.0, "rmsprop": 4.0, "lion": 4.0}
"""Optimizer, as its name begins → bytes a parameter of its state in float32."""
DROPOUTS = ("attention_dropout", "attention_probs_dropout_prob", "attn_pdrop", "dropout_rate")
INNER = ("intermediate_size", "encoder_ffn_dim", "d_ff", "hidden_dim", "n_inner")
DECODER_LAYERS = ("decoder_layers", "num_decoder_layers")


@dataclass(frozen=True)
class Encoded:
    """The train split as the model sees it."""

    examples: int
    tokens: int
    estimated: bool


class FutureTokenizer:
    """Replaces a tokenizer that is not made yet; only its size is known."""

    def __init__(self, size: int) -> None:
        self._size = size
        for name in TOKEN_IDS:
            setattr(self, name, 0)  # some configs take no model without them

    def __len__(self) -> int:
        return self._size


@dataclass(frozen=True)
class Shape:
    """A model as far as its cost goes."""

    parameters: int
    """All of them, tied ones once, as `num_parameters()` counts."""
    trained: int
    """Those that learn: all, unless there is an adapter."""
    body: int
    """Those that every token is multiplied with: neither looked up nor the vocabulary head."""
    head: int
    """Those of the vocabulary head, 0 where there is none."""
    factored: int
    """Numbers that Adafactor keeps of what learns: a row and column a matrix (Shazeer and Stern, 2018)."""
    matrices: int
    """Those in matrices that Muon would train."""
    vocabulary: int
    layers: int
    """Those of the encoder and of the decoder."""
    crossed: int
    """Layers that attend to an encoder's states as well."""
    hidden: int
    inner: int
    """Width of the feed-forward layers."""
    heads: int
    drops_attention: bool
    """Whether attention weights are dropped out in training, for which some kernels keep them."""


def stored_config(folder: Path, head: dict[str, Any]) -> PretrainedConfig:
    """Return the config of a model. Raises StageError when it cannot be read."""
    with loading(folder):
        config = read_merged_config(folder) or read_config(folder)
        config.update(head)
        return config


def shape_of(auto_class: str, config: PretrainedConfig, adapter: Mapping[str, Any] | None = None) -> Shape:
    """Build a model on the meta device, where nothing is allocated, and measure it.

    `adapter` are arguments of PEFT's LoraConfig. Raises StageError when Transformers refuses the config, or
    PEFT these.
    """
    try:
        with torch.device("meta"):
            model = getattr(transformers, auto_class).from_config(config, dtype=torch.float32)
            if adapter is not None:
                add_lora(model, adapter)
        return measured_shape(model, config)
    except StageError:
        raise
    except Exception as error:  # an odd entry may fail in any way
        raise StageError(f"model: {config.model_type} cannot be built: {one_line(error)}") from error


def known_shape(model: Any) -> Shape | None:
    """Return what a model comes to; None for one whose config lacks what is counted."""
    try:
        return measured_shape(model, model.config)
    except Exception:  # an unusual config may lack anything, and the training needs none of this
        return None


def measured_shape(model: Any, config: PretrainedConfig) -> Shape:
    """Return what a model that is made comes to."""
    tables = [module.weight for module in model.modules() if isinstance(module, torch.nn.Embedding)]
    looked_up = {id(weight): weight.numel() for weight in tables}
    output = model.get_output_embeddings()
    head = output.weight.numel() if output is not None else 0
    tied = output is not None and id(output.weight) in looked_up
    parameters = model.num_parameters()
    text = config.get_text_config()
    crossed = _first(text, DECODER_LAYERS) or text.num_hidden_layers if text.is_encoder_decoder else 0
    return Shape(
        parameters=parameters,
        trained=model.num_parameters(only_trainable=True),
        body=parameters - sum(looked_up.values()) - (0 if tied else head),
        head=head,
        factored=sum(_factored_size(weight) for weight in model.parameters() if weight.requires_grad),
        matrices=sum(weight.numel() for weight in hidden_matrices(model) if weight.requires_grad),
        vocabulary=text.vocab_size,
        layers=text.num_hidden_layers + crossed,
        crossed=crossed,
        hidden=text.hidden_size,
        inner=_first(text, INNER) or 4 * text.hidden_size,
        heads=text.num_attention_heads,
        drops_attention=any(getattr(text, name, 0) for name in DROPOUTS),
    )


def flops(shape: Shape, tokens: float, length: float, predicted: float) -> float:
    """Return the floating point operations of training on `tokens`, in examples of `length` tokens.

    6 for every weight and token: 2 forward, 4 backward (Kaplan et al., 2020, section 2.1), and
    12 · layers · hidden · length a token for attention (Chowdhery et al., 2022, appendix B). The vocabulary
    head counts for the share `predicted` of tokens that it sees. Lookups, norms and recomputation do not.
    Of the 4, 2 are for the weights' own gradients, which with an adapter only its matrices have.
    In an encoder-decoder a token counts as one of the source and one of the target, as if both were as long.
    """
    attended = 12 * (shape.layers + shape.crossed) * shape.hidden * length
    passed = shape.body + shape.head * predicted
    learned = passed if shape.trained == shape.parameters else shape.trained
    return tokens * (4 * passed + 2 * learned + attended)


def optimizer_state(shape: Shape, optim: str | None) -> float | None:
    """Return the bytes of the optimizer's state, or None where they are not known.

    `optim` is TrainingArguments' name; None means its default.
    """
    name = str(optim or TrainingArguments.default_optim).removeprefix("paged_")
    if name == "adafactor":
        return float(shape.factored * FLOAT)
    if name == muon.NAME:
        return float(shape.trained * 2 * FLOAT - shape.matrices * FLOAT)
    each = next((size for start, size in STATE.items() if name.startswith(start)), None)
    if each is None:
        return None
    return shape.trained * each / (4 if "8bit" in name else 8 if "4bit" in name else 1)


def activations(
    shape: Shape,
    batch: int,
    length: int,
    predicted: float,
    *,
    bf16: bool,
    recomputed: bool,
    held: float = 1.0,
) -> float:
    """Estimate the bytes that a forward pass leaves for the backward pass, within a factor of about two.

    Korthikanti et al. (2022), equation 1, with the width of the feed-forward layers left free: each layer
    keeps 9 · hidden + 2 · inner numbers a token, and 2.5 · heads · length more where attention weights are
    kept. A number takes 4 bytes, and 3 on average under bfloat16 autocast, whose norms, softmax and dropout
    stay in float32 and which makes a copy of the weights. Each predicted token keeps a float32 for every
    token of the vocabulary, and its gradient. With gradient checkpointing (`recomputed`) only the input of
    each layer is kept, and one layer is whole at a time. A layer that attends to an encoder as well keeps
    5 · hidden numbers a token more, and weights again. Kernels decide the rest: it is an estimate. `held` is
    the share of the weights that a process holds.
    """
    width, tokens = (3 if bf16 else 4), batch * length
    attention = 2.5 * shape.heads * length if shape.drops_attention else 0.0
    layer = width * tokens * (9 * shape.hidden + 2 * shape.inner + attention)
    cross = width * tokens * (5 * shape.hidden + attention)
    whole = layer * shape.layers + cross * shape.crossed
    kept = width * tokens * shape.hidden * shape.layers + layer + cross if recomputed else whole
    logits = 2 * FLOAT * tokens * predicted * shape.vocabulary if shape.head else 0.0
    return kept + logits + (2 * shape.parameters * held if bf16 else 0)


def gathered_weights(shape: Shape) -> float:
    """Return the weights that a sharded model has whole at once: two layers, and what is not in layers."""
    tables = shape.parameters - shape.body
    return 2 * shape.body / shape.layers + tables


def encode_sample(
    task: TaskRuntime, rows: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, facts: DataFacts
) -> Encoded:
    """Encode an even sample of a split, all of a small one, and scale up to the whole."""
    taken = np.unique(np.linspace(0, len(rows) - 1, SAMPLE, dtype=np.int64))
    ids = task.encoder.encode(rows.select(taken)[:], tokenizer, facts)["input_ids"]
    scale = len(rows) / len(taken)
    tokens = round(sum(map(len, ids)) * scale)
    own = task.config.length - task.config.shared  # tokens of a packed example that no other has
    examples = math.ceil(tokens / own) if task.config.packed else round(len(ids) * scale)
    return Encoded(max(1, examples), max(1, tokens), estimated=scale > 1)


def _first(config: PretrainedConfig, names: Sequence[str]) -> int | None:
    """Return the entry under the first of the names that the config knows and says."""
    return next((value for name in names if (value := getattr(config, name, None))), None)


def _factored_size(weight: torch.Tensor) -> int:
    if weight.dim() < 2:
        return weight.numel()
    return weight.numel() // weight.shape[-1] + weight.numel() // weight.shape[-2]
