"""What a prediction depends on: attention of each head, rollout, and integrated gradients by token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pieces
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    GPT2Config,
    MambaConfig,
    T5Config,
)

import hfpipe

TEXTS = ["The river flows through ten countries.", "A good day for a walk.", "A bad day for a walk."]
TEXT = "A good day for a river."
SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
SMALL |= {"intermediate_size": 64, "initializer_range": 0.2}
TAGS = {0: "O", 1: "B-LOC", 2: "I-LOC"}
pytestmark = pytest.mark.slow
SQUAD = {"question": "What flows?", "context": TEXTS[0]}


def saved(
    folder: Path, cls: Any, config: type = BertConfig, family: str = "wordpiece", **options: Any
) -> Path:
    """Save a small model of random weights, with a tokenizer."""
    words = pieces.tokenizer(TEXTS, family)
    words.save_pretrained(folder)
    torch.manual_seed(5)
    made = config(vocab_size=len(words), pad_token_id=words.pad_token_id, **options)
    cls.from_config(made).save_pretrained(folder)
    return folder


def save_good_and_bad(folder: Path) -> Path:
    """Save a classifier that adds up what its words say: only `good` and `bad` say something."""
    saved(folder, AutoModelForSequenceClassification, **SMALL, id2label={0: "neg", 1: "pos"})
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    words = pieces.tokenizer(TEXTS)
    with torch.no_grad():
        embeddings = model.get_input_embeddings().weight
        embeddings.mul_(0.01)
        embeddings[words.convert_tokens_to_ids("good")] *= 300
    model.save_pretrained(folder)
    return folder


KINDS: dict[str, tuple[Any, Any, str | None, dict[str, Any]]] = {
    "text-classification": (AutoModelForSequenceClassification, TEXT, None, {"num_labels": 3}),
    "token-classification": (
        AutoModelForTokenClassification,
        {"words": TEXT.split()},
        None,
        {"id2label": TAGS, "label2id": {name: number for number, name in TAGS.items()}},
    ),
    "question-answering": (AutoModelForQuestionAnswering, SQUAD, None, {}),
    "fill-mask": (AutoModelForMaskedLM, "A [MASK] day for a walk.", None, {}),
    "text-generation": (AutoModelForCausalLM, "A good day", "bpe", {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_prediction_of_each_task_is_explained_with_the_answer_of_predict(kind: str, tmp_path: Path) -> None:
    cls, text, family, options = KINDS[kind]
    config = GPT2Config if family else BertConfig
    shape = {"n_embd": 32, "n_layer": 3, "n_head": 2, "initializer_range": 0.2} if family else SMALL
    path = saved(tmp_path, cls, config, family or "wordpiece", **shape, **options)
    task = {"options": ["generation.max_new_tokens=3"]} if family else {}
    found = hfpipe.explain(path, text, **task)
    assert found.answer == hfpipe.predict(path, [text], **task)[0]
    count = len(found.tokens)
    assert found.attention.shape == (3, 2, count, count)
    assert found.attention.sum(axis=-1) == pytest.approx(np.ones((3, 2, count)), abs=1e-5)
    assert found.rollout.sum(axis=-1) == pytest.approx(np.ones(count), abs=1e-5)
    assert found.attributions.shape == (count,)
    assert np.abs(found.attributions).sum() > 0
    assert abs(found.delta) < 0.05 * np.abs(found.attributions).sum()
    if family:
        assert np.triu(found.rollout, 1) == pytest.approx(np.zeros((count, count)))


def test_the_explained_answer_is_the_predicted_one(tmp_path: Path) -> None:
    path = saved(tmp_path, AutoModelForQuestionAnswering, **SMALL)
    for text in TEXTS:
        row = {"question": "What flows where?", "context": text}
        found = hfpipe.explain(path, row)
        assert found.target == found.answer["answer"] != ""
        assert found.attributions.sum() != 0


def test_the_explained_class_is_the_predicted_one(tmp_path: Path) -> None:
    path = saved(tmp_path, AutoModelForSequenceClassification, **SMALL, num_labels=5)
    for text in TEXTS:
        assert hfpipe.explain(path, text).target == hfpipe.predict(path, text)[0]["label"]  # type: ignore[index]


def test_the_word_that_decides_has_the_largest_attribution(tmp_path: Path) -> None:
    found = hfpipe.explain(save_good_and_bad(tmp_path), TEXT)
    largest = np.abs(found.attributions).argmax()
    assert found.tokens[largest] == "good"
    rest = np.delete(np.abs(found.attributions), largest)
    assert np.abs(found.attributions)[largest] > 3 * rest.max()


def test_plots_name_their_axes_and_show_each_token(tmp_path: Path) -> None:
    found = hfpipe.explain(saved(tmp_path, AutoModelForSequenceClassification, **SMALL), TEXT)
    plots = [
        found.plot_attention(),
        found.plot_attention(2, 1),
        found.plot_rollout(),
        found.plot_attributions(),
    ]
    for figure in plots:
        axes = figure.axes[0]
        assert axes.get_xlabel()
        assert axes.get_ylabel() == "token"
        assert [label.get_text() for label in axes.get_yticklabels()] == list(found.tokens)
    assert plots[1].axes[0].get_title() == "attention of layer 2, head 1"
    image = np.asarray(plots[1].axes[0].images[0].get_array())
    assert image == pytest.approx(found.attention[2, 1])


def test_what_cannot_be_explained_is_refused_in_one_line(tmp_path: Path) -> None:
    t5 = {"d_model": 32, "d_ff": 64, "num_layers": 1, "num_heads": 2, "d_kv": 16, "decoder_start_token_id": 0}
    path = saved(tmp_path / "t5", AutoModelForSeq2SeqLM, T5Config, "unigram", **t5)
    with pytest.raises(hfpipe.StageError, match="this model is an encoder-decoder"):
        hfpipe.explain(path, TEXT, task="summarization")
    path = saved(tmp_path / "swag", AutoModelForMultipleChoice, **SMALL)
    row = {"context": "A day", "endings": ["is good.", "is bad."]}
    with pytest.raises(hfpipe.StageError, match="one sequence of tokens per row, not several choices"):
        hfpipe.explain(path, row)
    mamba = {"hidden_size": 32, "num_hidden_layers": 1}
    path = saved(tmp_path / "mamba", AutoModelForCausalLM, MambaConfig, "bpe", **mamba)
    with pytest.raises(hfpipe.StageError, match="mamba returns no attention weights"):
        hfpipe.explain(path, TEXT, options=["generation.max_new_tokens=2"])
    path = saved(tmp_path / "qa", AutoModelForQuestionAnswering, **SMALL)
    long = SQUAD | {"context": " ".join(TEXTS * 20)}
    with pytest.raises(hfpipe.DataError, match=r"is split into \d+ windows; give a shorter text"):
        hfpipe.explain(path, long, options=["length=64", "stride=16"])
    with pytest.raises(hfpipe.DataError, match="context"):
        hfpipe.explain(path, {"question": "What?"})
