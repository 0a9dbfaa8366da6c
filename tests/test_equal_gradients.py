"""Equal work: a training step has the gradients of the plain path, for each task and each type of model.

The plain path is the model as Transformers has it, on one padded batch, its loss computed from all logits.
"""

from __future__ import annotations

import functools
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pytest
import rows
import small
import torch
from cases import CASES
from test_model_types import TYPES
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from hfpipe.encoding.encoded import encode
from hfpipe.encoding.io import extract_facts
from hfpipe.encoding.padding import Collator, list_forward_passes
from hfpipe.encoding.sampler import BatchLayout
from hfpipe.modeling.attention.masks import omit_masks, runs_without_masks
from hfpipe.modeling.loading.models import create_config, create_model
from hfpipe.modeling.losses import chunked_loss
from hfpipe.modeling.losses.losses import IGNORED, shift_labels
from hfpipe.recipe.installed import list_types_with
from hfpipe.references.places import Place, locate_place
from hfpipe.task import TaskConfig
from hfpipe.tasks import TASKS
from hfpipe.tokenization.loading import complete_tokenizer
from hfpipe.tokenization.special_tokens import STYLES
from hfpipe.tokenization.training import Learner
from hfpipe.training.arguments import TrainingPlan, create_training_arguments
from hfpipe.training.speed.choice import Speed
from hfpipe.training.step import TrainingStep
from hfpipe.training.trainer import TaskTrainer, Training

ROWS, APART = 8, 20
TOLERANCE = 1e-5
VANISHING = 1e-7
"""Share of attention weights that is dropped: so few that none is, but attention is computed by products."""
DROPPED = ("attention_probs_dropout_prob", "attn_pdrop", "attention_dropout")
DRY = (
    "qa_dropout",
    "summary_last_dropout",
    "seq_classif_dropout",
    "dropout",
    "hidden_dropout_prob",
    "resid_pdrop",
    "embd_pdrop",
    "activation_dropout",
    "hidden_dropout",
)
FAMILIES = {
    "AutoModelForMaskedLM": ("AutoModelForMaskedLM",),
    "AutoModelForCausalLM": ("AutoModelForCausalLM",),
    "AutoModelForSeq2SeqLM": ("AutoModelForSeq2SeqLM",),
    "AutoModelForMultipleChoice": ("AutoModelForMaskedLM",),
    "AutoModelForQuestionAnswering": ("AutoModelForMaskedLM",),
    "AutoModelForTokenClassification": ("AutoModelForMaskedLM",),
    "AutoModelForSequenceClassification": ("AutoModelForMaskedLM", "AutoModelForCausalLM"),
}
"""Auto class of a task → auto classes of the types of model that can do it."""


def task_of(name: str, kind: str) -> TaskConfig:
    """Return a task of the conformance suite, in the form that fits a type of model."""
    options = CASES[name].task
    if name == "denoising" and TYPES[kind][1] == "bart":
        options = options | {"noise": "infilling"}
    writes = name in ("summarization", "translation")
    if writes and TYPES[kind][0] == "AutoModelForSeq2SeqLM":
        options = {key: value for key, value in options.items() if key != "prompt"}
    elif writes:
        options = {"prompt": "{source}:"} | options
    return TASKS[name].model_validate(options)


def fits(name: str, kind: str) -> bool:
    if name in ("summarization", "translation"):
        return TYPES[kind][0] in ("AutoModelForSeq2SeqLM", "AutoModelForCausalLM")
    auto_class = TASKS[name](**CASES[name].task).auto_class
    return TYPES[kind][0] in FAMILIES[auto_class] and kind in list_types_with(auto_class)


PAIRS = [(name, kind) for name in CASES for kind in TYPES if fits(name, kind)]


@functools.cache
def data(name: str) -> datasets.Dataset:
    """Return a few rows of uneven length."""
    case = CASES[name]
    every = getattr(rows, case.rows)(locate_place(Place(small.SUMMARIES), Path(), {}))
    found = list(islice(every, 0, ROWS * APART, APART))  # neighbours are of one topic
    columns = {ours: [row[theirs] for row in found] for ours, theirs in case.columns.items()}
    made = datasets.Dataset.from_dict(columns)
    if name == "text-classification":
        return made.class_encode_column("label")
    if name == "token-classification":
        names = sorted({tag for row in columns["tags"] for tag in row})
        return made.cast_column("tags", datasets.List(datasets.ClassLabel(names=names)))
    return made


@functools.cache
def tokenizer(style: str) -> PreTrainedTokenizerFast:
    texts = [
        row["extract"] for row in islice(rows.abstracts(locate_place(Place(small.SUMMARIES), Path(), {})), 60)
    ]
    algorithm = {"bert": "wordpiece", "t5": "unigram"}.get(style, "bpe")
    return complete_tokenizer(
        Learner(algorithm, STYLES[style], (), 300, 1, lowercase=False).learn(texts), STYLES[style]
    )


