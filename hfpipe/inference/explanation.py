"""Explains the prediction for one text: attention weights, and integrated gradients by token."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hfpipe.errors import StageError
from hfpipe.modeling.loading.class_names import get_class_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from hfpipe.inference.predictor import Predictor
    from hfpipe.types import Batch

STEPS = 50
"""Number of points on the path from the baseline to the text, the default of captum."""
AT_ONCE = 8
"""Number of points per forward pass."""
Score = Callable[[Any], torch.Tensor]
"""Function from the outputs of a model, of any batch size, to the explained score of each example."""


@dataclass(frozen=True, eq=False)
class Explanation:
    """A model's prediction for one text, with its attention and attributions."""

    tokens: tuple[str, ...]
    """The tokens of the text, special tokens included."""
    answer: Mapping[str, Any]
    """Result of `hfpipe.predict` for the text."""
    target: str
    """The explained prediction: class, token that fills the mask, next token or answer."""
    attention: np.ndarray
    """Attention weights, float32, shape (layers, heads, tokens, tokens): each row belongs to one token and
    sums to 1 over the attended tokens."""
    attributions: np.ndarray
    """Integrated gradients of the target's logit, float64, shape (tokens,) (Sundararajan et al., 2017)."""
    delta: float
    """Difference between the sum of the attributions and the change of the logit; 0 if they are exact."""

    @property
    def rollout(self) -> np.ndarray:
        """Attention rollout, float32, shape (tokens, tokens); each row sums to 1 (Abnar and Zuidema, 2020).

        The product over layers of the mean attention of all heads, averaged with the identity for the
        residual connections.
        """
        mixed = (self.attention.mean(axis=1) + np.eye(len(self.tokens), dtype=np.float32)) / 2
        product: np.ndarray = mixed[0]
        for layer in mixed[1:]:
            product = layer @ product
        return product

    def plot_attention(self, layer: int | None = None, head: int | None = None) -> Figure:
        """Return a heat map of the attention of a layer and head, averaged over those not given."""
        weights = self.attention if layer is None else self.attention[layer : layer + 1]
        weights = weights if head is None else weights[:, head : head + 1]
        where = "all layers" if layer is None else f"layer {layer}"
        which = "all heads" if head is None else f"head {head}"
        return self._plot_heat_map(weights.mean(axis=(0, 1)), f"attention of {where}, {which}")

    def plot_rollout(self) -> Figure:
        """Return a heat map of the attention rollout."""
        return self._plot_heat_map(self.rollout, "attention rollout")

    def plot_attributions(self) -> Figure:
        """Return a bar chart of the integrated gradients, which raise or lower the score of the target."""
        figure = _create_figure(width=6.0, height=1.2 + 0.22 * len(self.tokens))
        axes = figure.subplots()
        places = np.arange(len(self.tokens))
        colors = np.where(self.attributions >= 0, "tab:blue", "tab:orange")
        axes.barh(places, self.attributions, color=colors.tolist())
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_yticks(places, self.tokens)
        axes.invert_yaxis()
        axes.set_xlabel(f"integrated gradients of {self.target!r} (logits)")
        axes.set_ylabel("token")
        return figure

    def _plot_heat_map(self, weights: np.ndarray, title: str) -> Figure:
        side = 2.0 + 0.24 * len(self.tokens)
        figure = _create_figure(width=side + 0.8, height=side)
        axes = figure.subplots()
        image = axes.imshow(weights, vmin=0.0, cmap="viridis")
        places = np.arange(len(self.tokens))
        axes.set_xticks(places, self.tokens, rotation=90)
        axes.set_yticks(places, self.tokens)
        axes.set_xlabel("attended token")
        axes.set_ylabel("token")
        axes.set_title(title)
        figure.colorbar(image, ax=axes, label="attention weight", shrink=0.8)
        return figure


def explain_prediction(predictor: Predictor, row: Mapping[str, Any]) -> Explanation:
    """Return the prediction for a row with its explanation.

    Raises DataError for a text of several windows, and StageError for a model or task that has no single
    sequence of tokens, no attention weights, or if captum is not installed.
    """
    model, tokenizer = predictor.model, predictor.reading.tokenizer
    if getattr(model, "is_export", False):
        raise StageError("an export has no attention weights and no gradients; explain its original")
    if model.config.is_encoder_decoder:
        raise StageError("explain supports encoders and decoders; this model is an encoder-decoder")
    [(_, answer)] = predictor.predict_rows([("text", row)])
    batch = predictor.make_batch("text", row)
    inputs = _select_model_inputs(batch)
    ids = inputs["input_ids"]
    if ids.ndim != 2 or len(ids) != 1:
        raise StageError("explain supports tasks with one sequence of tokens per row, not several choices")
    model.set_attn_implementation("eager")  # other implementations do not return the weights
    with torch.inference_mode():
        outputs = model(**inputs, output_attentions=True)
    if not outputs.get("attentions"):
        raise StageError(f"{model.config.model_type} returns no attention weights; explain needs them")
    if "start_logits" in outputs:
        target, score = _find_answer_span(answer, batch)
    else:
        target, score = _find_target(outputs, ids[0], model, tokenizer)
    attributions, delta = _compute_integrated_gradients(
        model, inputs, score, _create_baseline(ids, tokenizer)
    )
    return Explanation(
        tokens=tuple(_decode_token(token, tokenizer) for token in ids[0].tolist()),
        answer=answer,
        target=target,
        attention=torch.cat(outputs.attentions).float().cpu().numpy(),
        attributions=attributions,
        delta=delta,
    )


