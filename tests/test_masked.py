"""Masked-lm hides what it says it hides, for every kind of vocabulary, and counts each piece once."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from hfpipe.errors import StageError
from hfpipe.hf.losses import IGNORED
from hfpipe.hf.masking import generator, mask
from hfpipe.hf.styles import STYLES
from hfpipe.hf.tokenizer import complete
from hfpipe.hf.vocabulary import Learner
from hfpipe.hf.words import words
from hfpipe.tasks.masked_lm import MaskedLM

TEXTS = [
    "The Sun is a star at the centre of the Solar System, isn't it?",
    "A star is a luminous sphere of plasma (held together by self-gravity).",
    "Größe, naïve café: the Moon goes round the Earth in 27 days.",
]


def learned(algorithm: str, pieces: int) -> PreTrainedTokenizerFast:
    learner = Learner(algorithm, STYLES["bert"], [], pieces, 1, lowercase=False)
    return complete(learner.learn(TEXTS * 3), STYLES["bert"], [])


@pytest.fixture(
    scope="module", params=[("wordpiece", 160), ("bpe", 320), ("unigram", 160)], ids=lambda p: p[0]
)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return learned(*request.param)


def stream(tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    return np.array([piece for text in TEXTS for piece in tokenizer(text)["input_ids"]])


@pytest.mark.parametrize(("algorithm", "pieces"), [("wordpiece", 160), ("bpe", 320)])
def test_words_are_those_the_tokenizer_cut_into_pieces(algorithm: str, pieces: int) -> None:
    tokenizer = learned(algorithm, pieces)
    for text in (TEXTS[0], "The cafe: a star goes round the Sun, held in days"):
        encoded = tokenizer(text)
        found = words(np.array(encoded["input_ids"]), tokenizer)
        begun = [before != after for before, after in pairwise(encoded.word_ids())]
        assert (np.diff(found) > 0).tolist() == begun


def test_a_sentence_of_marked_pieces_is_parted_at_spaces_and_punctuation() -> None:
    tokenizer = learned("unigram", 160)
    ids = np.array(tokenizer(TEXTS[0])["input_ids"])
    found = words(ids, tokenizer)
    joined = [tokenizer.decode(ids[found == number]).strip() for number in range(found[-1] + 1)]
    expected = "[CLS] The Sun is a star at the centre of the Solar System , isn ' t it ? [SEP]"
    assert joined == expected.split()


def test_pieces_without_marks_are_refused() -> None:
    pieces = {piece: number for number, piece in enumerate(["[UNK]", "a", "b", "c"])}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(pieces)))
    with pytest.raises(StageError, match="marks where words begin"):
        words(np.arange(3), tokenizer)


@given(seed=st.integers(0, 2**32 - 1), index=st.integers(0, 10**9), share=st.floats(0.05, 0.9))
def test_whole_words_are_hidden_whole_and_the_share_is_exact_up_to_one_of_them(
    tokenizer: PreTrainedTokenizerFast, seed: int, index: int, share: float
) -> None:
    ids = stream(tokenizer)
    number = words(ids, tokenizer)
    shown, labels = mask(ids, tokenizer, share, generator(seed, 0, index), whole_words=True)
    again, _ = mask(ids, tokenizer, share, generator(seed, 0, index), whole_words=True)
    hidden = labels != IGNORED
    assert (shown == again).all()
    assert (labels[hidden] == ids[hidden]).all()
    assert (shown[~hidden] == ids[~hidden]).all()
    special = np.isin(ids, tokenizer.all_special_ids)
    assert not hidden[special].any()
    partly = {word for word in number[hidden] if not hidden[number == word].all()}
    assert not partly
    wanted = max(1, round(share * (~special).sum()))
    longest = np.bincount(number).max()
    assert wanted <= hidden.sum() < wanted + longest


def test_static_masks_are_the_same_in_every_epoch_and_others_than_in_evaluation() -> None:
    tokenizer = learned("wordpiece", 160)

    def labels(task: MaskedLM, epoch: int, *, train: bool) -> list[int]:
        example = {"input_ids": stream(tokenizer), "epoch": epoch, "index": 5}
        return task.collate([example], tokenizer, 3, train=train)["labels"][0].tolist()

    static = MaskedLM(length=128, mask=0.3, eval_mask=0.3, static=True)
    assert labels(static, 0, train=True) == labels(static, 7, train=True)
    assert labels(static, 0, train=True) != labels(static, 0, train=False)
    assert labels(static, 0, train=True) == labels(MaskedLM(length=128, mask=0.3), 0, train=True)


def test_the_task_hides_whole_words_when_asked() -> None:
    tokenizer = learned("wordpiece", 160)
    ids = stream(tokenizer)
    example = {"input_ids": ids, "epoch": 0, "index": 0}
    labels = MaskedLM(whole_words=True).collate([example], tokenizer, 1, train=True)["labels"][0].numpy()
    number = words(ids, tokenizer)
    hidden = labels != IGNORED
    assert hidden.any()
    assert all(hidden[number == word].all() for word in number[hidden])
