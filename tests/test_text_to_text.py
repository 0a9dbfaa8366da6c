"""Translation and summarization: what is read, what is learned, what is cut, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pieces
import pyarrow.parquet as pq
import pytest
import small
from pydantic import ValidationError
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import MBart50Tokenizer, MBartTokenizer, NllbTokenizer, PreTrainedTokenizerFast

import hfpipe
from hfpipe.encoding.io import open_split
from hfpipe.errors import RecipeError, StageError
from hfpipe.modeling.losses.losses import IGNORED
from hfpipe.report import DataFacts
from hfpipe.tasks.shared.prompts import set_languages
from hfpipe.tasks.summarization import Summarization
from hfpipe.tasks.summarization.runtime import take_first_sentences
from hfpipe.tasks.translation import Translation
from hfpipe.tokenization.special_tokens import STYLES

ROWS = {
    "source": ["the old house", "a cat that sleeps on the warm roof of the old house"],
    "target": ["la vieille maison", "un chat qui dort sur le toit chaud de la vieille maison"],
}
FACTS = DataFacts(columns={"source": "string", "target": "string", "other": "string"}, splits={})


def words(template: str, *more: str) -> PreTrainedTokenizerFast:
    texts = " ".join([*ROWS["source"], *ROWS["target"], "French : translate English to"]).split()
    vocabulary = {word: n for n, word in enumerate(["<pad>", "</s>", "<unk>", *more, *dict.fromkeys(texts)])}
    backend = Tokenizer(models.WordLevel(vocabulary, STYLES["t5"].roles["unk_token"]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, **STYLES["t5"].roles)


T5 = words("$A </s>")
GPT = words("$A")


def said(tokenizer: PreTrainedTokenizerFast, ids: Any) -> str:
    return tokenizer.decode([number for number in ids if number != IGNORED])


def batch(task: Translation, tokenizer: PreTrainedTokenizerFast, *, train: bool = True) -> dict[str, Any]:
    encoded = task.runtime().encoder.encode(ROWS, tokenizer, FACTS)
    examples = [
        {name: np.asarray(column[row]) for name, column in encoded.items()} | {"index": row, "epoch": 0}
        for row in range(2)
    ]
    return task.runtime().encoder.collate(examples, tokenizer, 17, train=train)


@pytest.mark.parametrize("tokenizer", [T5, GPT])
def test_an_encoder_reads_the_source_and_the_target_is_learned_to_its_end(tokenizer) -> None:
    made = batch(Translation(prefix="translate English to French : "), tokenizer)
    assert said(tokenizer, made["input_ids"][0]).startswith("translate English to French : the old house")
    assert said(tokenizer, made["labels"][0]) == "la vieille maison</s>".replace("<", " <")
    assert set(made["labels"].tolist()[0][4:]) == {IGNORED}


def test_a_decoder_reads_the_prompt_and_learns_only_what_follows() -> None:
    task = Translation(prompt="{source} French :")
    made = batch(task, GPT, train=False)
    for row, (source, target) in enumerate(zip(ROWS["source"], ROWS["target"], strict=True)):
        ids, labels = made["input_ids"][row].tolist(), made["labels"][row].tolist()
        assert said(GPT, made["_input_ids"][row][made["_attention_mask"][row] == 1]) == f"{source} French :"
        assert said(GPT, labels) == f"{target} </s>"
        assert all(ids[at + 1] == label for at, label in enumerate(labels) if label != IGNORED)
    assert "_input_ids" not in batch(task, GPT)


@pytest.mark.parametrize("prompt", [None, "{source} French :"])
def test_what_is_cut_of_either_side_is_counted_and_the_end_stays(prompt) -> None:
    tokenizer = T5 if prompt is None else GPT
    whole = Translation(prompt=prompt).runtime().encoder.encode(ROWS, tokenizer, FACTS)
    cut = (
        Translation(prompt=prompt, length=8, target_length=5).runtime().encoder.encode(ROWS, tokenizer, FACTS)
    )
    assert sum(whole["truncated"]) == 0
    sizes = [
        sum(len(ids) for name in ("input_ids", "labels") if name in made for ids in made[name])
        for made in (whole, cut)
    ]
    assert sizes[0] - sizes[1] == sum(cut["truncated"]) > 0
    assert cut["truncated"][0] == 0
    ends = cut["labels"] if prompt is None else cut["input_ids"]
    assert {ids[-1] for ids in ends} == {tokenizer.eos_token_id}
    if prompt is not None:
        asked = cut["input_ids"][1][: cut["prompt"][1]]
        assert said(tokenizer, asked) == "a cat that sleeps on the French :"


def test_a_prompt_that_leaves_no_room_or_no_place_for_the_source_is_refused() -> None:
    with pytest.raises(StageError, match="prompt: has 5 tokens without any text"):
        Translation(prompt="translate English to French : {source}", length=4).runtime().encoder.encode(
            ROWS, GPT, FACTS
        )
    with pytest.raises(ValidationError, match=r"write \{source\} where the text belongs"):
        Translation(prompt="French:")


def test_a_source_is_never_cut_inside_a_character() -> None:
    bytewise = pieces.tokenizer(ROWS["source"], "bpe")
    for length in range(4, 20):
        task = Translation(prompt="{source}:", length=length)
        rows = {"source": ["日本語の😀"], "target": ["x"]}
        encoded = task.runtime().encoder.encode(rows, bytewise, FACTS)
        asked = encoded["input_ids"][0][: encoded["prompt"][0]]
        assert "日本語の😀".startswith(bytewise.decode(asked).removesuffix(":"))
        assert len(asked) <= length


def test_the_languages_of_a_tokenizer_are_set_and_forced() -> None:
    several = NllbTokenizer()
    task = Translation(src_lang="eng_Latn", tgt_lang="fra_Latn")
    assert set_languages(several, *task.languages) == several.convert_tokens_to_ids("fra_Latn")
    made = batch(task, several)
    assert {several.decode(ids[0]) for ids in made["input_ids"]} == {"eng_Latn"}
    assert {several.decode(ids[0]) for ids in made["labels"]} == {"fra_Latn"}
    assert set_languages(several, *Translation().languages) is None


@pytest.mark.parametrize(
    ("tokenizer", "forced"), [(MBart50Tokenizer(), "ro_RO"), (MBartTokenizer(), None)], ids=["first", "last"]
)
def test_a_language_is_forced_where_targets_begin_with_it_and_they_end_once(tokenizer, forced) -> None:
    task = Translation(src_lang="en_XX", tgt_lang="ro_RO")
    token = set_languages(tokenizer, *task.languages)
    assert (None if token is None else tokenizer.convert_ids_to_tokens(token)) == forced
    for ids in task.runtime().encoder.encode(ROWS, tokenizer, FACTS)["labels"]:
        assert ids.index(tokenizer.eos_token_id) == len(ids) - 1
        assert (ids[0] == token) == (forced is not None)


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (T5, "tgt_lang: this tokenizer has no language tokens"),
        (NllbTokenizer(), "tgt_lang: .* has no language 'French'"),
    ],
)
def test_a_language_that_the_tokenizer_does_not_know_is_refused(tokenizer, message) -> None:
    with pytest.raises(StageError, match=message):
        set_languages(tokenizer, *Translation(tgt_lang="French").languages)


def test_baselines_and_predictions_carry_what_scores_need() -> None:
    rows = ROWS | {"other": ["la maison vieille", "un chat"]}
    task = Translation(references=["other"])
    prediction = task.runtime().baseline("copy").fit(rows, FACTS, T5)(rows)
    assert prediction["prediction"].tolist() == rows["source"]
    assert prediction["reference"].tolist() == [
        list(pair) for pair in zip(rows["target"], rows["other"], strict=True)
    ]
    assert all(len(metric.stats(prediction)) == 2 for metric in task.runtime().evaluator.metrics(FACTS))
    columns = {"prediction": np.asarray(["un", "deux"], dtype=object)}
    assert task.runtime().evaluator.format_predictions(columns, rows, FACTS) == [
        {"translation_text": "un"},
        {"translation_text": "deux"},
    ]
    assert Summarization().runtime().evaluator.format_predictions(columns, rows, FACTS)[0] == {
        "summary_text": "un"
    }


@pytest.mark.parametrize(
    ("text", "lead"),
    [
        ("One. Two! Three? Four.", "One. Two! Three?"),
        ('He said "No." She left. It was 3.5 km. Then rain.', 'He said "No." She left. It was 3.5 km.'),
        ("Title\nOne. Two. Three.", "Title\nOne. Two."),
        ("No end", "No end"),
        ("", ""),
    ],
)
def test_the_lead_is_the_first_sentences(text, lead) -> None:
    assert take_first_sentences(text, 3) == lead


def recipe(model: dict[str, Any], task: dict[str, Any]) -> dict[str, Any]:
    made = small.recipe()
    stages = made["stages"]
    stages["wiki"]["columns"] = {"source": "title", "target": "description"}
    stages["wiki"]["clean"] = []
    stages["words"] |= {"text": ["source", "target"], "algorithm": "bpe", "style": "t5"}
    training = stages["topics"]["training"]
    stages["learn"] = {
        "kind": "finetune",
        "task": {"kind": "translation"} | task,
        "data": "stage:wiki",
        "tokenizer": "stage:words",
        "model": model,
        "training": training,
    }
    for name in ("pretrain", "topics", "score"):
        del stages[name]
    return made


@pytest.mark.parametrize(
    ("model", "task", "message"),
    [
        (
            {"type": "gpt2"},
            {},
            "translation needs an encoder-decoder such as t5, and gpt2 is not one; add a prompt to the task",
        ),
        (
            {"type": "t5"},
            {"prompt": "{source}:"},
            "translation needs a decoder here, and t5 also has an encoder",
        ),
        ({"type": "bart"}, {"prompt": "Title"}, "write {source} where the text belongs"),
    ],
)
def test_a_model_of_the_wrong_build_is_refused_before_anything_starts(
    tmp_path: Path, model, task, message
) -> None:
    with pytest.raises(RecipeError) as caught:
        hfpipe.load(small.write(tmp_path, recipe(model, task)))
    assert message in str(caught.value)


@pytest.mark.slow
def test_more_tokens_than_the_model_has_positions_are_refused(tmp_path: Path) -> None:
    model = {
        "type": "bart",
        "d_model": 32,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "max_position_embeddings": 64,
    }
    made = recipe(model, {"length": 32, "target_length": 65})
    with pytest.raises(StageError, match="65 tokens of source or target exceed the 64 positions"):
        hfpipe.run(hfpipe.load(small.write(tmp_path, made)), tmp_path / "runs", say=lambda _: None)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bart", "marian", "t5"])
def test_a_model_from_scratch_learns_to_write_and_does_so_elsewhere(tmp_path: Path, kind: str) -> None:
    """A few numbers are learned by heart within seconds, if start and end are wired right."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    (tmp_path / "digits.py").write_text(DIGITS)
    task = {"length": 16, "target_length": 24, "predict_with_generate": True}
    made = recipe(SIZES[kind], task | {"generation": {"num_beams": 3, "length_penalty": 0.6}})
    rows = {"source": {"python": "digits.py:rows"}, "columns": {}, "split": {"validation": 0.1}}
    made["stages"]["wiki"] |= rows
    made["stages"]["words"] |= {"vocab_size": 400, "style": "bart" if kind == "bart" else "t5"}
    steps = {"max_steps": 150, "learning_rate": 4e-3, "warmup_steps": 20, "logging_steps": 50}
    made["stages"]["learn"]["training"] = steps | {"per_device_train_batch_size": 32, "bf16": False}
    score = {"kind": "evaluate", "model": "stage:learn", "data": "stage:wiki", "split": "train"}
    made["stages"]["score"] = score | {"baselines": ["copy"]}
    run = hfpipe.run(hfpipe.load(small.write(tmp_path, made)), tmp_path / "runs", say=lambda _: None)
    scores = {score.metric: score for score in run.reports["score"].scores}
    assert scores["exact_match"].value > 0.8
    assert scores["cut_off"].value == 0
    assert scores["chrf"].value > scores["chrf"].comparisons[0].value + 50
    assert "chrf" in run.reports["learn"].facts["validation"]
    folder = run.folders["learn"]
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    said = pq.read_table(run.folders["score"] / "predictions.parquet").slice(0, 5).to_pylist()
    sources = open_split(run.folders["wiki"], "train")["source"]
    for row in said:
        inputs = tokenizer(sources[row["row"]], return_tensors="pt", return_token_type_ids=False)
        out = model.generate(**inputs)[0]
        assert tokenizer.decode(out, skip_special_tokens=True) == row["prediction"]


DIGITS = """
WORDS = "zero one two three four five six seven eight nine".split()
def rows():
    for number in range(60):
        digits = str(number)
        yield {"source": " ".join(digits), "target": " ".join(WORDS[int(digit)] for digit in digits)}
"""
BOTH: dict[str, Any] = {"d_model": 64, "encoder_ffn_dim": 128, "encoder_layers": 1, "dropout": 0.0}
SIZES: dict[str, dict[str, Any]] = {
    "t5": {"type": "t5", "d_model": 64, "d_kv": 32, "d_ff": 128, "num_layers": 1, "num_heads": 2}
    | {"dropout_rate": 0.0},
    "bart": {"type": "bart", "encoder_attention_heads": 2} | BOTH,
    "marian": {"type": "marian", "encoder_attention_heads": 2, "scale_embedding": True} | BOTH,
}
