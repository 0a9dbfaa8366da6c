"""Language models and taggers that learn from teachers: what a recipe gives, and what it refuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import datasets
import numpy as np
import pieces
import pytest
import small
import torch
from commands import LIMIT
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import AutoTokenizer, BertConfig, BertForTokenClassification

import hfpipe
from hfpipe import number_format
from hfpipe.cli import console
from hfpipe.encoding.encoded import Examples, encode
from hfpipe.evaluation.soft_targets import compute_soft_targets
from hfpipe.modeling.losses.distillation import DistillationLoss
from hfpipe.references.places import Place
from hfpipe.report import DataFacts
from hfpipe.reporting.html import render_page
from hfpipe.runtime import TaskRuntime
from hfpipe.tasks.token_classification import TokenClassification
from hfpipe.types import Counted

GPT2 = {"type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2}
DRY = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
TASKS = {
    "masked": ({"kind": "masked-lm", "length": 16}, small.MODELS["bert"]),
    "causal": ({"kind": "causal-lm", "length": 16, "documents": "separate"}, GPT2 | DRY),
}


def language_recipe() -> dict[str, Any]:
    """Return a recipe with a teacher and two students, which differ in accumulation, for two tasks."""
    made = small.recipe("bert")
    wiki, words = made["stages"]["wiki"], made["stages"]["words"] | {"style": "bart"}
    stages = {"wiki": wiki, "words": words}
    for name, (task, model) in TASKS.items():
        common = {"task": task, "data": "stage:wiki", "tokenizer": "stage:words", "model": model}
        training = {"max_steps": 4, "learning_rate": 2e-3, "logging_steps": 1, "bf16": False}
        eight = training | {"per_device_train_batch_size": 8}
        stages[f"{name}-teacher"] = common | {"kind": "pretrain", "training": eight | {"max_steps": 8}}
        taught = common | {"kind": "finetune", "teacher": f"stage:{name}-teacher"}
        stages[f"{name}-once"] = taught | {"training": eight}
        parts = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
        stages[f"{name}-parts"] = taught | {"training": training | parts}
    stages["score"] = {"kind": "evaluate", "model": "stage:masked-once", "data": "stage:wiki"}
    return made | {"stages": stages}


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("taught")
    path = small.write(folder, language_recipe())
    return hfpipe.run(hfpipe.load(path), folder / "runs", say=lambda _: None)


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_a_student_is_the_same_however_many_batches_are_accumulated(taught: Any, name: str) -> None:
    once, parts, teacher = (
        load_file(taught.folder(f"{name}-{which}") / "model.safetensors")
        for which in ("once", "parts", "teacher")
    )
    for weight, value in once.items():
        torch.testing.assert_close(parts[weight], value, rtol=1e-3, atol=2e-5)
    moved = [float((value - teacher[weight]).abs().max()) for weight, value in once.items()]
    assert max(moved) > 1e-3, "they are not one model"
    losses = [
        [
            entry["loss"]
            for entry in taught.reports[f"{name}-{which}"].facts["history"]
            if "grad_norm" in entry
        ]
        for which in ("once", "parts")
    ]
    assert len(losses[0]) == 4
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.slow
def test_a_student_is_compared_with_its_teacher_in_score_size_and_speed(
    taught: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    report = taught.reports["score"]
    [comparison] = report.scores[0].comparisons
    assert comparison.baseline == "stage:masked-teacher"
    assert set(report.facts["speed"]["systems"]) == {"model", "stage:masked-teacher"}
    console.show_scores(taught)
    shown = capsys.readouterr().out
    assert re.search(r"^system +score +size +rows/s", shown, re.MULTILINE)
    for name, value in (("model", report.scores[0].value), ("stage:masked-teacher", comparison.value)):
        score = re.escape(f"perplexity {number_format.format_number(value)}")
        assert re.search(rf"^{name} +{score} +\d\S* kB +\d", shown, re.MULTILINE)
    assert "stage:masked-teacher" in render_page(taught).partition("Size and speed on a CPU")[2]


@pytest.mark.slow
@pytest.mark.parametrize("other", ["vocabulary", "case"])
def test_a_teacher_elsewhere_with_another_tokenizer_is_refused(
    taught: Any, other: str, tmp_path: Path
) -> None:
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    for file in taught.folder("masked-teacher").iterdir():
        if file.is_file() and file.name not in ("stage.json", "report.json"):
            (teacher / file.name).write_bytes(file.read_bytes())
    file = teacher / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    if other == "vocabulary":
        vocabulary = content["model"]["vocab"]
        vocabulary["the"], vocabulary["of"] = vocabulary["of"], vocabulary["the"]
    else:
        content["normalizer"] = {"type": "Lowercase"} if content["normalizer"] is None else None
    file.write_text(json.dumps(content), encoding="utf-8")
    made = language_recipe()
    for name in [*made["stages"]][3:]:
        if name != "masked-once":
            del made["stages"][name]
    del made["stages"]["masked-teacher"]
    made["stages"]["masked-once"]["teacher"] = str(teacher)
    why = "is not the same token in both" if other == "vocabulary" else "they split .* differently"
    with pytest.raises(hfpipe.StageError, match=rf"has another tokenizer than the model \(.*{why}\)"):
        hfpipe.run(hfpipe.load(small.write(tmp_path, made)), tmp_path / "runs", say=lambda _: None)


# Taggers

TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
ORDER = [3, 0, 4, 1, 2]
"""Number of each tag in the outputs of the teacher, which has them in another order."""
SENTENCES = [
    ["Ada", "Lovelace", "moved", "from", "Lagos", "to", "Paris", "and", "wrote", "home", "."],
    ["The", "river", "runs", "through", "Kyoto"],
    ["Emmy", "Noether", "naïve", "don't", "...", "São Paulo"],
]
TEXTS = [" ".join(words) for words in SENTENCES]


class Tagging(NamedTuple):
    """A teacher of tags, which reads word pieces, and what its student, which reads bytes, learns from."""

    task: TaskRuntime
    data: DataFacts
    rows: datasets.Dataset
    tokenizer: Any
    teacher: Path


def tagging(folder: Path, length: int = 64, odd: str = "Ghana") -> Tagging:
    tokenizer = pieces.tokenizer(TEXTS, "wordpiece")
    tokenizer.save_pretrained(folder / "teacher")
    names = [TAGS[ORDER.index(number)] for number in range(len(TAGS))]
    torch.manual_seed(4)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
        initializer_range=0.5,
    )
    BertForTokenClassification(config).eval().save_pretrained(folder / "teacher")
    words = [*SENTENCES, ["in", odd, "."]]
    tags = [[(place + row) % len(TAGS) for place in range(len(each))] for row, each in enumerate(words)]
    data = DataFacts(
        columns={"words": "strings", "tags": "labels"}, splits={"train": len(words)}, labels={"tags": TAGS}
    )
    rows = datasets.Dataset.from_dict({"words": words, "tags": tags})
    task = TokenClassification(length=length, stride=2).runtime()
    return Tagging(task, data, rows, pieces.tokenizer(TEXTS, "bpe"), folder / "teacher")


def loss_and_examples(given: Tagging, folder: Path, temperature: float) -> tuple[DistillationLoss, Examples]:
    folder.mkdir()
    made = partial(encode, given.task, given.rows, given.tokenizer, given.data, folder / "train.arrow")
    train, _ = made(packed=False, advance=lambda _: None)
    teachers = [(Place(str(given.teacher)), given.teacher)]
    arguments = (teachers, given.task, train, given.data, temperature, folder)
    found, again = (compute_soft_targets(*arguments, lambda _: None) for _ in range(2))
    assert np.array_equal(found.values, again.values), "they are kept"
    loss = DistillationLoss(given.task.objective, found.values, temperature, 0.3, found.by_example)
    return loss, train


WRITER = """
import os, sys, time
from pathlib import Path
import numpy as np
from hfpipe.evaluation.soft_targets import _write
folder = Path(sys.argv[1])
(folder / f"{os.getpid()}.ready").touch()
while len([*folder.glob("*.ready")]) < 2:
    time.sleep(0.001)
