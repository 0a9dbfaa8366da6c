"""Cost of a training (parameters, FLOPs, bytes), computed on the meta device."""

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

from hfpipe.errors import StageError, format_one_line
from hfpipe.modeling.loading.config import TOKEN_IDS
from hfpipe.modeling.loading.lora import add_lora, read_merged_config
from hfpipe.modeling.loading.models import read_config, translate_loading_errors
from hfpipe.recipe.training import muon
from hfpipe.training.muon import find_hidden_matrices

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase

    from hfpipe.report import DataFacts
    from hfpipe.runtime import TaskRuntime

SAMPLE = 1000
"""Number of rows that are encoded to estimate the tokens of a split."""
FLOAT = 4
"""Bytes of a float32, the dtype of weights, gradients and optimizer state."""
STATE = {"adamw": 8.0, "sgd": 0.0, "adagrad": 4.0, "rmsprop": 4.0, "lion": 4.0}
"""Prefix of an optimizer's name → bytes of its float32 state per parameter."""
DROPOUTS = ("attention_dropout", "attention_probs_dropout_prob", "attn_pdrop", "dropout_rate")
INNER = ("intermediate_size", "encoder_ffn_dim", "d_ff", "hidden_dim", "n_inner")
DECODER_LAYERS = ("decoder_layers", "num_decoder_layers")


@dataclass(frozen=True)
class Encoded:
    """The encoded train split."""

    examples: int
    tokens: int
    estimated: bool


class FutureTokenizer:
    """Replaces a tokenizer that does not exist yet; only its size is known."""

    def __init__(self, size: int) -> None:
        self._size = size
        for name in TOKEN_IDS:
            setattr(self, name, 0)  # some models need these ids in their config

    def __len__(self) -> int:
        return self._size


@dataclass(frozen=True)
class Shape:
    """The sizes of a model that determine its cost."""

    parameters: int
    """Number of parameters; tied ones count once, as in `num_parameters()`."""
    trained: int
    """Trainable parameters: all, unless there is an adapter."""
    body: int
    """Parameters that every token is multiplied with: without embeddings and vocabulary head."""
    head: int
    """Parameters of the vocabulary head, 0 if there is none."""
    factored: int
    """Size of Adafactor's state: a row and a column per trainable matrix (Shazeer and Stern, 2018)."""
    matrices: int
    """Parameters in matrices that Muon would train."""
    vocabulary: int
    layers: int
    """Layers of encoder and decoder together."""
    crossed: int
    """Layers with cross-attention to an encoder."""
    hidden: int
    inner: int
    """Width of the feed-forward layers."""
    heads: int
    drops_attention: bool
    """Whether there is attention dropout, for which some kernels store attention weights."""


def read_stored_config(folder: Path, head: dict[str, Any]) -> PretrainedConfig:
    """Return the config of a model. Raises StageError when it cannot be read."""
    with translate_loading_errors(folder):
        config = read_merged_config(folder) or read_config(folder)
        config.update(head)
        return config


def shape_of(auto_class: str, config: PretrainedConfig, adapter: Mapping[str, Any] | None = None) -> Shape:
    """Build a model on the meta device, where nothing is allocated, and measure it.

    `adapter` are arguments of PEFT's LoraConfig. Raises StageError when Transformers rejects the config, or
    PEFT the arguments.
    """
    try:
        with torch.device("meta"):
            model = getattr(transformers, auto_class).from_config(config, dtype=torch.float32)
            if adapter is not None:
                add_lora(model, adapter)
        return measure_shape(model, config)
    except StageError:
        raise
    except Exception as error:  # an invalid entry may raise any exception
        raise StageError(f"model: {config.model_type} cannot be built: {format_one_line(error)}") from error


def find_shape(model: Any) -> Shape | None:
    """Return the shape of a model, None if its config lacks the needed entries."""
    try:
        return measure_shape(model, model.config)
    except Exception:  # an unusual config may lack any entry, and the training does not need them
        return None


def measure_shape(model: Any, config: PretrainedConfig) -> Shape:
    """Return the shape of a model that was built."""
    tables = [module.weight for module in model.modules() if isinstance(module, torch.nn.Embedding)]
    looked_up = {id(weight): weight.numel() for weight in tables}
    output = model.get_output_embeddings()
    head = output.weight.numel() if output is not None else 0
    tied = output is not None and id(output.weight) in looked_up
    parameters = model.num_parameters()
    text = config.get_text_config()
    crossed = _get_first(text, DECODER_LAYERS) or text.num_hidden_layers if text.is_encoder_decoder else 0
    return Shape(
        parameters=parameters,
        trained=model.num_parameters(only_trainable=True),
        body=parameters - sum(looked_up.values()) - (0 if tied else head),
        head=head,
        factored=sum(_compute_factored_size(weight) for weight in model.parameters() if weight.requires_grad),
        matrices=sum(weight.numel() for weight in find_hidden_matrices(model) if weight.requires_grad),
        vocabulary=text.vocab_size,
        layers=text.num_hidden_layers + crossed,
        crossed=crossed,
        hidden=text.hidden_size,
        inner=_get_first(text, INNER) or 4 * text.hidden_size,
        heads=text.num_attention_heads,
        drops_attention=any(getattr(text, name, 0) for name in DROPOUTS),
    )


