"""Shows the first examples of a stage in batches, with the encoder, collator and order of the stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from hfpipe.contract import RunContext
from hfpipe.inspection.marked_tokens import BatchMarker
from hfpipe.inspection.shown import ShownExample, ShownStage
from hfpipe.inspection.token_texts import TokenTexts
from hfpipe.modeling.loading.class_names import get_head_classes
from hfpipe.number_format import format_count
from hfpipe.stages.data_folder import get_data_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hfpipe.encoding.encoded import Examples
    from hfpipe.report import DataFacts
    from hfpipe.stages.evaluate import Evaluate
    from hfpipe.stages.finetune import Finetune
    from hfpipe.stages.pretrain import Pretrain
    from hfpipe.task import TaskConfig
    from hfpipe.types import Batch


@dataclass(frozen=True)
class ShownBatch:
    """A batch, with the index of the example in each of its rows."""

    title: str
    tensors: Batch
    examples: list[int]


@dataclass(frozen=True)
class EncodedStage:
    """The encoded examples of a stage, with the objects needed to show them."""

    task: TaskConfig
    tokenizer: PreTrainedTokenizerBase
    examples: Examples
    facts: DataFacts
    split: str
    ledger: dict[str, int]


def show_training(stage: Pretrain | Finetune, ctx: RunContext, split: str, rows: int) -> ShownStage:
    """Return the first `rows` examples of a training stage, as its first steps or its validation read them.

    The split is encoded under `ctx.work`. Raises DataError when there is no such split, StageError when the
    tokenizer cannot be loaded.
    """
    from hfpipe.encoding.io import read_facts
    from hfpipe.recipe.training.defaults import add_defaults

    tokenizer = stage.open_tokenizer(ctx)
    examples, ledger = stage.encode_split(split, ctx, tokenizer, reads_all=True)
    found = EncodedStage(
        stage.task, tokenizer, examples, read_facts(get_data_folder(stage.data, ctx)), split, ledger
    )
    if split == "train":
        batches = _iterate_training_batches(stage, found, ctx.seed)
    else:
        settings = add_defaults(stage.training, evaluated=True, early=stage.early_stopping is not None)
        size = settings["per_device_eval_batch_size"]
        batches = _iterate_evaluation_batches(found, ctx.seed, size, training=True)
    return _show_batches(ctx.name, stage.kind, found, batches, rows)


def show_evaluation(stage: Evaluate, ctx: RunContext, rows: int) -> ShownStage:
    """Return the first `rows` examples of the split of an evaluate stage, as its model reads them."""
    setup, (system, *_) = stage.open_systems(ctx)
    tokenizer, examples = stage.encode_for(system, setup, ctx, reads_all=True)
    found = EncodedStage(system.task, tokenizer, examples, setup.facts, stage.split, {})
    batches = _iterate_evaluation_batches(found, ctx.seed, stage.batch_size, training=False)
    return _show_batches(ctx.name, stage.kind, found, batches, rows)


def _iterate_training_batches(
    stage: Pretrain | Finetune, found: EncodedStage, seed: int
) -> Iterator[ShownBatch]:
    """Yield the batches of the first process, beginning with the first step."""
    from hfpipe.encoding.padding import Collator, is_cut, list_forward_passes
    from hfpipe.encoding.sampler import StepBatches
    from hfpipe.modeling.performance import runs_on_cpu
    from hfpipe.training.arguments import compute_shares

    task, shares = found.task, compute_shares(stage.training)
    cut = is_cut(task, "cpu" if runs_on_cpu() else "accelerator")
    collator = Collator(task.runtime(), found.tokenizer, seed, cut=cut)
    order = StepBatches(found.examples.lengths, shares, rank=0, seed=seed, grouped=not task.packed)
    for number, keys in enumerate(order):
        step = f"step {number // shares.accumulation + 1}"
        rows = found.examples.__getitems__(keys)
        passes = list_forward_passes(collator(rows))
        for examples, batch in zip(collator.group_examples(rows), passes, strict=True):
            yield ShownBatch(step, batch, [int(example["index"]) for example in examples])


def _iterate_evaluation_batches(
    found: EncodedStage, seed: int, batch_size: int, *, training: bool
) -> Iterator[ShownBatch]:
    """Yield the batches of an evaluation, longest rows first."""
    from hfpipe.evaluation.loop import ModelReader, batch_rows

    reader = ModelReader(found.task.runtime(), found.facts, found.tokenizer, seed, training=training)
    for number, index in enumerate(batch_rows(found.examples.rows, found.examples.lengths, batch_size), 1):
        yield ShownBatch(f"batch {number}", reader.make_batch(found.examples, index), index.tolist())


def _show_batches(
    name: str, kind: str, found: EncodedStage, batches: Iterator[ShownBatch], rows: int
) -> ShownStage:
    task, packed = found.task, found.task.packed and found.split == "train"
    marker = BatchMarker(
        task.auto_class,
        packed,
        dict(enumerate(get_head_classes(task.head(found.facts)) or [])),
        found.tokenizer,
        TokenTexts(found.tokenizer),
    )
    examples = (
        _create_example(marker, batch, row, None if packed else found.examples)
        for batch in batches
        for row in range(len(batch.examples))
    )
    return ShownStage(
        stage=name,
        kind=kind,
        split=found.split,
        facts=[*_list_facts(found)],
        templates=[*_list_templates(task, found.tokenizer)],
        examples=[*islice(examples, rows)],
    )


def _create_example(
    marker: BatchMarker, batch: ShownBatch, row: int, origin: Examples | None
) -> ShownExample:
    from hfpipe.encoding.origins import name_row

    number = batch.examples[row]
    title = f"{batch.title}, row {row + 1}: example {number + 1:,}"
    if origin is not None:
        title += f", of {name_row(origin.source, int(origin.rows[number]))}"
    return ShownExample(
        title, marker.mark_sequences(batch.tensors, row), [*marker.list_targets(batch.tensors, row)]
    )


def _list_facts(found: EncodedStage) -> Iterator[tuple[str, str]]:
    task, texts = found.task.model_dump(mode="json"), found.task.templates
    chosen = _drop_unset(task)
    yield "task", ", ".join(f"{name}: {value}" for name, value in chosen.items() if name not in texts)
    yield "examples", f"{len(found.examples):,}, {format_count(int(found.examples.lengths.sum()))} tokens"
    if found.ledger.get("truncated"):
        yield "truncated", f"{found.ledger['truncated']:,} tokens of texts that are too long"


def _drop_unset(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that have a value, also inside of mappings, such as the options of `generation`."""
    inner = {
        name: _drop_unset(value) if isinstance(value, Mapping) else value for name, value in settings.items()
    }
    return {name: value for name, value in inner.items() if value not in (None, [], {}, False)}


def _list_templates(task: TaskConfig, tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[str, str]]:
    yield from ((name, text) for name, text in task.templates.items() if text)
    if task.requires.chat_template:
        yield "chat template of the tokenizer", str(tokenizer.get_chat_template())
