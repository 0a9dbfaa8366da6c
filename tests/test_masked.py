"""Masked-lm hides what it says it hides, for every kind of vocabulary, and counts each piece once."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import small
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tokenizers import Tokenizer, models
from transformers import AutoModelForMaskedLM, BertForPreTraining, PreTrainedModel, PreTrainedTokenizerFast

import hfpipe
from hfpipe.contract import RunContext
from hfpipe.encoding.encoded import encode
from hfpipe.errors import StageError
from hfpipe.evaluation.loop import ModelReader
from hfpipe.modeling.loading.models import create_config, create_model
from hfpipe.modeling.losses.losses import IGNORED, forward
from hfpipe.modeling.random import create_generator
from hfpipe.report import DataFacts
from hfpipe.stages.scoring.hidden_words import record_fills
from hfpipe.store.artifacts import FILLS, read_lines
from hfpipe.tasks.fill_mask import FillMask
from hfpipe.tasks.masked_lm import MaskedLM
from hfpipe.tasks.masked_lm.masking import mask_tokens
from hfpipe.tasks.masked_lm.sentence_pairs import FOLLOWS, RANDOM, encode_sentence_pairs
from hfpipe.tasks.masked_lm.word_boundaries import number_words
from hfpipe.tokenization.loading import complete_tokenizer
from hfpipe.tokenization.special_tokens import STYLES
from hfpipe.tokenization.training import Learner

if TYPE_CHECKING:
    from hfpipe.types import Batch

SIZE: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
SIZES = {
    "distilbert": {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32},
    "electra": SIZE | {"embedding_size": 8},
}
"""Type of model → the sizes of a tiny one, where they are called otherwise."""
TEXTS = [
    "The Sun is a star at the centre of the Solar System, isn't it?",
    "A star is a luminous sphere of plasma (held together by self-gravity).",
    "Größe, naïve café: the Moon goes round the Earth in 27 days.",
]


def learned(algorithm: str, pieces: int) -> PreTrainedTokenizerFast:
    learner = Learner(algorithm, STYLES["bert"], [], pieces, 1, lowercase=False)
    return complete_tokenizer(learner.learn(TEXTS * 3), STYLES["bert"])


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
        found = number_words(np.array(encoded["input_ids"]), tokenizer)
        begun = [before != after for before, after in pairwise(encoded.word_ids())]
        assert (np.diff(found) > 0).tolist() == begun


def test_a_sentence_of_marked_pieces_is_parted_at_spaces_and_punctuation() -> None:
    tokenizer = learned("unigram", 160)
    ids = np.array(tokenizer(TEXTS[0])["input_ids"])
    found = number_words(ids, tokenizer)
    joined = [tokenizer.decode(ids[found == number]).strip() for number in range(found[-1] + 1)]
    expected = "[CLS] The Sun is a star at the centre of the Solar System , isn ' t it ? [SEP]"
    assert joined == expected.split()


def test_pieces_without_marks_are_refused() -> None:
    pieces = {piece: number for number, piece in enumerate(["[UNK]", "a", "b", "c"])}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(pieces)))
    with pytest.raises(StageError, match="marks where words begin"):
        number_words(np.arange(3), tokenizer)


@given(seed=st.integers(0, 2**32 - 1), index=st.integers(0, 10**9), share=st.floats(0.05, 0.9))
def test_whole_words_are_hidden_whole_and_the_share_is_exact_up_to_one_of_them(
    tokenizer: PreTrainedTokenizerFast, seed: int, index: int, share: float
) -> None:
    ids = stream(tokenizer)
    number = number_words(ids, tokenizer)
    shown, labels = mask_tokens(ids, tokenizer, share, create_generator(seed, 0, index), whole_words=True)
    again, _ = mask_tokens(ids, tokenizer, share, create_generator(seed, 0, index), whole_words=True)
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
        return task.runtime().encoder.collate([example], tokenizer, 3, train=train)["labels"][0].tolist()

    static = MaskedLM(length=128, mask=0.3, eval_mask=0.3, static=True)
    assert labels(static, 0, train=True) == labels(static, 7, train=True)
    assert labels(static, 0, train=True) != labels(static, 0, train=False)
    assert labels(static, 0, train=True) == labels(MaskedLM(length=128, mask=0.3), 0, train=True)


def test_the_task_hides_whole_words_when_asked() -> None:
    tokenizer = learned("wordpiece", 160)
    ids = stream(tokenizer)
    example = {"input_ids": ids, "epoch": 0, "index": 0}
    labels = (
        MaskedLM(whole_words=True)
        .runtime()
        .encoder.collate([example], tokenizer, 1, train=True)["labels"][0]
        .numpy()
    )
    number = number_words(ids, tokenizer)
    hidden = labels != IGNORED
    assert hidden.any()
    assert all(hidden[number == word].all() for word in number[hidden])


def test_every_sentence_is_in_a_pair_and_half_of_the_pairs_follow() -> None:
    tokenizer = learned("wordpiece", 160)
    random = np.random.default_rng(1)
    sentences = ["The Sun is a star.", "A star is a sphere!", "It goes round.", "Is it held together?"]
    texts = [" ".join(random.choice(sentences, random.integers(1, 9))) for _ in range(400)] + [""]
    pairs = encode_sentence_pairs(texts, tokenizer, 32)
    assert pairs == encode_sentence_pairs(texts, tokenizer, 32)
    labels = np.array(pairs["next_sentence_label"])
    assert abs((labels[labels != IGNORED] == RANDOM).mean() - 0.5) < 0.06
    said: dict[int, list[int]] = {row: [] for row in range(len(texts))}
    for ids, types, label, row in zip(*pairs.values(), strict=True):
        assert len(ids) == len(types) <= 32
        assert types == sorted(types)
        first = ids[1 : types.index(1) - 1] if 1 in types else ids[1:-1]
        assert [ids[0], ids[-1]] == [tokenizer.cls_token_id, tokenizer.sep_token_id]
        assert (1 in types) == (label != IGNORED)
        second = [piece for piece, kind in zip(ids, types, strict=True) if kind][:-1]
        said[row] += first + (second if label == FOLLOWS else [])
    assert all(
        said[row] == tokenizer(text, add_special_tokens=False)["input_ids"] for row, text in enumerate(texts)
    )


def test_a_single_text_gives_only_pairs_that_follow() -> None:
    tokenizer = learned("wordpiece", 160)
    assert encode_sentence_pairs([TEXTS[0] + " " + TEXTS[1]], tokenizer, 64)["next_sentence_label"] == [
        FOLLOWS
    ]
    assert encode_sentence_pairs(TEXTS[:1], tokenizer, 64)["next_sentence_label"] == [IGNORED]


def tiny(kind: str, tokenizer: PreTrainedTokenizerFast, task: MaskedLM) -> PreTrainedModel:
    """Return a model of a type from scratch, without dropout."""
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = create_config(
        {"type": kind, "max_position_embeddings": 140} | quiet | SIZES.get(kind, SIZE), tokenizer, {}
    )
    return create_model(task.auto_class, config, 3)


def batch_of(
    task: MaskedLM, tokenizer: PreTrainedTokenizerFast, texts: list[str], *, train: bool = True
) -> Batch:
    rows = {"text": texts}
    facts = DataFacts(columns={"text": "string"}, splits={"train": len(texts)})
    encoded = task.runtime().encoder.encode(rows, tokenizer, facts)
    examples = [
        {name: np.asarray(column[number]) for name, column in encoded.items()} | {"epoch": 0, "index": number}
        for number in range(len(encoded["input_ids"]))
    ]
    return task.runtime().encoder.collate(examples, tokenizer, 1, train=train)


def test_the_losses_of_both_objectives_are_means_of_their_own_and_those_of_transformers() -> None:
    tokenizer = learned("wordpiece", 160)
    task = MaskedLM(length=48, next_sentence=True)
    model = tiny("bert", tokenizer, task).eval()
    texts = [f"{first} {second} {first}" for first in TEXTS for second in TEXTS]
    batch = batch_of(task, tokenizer, texts)
    with torch.no_grad():
        outputs = forward(model, batch, task.runtime().objective.positions(batch))
        total, targets = task.runtime().objective.loss(outputs, batch)
        inputs = {name: tensor for name, tensor in batch.items() if not name.startswith("_")}
        theirs = model(**inputs, next_sentence_label=batch["_next_sentence"]).loss
    assert torch.equal(targets, task.runtime().objective.count(batch))
    assert targets[1] == (batch["_next_sentence"] != IGNORED).sum() > 1
    assert float((total / targets).sum()) == pytest.approx(float(theirs), rel=1e-5)
    columns = task.runtime().evaluator.outputs_to_columns(outputs, batch)
    assert float(columns["next_sentence_nll"].sum()) == pytest.approx(float(total[1]), rel=1e-5)


def test_a_model_that_knows_no_pairs_is_refused() -> None:
    tokenizer = learned("wordpiece", 160)
    task = MaskedLM(length=48, next_sentence=True)
    assert not list(task.runtime().model_setup.check(tiny("bert", tokenizer, task)))
    [problem] = task.runtime().model_setup.check(tiny("electra", tokenizer, task))
    assert "electra has no head for sentence pairs" in problem.message


def test_pseudo_perplexity_is_that_of_a_plain_loop_whatever_the_batch() -> None:
    tokenizer = learned("wordpiece", 160)
    task = MaskedLM(length=48, pseudo_perplexity=True)
    model = tiny("bert", tokenizer, task).eval()
    texts = [*TEXTS, TEXTS[0] * 6 + "☃", ""]
    with torch.no_grad():
        together = task.runtime().generator.generate(
            model, batch_of(task, tokenizer, texts, train=False), tokenizer
        )
        alone = [
            task.runtime().generator.generate(
                model, batch_of(task, tokenizer, [text], train=False), tokenizer
            )
            for text in texts
        ]
        exact = model.double()
        for number, text in enumerate(texts):
            ids = torch.tensor(tokenizer(text)["input_ids"])
            nll = 0.0
            for place in range(1, len(ids) - 1):
                shown = ids.clone()
                shown[place] = tokenizer.mask_token_id
                nll -= float(exact(shown[None]).logits[0, place].log_softmax(-1)[ids[place]])
            assert together["nll"][number] == pytest.approx(nll, rel=1e-5)
            assert together["tokens"][number] == len(ids) - 2
            assert {name: column[0] for name, column in alone[number].items()} == {
                name: column[number] for name, column in together.items()
            }


def test_pseudo_perplexity_and_next_sentence_exclude_each_other() -> None:
    with pytest.raises(ValidationError, match="write a separate task for evaluation"):
        MaskedLM(next_sentence=True, pseudo_perplexity=True)


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "electra", "modernbert", "deberta-v2"])
def test_a_type_of_model_learns_masked_text_and_is_the_same_after_saving(kind: str, tmp_path: Path) -> None:
    tokenizer = learned("wordpiece", 160)
    task = MaskedLM(length=48)
    model = tiny(kind, tokenizer, task)
    batch = batch_of(task, tokenizer, TEXTS)

    def loss(positions: torch.Tensor | None) -> torch.Tensor:
        total, targets = task.runtime().objective.loss(forward(model, batch, positions), batch)
        return total / targets

    model.eval()
    before = loss(task.runtime().objective.positions(batch))
    assert float(before.detach()) == pytest.approx(float(loss(None).detach()), rel=1e-5)
    assert float(before.detach()) == pytest.approx(float(model(**batch).loss.detach()), rel=1e-5)
    before.backward()
    assert all(torch.isfinite(weight.grad).all() for weight in model.parameters() if weight.grad is not None)
    torch.optim.SGD(model.parameters(), lr=0.05).step()
    after = float(loss(task.runtime().objective.positions(batch)).detach())
    assert after < float(before.detach())
    model.save_pretrained(tmp_path)
    model = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    assert float(loss(task.runtime().objective.positions(batch)).detach()) == pytest.approx(after, rel=1e-6)


def test_one_whole_word_of_a_text_is_hidden_for_every_kind_of_vocabulary(
    tokenizer: PreTrainedTokenizerFast, context: Callable[..., RunContext], tmp_path: Path
) -> None:
    task = MaskedLM(length=48)
    model, runtime = tiny("bert", tokenizer, task).eval(), task.runtime()
    separators = "The Sun is a star.\u2028The Earth is a planet."  # str.splitlines would split it
    texts = [*TEXTS, "?!", "", "A [MASK] is a star.", "\u2603 \u2603", separators]
    rows, facts = Dataset.from_dict({"text": texts}), DataFacts(columns={"text": "string"}, splits={})
    examples, _ = encode(
        runtime, rows, tokenizer, facts, tmp_path / "rows.arrow", packed=False, advance=lambda _: None
    )
    filling, found = FillMask().runtime().encoder, set()
    known = DataFacts(columns={"text": "string", "answer": "string"}, splits={})
    for seed in range(3):
        ctx = context(f"seed{seed}", seed=seed)
        reader = ModelReader(runtime, facts, tokenizer, seed=seed)
        record_fills(model, tmp_path, reader, examples, torch.device("cpu"), ctx)
        for line in read_lines(ctx.folder / FILLS):
            before, word, after = line["before"], line["reference"], line["after"]
            assert f"{before}{word}{after}" == texts[line["row"]]
            asked = {"text": [f"{before}[MASK]{after}"], "answer": [word]}
            encoded = filling.encode(asked, tokenizer, known)
            [ids], [target], [place] = (encoded[name] for name in ("input_ids", "target", "blank"))
            assert [*ids[:place], *target, *ids[place + 1 :]] == tokenizer(texts[line["row"]])["input_ids"]
            assert len(target) == 1
            assert (len(line["fills"]), len(line["fill_scores"])) == (5, 5)
            found.add((line["row"], word))
    there = {row for row, _ in found}
    assert {0, 1, len(texts) - 1} <= there <= {0, 1, 2, len(texts) - 1}, "the others have no word, or a mask"
    assert not {"isn", "t", "self", "gravity"} & {word for _, word in found}, "parts of a word"


@pytest.mark.slow
def test_both_objectives_are_learned_and_reported_and_the_text_is_measured_piece_by_piece(
    tmp_path: Path,
) -> None:
    recipe = small.recipe("bert", max_steps=30, logging_steps=10)
    stages = recipe["stages"]
    stages["wiki"]["columns"] = {"text": "extract"}
    stages["wiki"]["clean"] = [
        "unicode",
        {"keep_matching": "^The [A-M]"},
        {"min_chars": 150},
        {"max_chars": 300},
    ]
    stages["pretrain"]["task"] = {"kind": "masked-lm", "length": 64, "next_sentence": True}
    stages["pairs"] = {"kind": "evaluate", "model": "stage:pretrain", "data": "stage:wiki", "resamples": 100}
    stages["pieces"] = stages["pairs"] | {
        "split": "validation",
        "task": {"kind": "masked-lm", "length": 64, "pseudo_perplexity": True},
    }
    del stages["topics"], stages["score"]
    run = hfpipe.run(hfpipe.load(small.write(tmp_path, recipe)), tmp_path / "runs", say=lambda _: None)

    report = run.reports["pretrain"]
    losses = [step["loss"] for step in small.history(report.model_dump())]
    assert losses[-1] < losses[0]
    ledger, rows = report.ledger["train"], run.reports["wiki"].data.splits
    assert ledger["rows"] == rows["train"] < ledger["examples"]
    both = {"perplexity", "loss", "accuracy", "next_sentence_loss", "next_sentence_accuracy"}
    assert both <= report.facts["validation"].keys()
    assert {score.metric for score in run.reports["pairs"].scores} == both
    for stage, split in (("pairs", "test"), ("pieces", "validation")):
        filled = run.fills(stage)
        assert rows[split] / 2 < len(filled) <= rows[split]
        assert (filled["fills"].str.len() == 5).all()
    pieces = {score.metric: score for score in run.reports["pieces"].scores}
    assert pieces.keys() == {"pseudo_perplexity", "loss", "accuracy"}
    [left_out] = run.reports["pieces"].facts["left_out"]
    assert left_out.startswith("bits_per_byte is left out: 100.00% of the text")
    assert pieces["pseudo_perplexity"].n == rows["validation"]
    assert pieces["pseudo_perplexity"].value == pytest.approx(np.exp(pieces["loss"].value))
    model = BertForPreTraining.from_pretrained(run.folders["pretrain"])
    assert model.config.architectures == ["BertForPreTraining"]


@pytest.mark.slow
def test_two_objectives_weigh_the_same_however_a_step_is_cut_into_batches(tmp_path: Path) -> None:
    def losses(batch: int, accumulated: int) -> list[float]:
        cut = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulated}
        recipe = small.recipe("bert", max_steps=3, **cut)
        stages = recipe["stages"]
        stages["wiki"] |= {"columns": {"text": "extract"}, "limit": 400, "clean": [], "split": {}}
        stages["pretrain"]["task"] = {"kind": "masked-lm", "length": 48, "next_sentence": True}
        recipe["stages"] = {name: stages[name] for name in ("wiki", "words", "pretrain")}
        run = hfpipe.run(hfpipe.load(small.write(tmp_path, recipe)), tmp_path / "runs", say=lambda _: None)
        return [step["loss"] for step in small.history(run.reports["pretrain"].model_dump())]

    assert losses(8, 1) == pytest.approx(losses(1, 8), rel=1e-5)