def _select_model_inputs(batch: Batch) -> dict[str, torch.Tensor]:
    """Return the arguments of the model, without padding."""
    inputs = {name: each for name, each in batch.items() if name != "labels" and not name.startswith("_")}
    kept = inputs["attention_mask"][0].bool() if "attention_mask" in inputs else None
    if kept is None or kept.ndim != 1:
        return inputs
    return {name: each[:, kept] if each.ndim == 2 else each for name, each in inputs.items()}


def _decode_token(token: int, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a token as text, or its vocabulary entry if it is only part of a character."""
    text = str(tokenizer.decode([token]))
    return str(tokenizer.convert_ids_to_tokens(token)) if "\ufffd" in text else text.strip() or repr(text)


def _find_answer_span(answer: Mapping[str, Any], batch: Batch) -> tuple[str, Score]:
    """Return the predicted answer of a question, and the sum of the logits of its first and last token.

    These may not be the highest logits, because an answer lies in the text and has a maximum length.
    """
    if "_starts" not in batch:  # a user's task that does not extend question-answering
        raise StageError("explain supports answers of question-answering and of tasks that extend it")
    first = last = int(batch["_nothing"][0])
    if answer["answer"]:
        kept = batch["attention_mask"][0].bool()
        starts, ends = (batch[name][0][kept].tolist() for name in ("_starts", "_ends"))
        first, last = starts.index(answer["start"]), ends.index(answer["end"])
    name = answer["answer"] or "no answer"
    return name, lambda found: found.start_logits[:, first] + found.end_logits[:, last]


def _find_target(
    outputs: Any, ids: torch.Tensor, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> tuple[str, Score]:
    """Return the name of the prediction, and its score as a function of the outputs."""
    logits = outputs.logits[0]
    if logits.ndim == 1:
        best = int(logits.argmax())
        return get_class_names(model.config)[best], lambda found: found.logits[:, best]
    if logits.shape[-1] < len(tokenizer):
        place, best = _find_likeliest_tag(logits, ids, model, tokenizer)
        word = _decode_token(int(ids[place]), tokenizer)
        return f"{get_class_names(model.config)[best]} at {word}", lambda found: found.logits[:, place, best]
    masks = [place for place, token in enumerate(ids.tolist()) if token == tokenizer.mask_token_id]
    place = masks[0] if masks else len(ids) - 1
    best = int(logits[place, : len(tokenizer)].argmax())
    return _decode_token(best, tokenizer), lambda found: found.logits[:, place, best]


def _find_likeliest_tag(
    logits: torch.Tensor, ids: torch.Tensor, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> tuple[int, int]:
    """Return the token and the class of the most probable tag other than `O`."""
    probabilities = logits.softmax(dim=-1)
    outside = torch.tensor([name == "O" for name in get_class_names(model.config)], device=ids.device)
    probabilities = probabilities.masked_fill(outside | _is_special(ids, tokenizer)[:, None], 0.0)
    place, best = divmod(int(probabilities.argmax()), logits.shape[-1])
    return place, best


def _create_baseline(ids: torch.Tensor, tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """Return the ids of an uninformative text: special tokens are kept, all others become padding."""
    padding = next(
        token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if token is not None
    )
    return torch.where(_is_special(ids, tokenizer), ids, padding)


def _is_special(ids: torch.Tensor, tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    return torch.isin(ids, torch.tensor(tokenizer.all_special_ids, device=ids.device))


def _compute_integrated_gradients(
    model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], score: Score, baseline: torch.Tensor
) -> tuple[np.ndarray, float]:
    """Return the attributions by token, float64, shape (tokens,), and the error of their sum."""
    try:
        from captum.attr import LayerIntegratedGradients
    except ImportError:
        raise StageError(
            "explain needs captum, which is not installed; pip install 'hfpipe[explain]'"
        ) from None
    others = {name: tensor for name, tensor in inputs.items() if name != "input_ids"}

    def scores(ids: torch.Tensor, *given: torch.Tensor) -> torch.Tensor:
        return score(model(input_ids=ids, **dict(zip(others, given, strict=True))))

    found, delta = LayerIntegratedGradients(scores, model.get_input_embeddings()).attribute(
        inputs["input_ids"],
        baselines=baseline,
        additional_forward_args=tuple(others.values()) or None,
        n_steps=STEPS,
        internal_batch_size=AT_ONCE,
        return_convergence_delta=True,
    )
    return found[0].sum(dim=-1).double().detach().cpu().numpy(), float(delta[0])


def _create_figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise StageError(
            "plots need matplotlib, which is not installed; pip install 'hfpipe[explain]'"
        ) from None
    return Figure(figsize=(width, height), layout="constrained")
