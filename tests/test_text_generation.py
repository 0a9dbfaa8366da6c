"""Answers are learned and nothing else, from prompts and from conversations, and measured as written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import chat
import numpy as np
import pytest
import small
from pieces import tokenizer
from pydantic import ValidationError

import hfpipe
from hfpipe.errors import DataError, StageError
from hfpipe.modeling.losses.losses import IGNORED
from hfpipe.report import DataFacts
from hfpipe.tasks.text_generation import TextGeneration

ROWS: dict[str, list[Any]] = {
    "prompt": ["Where does the Nile end?\n", "Which is the highest mountain of the Earth?\n"],
    "completion": ["In the Mediterranean Sea.", "Everest"],
}
TALK = [
    {"role": "system", "content": "You know rivers."},
    {"role": "user", "content": "Where does the Nile end?"},
    {"role": "assistant", "content": "In the sea."},
    {"role": "user", "content": "Which?"},
    {"role": "assistant", "content": "The Mediterranean."},
]
FACTS = DataFacts(
    columns={"prompt": "string", "completion": "string", "messages": "nested"}, splits={"train": 2}
)
ASKED = DataFacts(columns=FACTS.columns, splits={})
TEXTS = [*ROWS["prompt"], *ROWS["completion"], *(each["content"] for each in TALK), "user assistant system"]
PLAIN = tokenizer(TEXTS, "bpe")


def examples(task: TextGeneration, rows: Any, pieces: Any = PLAIN, facts: DataFacts = FACTS) -> list[Any]:
    encoded = task.runtime().encoder.encode(rows, pieces, facts)
    return [
        {name: np.asarray(column[number]) for name, column in encoded.items()} | {"index": number, "epoch": 0}
        for number in range(len(encoded["row"]))
    ]


def learned(task: TextGeneration, rows: Any, pieces: Any = PLAIN) -> list[str]:
    """Return what each example teaches, as text with special tokens."""
    batch = task.runtime().encoder.collate(examples(task, rows, pieces), pieces, 17, train=True)
    assert task.runtime().objective.count(batch) == len(task.runtime().objective.positions(batch))
    return [pieces.decode([token for token in row if token != IGNORED]) for row in batch["labels"].tolist()]


def read(task: TextGeneration, rows: Any, pieces: Any = PLAIN, facts: DataFacts = FACTS) -> list[str]:
    """Return what the model is given before it writes."""
    batch = task.runtime().encoder.collate(examples(task, rows, pieces, facts), pieces, 17, train=False)
    masked = zip(batch["_input_ids"], batch["_attention_mask"], strict=True)
    return [pieces.decode(ids[mask.bool()]) for ids, mask in masked]


def test_the_answer_and_its_end_are_learned_and_the_prompt_never() -> None:
    end = PLAIN.eos_token
    assert learned(TextGeneration(), ROWS) == [answer + end for answer in ROWS["completion"]]
    assert [text.strip() for text in read(TextGeneration(), ROWS)] == [p.strip() for p in ROWS["prompt"]]


def test_a_label_stands_where_its_token_is_foreseen() -> None:
    task = TextGeneration()
    [one, other] = examples(task, ROWS)
    batch = task.runtime().encoder.collate([one, other], PLAIN, 17, train=True)
    for row, example in enumerate((one, other)):
        for place, label in enumerate(batch["labels"][row].tolist()):
            if label != IGNORED:
                assert example["input_ids"][place + 1] == label
                assert place + 1 >= example["prompt"]


def test_a_template_takes_any_columns() -> None:
    rows = {"ask": ["What?"], "context": ["{braces} stay"], "say": ["That."]}
    task = TextGeneration(template="{{Q}} {ask}\n{context}\nA:", completion="say")
    facts = DataFacts(columns=dict.fromkeys(rows, "string"), splits={"train": 1})
    assert task.inputs == ("ask", "context")
    assert not list(task.check(facts))
    assert read(task, rows, facts=facts) == ["{Q} What?\n{braces} stay\nA:"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"template": "nothing"}, "name a column in braces"),
        ({"template": "{prompt"}, "write {{ for a literal brace"),
        ({"template": "{prompt}{completion}"}, "is the answer"),
        ({"messages": "messages", "completion": "say"}, "delete completion"),
    ],
)
def test_a_template_that_cannot_be_meant_is_refused(given: dict[str, str], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TextGeneration(**given)


@pytest.mark.parametrize("template", [chat.CHATML, chat.REASONING])
def test_every_answer_of_a_conversation_is_learned_once(template: str) -> None:
    pieces = chat.taught(tokenizer(TEXTS, "bpe"), template)
    task = TextGeneration(messages="messages")
    said = "".join(learned(task, {"messages": [TALK]}, pieces)).replace("<think>\n\n</think>\n\n", "")
    assert said == "In the sea.<|im_end|>The Mediterranean.<|im_end|>"
    count = len(examples(task, {"messages": [TALK]}, pieces))
    assert count == (1 if template == chat.CHATML else 2)
    assert read(task, {"messages": [TALK]}, pieces)[-1] == pieces.apply_chat_template(
        TALK[:-1], tokenize=False, add_generation_prompt=True
    )


def test_an_earlier_answer_is_learned_as_it_was_written_then() -> None:
    """A template that leaves reasoning out of the past would else teach to leave it out at once."""
    pieces = chat.taught(tokenizer(TEXTS, "bpe"), chat.REASONING)
    said = learned(TextGeneration(messages="messages"), {"messages": [TALK]}, pieces)
    assert all(answer.startswith("<think>") for answer in said)


def test_columns_are_written_as_a_conversation_with_chat() -> None:
    pieces = chat.taught(tokenizer(TEXTS, "bpe"))
    task = TextGeneration(chat=True)
    assert read(task, ROWS, pieces)[1] == (
        "<|im_start|>user\nWhich is the highest mountain of the Earth?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert learned(task, ROWS, pieces)[1] == "Everest<|im_end|>"


def test_a_conversation_is_read_as_it_is() -> None:
    pieces = chat.taught(tokenizer(TEXTS, "bpe"))
    task = TextGeneration(messages="messages")
    wanted = pieces.apply_chat_template(TALK[:4], tokenize=False, add_generation_prompt=True)
    for talk in (TALK, TALK[:4]):
        assert read(task, {"messages": [talk]}, pieces, ASKED) == [wanted]


@pytest.mark.parametrize("length", [4, 9, 40])
@pytest.mark.parametrize("target_length", [4, 11, 90])
@pytest.mark.parametrize("given", [{}, {"chat": True}, {"messages": "messages"}])
def test_no_example_is_without_a_target_and_every_token_is_accounted_for(
    given: dict[str, Any], length: int, target_length: int
) -> None:
    pieces = chat.taught(tokenizer(TEXTS, "bpe"))
    rows = ROWS | {"messages": [TALK, TALK[:3]]}
    task = TextGeneration(length=length, target_length=target_length, **given)
    roomy = TextGeneration(length=999, target_length=999, **given)
    cut, whole = (
        task.runtime().encoder.encode(rows, pieces, FACTS),
        roomy.runtime().encoder.encode(rows, pieces, FACTS),
    )
    assert all(map(any, cut["learned"]))
    assert max(map(len, cut["input_ids"])) <= length + target_length
    assert max(cut["prompt"]) <= length
    assert sum(whole["truncated"]) == 0
    assert sum(map(len, cut["input_ids"])) + sum(cut["truncated"]) >= sum(map(len, whole["input_ids"]))
    if not given.get("messages"):
        assert sum(map(len, cut["input_ids"])) + sum(cut["truncated"]) == sum(map(len, whole["input_ids"]))


def test_what_is_not_a_conversation_is_an_error_of_one_line() -> None:
    pieces = chat.taught(tokenizer(TEXTS, "bpe"))
    task = TextGeneration(messages="messages")
    for talk, words in [
        (TALK[:2], "has no answer; drop such rows"),
        ([{"from": "human", "value": "Hello"}], "not messages {role, content}"),
        ([], "not messages"),
    ]:
        with pytest.raises(DataError, match=words):
            task.runtime().encoder.encode({"messages": [talk]}, pieces, FACTS)
    with pytest.raises(StageError, match="no chat template; use one that has"):
        TextGeneration(chat=True).runtime().encoder.encode(ROWS, PLAIN, FACTS)
    pieces.chat_template = (
        "{% for message in messages %}{{ message.content }}{% endfor %}"
        "{% if add_generation_prompt %}>{% endif %}"
    )
    with pytest.raises(StageError, match="an answer does not begin where its add_generation_prompt ends"):
        TextGeneration(chat=True).runtime().encoder.encode(ROWS, pieces, FACTS)


def test_the_last_answer_of_a_row_is_measured_without_its_reasoning() -> None:
    task = TextGeneration(messages="messages")
    columns = {
        "prediction": np.array(
            ["At sea.", "<think>\nHm.\n</think>\n\nThe Mediterranean.", "Red"], dtype=object
        ),
        "cut": np.array([False, False, True]),
    }
    found = task.runtime().evaluator.columns_by_row(
        columns, np.array([0, 0, 1]), {"messages": [TALK, TALK[:3]]}, FACTS
    )
    assert found["prediction"].tolist() == ["The Mediterranean.", "Red"]
    assert found["reference"].tolist() == ["The Mediterranean.", "In the sea."]
    assert found["cut"].tolist() == [False, True]
    thought = {"prompt": ["How many?"], "completion": ["<think>One and one.</think>\n\nTwo."]}
    assert TextGeneration().runtime().evaluator.scoring.references(thought).tolist() == ["Two."]


def test_the_majority_baseline_gives_the_most_frequent_answer() -> None:
    rows = {"prompt": ["a", "b", "c"], "completion": ["yes", "no", "no"]}
    prediction = TextGeneration().runtime().baseline("majority").fit(rows, FACTS, PLAIN)
    assert prediction(ROWS)["prediction"].tolist() == ["no", "no"]
    assert prediction(ROWS)["reference"].tolist() == ROWS["completion"]


def save_qwen(folder: Path, texts: list[str]) -> Path:
    """Save a tiny Qwen that knows nothing, with a chat template, as a Hub checkpoint lies on disk."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    pieces = chat.taught(tokenizer(texts, "bpe"))
    pieces.save_pretrained(folder)
    config = Qwen3Config(
        vocab_size=len(pieces),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        intermediate_size=64,
        max_position_embeddings=2048,
        initializer_range=0.3,  # what stays frozen has to tell tokens apart
        eos_token_id=pieces.eos_token_id,
        pad_token_id=pieces.pad_token_id,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_the_shipped_recipe_runs_on_a_few_rows_and_a_tiny_qwen(tmp_path: Path) -> None:
    from transformers import GenerationConfig

    rows = [
        {"messages": [{"role": "user", "content": f"Say {word}."}, {"role": "assistant", "content": word}]}
        for word in ("river", "mountain", "sea", "lake")
        for _ in range(12)
    ]
    for number, row in enumerate(rows):
        row["messages"][0]["content"] += f" Now, {number}."
    (tmp_path / "talks.jsonl").write_text(
        "".join(json.dumps({"prompt": row["messages"][0]["content"]} | row) + "\n" for row in rows)
    )
    model = save_qwen(tmp_path / "qwen", [m["content"] for row in rows for m in row["messages"]])
    overrides = {
        "talks.source": json.dumps({"files": f"{tmp_path}/talks.jsonl"}),
        "talks.split": json.dumps({"validation": 0.1, "test": 0.2}),
        "answers.model": str(model),
        "answers.task.length": 64,
        "answers.task.target_length": 8,
        "answers.task.generation.max_new_tokens": 8,
        "answers.adapter.merge": "true",
        "answers.training": json.dumps(
            {"max_steps": 40, "per_device_train_batch_size": 8, "learning_rate": 0.01, "bf16": False}
        ),
        "score.baselines": json.dumps(["majority", str(model)]),
    }
    recipe = hfpipe.load(
        small.ROOT / "recipes" / "qwen-instruct-lora.yaml",
        overrides=[f"{key}={value}" for key, value in overrides.items()],
    )
    run = hfpipe.run(recipe, tmp_path / "runs", say=lambda _: None)
    losses = [step["loss"] for step in small.history(run.reports["answers"].model_dump())]
    assert losses[-1] < losses[0] / 2
    scores = {score.metric: score for score in run.reports["score"].scores}
    assert {"exact_match", "bleu", "chrf", "rougeL", "cut_off"} <= set(scores)
    assert scores["rougeL"].comparisons[1].difference > 0
    assert set(run.reports["answers"].facts["validation"]) >= {"loss", "perplexity"}
    talk = [{"role": "user", "content": "Say sea. Now, 30."}]
    [answer] = hfpipe.predict(run.folders["answers"], [{"messages": talk}])
    assert isinstance(answer["generated_text"], str)
    assert hfpipe.predict(run.folders["answers"], talk[0]["content"]) == [answer]
    saved = GenerationConfig.from_pretrained(run.folders["answers"])
    assert (saved.max_new_tokens, saved.num_beams, saved.do_sample) == (8, 1, False)
