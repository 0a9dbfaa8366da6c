"""A tokenizer is learned from the train split alone, the same each time, and loads anywhere."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from hfpipe.contract import RunContext
from hfpipe.encoding.text_sample import Texts
from hfpipe.errors import DataError, StageError
from hfpipe.stages.tokenizer import Tokenizer
from hfpipe.tokenization.encoding import encode_plain
from hfpipe.tokenization.loading import load_tokenizer

PROSE = [
    "The river Danube flows through ten countries before it reaches the Black Sea.",
    "Photosynthesis turns light into sugar; plants, algae and some bacteria do it.",
    "She was the first woman to win the Nobel Prize, and she won it twice.",
    "The café on the corner sells crêpes, naïve paintings and coffee.",
    "In 1969 two people walked on the Moon while a third one orbited it.",
    "Water boils at a lower temperature on high mountains.",
]
ALGORITHMS = ("wordpiece", "bpe", "unigram")


@contextmanager
def silent(what, total):
    yield lambda n: None


def save(folder: Path, **splits) -> Path:
    DatasetDict({name: Dataset.from_dict({"text": texts}) for name, texts in splits.items()}).save_to_disk(
        folder
    )
    return folder


@pytest.fixture(scope="session")
def prose(tmp_path_factory) -> Path:
    train = [f"{one} {other}" for one in PROSE for other in PROSE]
    return save(tmp_path_factory.mktemp("prose"), train=train, validation=PROSE[:3])


def run(data: Path, folder: Path, **settings):
    folder.mkdir(exist_ok=True)
    inputs = {"prose": data, "words": data}
    stage = Tokenizer.model_validate({"data": "stage:prose", "vocab_size": 400} | settings)
    return stage.run(RunContext("words", folder, folder, 17, inputs, silent))


def problems(**settings):
    stage = Tokenizer.model_validate({"data": "stage:prose"} | settings)
    return [problem.message for problem in stage.check({}, {}, Path())]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_tokenizer_loads_as_a_fast_one_and_knows_its_train_text(algorithm, prose, tmp_path):
    report = run(prose, tmp_path / "words", algorithm=algorithm)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "words", local_files_only=True)
    assert tokenizer.is_fast
    assert len(tokenizer) == report.facts["vocab_size"] <= 400
    assert report.facts["measured_on"] == "validation"
    assert (report.facts["unknown_rate"], report.facts["coverage"]) == (0, 1)
    assert report.facts["fertility"] >= 1
    assert report.facts["bytes_per_token"] > 1
    assert report.summary.startswith(f"{algorithm}, {len(tokenizer):,} ")


@pytest.mark.parametrize(
    ("algorithm", "style", "single", "pair"),
    [
        ("wordpiece", None, "[CLS] a [SEP]", "[CLS] a [SEP] in [SEP]"),
        ("bpe", None, "a", "a in"),
        ("bpe", "bart", "<s> a </s>", "<s> a </s> </s> in </s>"),
        ("unigram", None, "a </s>", "a </s> in </s>"),
    ],
)
def test_special_tokens_stand_where_the_style_puts_them(algorithm, style, single, pair, prose, tmp_path):
    run(prose, tmp_path, algorithm=algorithm, style=style)
    tokenizer = load_tokenizer(tmp_path)

    def pieces(*texts):
        return " ".join(
            piece.strip("▁Ġ") for piece in tokenizer.convert_ids_to_tokens(tokenizer(*texts)["input_ids"])
        ).split()

    assert pieces("a") == single.split()
    assert "".join(pieces("a", "in")) == pair.replace(" ", "")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_padding_masking_and_ending_have_tokens_of_their_own(algorithm, prose, tmp_path):
    run(prose, tmp_path, algorithm=algorithm, special_tokens=["<user>"])
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.pad_token_id is not None
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert (tokenizer.mask_token is not None) == (algorithm == "wordpiece")
    assert tokenizer.tokenize("a<user>b").count("<user>") == 1
    user = tokenizer.convert_tokens_to_ids("<user>")
    assert user in encode_plain(tokenizer, ["a<user>b"])[0]
    assert "<user>" in tokenizer.decode([user], skip_special_tokens=True)


def test_byte_level_bpe_gives_back_any_text(prose, tmp_path):
    run(prose, tmp_path, algorithm="bpe")
    tokenizer = load_tokenizer(tmp_path)

    @settings(deadline=None, max_examples=50)
    @given(st.text())
    def comes_back(text):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text

    comes_back()


def test_a_masked_word_of_byte_level_bpe_takes_the_space_before_it(prose, tmp_path):
    run(prose, tmp_path, algorithm="bpe", style="bert")
    tokenizer = load_tokenizer(tmp_path)
    with_space, without = (tokenizer(text)["input_ids"] for text in ("the [MASK] Sea", "the[MASK] Sea"))
    assert with_space == without
    assert tokenizer.mask_token_id in without


TRAIN = """
import sys
from pathlib import Path
from tests.test_tokenizer import ALGORITHMS, run
Path(sys.argv[2]).mkdir()
for algorithm in ALGORITHMS:
    run(Path(sys.argv[1]), Path(sys.argv[2]) / algorithm, algorithm=algorithm)
