"""What a masked language model fills in for words of the evaluated texts, which are hidden one at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hfpipe.contract import RunContext
from hfpipe.references.places import Place
from hfpipe.store.artifacts import FILLS
from hfpipe.store.files import write_parts
from hfpipe.task import TaskConfig

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedTokenizerBase

    from hfpipe.encoding.encoded import Examples
    from hfpipe.evaluation.loop import ModelReader
    from hfpipe.runtime import TaskRuntime

ROWS = 200
"""Maximum number of texts in which a word is hidden; they are evenly spaced over the split."""
TRIED = 16
"""Maximum number of words of a text that are tried to find one that is a single token."""
LONGEST = 20_000
"""Number of characters that are read from the beginning of a text."""
AROUND = 200
"""Number of characters that are kept on each side of the hidden word."""
AT_ONCE = 32
"""Texts per forward pass; fixed, so that the probabilities do not depend on `batch_size`."""
JOINED = "'\u2019-"
"""Characters that join words: what they connect is only a part of a word, as `well` in `well-known`."""


class HiddenWord(NamedTuple):
    """A word of a text, and what is around it."""

    row: int
    """Position of the text in the split."""
    before: str
    word: str
    after: str


def record_fills(
    model: Any,
    place: Path | Place,
    reader: ModelReader,
    examples: Examples,
    device: torch.device,
    ctx: RunContext,
) -> None:
    """Write the most probable words for one hidden word of each of some texts into the stage's folder.

    Only for a model that predicts by filling masks and is trained for another task, such as masked-lm. The
    rest of the text is visible, so that `hfpipe predict` fills the same text in the same way. A line has
    `row`, `before`, `reference` (the hidden word), `after`, and `rank`, `nll`, `fills` and `fill_scores` as
    in the predictions of fill-mask.
    """
    from hfpipe.modeling.loading.models import load_model

    filling = _create_filling_task(reader.task.config)
    if filling is None:
        return
    with ctx.progress(f"{ctx.name}: filling hidden words", None):
        hidden = list(_hide_words(reader, examples, str(filling.model_dump()["blank"])))
        if not hidden:
            return
        if filling.auto_class != reader.task.config.auto_class:  # the model also judges pairs of sentences
            model = load_model(filling.auto_class, place, ctx.seed, whole=True)
            model.to(device).eval()
        filled = _fill(model, filling.runtime(), reader.tokenizer, hidden, device, ctx)
        lines = [
            {"row": row, "before": before[-AROUND:], "reference": word, "after": after[:AROUND], **columns}
            for (row, before, word, after), columns in zip(hidden, filled, strict=True)
        ]
    write_parts(ctx.folder / FILLS, (f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines))


def _create_filling_task(task: TaskConfig) -> TaskConfig | None:
    """Return the task by which a model fills masks in `predict`, if it was trained for another one."""
    from hfpipe.tasks import TASKS

    settings = task.prediction_task
    if settings["kind"] != "fill-mask" or task.kind == "fill-mask":
        return None
    return TASKS["fill-mask"].model_validate({**settings, "text": "text"})


def _hide_words(reader: ModelReader, examples: Examples, blank: str) -> Iterator[HiddenWord]:
    """Yield a random word that is a single token for each of some rows, where a text has one."""
    import numpy as np

    from hfpipe.modeling.random import create_generator

    column = reader.task.config.prediction_task["text"]
    rows = np.unique(examples.rows)
    for row in rows[np.unique(np.linspace(0, len(rows) - 1, ROWS).astype(int))].tolist():
        text = examples.source[row][column][:LONGEST]
        if blank in text:
            continue
        yield from _choose_word(row, text, reader.tokenizer, create_generator(reader.seed, None, row))


def _choose_word(
    row: int, text: str, tokenizer: PreTrainedTokenizerBase, random: np.random.Generator
) -> Iterator[HiddenWord]:
    from hfpipe.data.cleaning.near import WORD
    from hfpipe.tokenization.encoding import encode_plain

    spans = [found.span() for found in WORD.finditer(text)]
    whole = [(a, b) for a, b in spans if not {text[a - 1 : a], text[b : b + 1]} & {*JOINED}]
    tried = [HiddenWord(row, text[:a], text[a:b], text[b:]) for a, b in _draw(whole, random)]
    if not tried:
        return
    # The space before a word belongs to its token, as it does in fill-mask.
    spelled = [f" {each.word}" if each.before[-1:].isspace() else each.word for each in tried]
    known = [
        each
        for each, ids in zip(tried, encode_plain(tokenizer, spelled), strict=True)
        if len(ids) == 1 and ids[0] != tokenizer.unk_token_id
    ]
    yield from known[:1]


def _draw(spans: Sequence[tuple[int, int]], random: np.random.Generator) -> list[tuple[int, int]]:
    return [spans[number] for number in random.permutation(len(spans))[:TRIED]]


def _fill(
    model: Any,
    task: TaskRuntime,
    tokenizer: PreTrainedTokenizerBase,
    hidden: Sequence[HiddenWord],
    device: torch.device,
    ctx: RunContext,
) -> Iterator[dict[str, Any]]:
    """Yield rank, loss and best fills of each hidden word."""
    import numpy as np
    import torch

    from hfpipe.encoding.encoded import encode
    from hfpipe.encoding.nested import to_dataset
    from hfpipe.evaluation.loop import ModelReader

    blank, facts = str(task.config.model_dump()["blank"]), task.config.facts_from_config(model.config)
    texts = [f"{each.before}{blank}{each.after}" for each in hidden]
    rows = to_dataset({"text": texts, "answer": [each.word for each in hidden]})
    path = ctx.work / "hidden-words.arrow"
    examples, _ = encode(task, rows, tokenizer, facts, path, packed=False, advance=lambda _: None)
    reader = ModelReader(task, facts, tokenizer, seed=0)
    for start in range(0, len(examples), AT_ONCE):
        index = np.arange(start, min(start + AT_ONCE, len(examples)))
        with torch.inference_mode():
            columns = reader.predict_batch(model, examples, index, device)
        for number in range(len(index)):
            yield {
                "rank": int(columns["rank"][number]),
                "nll": float(columns["nll"][number]),
                "fills": list(columns["fills"][number]),
                "fill_scores": [float(score) for score in columns["fill_scores"][number]],
            }
