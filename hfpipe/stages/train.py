"""The base class of `pretrain` and `finetune`, which trains a model for a task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from pydantic import Field, SerializeAsAny

from hfpipe.contract import RunContext, Stage
from hfpipe.distributed.world import is_first_process
from hfpipe.errors import Problem, StageError
from hfpipe.modeling.loading.adapter_settings import Adapter
from hfpipe.recipe.training.early_stopping import EarlyStopping
from hfpipe.recipe.training.neutral import find_neutral_arguments
from hfpipe.references.places import DataPlace, ModelPlace, Place, TokenizerPlace, locate_place
from hfpipe.report import DataFacts, Report
from hfpipe.stages.data_folder import get_data_folder
from hfpipe.stages.repeats.members import get_encoded_folder, hold_encoded
from hfpipe.stages.repeats.settings import Repeatable
from hfpipe.stages.samples import check_samples, sample_callbacks
from hfpipe.stages.training_summary import describe_training
from hfpipe.store.artifacts import CARD
from hfpipe.task import TaskConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from hfpipe.encoding.encoded import Examples
    from hfpipe.modeling.losses.training_loss import TrainingLoss
    from hfpipe.training.trainer import Training


class TrainStage(Repeatable):
    """Settings and behaviour of both kinds of training stage."""

    version: ClassVar[int] = 5
    distributed: ClassVar[bool] = True
    dropout: ClassVar[bool] = True
    """Whether a model from scratch has the dropout of its type's defaults."""
    task: SerializeAsAny[TaskConfig]
    """Task to learn: its name, or a mapping with `kind` and its options."""
    data: DataPlace
    """Data set with a train split; a validation split is used if it exists."""
    model: ModelPlace | dict[str, Any]
    """A reference to a model to start from, or a mapping (`type` and config entries) for one from scratch.

    A model that `pretrain` creates from scratch has no dropout unless the mapping sets it, as
    `hidden_dropout_prob: 0.1`.
    """
    tokenizer: TokenizerPlace | None = None
    """Tokenizer; by default the one in the folder of the model."""
    training: dict[str, Any] = {}
    """Transformers' TrainingArguments by name, `budget`, `bf16: auto`, `compile: auto`, `padding_free`."""
    adapter: Adapter | None = None
    """Train an adapter instead of all weights, as `{type: lora, r: 16}`; needs `hfpipe[lora]`."""
    early_stopping: EarlyStopping | None = None
    """Stop early; needs a validation split."""
    samples: int = Field(default=0, ge=0, le=20, json_schema_extra={"changes_result": False})
    """Number of texts to generate at each validation, from the first rows of its split, for the page.

    A language model continues the beginnings of the rows. The trained weights are the same with and without.
    """
    trust_remote_code: bool = False
    """Run the code that comes with a model from the Hub."""
    licence: str | None = Field(default=None, min_length=1, exclude=True)
    """Licence of the trained model for its card, as the Hub names it: `apache-2.0`."""

    def check(
        self, above: Mapping[str, Stage], facts: Mapping[str, DataFacts], base: Path
    ) -> Iterator[Problem]:
        from hfpipe.stages.checks.training import check_training  # which reads the stages' classes
        from hfpipe.stages.repeats.expansion import check_repeats

        yield from check_repeats(self, above, facts)
        yield from check_training(self, above, facts, base)
        yield from check_samples(self)

    def find_neutral(self) -> dict[str, Any]:
        found = find_neutral_arguments(self.training, early=self.early_stopping is not None)
        return super().find_neutral() | {f"training.{name}": None for name in found} | {"samples": None}

    def list_notices(self, ctx: RunContext, *, alone: bool) -> Iterator[str]:
        from hfpipe.encoding.io import open_data
        from hfpipe.recipe.training.defaults import add_defaults
        from hfpipe.training.checkpoints import choose_checkpoint
        from hfpipe.training.ineffective_settings import find_ineffective_settings

        validated, training = (
            "validation" in open_data(get_data_folder(self.data, ctx)),
            self.load_tuned(ctx).training,
        )
        yield from find_ineffective_settings(training, validated=validated, alone=alone)
        early = self.early_stopping is not None
        settings = add_defaults(training, evaluated=validated, early=early)
        yield from choose_checkpoint(ctx.work, keeps_best=bool(settings.get("load_best_model_at_end")))

    def prepare(self, ctx: RunContext) -> None:
        from hfpipe.encoding.io import read_facts
        from hfpipe.stages.repeats.folds import write_held_out
        from hfpipe.training.arguments import select_best_metric

        if (tuned := self.load_tuned(ctx)) is not self:
            tuned.prepare(ctx)
            return
        write_held_out(self, ctx)
        data = read_facts(get_data_folder(self.data, ctx))
        tokenizer = self.open_tokenizer(ctx)
        self._check_loaded(ctx, data)
        self._check_tokenizer(ctx, tokenizer, data)
        select_best_metric(self.training, self.task.runtime().evaluator.validation_metrics(data))
        examples, _ = self._encode_splits(ctx, tokenizer, reads_all=True)
        self._create_training_loss(ctx, examples["train"], data)  # fails early if the data do not fit

    def run(self, ctx: RunContext) -> Report:
        return self.load_tuned(ctx).train(ctx)

    def train(self, ctx: RunContext, callbacks: Sequence[Any] = ()) -> Report:
        """Train, with further callbacks of Trainer, and write the model to the stage's folder."""
        from hfpipe.encoding.io import read_facts
        from hfpipe.tokenization.reload import check_saved
        from hfpipe.training.loop import train_model
        from hfpipe.training.trainer import Training

        tokenizer = self.open_tokenizer(ctx)
        examples, ledger = self._encode_splits(ctx, tokenizer, reads_all=False)
        data = read_facts(get_data_folder(self.data, ctx))
        model, note = self._load_model(ctx, tokenizer, data)
        self._check_loaded(ctx, data)
        setup = self.task.runtime().model_setup
        for problem in setup.check(model):
            raise StageError(f"stage {ctx.name}: {problem.message}")
        setup.configure(model, tokenizer)
        parts = Training(
            task=self._configure_task(ctx).runtime(),
            model=model,
            tokenizer=tokenizer,
            train=examples["train"],
            validation=examples.get("validation"),
            facts=data,
            attention_is_chosen=isinstance(self.model, dict) and "attn_implementation" in self.model,
            training_loss=self._create_training_loss(ctx, examples["train"], data),
            callbacks=[*callbacks, *sample_callbacks(self, tokenizer, ctx)],
        )
        early = self.early_stopping
        found = train_model(parts, self.training, (early.patience, early.threshold) if early else None, ctx)
        if is_first_process():
            if self.adapter is not None:
                self._finish_adapter(self.adapter, model, tokenizer, ctx)
                (ctx.folder / CARD).unlink(missing_ok=True)  # PEFT's empty template
            check_saved(ctx.folder, tokenizer, trust_remote_code=self.trust_remote_code)
            found |= self._finish(parts, ctx.folder)
        summary = describe_training(found) + (f"; {note}" if note else "")
        found |= {"head": note, "pipeline": self.task.opened_by}
        return Report(kind=self.kind, summary=summary, ledger=ledger, facts=found)

    def _initialize(self, model: PreTrainedModel, ctx: RunContext) -> None:
        """Replace random weights of a model from scratch by others that `prepare` computed, if set."""

    def _create_training_loss(self, ctx: RunContext, train: Examples, data: DataFacts) -> TrainingLoss | None:
        """Return the loss that replaces the task's in training, None if the recipe sets none."""
        return None

    def _finish(self, parts: Training, folder: Path) -> dict[str, Any]:
        """Add calibration to the saved model in the first process, if set, and return more facts."""
        return {}

    def _configure_task(self, ctx: RunContext) -> TaskConfig:
        """Return the task with its metrics configured for the validation split, if it exists."""
        from hfpipe.encoding.io import open_data

        if (split := open_data(get_data_folder(self.data, ctx)).get("validation")) is None:
            return self.task
        rows = {column: split[column] for column in split.column_names}
        return self.task.runtime().evaluator.configure_metrics(rows)

    def _check_loaded(self, ctx: RunContext, data: DataFacts) -> None:
        """Raise StageError for problems that only data in a folder or a model from the Hub show."""
        for problem in self.check({}, {self.data.stage or "": data}, ctx.base):
            raise StageError(f"stage {ctx.name}: {problem.message}")

    def open_tokenizer(self, ctx: RunContext) -> PreTrainedTokenizerBase:
        """Return the tokenizer of the training."""
        from hfpipe.tokenization.loading import load_tokenizer

        place = self.tokenizer if self.tokenizer is not None else self.model
        assert isinstance(place, Place)  # the recipe needs a tokenizer for a model from scratch
        found = locate_place(place, ctx.base, ctx.inputs)
        return load_tokenizer(found or place, trust_remote_code=self.trust_remote_code)

    def _check_tokenizer(self, ctx: RunContext, tokenizer: PreTrainedTokenizerBase, data: DataFacts) -> None:
        """Raise StageError if model and tokenizer do not fit, or could not be loaded after saving."""
        from hfpipe.modeling.loading.embeddings import get_embedding_rows
        from hfpipe.modeling.loading.models import create_config, load_config
        from hfpipe.tokenization.reload import check_reopens

        if isinstance(self.model, dict):
            config = create_config(self.model, tokenizer, self.task.head(data), dropout=self.dropout)
        else:
            place = locate_place(self.model, ctx.base, ctx.inputs) or self.model
            config = load_config(place, trust_remote_code=self.trust_remote_code)
        self._need_embedding_rows(ctx, tokenizer, get_embedding_rows(config))
        check_reopens(config, tokenizer, trust_remote_code=self.trust_remote_code)

    def _need_embedding_rows(
        self, ctx: RunContext, tokenizer: PreTrainedTokenizerBase, rows: int | None
    ) -> bool:
        """Return whether the model needs rows for added tokens.

        Raises StageError if tokenizer and model do not fit.
        """
        from hfpipe.modeling.loading.embeddings import check_rows, count_needed_rows
        from hfpipe.stages.embedding_rows import ADDED_NEXT_TO_ADAPTER
        from hfpipe.tokenization.loading import load_tokenizer

        own = None
        if rows is None or count_needed_rows(tokenizer) <= rows:
            return False
        if isinstance(self.model, Place) and self.tokenizer is not None:
            place = locate_place(self.model, ctx.base, ctx.inputs) or self.model
            own = load_tokenizer(place, trust_remote_code=self.trust_remote_code)
        grow = check_rows(self.model, rows, tokenizer, own)
        if grow and self.adapter is not None:
            raise StageError(f"stage {ctx.name}: {ADDED_NEXT_TO_ADAPTER}")
        return grow

    def _encode_splits(
        self, ctx: RunContext, tokenizer: PreTrainedTokenizerBase, *, reads_all: bool
    ) -> tuple[dict[str, Examples], dict[str, Any]]:
        from hfpipe.encoding.io import open_data

        there = open_data(get_data_folder(self.data, ctx))
        splits = [split for split in ("train", "validation") if split in there]
        found = {split: self.encode_split(split, ctx, tokenizer, reads_all=reads_all) for split in splits}
        return (
            {split: examples for split, (examples, _) in found.items()},
            {split: ledger for split, (_, ledger) in found.items()},
        )

    def encode_split(
        self, split: str, ctx: RunContext, tokenizer: PreTrainedTokenizerBase, *, reads_all: bool
    ) -> tuple[Examples, dict[str, int]]:
        """Return a split encoded on disk for the training, and its ledger."""
        from hfpipe.encoding.encoded import encode
        from hfpipe.encoding.io import open_split, read_facts
        from hfpipe.stages.repeats.folds import encode_without_fold

        folder = get_data_folder(self.data, ctx)
        rows, known = open_split(folder, split), read_facts(folder)
        path = get_encoded_folder(ctx, cut_from_all=self.task.packed) / f"{split}.arrow"
        held = hold_encoded(ctx, path.parent) if reads_all else nullcontext()
        with held, ctx.progress(f"{ctx.name}: encoding {split}", len(rows)) as advance:
            encoded = partial(encode, self.task.runtime(), tokenizer=tokenizer, facts=known, path=path)
            encoded = partial(encoded, packed=split == "train", advance=advance, reads_all=reads_all)
            return encode_without_fold(self, rows, known, ctx, encoded) if split == "train" else encoded(rows)

    def _load_model(
        self, ctx: RunContext, tokenizer: PreTrainedTokenizerBase, data: DataFacts
    ) -> tuple[PreTrainedModel, str]:
        """Return the model to train, and the changes of its head and embeddings as text."""
        from hfpipe.library_output import silence_libraries
        from hfpipe.modeling.loading.calibration import drop_calibration
        from hfpipe.modeling.loading.embeddings import add_rows, count_embedding_rows
        from hfpipe.modeling.loading.lora import add_adapter
        from hfpipe.modeling.loading.models import create_config, create_model, load_parts

        head = self.task.head(data)
        if isinstance(self.model, dict):
            config = create_config(self.model, tokenizer, head, dropout=self.dropout)
            created = create_model(self.task.auto_class, config, ctx.seed)
            self._initialize(created, ctx)
            return created, ""
        place = locate_place(self.model, ctx.base, ctx.inputs) or self.model
        loaded = load_parts(
            self.task.auto_class, place, ctx.seed, head=head, trust_remote_code=self.trust_remote_code
        )
        drop_calibration(loaded.model)
        note, rows = loaded.note, count_embedding_rows(loaded.model)
        if self._need_embedding_rows(ctx, tokenizer, rows):
            with silence_libraries():
                add_rows(loaded.model, tokenizer, ctx.seed)
            grown = f"embeddings grown from {rows:,} to {count_embedding_rows(loaded.model):,} rows"
            note = f"{note}; {grown}" if note else grown
        if self.adapter is None:
            return loaded.model, note
        settings = self.adapter.settings
        model = add_adapter(loaded.model, settings, loaded.changed, place, ctx.seed)
        return cast("PreTrainedModel", model), note

    def _finish_adapter(
        self, adapter: Adapter, model: Any, tokenizer: PreTrainedTokenizerBase, ctx: RunContext
    ) -> None:
        """Save the merged model if the recipe sets `merge`, otherwise the adapter."""
        from hfpipe.modeling.loading.lora import keep_config, replace_adapter
        from hfpipe.modeling.loading.models import load_model

        keep_config(model, ctx.folder)
        if adapter.merge:
            remote = self.trust_remote_code
            whole = load_model(self.task.auto_class, ctx.folder, ctx.seed, trust_remote_code=remote)
            self.task.runtime().model_setup.configure(whole, tokenizer)
            replace_adapter(ctx.folder, whole)
