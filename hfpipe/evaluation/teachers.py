"""Loads the teachers of a language model, which need the tokenizer of their student."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hfpipe.distributed.sharding import keep_models_whole
from hfpipe.errors import StageError
from hfpipe.modeling.attention.separate_documents import SeparateDocuments, find_separation
from hfpipe.modeling.exports.formats import is_export
from hfpipe.modeling.loading.embeddings import check_rows, count_embedding_rows
from hfpipe.modeling.loading.models import load_model
from hfpipe.modeling.losses.token_distillation import Teacher
from hfpipe.modeling.max_length import find_refusals
from hfpipe.tokenization.encoding import encode_plain
from hfpipe.tokenization.loading import load_tokenizer

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase

    from hfpipe.evaluation.soft_targets import Teachers
    from hfpipe.references.places import Place
    from hfpipe.runtime import TaskRuntime

COMPARED = 100
"""Number of train rows on which the tokenizers of student and teacher are compared."""


def load_teachers(
    teachers: Teachers,
    task: TaskRuntime,
    tokenizer: PreTrainedTokenizerBase,
    rows: datasets.Dataset,
    *,
    trust: bool = False,
) -> tuple[Teacher, ...]:
    """Return the teachers of a language model with this tokenizer; `trust` allows to run their code.

    Raises StageError for a teacher with another tokenizer, and for one that cannot run the task.
    """
    found = []
    for place, where in teachers:
        if is_export(where):
            raise StageError(f"teacher {place} is an export, which cannot be a teacher; name its original")
        _check_tokenizer(place, where, task, tokenizer, rows, trust=trust)
        with keep_models_whole():
            model = load_model(task.config.auto_class, where, 0, whole=True, trust_remote_code=trust)
        check_rows(place, count_embedding_rows(model), tokenizer)
        for why in find_refusals(task, model):
            raise StageError(f"teacher {place}: {why}")
        apart = find_separation(model) if task.config.separates_documents else None
        separate = SeparateDocuments(model, apart) if apart is not None else None
        found.append(Teacher(str(where), model, task, separate))
    return tuple(found)


def _check_tokenizer(
    place: Place,
    where: Path | Place,
    task: TaskRuntime,
    mine: PreTrainedTokenizerBase,
    rows: datasets.Dataset,
    *,
    trust: bool,
) -> None:
    theirs, difference = load_tokenizer(where, trust_remote_code=trust), ""
    ours, other = mine.get_vocab(), theirs.get_vocab()
    if ours != other:
        [first, *_] = sorted(ours.items() ^ other.items(), key=lambda entry: entry[1])
        difference = f"{first[0]!r} is not the same token in both"
    else:
        texts = rows[:COMPARED][task.config.inputs[0]]
        pairs = zip(texts, encode_plain(mine, texts), encode_plain(theirs, texts), strict=True)
        difference = next(
            (f"they split {text!r:.60} differently" for text, a, b in pairs if [*a] != [*b]), ""
        )
    if difference:
        raise StageError(
            f"teacher {place} has another tokenizer than the model ({difference}); {task.config.kind} needs "
            "one tokenizer for both"
        )
