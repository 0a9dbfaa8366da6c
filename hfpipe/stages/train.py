"""The `pretrain` and `finetune` stages: one implementation that trains a model for a task."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from pydantic import Field, SerializeAsAny

from hfpipe.contract import RunContext, Settings, Stage
from hfpipe.errors import Problem, StageError
from hfpipe.number_format import count
from hfpipe.recipe.training.neutral import neutral_arguments
from hfpipe.references.places import DataPlace, ModelPlace, Place, TokenizerPlace, locate_place
from hfpipe.report import DataFacts, Report
from hfpipe.stages.data_folder import folder_of
from hfpipe.store.artifacts import CARD
from hfpipe.task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from hfpipe.encoding.encoded import Examples


class EarlyStopping(Settings):
    """Stops when the validation metric (`metric_for_best_model`) has not improved."""

    patience: int = Field(default=3, ge=1)
    """Evaluations without improvement before training stops."""
    threshold: float = Field(default=0.0, ge=0)
    """Smallest change that counts as an improvement."""


class Adapter(Settings):
    """Trains small matrices in addition to frozen weights; the names are those of PEFT's LoraConfig."""

    type: Literal["lora"]
    """Which kind of adapter: low-rank matrices (Hu et al., 2021)."""
    r: int = Field(default=8, ge=1)
    """Rank of the matrices."""
    lora_alpha: int = Field(default=16, ge=1)
    """What they add is multiplied by `lora_alpha / r`."""
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of their inputs that is dropped in training."""
    target_modules: str | list[str] = "all-linear"
    """Layers that get one, by the ends of their names; `all-linear` means all but the output layer."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Which biases are trained as well."""
    modules_to_save: list[str] = []
    """Layers to train whole and save with the adapter; a head that is new is always among them."""
    merge: bool = False
    """Save a whole model with the adapter added into its weights, in place of adapter and base.

    Without it, Transformers opens the folder as long as the base is where it was, a new head with the config
    in `model/`: `from_pretrained(FOLDER, config=AutoConfig.from_pretrained(FOLDER + "/model"))`.
    """

    @property
    def settings(self) -> dict[str, Any]:
        """What PEFT's LoraConfig is given."""
        return self.model_dump(exclude={"type", "merge"})


