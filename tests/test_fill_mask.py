"""Blanks are filled, and what is said of the fillings is right."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hfpipe.errors import DataError
from hfpipe.metrics.scores.cloze import Frequent, compute_ranks, create_cloze_metrics
from hfpipe.metrics.tally import Tally, compute_scores
from hfpipe.modeling.loading.models import create_config, create_model
from hfpipe.modeling.losses.losses import IGNORED, forward
from hfpipe.report import DataFacts
from hfpipe.tasks.fill_mask import FillMask
from hfpipe.tasks.fill_mask.decoding import find_likeliest_fills
from hfpipe.tokenization.loading import complete_tokenizer
from hfpipe.tokenization.special_tokens import STYLES
from hfpipe.tokenization.training import Learner

if TYPE_CHECKING:
    from hfpipe.types import Batch


def scored(rank: list[int]) -> dict[str, float]:
    tally = Tally(create_cloze_metrics(), 10, 1)
    tally.add(np.arange(len(rank)), {"rank": np.array(rank)})
    return {score.metric: score.value for score in compute_scores(tally)}


def test_ranks_give_exact_match_top_five_and_reciprocal_rank() -> None:
    assert scored([1, 2, 5, 6, 0]) == {
        "exact_match": pytest.approx(1 / 5),
        "top5_accuracy": pytest.approx(3 / 5),
        "mean_reciprocal_rank": pytest.approx((1 + 1 / 2 + 1 / 5 + 1 / 6) / 5),
    }


@pytest.mark.slow
@given(
    scores=st.lists(st.lists(st.integers(-3, 3), min_size=4, max_size=4), min_size=1, max_size=8),
    reference=st.integers(-1, 3),
)
def test_a_rank_counts_those_that_score_no_less(scores: list[list[int]], reference: int) -> None:
    found = compute_ranks(np.array(scores, dtype=float), np.full(len(scores), reference))
    expected = [0 if reference < 0 else sum(each >= row[reference] for each in row) for row in scores]
    assert found.tolist() == expected


def test_a_token_that_is_not_a_candidate_is_never_found() -> None:
    scores = np.array([[-1.0, -np.inf, -2.0], [-1.0, -np.inf, -2.0]])
    assert compute_ranks(scores, np.array([2, -1])).tolist() == [2, 0]


def test_the_most_frequent_answers_are_the_first_guesses() -> None:
    filler = Frequent(["star", "sun", "star", "moon", "sun", "star"])
    assert [filler.rank(answer) for answer in ("star", "sun", "moon", "earth")] == [1, 2, 3, 0]
    assert filler.rank("moon", ["earth", "moon", "sun"]) == 2
    assert filler.rank("earth", ["earth", "moon", "sun"]) == 3
    assert filler.rank("star", ["earth", "moon"]) == 0


SENTENCES = [
    "The Sun is a [MASK] at the centre of the Solar System.",
    "A star is a [MASK] sphere of plasma.",
    "[MASK] goes round the Earth in 27 days.",
]
ANSWERS = ["star", "luminous", "Moon"]
FACTS = DataFacts(columns={"text": "string", "answer": "string"}, splits={"train": 3})


@pytest.fixture(
    scope="module", params=[("wordpiece", 160), ("bpe", 330), ("unigram", 150)], ids=lambda p: p[0]
)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    algorithm, pieces = request.param
    learner = Learner(algorithm, STYLES["bert"], [], pieces, 1, lowercase=False)
    whole = [text.replace("[MASK]", answer) for text, answer in zip(SENTENCES, ANSWERS, strict=True)]
    return complete_tokenizer(learner.learn(whole * 2), STYLES["bert"])


def tiny(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    entries = {"type": "bert", "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0} | sizes
    return create_model("AutoModelForMaskedLM", create_config(entries, tokenizer, {}), 3)


def batch_of(
    task: FillMask, tokenizer: PreTrainedTokenizerFast, rows: dict, facts: DataFacts = FACTS
) -> Batch:
    encoded = task.runtime().encoder.encode(rows, tokenizer, facts)
    examples = [
        {name: np.asarray(column[number]) for name, column in encoded.items()} | {"epoch": 0, "index": number}
        for number in range(len(encoded["input_ids"]))
    ]
    return task.runtime().encoder.collate(examples, tokenizer, 1, train=True)


def taught(
    task: FillMask, tokenizer: PreTrainedTokenizerFast, rows: dict, facts: DataFacts = FACTS
) -> PreTrainedModel:
    model = tiny(tokenizer).train()
    batch = batch_of(task, tokenizer, rows, facts)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        total, targets = task.runtime().objective.loss(
            forward(model, batch, task.runtime().objective.positions(batch)), batch
        )
        optimizer.zero_grad()
        (total / targets).backward()
        optimizer.step()
    return model.eval()


def test_a_blank_holds_the_pieces_that_the_whole_text_has_there(tokenizer: PreTrainedTokenizerFast) -> None:
    encoded = FillMask().runtime().encoder.encode({"text": SENTENCES, "answer": ANSWERS}, tokenizer, FACTS)
    for number, (text, answer) in enumerate(zip(SENTENCES, ANSWERS, strict=True)):
        ids, target, place = (encoded[name][number] for name in ("input_ids", "target", "blank"))
        assert ids[place : place + len(target)] == [tokenizer.mask_token_id] * len(target)
        filled = [*ids[:place], *target, *ids[place + len(target) :]]
        assert filled == tokenizer(text.replace("[MASK]", answer))["input_ids"]


def test_a_long_text_is_cut_far_from_its_blank_and_what_it_loses_is_counted(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    task = FillMask(length=24)
    before, after = SENTENCES[0].split("[MASK]")
    texts = [before * left + "[MASK]" + after * right for left in (1, 3, 9) for right in (1, 3, 9)]
    encoded = task.runtime().encoder.encode(
        {"text": texts, "answer": ["star"] * len(texts)}, tokenizer, FACTS
    )
    whole = (
        FillMask(length=1000)
        .runtime()
        .encoder.encode({"text": texts, "answer": ["star"] * len(texts)}, tokenizer, FACTS)
    )
    for ids, place, lost, all_ids in zip(
        encoded["input_ids"], encoded["blank"], encoded["truncated"], whole["input_ids"], strict=True
    ):
        assert len(ids) + lost == len(all_ids)
        assert len(ids) == min(24, len(all_ids))
        assert ids[place] == tokenizer.mask_token_id
        assert [ids[0], ids[-1]] == [tokenizer.cls_token_id, tokenizer.sep_token_id]


@pytest.mark.parametrize("text", ["no blank at all", "[MASK] and [MASK]"])
def test_a_text_without_just_one_blank_is_refused(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    with pytest.raises(DataError, match="instead of one"):
        FillMask().runtime().encoder.encode({"text": [text], "answer": ["star"]}, tokenizer, FACTS)


def test_a_mask_token_typed_next_to_another_blank_is_text(tokenizer: PreTrainedTokenizerFast) -> None:
    task = FillMask(blank="___")
    rows = {"text": ["A [MASK] is a ___."], "answer": ["star"]}
    encoded = task.runtime().encoder.encode(rows, tokenizer, FACTS)
    [ids], [place], [target] = encoded["input_ids"], encoded["blank"], encoded["target"]
    masks = [number for number, token in enumerate(ids) if token == tokenizer.mask_token_id]
    assert masks == list(range(place, place + len(target)))
    with pytest.raises(DataError, match="has a mask token and a blank"):
        FillMask(
            pattern="{text} [MASK] ___", blank="___", verbalizer={"a": "star", "b": "sea"}
        ).runtime().encoder.encode(
            {"text": ["A star"], "label": [0]},
            tokenizer,
            FACTS.model_copy(update={"labels": {"label": ["a", "b"]}}),
        )


@pytest.mark.slow
def test_words_are_learned_and_found_again_and_alone_as_in_a_batch(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    task = FillMask(length=48)
    rows = {"text": SENTENCES, "answer": ANSWERS}
    model = taught(task, tokenizer, rows)
    with torch.no_grad():
        columns = task.runtime().generator.generate(model, batch_of(task, tokenizer, rows), tokenizer)
        one = {"text": SENTENCES[1:2], "answer": ANSWERS[1:2]}
        alone = task.runtime().generator.generate(model, batch_of(task, tokenizer, one), tokenizer)
    assert columns["rank"].tolist() == [1, 1, 1]
    assert columns["nll"].max() < 0.5
    assert [fills[0] for fills in columns["fills"]] == ANSWERS
    assert alone["fills"][0] == columns["fills"][1]
    assert alone["nll"][0] == pytest.approx(columns["nll"][1], rel=1e-3)
    answers = task.runtime().evaluator.format_predictions(columns, rows, FACTS)
    assert answers[0].get("token_str") == "star"
    assert answers[0]["sequence"] == SENTENCES[0].replace("[MASK]", "star")
    assert len(answers[0]["fills"]) == 5


def test_the_likeliest_sequences_are_those_of_all_that_there_are() -> None:
    said = torch.from_numpy(np.random.default_rng(5).normal(size=(3, 6))).log_softmax(-1)
    scores, fillings = find_likeliest_fills(said, 20)
    every = {
        (a, b, c): float(said[0, a] + said[1, b] + said[2, c])
        for a in range(6)
        for b in range(6)
        for c in range(6)
    }
    best = sorted(every, key=every.__getitem__, reverse=True)[:20]
    assert [tuple(filling) for filling in fillings.tolist()] == best
    assert scores.tolist() == pytest.approx([every[filling] for filling in best])


def test_choices_are_scored_by_a_plain_loop_over_their_pieces(tokenizer: PreTrainedTokenizerFast) -> None:
    task = FillMask(choices="choices")
    choices = [["luminous", "star", "Solar System"], ["luminous", "sphere"], ["Moon", "Earth", "star"]]
    facts = DataFacts(columns={**FACTS.columns, "choices": "strings"}, splits={})
    rows = {"text": SENTENCES, "answer": ANSWERS, "choices": choices}
    model = tiny(tokenizer).double().eval()
    with torch.no_grad():
        columns = task.runtime().generator.generate(model, batch_of(task, tokenizer, rows, facts), tokenizer)
        for row, (text, words) in enumerate(zip(SENTENCES, choices, strict=True)):
            expected = []
            for word in words:
                whole = torch.tensor(tokenizer(text.replace("[MASK]", word))["input_ids"])
                seen = (
                    FillMask().runtime().encoder.encode({"text": [text], "answer": [word]}, tokenizer, FACTS)
                )
                hidden = torch.tensor(seen["input_ids"][0])
                said = model(hidden[None]).logits[0].log_softmax(-1)
                places = (hidden == tokenizer.mask_token_id).nonzero().squeeze(-1)
                expected.append(float(said[places, whole[places]].mean()))
            assert columns["choice_scores"][row] == pytest.approx(expected, rel=1e-5)
            place = words.index(ANSWERS[row])
            assert columns["rank"][row] == sum(score >= expected[place] for score in expected)
            best = max(zip(expected, words, strict=True))[1]
            assert columns["fills"][row][0] == best


def test_a_candidate_counts_once_and_one_without_pieces_not_at_all(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    task, model = FillMask(choices="choices"), tiny(tokenizer).eval()
    rows = {"text": SENTENCES[:1], "answer": ["star"], "choices": [["Moon", "star", "Sun"]]}
    odd = rows | {"choices": [["", "Moon", "star", "star", "Moon", "Sun"]]}
    with torch.no_grad():
        plain, same = (
            task.runtime().generator.generate(model, batch_of(task, tokenizer, each), tokenizer)
            for each in (rows, odd)
        )
    assert {name: column.tolist() for name, column in same.items()} == {
        name: column.tolist() for name, column in plain.items()
    }


def test_what_lies_in_a_file_is_copied_and_not_warned_of(tokenizer: PreTrainedTokenizerFast) -> None:
    encoded = (
        FillMask().runtime().encoder.encode({"text": SENTENCES[:1], "answer": ["star"]}, tokenizer, FACTS)
    )
    example = {name: np.asarray(column[0]) for name, column in encoded.items()}
    for array in example.values():
        array.setflags(write=False)
    torch.set_warn_always(True)
    try:
        batch = FillMask().runtime().encoder.collate([example], tokenizer, 1, train=True)
    finally:
        torch.set_warn_always(False)
    assert batch["labels"][batch["labels"] != IGNORED].tolist() == encoded["target"][0]


def test_answers_that_are_classes_are_each_others_candidates(tokenizer: PreTrainedTokenizerFast) -> None:
    facts = DataFacts(
        columns={"text": "string", "answer": "label"}, splits={}, labels={"answer": sorted(ANSWERS)}
    )
    rows = {"text": SENTENCES, "answer": [sorted(ANSWERS).index(answer) for answer in ANSWERS]}
    task = FillMask()
    with torch.no_grad():
        columns = task.runtime().generator.generate(
            tiny(tokenizer).eval(), batch_of(task, tokenizer, rows, facts), tokenizer
        )
    assert all(sorted(fills) == sorted(ANSWERS) for fills in columns["fills"])
    assert set(columns["rank"]) <= {1, 2, 3}
    ranked = task.runtime().baseline("frequent").fit(rows, facts, tokenizer)(rows)
    assert ranked["rank"].tolist() == [3, 2, 1]


VIEWS = {
    "text": ["star star star", "sphere of plasma", "star in plasma", "sphere sphere in days"],
    "label": [1, 0, 1, 0],
}
SORTED = FillMask(pattern="{text}: a [MASK].", verbalizer={"round": "luminous sphere", "bright": "Sun"})


@pytest.mark.slow
def test_a_pattern_classifies_by_the_word_that_fits(tokenizer: PreTrainedTokenizerFast) -> None:
    facts = DataFacts(
        columns={"text": "string", "label": "label"}, splits={}, labels={"label": ["round", "bright"]}
    )
    assert not list(SORTED.check(facts))
    model = taught(SORTED, tokenizer, VIEWS, facts)
    with torch.no_grad():
        columns = SORTED.runtime().generator.generate(
            model, batch_of(SORTED, tokenizer, VIEWS, facts), tokenizer
        )
    assert columns["reference"].tolist() == columns["prediction"].tolist() == VIEWS["label"]
    assert columns["scores"].sum(axis=1) == pytest.approx(1)
    assert columns["nll"] == pytest.approx(-np.log(columns["scores"][np.arange(4), VIEWS["label"]]))
    assert SORTED.runtime().evaluator.encode_predictions(columns, facts)["prediction"] == [
        "bright",
        "round",
        "bright",
        "round",
    ]
    assert [
        answer["label"] for answer in SORTED.runtime().evaluator.format_predictions(columns, VIEWS, facts)
    ] == SORTED.runtime().evaluator.encode_predictions(columns, facts)["prediction"]
    for name in SORTED.baselines:
        guessed = SORTED.runtime().baseline(name).fit(VIEWS, facts, tokenizer)(VIEWS)
        assert guessed["reference"].tolist() == VIEWS["label"]


def test_a_blank_or_a_brace_in_a_rows_own_text_is_text(tokenizer: PreTrainedTokenizerFast) -> None:
    facts = DataFacts(
        columns={"text": "string", "label": "label"}, splits={}, labels={"label": ["round", "bright"]}
    )
    rows = {"text": ["a {star} [MASK]"], "label": [0]}
    ids = batch_of(SORTED, tokenizer, rows, facts)["input_ids"][0]
    masks = len(tokenizer(" luminous sphere", add_special_tokens=False)["input_ids"])
    assert int((ids == tokenizer.mask_token_id).sum()) == masks


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pattern": "{text} [MASK]"}, "need each other"),
        ({"pattern": "{text}", "verbalizer": {"a": "b"}}, "one blank"),
        ({"pattern": "It is [MASK]", "verbalizer": {"a": "b"}}, "a column in braces"),
        ({"pattern": "{text} [MASK]", "verbalizer": {"a": "b", "c": "b"}}, "the same word for two classes"),
    ],
)
def test_a_pattern_that_cannot_be_filled_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        FillMask(**settings)


def test_classes_that_the_verbalizer_lacks_are_named() -> None:
    facts = DataFacts(
        columns={"text": "string", "label": "label"}, splits={}, labels={"label": ["round", "dark"]}
    )
    [problem] = SORTED.check(facts)
    assert problem.message == "the classes are round, dark; the verbalizer has round, bright"


def test_a_prediction_chooses_among_the_candidates_it_is_given(tokenizer: PreTrainedTokenizerFast) -> None:
    task, model = FillMask(choices="options"), tiny(tokenizer).eval()
    assert task.inputs == ("text", "options")
    facts = task.facts_from_config(model.config)
    rows: dict = {"text": SENTENCES[:1], "options": [["Moon", "star", "Sun"]]}
    rows["answer"] = task.runtime().encoder.placeholder("answer", rows, facts)
    with torch.no_grad():
        columns = task.runtime().generator.generate(model, batch_of(task, tokenizer, rows, facts), tokenizer)
    [answer] = task.runtime().evaluator.format_predictions(columns, rows, facts)
    assert {fill["token_str"] for fill in answer["fills"]} == {"Moon", "star", "Sun"}
