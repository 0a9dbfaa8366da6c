"""Denoising hides what the papers say, loses no token, and hides the same each time it is measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

import hfpipe
from hfpipe.errors import StageError
from hfpipe.modeling.loading.models import create_config, create_model
from hfpipe.modeling.losses.losses import IGNORED, shift_labels
from hfpipe.modeling.random import create_generator
from hfpipe.references.places import Place, locate_place
from hfpipe.report import DataFacts
from hfpipe.tasks.denoising import Denoising
from hfpipe.tasks.denoising.span_corruption import (
    count_hidden,
    draw_spans,
    get_frame,
    get_sentinel_ids,
    hide,
    infill,
)
from hfpipe.tokenization.loading import complete_tokenizer
from hfpipe.tokenization.special_tokens import STYLES
from hfpipe.tokenization.training import Learner

TEXTS = [
    "The sun is a star at the centre of the Solar System, and the earth goes round it once a year.",
    "A star is a luminous sphere of plasma held together by its own gravity.",
    "The moon goes round the earth.",
]
FACTS = DataFacts(columns={"text": "string"}, splits={})
MASK = 7
ids_of = st.integers(0, 300).map(lambda length: np.arange(length, dtype=np.int32) + 1000)
seeds = st.integers(0, 2**31)
each_noise = pytest.mark.parametrize("noise", ["spans", "infilling"])


def tokenizer(style: str, algorithm: str = "bpe") -> PreTrainedTokenizerFast:
    learner = Learner(algorithm, STYLES[style], [], 400, 1, lowercase=False)
    return complete_tokenizer(learner.learn(TEXTS * 3), STYLES[style])


@pytest.fixture(scope="module")
def words() -> dict[str, PreTrainedTokenizerFast]:
    return {"spans": tokenizer("t5"), "infilling": tokenizer("bart")}


def examples(words: PreTrainedTokenizerFast, task: Denoising, epoch: int = 0) -> list[dict[str, Any]]:
    ids = task.runtime().encoder.encode({"text": TEXTS}, words, FACTS)["input_ids"]
    return [{"input_ids": np.array(each), "index": n, "epoch": epoch} for n, each in enumerate(ids)]


@pytest.mark.parametrize(
    ("length", "hidden", "number"),
    [(568, 85, 28), (128, 19, 6), (30, 4, 1), (31, 5, 2), (2, 1, 1), (0, 1, 1)],
)
def test_as_many_tokens_and_spans_are_hidden_as_in_t5(length: int, hidden: int, number: int) -> None:
    """The first is T5's own case: 568 tokens become an input of 512 and a target of 114, ends included."""
    assert count_hidden(length, 0.15, 3.0) == (hidden, number)
    if length == 568:
        assert length - hidden + number + 1 == 512
        assert hidden + number + 1 == 114


@given(
    length=st.integers(2, 600), share=st.floats(0.01, 0.99), span=st.floats(1, 20), seed=st.integers(0, 2**31)
)
def test_spans_are_as_many_and_as_long_as_counted(length: int, share: float, span: float, seed: int) -> None:
    mask = draw_spans(length, share, span, create_generator(seed, 0, 0))
    edges = np.diff(mask.astype(int), prepend=0)
    assert (mask.sum(), (edges == 1).sum()) == count_hidden(length, share, span)
    assert not mask[0]
    assert mask[-1]


@pytest.mark.slow
def test_every_partition_is_drawn_as_often() -> None:
    seen = [tuple(draw_spans(10, 0.4, 2.0, create_generator(3, 0, index))) for index in range(6000)]
    kinds, often = np.unique(seen, axis=0, return_counts=True)
    assert len(kinds) == 5 * 3  # six tokens in two parts, four in two parts
    assert often.min() > 0.8 * 6000 / 15


@given(ids=ids_of, seed=seeds, share=st.floats(0.05, 0.9))
def test_input_and_target_together_are_the_text(ids: np.ndarray, seed: int, share: float) -> None:
    stand_ins = np.arange(300)
    read, said = hide(ids, draw_spans(len(ids), share, 3.0, create_generator(seed, 0, 0)), stand_ins)
    hidden: dict[int, list[int]] = {}
    for each in said:
        if each < 1000:
            last = hidden.setdefault(int(each), [])
        else:
            last.append(int(each))
    rebuilt = [each for piece in read for each in ([int(piece)] if piece >= 1000 else hidden[int(piece)])]
    assert rebuilt == ids.tolist()


@pytest.mark.slow
@given(ids=ids_of, seed=seeds, share=st.floats(0.05, 0.9))
def test_infilling_keeps_the_order_and_hides_the_share(ids: np.ndarray, seed: int, share: float) -> None:
    read = infill(ids, share, 3.0, MASK, create_generator(seed, 0, 0))
    kept = read[read != MASK]
    assert len(ids) < 2 or len(ids) - len(kept) == count_hidden(len(ids), share, 3.0)[0]
    assert (np.diff(kept) > 0).all()
    assert set(kept) <= set(ids)


