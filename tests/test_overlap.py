"""Scores of written text equal those of sacrebleu's command line and of rouge-score."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF, TER
from small import SUMMARIES

from hfpipe.metrics.scores.overlap import create_translation_metrics
from hfpipe.metrics.scores.written import ROUGES, create_summary_metrics, create_text_metrics
from hfpipe.metrics.tally import Tally
from hfpipe.references.places import Place, locate_place


def lines(n: int) -> list[str]:
    path = locate_place(Place(SUMMARIES), Path(), {})
    rows = json.loads(path.read_text(encoding="utf-8")).values()
    return [" ".join(row["extract"].split())[:160] for row in rows][:n]


def mangled(text: str, number: int) -> str:
    """Swap, drop and repeat words, as poor translations do; some lines are left as they are, or empty."""
    words = text.split()
    if number % 7 == 0:
        return text
    if number % 31 == 1:
        return ""
    at = number % max(1, len(words) - 4)
    moved = words[at + 2 : at + 4] + words[at : at + 2]
    return " ".join(words[:at] + moved + words[at + 5 :] + words[-1:] * (number % 3))


def columns(reference: list[str], references: int) -> dict[str, np.ndarray]:
    prediction = [mangled(text, number) for number, text in enumerate(reference)]
    others = [
        reference,
        [text.lower() for text in reference],
        [mangled(text, n + 3) or "no" for n, text in enumerate(reference)],
    ]
    texts = np.empty(len(reference), dtype=object)
    texts[:] = (
        reference if references == 1 else [list(each) for each in zip(*others[:references], strict=True)]
    )
    return {
        "prediction": np.asarray(prediction, dtype=object),
        "reference": texts,
        "cut": np.zeros(len(reference), dtype=bool),
    }


def scored(metrics, given, resamples: int = 0):
    tally = Tally(metrics, resamples, 17)
    tally.add(np.arange(len(given["prediction"])), given)
    return {metric.name: float(tally.compute_values(metric)[0]) for metric in metrics}


@pytest.mark.slow
@pytest.mark.parametrize(("references", "tokenize"), [(1, "13a"), (3, "13a"), (1, "char")])
def test_scores_and_signatures_equal_those_of_the_sacrebleu_command(tmp_path, references, tokenize):
    given = columns(lines(150), references)
    (tmp_path / "prediction").write_text("".join(f"{text}\n" for text in given["prediction"]))
    files = [tmp_path / f"gold{number}" for number in range(references)]
    for number, file in enumerate(files):
        rows = given["reference"] if references == 1 else [each[number] for each in given["reference"]]
        file.write_text("".join(f"{text}\n" for text in rows))
    command = [sys.executable, "-m", "sacrebleu", *files, "-i", tmp_path / "prediction", "-tok", tokenize]
    done = subprocess.run(
        [*map(str, command), "-m", "bleu", "chrf", "ter", "-f", "json", "-w", "12"],
        capture_output=True,
        text=True,
        check=True,
    )
    theirs = json.loads(done.stdout)
    metrics = create_translation_metrics(references, tokenize)
    ours = scored(metrics, given)
    assert [ours[name] for name in ("bleu", "chrf", "ter")] == pytest.approx(
        [each["score"] for each in theirs], abs=1e-9
    )
    assert [metric.signature.partition("|")[2] for metric in metrics] == [
        each["signature"] for each in theirs
    ]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(*[st.lists(st.sampled_from(["one", "two", "three", ".", "a-b"]), max_size=7)] * 2),
        min_size=1,
        max_size=6,
    )
)
def test_scores_equal_sacrebleu_on_any_short_texts(pairs):
    prediction, reference = (
        np.asarray([" ".join(each) for each in side], dtype=object) for side in zip(*pairs, strict=True)
    )
    ours = scored(create_translation_metrics(), {"prediction": prediction, "reference": reference})
    theirs = [
        scorer.corpus_score(list(prediction), [list(reference)]).score for scorer in (BLEU(), CHRF(), TER())
    ]
    assert list(ours.values()) == pytest.approx(theirs, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("references", [1, 3])
@pytest.mark.parametrize("stem", [True, False])
def test_rouge_equals_rouge_score(references, stem):
    given = columns(["\n".join(text.split(", ")) for text in lines(60)], references)
    scorer = RougeScorer(list(ROUGES), use_stemmer=stem)
    each = [
        scorer.score_multi([reference] if references == 1 else reference, prediction)
        for prediction, reference in zip(given["prediction"], given["reference"], strict=True)
    ]
    theirs = {name: np.mean([scores[name].fmeasure for scores in each]) for name in ROUGES}
    assert scored(create_summary_metrics(stem=stem), given) == pytest.approx(theirs)
    assert theirs["rougeL"] != pytest.approx(theirs["rougeLsum"])


@pytest.mark.slow
@pytest.mark.parametrize("references", [1, 2])
def test_merged_pieces_equal_the_whole(references):
    given, metrics = (
        columns(lines(40), references),
        [*create_translation_metrics(references), *create_summary_metrics(), *create_text_metrics()],
    )
    whole = Tally(metrics, 50, 17)
    whole.add(np.arange(40), given)
    parts = []
    for rows in (range(0), range(7, 40), range(7)):
        part = Tally(metrics, 50, 17)
        part.add(
            np.asarray(rows, dtype=np.int64), {name: column[list(rows)] for name, column in given.items()}
        )
        parts.append(part.get_arrays())
    merged = whole.merge([sum(arrays) for arrays in zip(*parts, strict=True)])
    for metric in metrics:
        assert merged.compute_values(metric) == pytest.approx(whole.compute_values(metric))


def test_a_perfect_translation_has_the_best_scores_and_none_the_worst():
    reference = np.asarray(lines(20), dtype=object)
    best = scored(
        [*create_translation_metrics(), *create_summary_metrics()],
        {"prediction": reference, "reference": reference},
    )
    assert best == pytest.approx({"bleu": 100, "chrf": 100, "ter": 0} | dict.fromkeys(ROUGES, 1))
    silent = np.asarray([""] * 20, dtype=object)
    worst = scored(
        [*create_translation_metrics(), *create_summary_metrics()],
        {"prediction": silent, "reference": reference},
    )
    assert worst == pytest.approx({"bleu": 0, "chrf": 0, "ter": 100} | dict.fromkeys(ROUGES, 0))


def test_a_row_may_have_fewer_references_as_in_sacrebleu():
    import sacrebleu

    given = columns(lines(3), 2)
    given["reference"][1] = given["reference"][1][:1]
    rows = [[*texts, None][:2] for texts in given["reference"]]
    theirs = sacrebleu.corpus_bleu(given["prediction"].tolist(), list(zip(*rows, strict=True)))
    assert scored(create_translation_metrics(2), given)["bleu"] == pytest.approx(theirs.score)


@pytest.mark.parametrize("texts", [[], ["a", "b", "c"]])
def test_a_row_with_no_reference_or_too_many_is_refused(texts: list[str]):
    given = columns(lines(3), 2)
    given["reference"][1] = texts
    with pytest.raises(ValueError, match="1 to 2 references"):
        scored(create_translation_metrics(2), given)


def test_matches_lengths_and_cuts_are_counted():
    given = {
        "prediction": np.asarray(["a star ", "the sun", "a planet and its"], dtype=object),
        "reference": np.asarray(["a star", "The sun", "a planet"], dtype=object),
        "cut": np.asarray([False, False, True]),
    }
    assert scored(create_text_metrics(), given) == pytest.approx(
        {"exact_match": 1 / 3, "words": 8 / 3, "cut_off": 1 / 3}
    )