def compute_flops(shape: Shape, tokens: float, length: float, predicted: float) -> float:
    """Return the floating point operations of training on `tokens`, in examples of `length` tokens.

    6 per weight and token: 2 forward, 4 backward (Kaplan et al., 2020, section 2.1), and 12 · layers · hidden
    · length per token for attention (Chowdhery et al., 2022, appendix B). The vocabulary head counts only for
    the share `predicted` of tokens. Lookups, norms and recomputation are not counted. Of the 4, 2 are for the
    gradients of the weights; with an adapter, only its matrices have these. In an encoder-decoder, a token
    counts as one source token and one target token of equally long texts.
    """
    attended = 12 * (shape.layers + shape.crossed) * shape.hidden * length
    passed = shape.body + shape.head * predicted
    learned = passed if shape.trained == shape.parameters else shape.trained
    return tokens * (4 * passed + 2 * learned + attended)


def compute_optimizer_state(shape: Shape, optim: str | None) -> float | None:
    """Return the bytes of the optimizer's state, None if they are not known.

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


def estimate_activations(
    shape: Shape,
    batch: int,
    length: int,
    predicted: float,
    *,
    bf16: bool,
    recomputed: bool,
    held: float = 1.0,
) -> float:
    """Estimate the bytes that a forward pass stores for the backward pass, within a factor of about two.

    Korthikanti et al. (2022), equation 1, generalized to any width of the feed-forward layers: each layer
    stores 9 · hidden + 2 · inner numbers per token, and 2.5 · heads · length more if attention weights are
    stored. A number takes 4 bytes, and 3 on average under bfloat16 autocast, whose norms, softmax and dropout
    stay in float32 and which makes a copy of the weights. Each predicted token stores a float32 per
    vocabulary entry, and its gradient. With gradient checkpointing (`recomputed`), only the input of each
    layer is stored, plus one complete layer. A layer with cross-attention stores 5 · hidden more numbers per
    token, and attention weights again. The rest depends on the kernels. `held` is the share of the weights in
    each process.
    """
    width, tokens = (3 if bf16 else 4), batch * length
    attention = 2.5 * shape.heads * length if shape.drops_attention else 0.0
    layer = width * tokens * (9 * shape.hidden + 2 * shape.inner + attention)
    cross = width * tokens * (5 * shape.hidden + attention)
    whole = layer * shape.layers + cross * shape.crossed
    kept = width * tokens * shape.hidden * shape.layers + layer + cross if recomputed else whole
    logits = estimate_logits(shape, batch, length, predicted)
    return kept + logits + (2 * shape.parameters * held if bf16 else 0)


def estimate_logits(shape: Shape, batch: int, length: int, predicted: float) -> float:
    """Estimate the bytes of the logits of predicted tokens, and of their gradient."""
    return 2 * FLOAT * batch * length * predicted * shape.vocabulary if shape.head else 0.0


def count_gathered_weights(shape: Shape) -> float:
    """Return the number of weights that a sharded model gathers at once: two layers, and all outside."""
    tables = shape.parameters - shape.body
    return 2 * shape.body / shape.layers + tables


def encode_sample(
    task: TaskRuntime, rows: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, facts: DataFacts
) -> Encoded:
    """Encode evenly spaced rows of a split, all rows of a small one, and extrapolate to the split."""
    taken = np.unique(np.linspace(0, len(rows) - 1, SAMPLE, dtype=np.int64))
    ids = task.encoder.encode(rows.select(taken)[:], tokenizer, facts)["input_ids"]
    scale = len(rows) / len(taken)
    tokens = round(sum(map(len, ids)) * scale)
    own = task.config.length - task.config.shared  # tokens of a packed example that are in no other
    examples = math.ceil(tokens / own) if task.config.packed else round(len(ids) * scale)
    return Encoded(max(1, examples), max(1, tokens), estimated=scale > 1)


def _get_first(config: PretrainedConfig, names: Sequence[str]) -> int | None:
    """Return the entry under the first of the names that the config has."""
    return next((value for name in names if (value := getattr(config, name, None))), None)


def _compute_factored_size(weight: torch.Tensor) -> int:
    if weight.dim() < 2:
        return weight.numel()
    return weight.numel() // weight.shape[-1] + weight.numel() // weight.shape[-2]