def training(name: str, kind: str, folder: Path, length: int | None = None) -> Training:
    """Return a training of a task; `length` replaces that of the task."""
    _, style, entries = TYPES[kind]
    task, words, examples = task_of(name, kind), tokenizer(style), data(name)
    task = task.model_copy(update={} if length is None else {"length": length})
    facts = extract_facts(datasets.DatasetDict(train=examples))
    encoded, _ = encode(
        task.runtime(), examples, words, facts, folder / "train.arrow", packed=True, advance=lambda _: None
    )
    config = create_config({"type": kind, "hidden_size": 32} | entries, words, task.head(facts))
    for setting in (*DROPPED, *DRY, "dropout_rate", "classifier_dropout", "summary_first_dropout"):
        if isinstance(getattr(config, setting, None), float):
            setattr(config, setting, VANISHING if setting in DROPPED else 0.0)
    model = create_model(task.auto_class, config, 3)
    for module in model.modules():
        if type(module).__name__ == "T5Attention":  # whose setting is that of all other layers as well
            module.dropout = VANISHING
    with torch.no_grad():  # otherwise attention adds next to nothing
        for weight in model.parameters():
            weight.mul_(4 if weight.dim() > 1 and kind != "t5" else 1)
    return Training(
        task=task.runtime(), model=model.train(), tokenizer=words, train=encoded, validation=None, facts=facts
    )


def gradients(model: Any) -> dict[str, Tensor]:
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def plain(made: Training, examples: list[dict[str, Any]], over: int) -> dict[str, Tensor]:
    """Return the gradients of the model as it is, on one batch."""
    batch = made.task.encoder.collate(examples, made.tokenizer, 5, train=True)
    inputs = {name: each for name, each in batch.items() if name != "labels" and name[0] != "_"}
    if made.model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = shift_labels(batch["labels"], made.model.config)
    outputs = made.model(**inputs)
    if made.task.objective.positions(batch) is None:
        total = made.task.objective.loss(outputs, batch, 0.0).total
    else:
        logits = outputs.logits
        total = F.cross_entropy(
            logits.reshape(-1, logits.shape[-1]),
            batch["labels"].reshape(-1),
            ignore_index=IGNORED,
            reduction="sum",
        )
    (total / over).backward()
    return gradients(made.model)


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Compare norms; a gradient that is nothing but rounding errors, as of a bias of keys, is left out."""
    assert found.keys() == expected.keys()
    scale = torch.stack([each.norm() for each in expected.values()]).norm().item()
    assert scale > 1e-3
    for name, gradient in expected.items():
        allowed = TOLERANCE * gradient.norm().item() + 0.01 * TOLERANCE * scale
        assert (found[name] - gradient).norm().item() <= allowed, name


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_a_training_step_has_the_gradients_of_the_plain_path(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked_loss, "LOGITS", 300 * 7)  # several chunks
    made = training(name, kind, tmp_path)
    shares = BatchLayout(micro=min(ROWS, len(made.train)), accumulation=1, world=1)
    course = TrainingPlan(shares, 1, Speed(bf16=False, compiled=False))
    trainer = TaskTrainer(made, create_training_arguments({}, tmp_path, 5, course, None, early=False), shares)
    loader = trainer.get_train_dataloader()
    [keys, *_] = loader.batch_sampler
    [batch], count = trainer.get_batch_samples(iter(loader), 1, torch.device("cpu"))
    expected = plain(made, made.train.__getitems__(keys), int(count))
    with trainer.use_fast_kernels():
        trainer.training_step(trainer.model, batch, count)
    assert_equal(gradients(made.model), expected)


PACKED = [(name, kind) for name, kind in PAIRS if name in ("causal-lm", "masked-lm")]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), PACKED)
def test_batches_of_one_shape_without_masks_have_the_gradients_of_the_plain_path(
    name: str, kind: str, tmp_path: Path
) -> None:
    made = training(name, kind, tmp_path)
    keys = [(0, number) for number in range(len(made.train) - 1)]  # but for the end of the text
    examples = made.train.__getitems__(keys)
    expected = plain(made, examples, 100)
    [batch] = list_forward_passes(Collator(made.task, made.tokenizer, 5, static=True)(examples))
    assert "attention_mask" not in batch
    unmasked = runs_without_masks(made.model, batch["input_ids"][:1])
    with omit_masks(made.model) if unmasked else nullcontext():
        total = TrainingStep(made.task, 0.0, chunked=True)(made.model, batch)[1].total
    (total / 100).backward()
    assert_equal(gradients(made.model), expected)