for _ in range(40):
    _write(folder / "targets.npy", np.ones((200, 100), np.float32))
"""


@pytest.mark.slow
def test_two_runs_that_write_the_same_soft_targets_leave_a_whole_file(tmp_path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)]) for _ in range(2)]
    assert [writer.wait(timeout=LIMIT) for writer in writers] == [0, 0]
    assert (np.load(tmp_path / "targets.npy") == 1).all()
    assert not [path for path in tmp_path.iterdir() if path.suffix not in (".npy", ".ready")]


def said_of_words(given: Tagging, temperature: float) -> list[list[torch.Tensor]]:
    """Return the probabilities of the teacher at the first token of each word, found by its offsets."""
    tokenizer = AutoTokenizer.from_pretrained(given.teacher)
    model = BertForTokenClassification.from_pretrained(given.teacher).eval()
    found = []
    for words in given.rows["words"]:
        text, starts = "", []
        for word in words:
            text += " " * bool(text)
            starts.append(len(text))
            text += word
        read = tokenizer(text, return_offsets_mapping=True, return_tensors="pt")
        begins = [int(first) for first, end in read.pop("offset_mapping")[0] if end > first]
        with torch.no_grad():
            logits = model(**read).logits[0][1:-1][:, ORDER]
        found.append([(logits[begins.index(start)] / temperature).softmax(-1) for start in starts])
    return found


@pytest.mark.parametrize("length", [64, 8], ids=["whole sentences", "windows"])
def test_a_tagger_learns_of_each_word_what_its_teacher_says(length: int, tmp_path: Path) -> None:
    given = tagging(tmp_path, length)
    loss, train = loss_and_examples(given, tmp_path / "work", 2.0)
    examples = train.__getitems__([(0, number) for number in range(len(train))])
    batch = given.task.encoder.collate(examples, given.tokenizer, 0, train=True)
    batch = loss.add_entries(batch, examples)
    logits = torch.randn(*batch["labels"].shape, len(TAGS), generator=torch.Generator().manual_seed(2))
    logits.requires_grad_()
    total, count = loss.loss(SimpleNamespace(logits=logits), batch)
    assert count == sum(map(len, given.rows["words"]))
    assert (len(train) > len(given.rows)) == (length == 8)
    total.backward()
    assert logits.grad is not None
    assert not logits.grad[batch["labels"] == -100].any(), "what is ignored contributes nothing"
    if length == 8:
        return  # in windows the teacher reads less than a whole sentence
    said, expected = said_of_words(given, 2.0), torch.tensor(0.0)
    for example, marks, each in zip(examples, batch["_word"].tolist(), logits, strict=True):
        for place, word in enumerate(marks):
            if word >= 0:
                tag = torch.tensor(given.rows["tags"][int(example["row"])][word])
                soft = said[int(example["row"])][word]
                learned = F.log_softmax(each[place] / 2.0, -1)
                divergence = F.kl_div(learned, soft, reduction="sum")
                expected = expected + 0.7 * F.cross_entropy(each[place], tag) + 0.3 * 4 * divergence
    torch.testing.assert_close(total, expected)


def test_the_loss_of_a_tagger_does_not_depend_on_how_a_batch_is_split(tmp_path: Path) -> None:
    given = tagging(tmp_path, 8)
    loss, train = loss_and_examples(given, tmp_path / "work", 1.0)
    model = torch.nn.Embedding(len(given.tokenizer), len(TAGS))

    def part(numbers: range) -> Counted:
        examples = train.__getitems__([(0, number) for number in numbers])
        batch = given.task.encoder.collate(examples, given.tokenizer, 0, train=True)
        return loss.loss(SimpleNamespace(logits=model(batch["input_ids"])), loss.add_entries(batch, examples))

    whole, parts = part(range(len(train))), [part(range(n, n + 1)) for n in range(len(train))]
    torch.testing.assert_close(sum(each.total for each in parts), whole.total)
    assert sum(int(each.targets) for each in parts) == int(whole.targets)


@pytest.mark.parametrize("odd", ["\u200b", "\x07"])
def test_a_word_that_only_the_student_reads_is_an_error_with_its_place(odd: str, tmp_path: Path) -> None:
    given = tagging(tmp_path, odd=odd)
    with pytest.raises(hfpipe.StageError, match=r"has no token for 1 words .* first in the data, row 4; "):
        loss_and_examples(given, tmp_path / "work", 1.0)
