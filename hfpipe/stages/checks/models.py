"""Checks of the model, tokenizer and adapter that a stage names, without loading them."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from hfpipe.advice import advise
from hfpipe.errors import Problem
from hfpipe.recipe.installed import list_auto_classes
from hfpipe.recipe.messages import suggest
from hfpipe.references.places import Place
from hfpipe.stages import artifacts, embedding_rows
from hfpipe.stages.checks.columns import Above
from hfpipe.task import TaskConfig

if TYPE_CHECKING:
    from hfpipe.stages.train import TrainStage


def check_model(stage: TrainStage, above: Above, base: Path) -> Iterator[Problem]:
    """Yield problems with the model and tokenizer that a stage starts from."""
    task, model = stage.task, artifacts.find_model(stage.model, above, base)
    vocabulary = artifacts.find_tokenizer_facts(stage.tokenizer or stage.model, above, base)
    where = ("tokenizer",) if stage.tokenizer is not None else ("model",)
    made = above.get(getattr(stage.tokenizer, "stage", None) or "")
    trained = getattr(made, "algorithm", None) is not None
    yield from (Problem(message, where) for message in _check_tokens(task, vocabulary, trained=trained))
    if model is None:
        return
    yield from check_architecture(task, model)
    yield from check_length(task, model)
    asking = task.requires.token_types
    if asking is not None and model.token_types < 2:
        message = f"{asking} needs a model that distinguishes two sentences; {model.kind} has no token types"
        yield Problem(f"{message}, bert has", ("task", asking))
    yield from embedding_rows.check_trained_rows(
        stage, model.given.get("vocab_size"), vocabulary.size, above, base
    )


def check_length(task: TaskConfig, model: artifacts.Model) -> Iterator[Problem]:
    """Yield a problem if a task reads more tokens than a model has positions."""
    if model.positions is not None and task.length > model.positions:
        most = f"the {model.positions} positions of the model ({model.kind})"
        message = f"length {task.length} exceeds {most}"
        yield Problem(f"{message}; lower it", ("task", "length"))


def _check_tokens(task: TaskConfig, vocabulary: artifacts.TokenizerFacts, *, trained: bool) -> Iterator[str]:
    """Yield special tokens or chat templates that a task needs and its tokenizer lacks.

    `trained` is whether a stage of this recipe trains the tokenizer, so that its style can be chosen.
    """
    needs = task.requires
    fix = f"add {advise(style=needs.style)} to its stage" if trained else "use another tokenizer"
    if needs.mask_token and vocabulary.mask is False:
        yield f"{task.kind} needs a mask token, and this tokenizer has none; {fix}"
    if needs.sentinels and vocabulary.blanks is False:
        yield f"{task.kind} needs <extra_id_0> … for hidden spans, and this tokenizer has none; {fix}"
    if needs.chat_template and vocabulary.chat is False:
        yield (
            f"{task.kind} formats conversations with a chat template, and this tokenizer has none; "
            "use one that has, or use `template` and `completion` instead"
        )


def check_architecture(task: TaskConfig, model: artifacts.Model) -> Iterator[Problem]:
    """Check what Transformers rejects late or misinterprets, such as the decoder of an encoder-decoder."""
    both = bool(model.config.get_value(model.given, "is_encoder_decoder"))
    prompted = task.requires.prompt
    path = ("task",) if prompted else ("model",)
    if task.auto_class == "AutoModelForSeq2SeqLM" and not both:
        message = f"{task.kind} needs an encoder-decoder such as t5, and {model.kind} is not one"
        decoder = prompted and model.has("AutoModelForCausalLM") and not model.reads_ahead
        fix = 'add a prompt to the task, as "{source} =>"' if decoder else "use another model"
        yield Problem(f"{message}; {fix}", path)
    elif task.auto_class == "AutoModelForCausalLM" and both:
        message = f"{task.kind} needs a decoder here, and {model.kind} also has an encoder"
        yield Problem(f"{message}; {'delete prompt' if prompted else 'use another model'}", path)
    elif task.auto_class not in list_auto_classes():
        message = f"{task.kind}: Transformers has no auto class {task.auto_class!r}"
        yield Problem(f"{message}{suggest(task.auto_class, list_auto_classes())}", ("task",))
    elif not model.has(task.auto_class):
        yield Problem(f"Transformers has no {model.kind} for {task.kind}; use another model", ("model",))
    elif task.auto_class == "AutoModelForCausalLM" and model.reads_ahead:
        message = f"{task.kind} needs a decoder, and {model.kind} also attends to later tokens"
        yield Problem(f"{message}; use another model, such as gpt2", ("model",))


def check_adapter(stage: TrainStage, above: Above, base: Path) -> Iterator[Problem]:
    """Yield problems with an adapter, which needs trained weights and PEFT."""
    if stage.adapter is None:
        return
    if find_spec("peft") is None:
        yield Problem("adapter needs peft, which is not installed; pip install 'hfpipe[lora]'", ("adapter",))
    if not isinstance(stage.model, Place):
        message = "an adapter needs trained weights, which a model from scratch does not have"
        yield Problem(f"{message}; name a model, or delete adapter", ("adapter",))
    elif artifacts.is_adapter(stage.model, above, base):
        merged = advise(adapter={"type": "lora", "merge": True})
        fix = f"add {merged} to its stage" if stage.model.stage else "merge it first"
        yield Problem(f"{stage.model} is an adapter, to which no other can be added; {fix}", ("model",))
