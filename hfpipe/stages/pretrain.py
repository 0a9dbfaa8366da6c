"""The `pretrain` stage: training on raw text, with embeddings from neighbours if set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from hfpipe.contract import RunContext, Stage
from hfpipe.errors import Problem
from hfpipe.references.places import Place
from hfpipe.report import DataFacts
from hfpipe.stages.train import TrainStage

if TYPE_CHECKING:
    from transformers import PreTrainedModel

EMBEDDINGS = "embeddings.safetensors"


class Pretrain(TrainStage):
    """Trains on raw text; accepts the pretraining tasks."""

    dropout: ClassVar[bool] = False
    kind: Literal["pretrain"] = "pretrain"
    init_embeddings: Literal["random", "cooccurrence"] = "random"
    """Initial embeddings of a model from scratch: random, or computed from the neighbours of each token.

    `cooccurrence` counts the tokens next to each token of the train split, and gives tokens with similar
    neighbours similar embeddings. It takes seconds, and a small model then needs fewer tokens.
    """

    def check(
        self, above: Mapping[str, Stage], facts: Mapping[str, DataFacts], base: Path
    ) -> Iterator[Problem]:
        yield from super().check(above, facts, base)
        if self.init_embeddings != "random" and isinstance(self.model, Place):
            message = "init_embeddings is for a model from scratch, and this one has embeddings; delete it"
            yield Problem(message, ("init_embeddings",))

    def find_neutral(self) -> dict[str, Any]:
        unused = {"init_embeddings": None} if self.init_embeddings == "random" else {}
        return super().find_neutral() | unused

    def prepare(self, ctx: RunContext) -> None:
        super().prepare(ctx)
        if self.init_embeddings == "random" or (ctx.work / EMBEDDINGS).exists():
            return
        from hfpipe.encoding.io import read_facts
        from hfpipe.modeling.loading.cooccurrence import embed_tokens, write_embeddings
        from hfpipe.modeling.loading.models import create_config, measure_embeddings
        from hfpipe.stages.data_folder import get_data_folder

        assert isinstance(self.model, dict)  # checked
        tokenizer = self.open_tokenizer(ctx)
        head = self.task.head(read_facts(get_data_folder(self.data, ctx)))
        rows, size = measure_embeddings(self.task.auto_class, create_config(self.model, tokenizer, head))
        examples, _ = self.encode_split("train", ctx, tokenizer, reads_all=False)
        special = tokenizer.all_special_ids
        embedded = embed_tokens(examples.read_ids, examples.lengths, rows, size, special)
        write_embeddings(embedded, ctx.work / EMBEDDINGS)

    def _initialize(self, model: PreTrainedModel, ctx: RunContext) -> None:
        if self.init_embeddings == "cooccurrence":
            from hfpipe.modeling.loading.cooccurrence import set_embeddings

            set_embeddings(model, ctx.work / EMBEDDINGS)