"""


@pytest.mark.slow
def test_the_same_rows_give_the_same_file_in_every_process(prose, tmp_path):
    command = [sys.executable, "-c", TRAIN, prose, tmp_path / "other"]
    subprocess.run(command, check=True, cwd=Path(__file__).parent.parent)
    for algorithm in ALGORITHMS:  # each process walks its hash maps in another order
        run(prose, tmp_path / algorithm, algorithm=algorithm)
        mine, theirs = (folder / algorithm / "tokenizer.json" for folder in (tmp_path, tmp_path / "other"))
        assert mine.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize("algorithm", ["wordpiece", "unigram"])
def test_a_second_training_gives_the_same_file(algorithm, prose, tmp_path):
    files = set()
    for name in ("one", "other"):
        run(prose, tmp_path / name, algorithm=algorithm)
        files.add((tmp_path / name / "tokenizer.json").read_bytes())
    assert len(files) == 1


def test_only_the_train_split_is_learned_from(tmp_path):
    data = save(tmp_path / "data", train=["alpha beta gamma"] * 9, validation=["omega"] * 9)
    report = run(data, tmp_path / "words", algorithm="wordpiece")
    vocabulary = load_tokenizer(tmp_path / "words").get_vocab()
    assert "alpha" in vocabulary
    assert not any("o" in piece for piece in vocabulary if "[" not in piece)
    assert report.facts["unknown_rate"] == 1
    assert report.facts["coverage"] == 0


def test_a_small_text_gives_fewer_pieces_and_the_report_says_so(tmp_path):
    data = save(tmp_path / "data", train=["hello hello world"])
    report = run(data, tmp_path / "words", algorithm="wordpiece", vocab_size=8192)
    assert report.facts["vocab_size"] < 40
    assert report.facts["measured_on"] == "train"
    assert f"{report.facts['vocab_size']} (of 8,192: the text has no more) tokens" in report.summary


def test_rows_without_text_are_passed_over_and_counted(tmp_path):
    data = save(tmp_path / "data", train=[None, "some words here", "", "more words here"])
    report = run(data, tmp_path / "words", algorithm="bpe")
    assert report.ledger == {"rows_in": 4, "learned_from": 2, "beyond_max_bytes": 0, "without_text": 2}


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(st.lists(st.none() | st.text(max_size=40), min_size=1, max_size=60), st.integers(1, 400))
def test_a_sample_keeps_to_its_bytes_and_every_row_is_accounted_for(rows, max_bytes):
    rows = [None if row is None else row.encode(errors="ignore").decode() for row in rows] + ["end"]
    texts = Texts(Dataset.from_dict({"text": rows}), ["text"], max_bytes, silent)
    taken = list(texts)
    total = sum(len((row or "").encode()) for row in rows)
    assert texts.taken_bytes <= max_bytes
    assert texts.taken_bytes == total if total <= max_bytes else texts.taken > 0
    ledger = texts.make_ledger()
    assert ledger.pop("rows_in") == sum(ledger.values()) == len(rows)
    assert taken == list(texts)


def test_a_sample_is_spread_over_the_whole_split():
    rows = [f"{number:04d} words" for number in range(3000)]
    taken = [int(text[:4]) for text in Texts(Dataset.from_dict({"text": rows}), ["text"], 3000, silent)]
    assert len(taken) == 300
    assert max(later - sooner for sooner, later in pairwise(taken)) <= 11


@pytest.mark.parametrize("algorithm", ["wordpiece", "unigram"])
def test_rare_characters_leave_room_for_words(algorithm, tmp_path):
    rare = "".join(map(chr, range(0x4E00, 0x4E00 + 600)))
    data = save(tmp_path / "data", train=[*PROSE * 9, rare])
    report = run(data, tmp_path / "words", algorithm=algorithm)
    tokenizer = load_tokenizer(tmp_path / "words")
    assert report.facts["vocab_size"] <= 400
    assert any(len(piece) > 2 and piece.isalpha() for piece in tokenizer.get_vocab())
    assert tokenizer.unk_token_id in tokenizer(rare)["input_ids"]


def test_an_existing_tokenizer_is_taken_as_it_is_and_measured(prose, tmp_path):
    run(prose, tmp_path / "first", algorithm="wordpiece")
    report = run(prose, tmp_path / "second", tokenizer=str(tmp_path / "first"), special_tokens=["<user>"])
    first, second = load_tokenizer(tmp_path / "first"), load_tokenizer(tmp_path / "second")
    assert first(PROSE)["input_ids"] == second(PROSE)["input_ids"]
    assert report.facts["vocab_size"] == len(second) == len(first) + 1
    assert "sample_bytes" not in report.facts


def test_a_folder_without_a_tokenizer_is_an_error_of_one_line(prose, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(StageError, match="empty: cannot be loaded") as caught:
        run(prose, tmp_path / "words", tokenizer=str(tmp_path / "empty"))
    assert "\n" not in str(caught.value)


def test_a_column_that_is_not_there_or_holds_no_text_is_named(tmp_path, prose):
    with pytest.raises(DataError, match="no column 'body'; it has text"):
        run(prose, tmp_path / "words", algorithm="bpe", text=["body"])
    DatasetDict(train=Dataset.from_dict({"text": [1, 2]})).save_to_disk(tmp_path / "numbers")
    with pytest.raises(DataError, match="column 'text' does not hold text"):
        run(tmp_path / "numbers", tmp_path / "words", algorithm="bpe")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_train_split_without_text_is_an_error(algorithm, tmp_path):
    data = save(tmp_path / "data", train=["", ""], validation=["words"])
    with pytest.raises(StageError, match="there is no text to learn from in text of the train split"):
        run(data, tmp_path / "words", algorithm=algorithm)


def test_settings_that_do_not_go_together_are_problems():
    assert problems(algorithm="wordpiece") == []
    assert "write one of `algorithm`" in problems()[0]
    assert "write one of `algorithm`" in problems(algorithm="bpe", tokenizer="./words")[0]
    assert problems(tokenizer="./words", vocab_size=99) == [
        "vocab_size is only for training a tokenizer; delete it"
    ]
    assert "needs an unknown token" in problems(algorithm="unigram", style="gpt")[0]
    assert "200 tokens are too few: special tokens and single characters take 258" in problems(
        algorithm="bpe", vocab_size=200
    )


def test_the_folder_holds_plain_transformers_files(prose, tmp_path):
    run(prose, tmp_path, algorithm="wordpiece")
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["clean_up_tokenization_spaces"] is False
    assert {path.name for path in tmp_path.iterdir()} == {"tokenizer.json", "tokenizer_config.json"}