class _Train(Stage):
    """Fields and behaviour of both training kinds."""

    version: ClassVar[int] = 5
    distributed: ClassVar[bool] = True
    dropout: ClassVar[bool] = True
    """Whether a model from scratch has the dropout of its type's defaults."""
    task: SerializeAsAny[Task]
    """What is learned: a task's name, or a mapping with `kind` and its options."""
    data: DataPlace
    """Data set with a train split; a validation split is evaluated where there is one."""
    model: ModelPlace | dict[str, Any]
    """A reference to a model to start from, or a mapping (`type` and config entries) for one from scratch.

    A model that `pretrain` creates from scratch has no dropout unless the mapping sets it, as
    `hidden_dropout_prob: 0.1`.
    """
    tokenizer: TokenizerPlace | None = None
    """Tokenizer; by default the one in the folder of the model."""
    training: dict[str, Any] = {}
    """Transformers' TrainingArguments by name, and `budget`, `bf16: auto`, `compile: auto`."""
    adapter: Adapter | None = None
    """Train an adapter in place of all weights, as `{type: lora, r: 16}`; needs `hfpipe[lora]`."""
    early_stopping: EarlyStopping | None = None
    """Stop early; needs a validation split."""
    trust_remote_code: bool = False
    """Run the code that comes with a model from the Hub."""
    licence: str | None = Field(default=None, min_length=1, exclude=True)
    """Licence of the trained model as the Hub names it, as `apache-2.0`, for its card."""

    def check(
        self, above: Mapping[str, Stage], facts: Mapping[str, DataFacts], base: Path
    ) -> Iterator[Problem]:
        from hfpipe.stages import checks  # which reads the stages' classes

        return checks.check_training(self, above, facts, base)

    def neutral(self) -> dict[str, Any]:
        found = neutral_arguments(self.training, early=self.early_stopping is not None)
        return super().neutral() | {f"training.{name}": None for name in found}

    def notices(self, ctx: RunContext, *, alone: bool) -> Iterator[str]:
        from hfpipe.encoding.io import open_data
        from hfpipe.recipe.training.defaults import with_defaults
        from hfpipe.training.checkpoints import choose_checkpoint
        from hfpipe.training.ineffective_settings import ineffective

        validated = "validation" in open_data(folder_of(self.data, ctx))
        yield from ineffective(self.training, validated=validated, alone=alone)
        early = self.early_stopping is not None
        settings = with_defaults(self.training, evaluated=validated, early=early)
        yield from choose_checkpoint(ctx.work, keeps_best=bool(settings.get("load_best_model_at_end")))

    def prepare(self, ctx: RunContext) -> None:
        from hfpipe.encoding.io import facts
        from hfpipe.training.arguments import best_metric

        data = facts(folder_of(self.data, ctx))
        tokenizer = self.open_tokenizer(ctx)
        self._check_loaded(ctx, data)
        self._check_tokenizer(ctx, tokenizer, data)
        best_metric(self.training, self.task.validation_metrics(data))
        self._encoded(ctx, tokenizer, reads_all=True)

    def run(self, ctx: RunContext) -> Report:
        from hfpipe.encoding.io import facts
        from hfpipe.tokenization.reload import check_saved
        from hfpipe.training.loop import train_model
        from hfpipe.training.trainer import Training

        tokenizer = self.open_tokenizer(ctx)
        examples, ledger = self._encoded(ctx, tokenizer, reads_all=False)
        data = facts(folder_of(self.data, ctx))
        model, note = self._model(ctx, tokenizer, data)
        self._check_loaded(ctx, data)
        for problem in self.task.check_model(model):
            raise StageError(f"stage {ctx.name}: {problem.message}")
        self.task.configure_model(model, tokenizer)
        parts = Training(
            task=self._measured_task(ctx),
            model=model,
            tokenizer=tokenizer,
            train=examples["train"],
            validation=examples.get("validation"),
            facts=data,
            attention_is_chosen=isinstance(self.model, dict) and "attn_implementation" in self.model,
        )
        early = self.early_stopping
        found = train_model(parts, self.training, (early.patience, early.threshold) if early else None, ctx)
        if int(os.environ.get("RANK", "0")) == 0:
            if self.adapter is not None:
                self._finish_adapter(self.adapter, model, tokenizer, ctx)
                (ctx.folder / CARD).unlink(missing_ok=True)  # PEFT's, which is an empty form
            check_saved(ctx.folder, tokenizer, trust_remote_code=self.trust_remote_code)
        summary = _summary(found) + (f"; {note}" if note else "")
        return Report(
            kind=self.kind,
            summary=summary,
            ledger=ledger,
            facts=found | {"head": note, "pipeline": self.task.opened_by},
        )

    def _measured_task(self, ctx: RunContext) -> Task:
        """Return the task as it is measured on the validation split, where there is one."""
        from hfpipe.encoding.io import open_data

        split = open_data(folder_of(self.data, ctx)).get("validation")
        if split is None:
            return self.task
        return self.task.configure_metrics({column: split[column] for column in split.column_names})

    def _check_loaded(self, ctx: RunContext, data: DataFacts) -> None:
        """Raise StageError at what the recipe did not show, of data in a folder or a model from the Hub."""
        from hfpipe.stages import checks

        for problem in checks.check_training(self, {}, {self.data.stage or "": data}, ctx.base):
            raise StageError(f"stage {ctx.name}: {problem.message}")

    def open_tokenizer(self, ctx: RunContext) -> PreTrainedTokenizerBase:
        """Return the tokenizer that the texts are encoded with."""
        from hfpipe.tokenization.loading import load_tokenizer

        place = self.tokenizer if self.tokenizer is not None else self.model
        assert isinstance(place, Place)  # the recipe asks for a tokenizer for a model from scratch
        found = locate_place(place, ctx.base, ctx.inputs)
        return load_tokenizer(found or place, trust_remote_code=self.trust_remote_code)

    def _check_tokenizer(self, ctx: RunContext, tokenizer: PreTrainedTokenizerBase, data: DataFacts) -> None:
        """Raise StageError where model and tokenizer do not fit, or would not open as they are saved."""
        from hfpipe.modeling.loading.embeddings import rows_of
        from hfpipe.modeling.loading.models import load_config, new_config
        from hfpipe.tokenization.reload import check_reopens

        if isinstance(self.model, dict):
            config = new_config(self.model, tokenizer, self.task.head(data), dropout=self.dropout)
        else:
            place = locate_place(self.model, ctx.base, ctx.inputs) or self.model
            config = load_config(place, trust_remote_code=self.trust_remote_code)
        self._embeddings_grow(ctx, tokenizer, rows_of(config))
        check_reopens(config, tokenizer, trust_remote_code=self.trust_remote_code)

    def _embeddings_grow(self, ctx: RunContext, tokenizer: PreTrainedTokenizerBase, rows: int | None) -> bool:
        """Tell whether the model needs rows for tokens that were added.

        Raises StageError where tokenizer and model do not fit.
        """
        from hfpipe.modeling.loading.embeddings import check_rows, embedding_rows_needed
        from hfpipe.stages.embedding_rows import ADDED_BESIDE_ADAPTER
        from hfpipe.tokenization.loading import load_tokenizer

        own = None
        if rows is None or embedding_rows_needed(tokenizer) <= rows:
            return False
        if isinstance(self.model, Place) and self.tokenizer is not None:
            place = locate_place(self.model, ctx.base, ctx.inputs) or self.model
            own = load_tokenizer(place, trust_remote_code=self.trust_remote_code)
        grow = check_rows(self.model, rows, tokenizer, own)
        if grow and self.adapter is not None:
            raise StageError(f"stage {ctx.name}: {ADDED_BESIDE_ADAPTER}")
        return grow

    def _encoded(
        self, ctx: RunContext, tokenizer: PreTrainedTokenizerBase, *, reads_all: bool
    ) -> tuple[dict[str, Examples], dict[str, Any]]:
        from hfpipe.encoding.io import open_data

        there = open_data(folder_of(self.data, ctx))
        splits = [split for split in ("train", "validation") if split in there]
        found = {split: self.encode_split(split, ctx, tokenizer, reads_all=reads_all) for split in splits}
        return (
            {split: examples for split, (examples, _) in found.items()},
            {split: ledger for split, (_, ledger) in found.items()},
        )

    def encode_split(
        self, split: str, ctx: RunContext, tokenizer: PreTrainedTokenizerBase, *, reads_all: bool
    ) -> tuple[Examples, dict[str, int]]:
        """Return a split as the training reads it, encoded under `ctx.work`, and its ledger."""
        from hfpipe.encoding.encoded import encode
        from hfpipe.encoding.io import facts, open_split

        folder = folder_of(self.data, ctx)
        rows, known = open_split(folder, split), facts(folder)
        with ctx.progress(f"{ctx.name}: encoding {split}", len(rows)) as advance:
            path = ctx.work / "encoded" / f"{split}.arrow"
            encoded = partial(encode, self.task, rows, tokenizer, known, path, packed=split == "train")
            return encoded(advance=advance, reads_all=reads_all)

    def _model(
        self, ctx: RunContext, tokenizer: PreTrainedTokenizerBase, data: DataFacts
    ) -> tuple[PreTrainedModel, str]:
        """Return the model to train, and what became of its head and embeddings, in clauses."""
        from hfpipe.library_output import silence_libraries
        from hfpipe.modeling.loading.embeddings import add_rows, rows_in
        from hfpipe.modeling.loading.lora import add_adapter
        from hfpipe.modeling.loading.models import load_parts, new_config, new_model

        head = self.task.head(data)
        if isinstance(self.model, dict):
            config = new_config(self.model, tokenizer, head, dropout=self.dropout)
            return new_model(self.task.auto_class, config, ctx.seed), ""
        place = locate_place(self.model, ctx.base, ctx.inputs) or self.model
        loaded = load_parts(
            self.task.auto_class, place, ctx.seed, head=head, trust_remote_code=self.trust_remote_code
        )
        note, rows = loaded.note, rows_in(loaded.model)
        if self._embeddings_grow(ctx, tokenizer, rows):
            with silence_libraries():
                add_rows(loaded.model, tokenizer, ctx.seed)
            grown = f"embeddings grown from {rows:,} to {rows_in(loaded.model):,} rows"
            note = f"{note}; {grown}" if note else grown
        if self.adapter is None:
            return loaded.model, note
        settings = self.adapter.settings
        model = add_adapter(loaded.model, settings, loaded.changed, place, ctx.seed)
        return cast("PreTrainedModel", model), note

    def _finish_adapter(
        self, adapter: Adapter, model: Any, tokenizer: PreTrainedTokenizerBase, ctx: RunContext
    ) -> None:
        """Leave what opens again: base and adapter as one model if asked for, else what joins them."""
        from hfpipe.modeling.loading.lora import keep_config, replace_adapter
        from hfpipe.modeling.loading.models import load_model

        keep_config(model, ctx.folder)
        if adapter.merge:
            remote = self.trust_remote_code
            whole = load_model(self.task.auto_class, ctx.folder, ctx.seed, trust_remote_code=remote)
            self.task.configure_model(whole, tokenizer)
            replace_adapter(ctx.folder, whole)


def _summary(found: dict[str, Any]) -> str:
    scores = [
        f"{name} {value:.4g}"
        for name, value in found["validation"].items()
        if name in ("loss", "accuracy", "mse")
    ]
    names = ("parameters", "trained_parameters", "tokens")
    all_of_them, trained, tokens = (count(found[name]) for name in names)
    some = f" ({trained} trained)" if trained != all_of_them else ""
    size = f"{all_of_them} parameters{some}, {tokens} tokens, {found['steps']:,} steps"
    return size + (f"; validation {', '.join(scores)}" if scores else "")


class Pretrain(_Train):
    """Trains on raw text; accepts the pretraining tasks."""

    dropout: ClassVar[bool] = False
    kind: Literal["pretrain"] = "pretrain"


class Finetune(_Train):
    """Trains a model for a task; accepts every task."""

    kind: Literal["finetune"] = "finetune"