def test_infilled_spans_are_as_long_as_poissons() -> None:
    ids = np.arange(10_000) + 1000
    read = infill(ids, 0.3, 3.0, MASK, create_generator(1, 0, 0))
    assert (read == MASK).sum() == pytest.approx(1000, rel=0.1)  # 3,000 tokens hidden, 3 to a mask
    alone = [
        index for index in np.flatnonzero(read[1:-1] == MASK) + 1 if MASK not in read[[index - 1, index + 1]]
    ]
    missing = np.array([read[index + 1] - read[index - 1] - 1 for index in alone])
    assert (missing == 0).mean() == pytest.approx(np.exp(-3), abs=0.03)
    assert missing.mean() == pytest.approx(3, abs=0.3)


@each_noise
def test_the_decoder_says_what_is_hidden_and_where_it_ends(
    noise: str, words: dict[str, PreTrainedTokenizerFast]
) -> None:
    task = Denoising(noise=noise)
    batch = task.runtime().encoder.collate(examples(words[noise], task), words[noise], 5, train=True)
    read, said = (batch[name][0].tolist() for name in ("input_ids", "labels"))
    read, said = (
        [each for each in ids if each not in (IGNORED, words[noise].pad_token_id)] for ids in (read, said)
    )
    assert read[-1] == said[-1] == words[noise].eos_token_id
    if noise == "infilling":
        assert words[noise].decode(said, skip_special_tokens=True) == TEXTS[0]
        assert words[noise].mask_token_id in read
    else:
        first = words[noise].convert_tokens_to_ids("<extra_id_0>")
        assert said[0] == first
        assert first in read
        assert words[noise].convert_ids_to_tokens(said[:1]) == ["<extra_id_0>"]


@each_noise
def test_a_decoder_never_reads_what_is_not_a_token(
    noise: str, words: dict[str, PreTrainedTokenizerFast]
) -> None:
    task = Denoising(noise=noise)
    batch = task.runtime().encoder.collate(examples(words[noise], task), words[noise], 5, train=True)
    config = create_config({"type": "t5" if noise == "spans" else "bart"}, words[noise], {})
    read = shift_labels(batch["labels"], config)
    assert (batch["labels"] == IGNORED).any()
    assert read.min() >= 0
    start = "<pad>" if noise == "spans" else "</s>"
    assert set(words[noise].convert_ids_to_tokens(read[:, 0].tolist())) == {start}


@each_noise
def test_noise_depends_on_seed_epoch_and_example_alone(
    noise: str, words: dict[str, PreTrainedTokenizerFast]
) -> None:
    task = Denoising(noise=noise)

    def read(seed: int, epoch: int, *, train: bool, only: slice = slice(None)) -> list[list[int]]:
        part = examples(words[noise], task, epoch)[only]
        batch = task.runtime().encoder.collate(part, words[noise], seed, train=train)
        rows = zip(batch["input_ids"], batch["attention_mask"].sum(1), strict=True)
        return [row[:length].tolist() for row, length in rows]

    assert read(1, 0, train=True) == read(1, 0, train=True)
    assert read(1, 0, train=True)[2:] == read(1, 0, train=True, only=slice(2, 3))
    assert read(1, 0, train=True) != read(1, 1, train=True)
    assert read(1, 0, train=True) != read(2, 0, train=True)
    assert read(1, 0, train=False) == read(1, 9, train=False)


def test_a_text_without_tokens_is_an_example_all_the_same(words: dict[str, PreTrainedTokenizerFast]) -> None:
    for noise, made in words.items():
        task = Denoising(noise=noise)
        [ids] = task.runtime().encoder.encode_windows({"text": [""]}, made, FACTS)["input_ids"]
        batch = task.runtime().encoder.collate(
            [{"input_ids": np.array(ids), "index": 0, "epoch": 0}], made, 1, train=False
        )
        assert batch["labels"][0, -1] == made.eos_token_id


@pytest.mark.parametrize(
    ("style", "options", "message"),
    [
        ("bart", {}, "needs 26 tokens <extra_id_0>"),
        ("t5", {"length": 4096}, "needs 205 tokens <extra_id_0> … for the spans it hides, and .* has 100"),
        ("t5", {"noise": "infilling"}, "needs a mask token, and this tokenizer has none"),
    ],
)
def test_a_tokenizer_that_cannot_hide_is_refused(style: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(StageError, match=message):
        Denoising(**options).runtime().encoder.encode({"text": TEXTS}, tokenizer(style), FACTS)


def test_a_text_longer_than_the_model_is_refused(words: dict[str, PreTrainedTokenizerFast]) -> None:
    entries = {"type": "bart", "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    model = create_model(
        "AutoModelForSeq2SeqLM",
        create_config(entries | {"max_position_embeddings": 32}, words["infilling"], {}),
        seed=1,
    )
    assert not list(Denoising(noise="infilling", length=30).runtime().model_setup.check(model))
    [problem] = Denoising(noise="infilling", length=31).runtime().model_setup.check(model)
    assert "set it to 30" in problem.message
    ids = torch.full((1, 32), 5)
    assert model(input_ids=ids, decoder_input_ids=ids).logits.shape[1] == 32


def test_a_tokenizers_own_frame_is_found() -> None:
    assert get_frame(tokenizer("gpt")) == ([], [tokenizer("gpt").eos_token_id])
    assert get_frame(tokenizer("bart")) == ([0], [2])
    bert = tokenizer("bert", "wordpiece")
    assert get_frame(bert) == ([bert.cls_token_id], [bert.sep_token_id])
    unigram = tokenizer("t5", "unigram")
    assert get_frame(unigram) == ([], [1])
    assert get_sentinel_ids(unigram, 2).tolist() == unigram.convert_tokens_to_ids(
        ["<extra_id_0>", "<extra_id_1>"]
    )


@pytest.mark.slow
@pytest.mark.parametrize(("noise", "model"), [("spans", "t5"), ("infilling", "bart")])
def test_it_learns_and_is_measured_the_same_twice(noise: str, model: str, tmp_path: Path) -> None:
    recipe = small.recipe()
    stages = recipe["stages"]
    del stages["topics"]
    stages["words"] |= {"algorithm": "bpe", "style": "t5" if noise == "spans" else "bart"}
    sizes = {"num_layers": 1, "d_ff": 64, "dropout_rate": 0.0}
    if model == "bart":
        sizes = {"encoder_layers": 1, "encoder_ffn_dim": 64, "dropout": 0.0}
    stages["pretrain"] |= {
        "task": {"kind": "denoising", "length": 32, "noise": noise},
        "model": {"type": model, "hidden_size": 32, "num_attention_heads": 2} | sizes,
    }
    stages["pretrain"]["training"] |= {"max_steps": 40, "learning_rate": 5e-3}
    stages["score"] = {"kind": "evaluate", "model": "stage:pretrain", "data": "stage:wiki"}
    stages["again"] = stages["score"] | {"batch_size": 3}
    stages["once-more"] = stages["score"]
    path = small.write(tmp_path, recipe)
    run = hfpipe.run(hfpipe.load(path), tmp_path / "runs", say=lambda _: None)
    losses = [step["loss"] for step in small.history(run.reports["pretrain"].model_dump())]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.3
    ledger = run.reports["pretrain"].ledger["train"]
    assert ledger["truncated"] == 0
    assert ledger["examples"] == -(-ledger["tokens"] // 32)

    def scores(stage: str) -> dict[str, float]:
        return {score.metric: score.value for score in run.reports[stage].scores}

    assert set(scores("score")) == {"perplexity", "loss", "accuracy"}
    assert scores("score") == scores("once-more")
    text = {"spans": "The <extra_id_0> is a star.", "infilling": "The<mask> is a star."}[noise]
    [foreseen] = hfpipe.predict(str(run.folders["pretrain"]), [{"text": "The sun is a star."}])
    assert set(foreseen) == {"loss", "accuracy"}
    ask = ["generation={max_new_tokens: 6}"]
    [said] = hfpipe.predict(str(run.folders["pretrain"]), [{"text": text}], options=ask)
    assert set(said) == {"generated_text"}
    assert scores("again") == pytest.approx(scores("score"), rel=1e-6)


@pytest.mark.slow
def test_the_shipped_recipe_runs_on_a_few_local_rows(tmp_path: Path) -> None:
    file = locate_place(Place(small.SUMMARIES), Path(), {})
    assert file is not None
    rows = json.loads(file.read_text(encoding="utf-8")).values()
    articles = [{"article": row["extract"][:300], "highlights": row["description"]} for row in rows]
    lines = [json.dumps(row) for row in articles[:300] if row["highlights"]]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    words = tokenizer("t5")
    sizes = {"d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 1, "num_heads": 2}
    tiny = create_model("AutoModelForSeq2SeqLM", create_config({"type": "t5"} | sizes, words, {}), seed=1)
    tiny.save_pretrained(tmp_path / "tiny")
    words.save_pretrained(tmp_path / "tiny")
    short = "{max_steps: 3, per_device_train_batch_size: 4, bf16: false}"
    task = "{kind: summarization, prefix: 'summarize: ', length: 48, target_length: 12}"
    overrides = [
        f"news.source={{files: {tmp_path}/rows.jsonl}}",
        "news.split={validation: 0.1, test: 0.1}",
        "denoise.task.length=48",
        *(f"{stage}.training={short}" for stage in ("denoise", "summarize", "straight")),
        *(f"{stage}.model={tmp_path}/tiny" for stage in ("denoise", "straight")),
        *(f"{stage}.task={task}" for stage in ("summarize", "straight")),
    ]
    recipe = hfpipe.load(small.ROOT / "recipes" / "t5-denoise-summarize.yaml", overrides)
    run = hfpipe.run(recipe, tmp_path / "runs", say=lambda _: None)
    scores = {score.metric: score for score in run.reports["score"].scores}
    assert {comparison.baseline for comparison in scores["rouge1"].comparisons} == {"lead", "stage:straight"}
