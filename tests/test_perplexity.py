"""Perplexity is exp of all nats over all tokens, each once, whatever batch, padding, packing or processes."""

from __future__ import annotations

import json
from copy import deepcopy
from math import exp, log
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import processes
import pytest
import small
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    PreTrainedTokenizerFast,
)

import hfpipe
from hfpipe.encoding.encoded import Examples, encode
from hfpipe.errors import StageError
from hfpipe.evaluation.evaluate import create_accelerator
from hfpipe.evaluation.loop import ModelReader, score
from hfpipe.metrics.tally import Tally
from hfpipe.modeling.losses.losses import IGNORED, forward
from hfpipe.report import DataFacts
from hfpipe.tasks.causal_lm import CausalLM
from hfpipe.tasks.denoising import Denoising
from hfpipe.tasks.masked_lm import MaskedLM
from hfpipe.tasks.shared.documents import split_document
from hfpipe.tokenization.encoding import encode_plain
from hfpipe.tokenization.loading import complete_tokenizer
from hfpipe.tokenization.special_tokens import STYLES
from hfpipe.tokenization.training import Learner

TEXTS = [
    "The Sun is the star at the centre of the Solar System. It is a nearly perfect sphere of hot plasma.",
    "A star is a luminous spheroid of plasma held together by self-gravity.",
    "Ångström, Celsius, наука: 星.",
    "",
    "The Moon is Earth's only natural satellite. It orbits at an average distance of 384,399 km, "
    "about 30 times the diameter of Earth. Tidal forces between Earth and the Moon have synchronized them.",
    "Ox",
    "Jupiter is the fifth planet from the Sun and the largest in the Solar System.",
    "Plasma is one of the four fundamental states of matter.",
]
FACTS = DataFacts(columns={"text": "string"}, splits={"train": len(TEXTS)})
ROWS = datasets.Dataset.from_dict({"text": TEXTS})
MODELS: dict[str, dict[str, Any]] = {
    "gpt2": {
        "n_layer": 2,
        "n_head": 2,
        "n_embd": 32,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
    },
    "llama": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 48,
    },
    "bert": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
    },
}
MODELS["qwen3"] = MODELS["llama"] | {"head_dim": 16}
MODELS["t5"] = {"d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2, "dropout_rate": 0.0}
MODELS["t5"]["decoder_start_token_id"] = 0
MODELS["mamba"] = {"hidden_size": 32, "num_hidden_layers": 1, "state_size": 4}

causal = pytest.mark.parametrize("kind", ["gpt2", "llama"])
separable = pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen3"])


def learned(style: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer that has learned the texts, with a style's special tokens."""
    algorithm, size = ("wordpiece", 200) if style == "bert" else ("bpe", 420)
    learner = Learner(algorithm, STYLES[style], [], size, 1, lowercase=False)
    return complete_tokenizer(learner.learn(TEXTS), STYLES[style])


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return learned("gpt")


def model(kind: str, tokenizer: PreTrainedTokenizerFast) -> Any:
    """Return an untrained model whose guesses are far from even, so that a slip shows."""
    torch.manual_seed(0)
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 512, "initializer_range": 0.3}
    config = AutoConfig.for_model(kind, **(ids | sizes | MODELS[kind]))
    auto = {"bert": AutoModelForMaskedLM, "t5": AutoModelForSeq2SeqLM}.get(kind, AutoModelForCausalLM)
    return auto.from_config(config).eval()


def encoded(task: Any, tokenizer: PreTrainedTokenizerFast, folder: Path, *, packed: bool) -> Examples:
    path = folder / f"{packed}.arrow"
    return encode(task.runtime(), ROWS, tokenizer, FACTS, path, packed=packed, advance=lambda _: None)[0]


def keys(examples: Examples) -> list[tuple[int, int]]:
    return [(0, number) for number in range(len(examples))]


def measured(
    task: Any, model: Any, tokenizer: PreTrainedTokenizerFast, folder: Path, batch_size: int
) -> dict[str, float]:
    examples = encoded(task, tokenizer, folder, packed=False)
    tally = Tally(task.runtime().evaluator.metrics(FACTS), 0, 1)
    reading = ModelReader(task.runtime(), FACTS, tokenizer, 1)
    found = score(model, examples, reading, tally, create_accelerator(), batch_size=batch_size)
    assert found.n == len(TEXTS)
    return {metric.name: float(found.compute_values(metric)[0]) for metric in found.metrics}


def plain(model: Any, tokenizer: PreTrainedTokenizerFast, length: int, stride: int) -> tuple[float, int]:
    """Return nats and tokens of all texts, token by token, each from a forward pass of its own in float64."""
    exact = model.double()
    nll, tokens = 0.0, 0
    for ids in encode_plain(tokenizer, TEXTS):
        read = [tokenizer.eos_token_id, *ids]
        for at, said in enumerate(ids):
            turn = max(0, -(-(at + 1 - length) // stride))
            seen = torch.tensor([read[turn * stride : at + 1]])
            assert seen.shape[1] <= length
            with torch.no_grad():
                nll -= float(exact(seen).logits[0, -1].log_softmax(-1)[said])
            tokens += 1
    model.float()
    return nll, tokens


@pytest.mark.slow
@causal
@pytest.mark.parametrize(("length", "stride"), [(64, None), (16, None), (16, 4)])
def test_perplexity_is_that_of_a_plain_loop_in_float64(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, kind: str, length: int, stride: int | None
) -> None:
    tiny = model(kind, tokenizer)
    nll, tokens = plain(tiny, tokenizer, length, stride or length)
    found = measured(CausalLM(length=length, stride=stride), tiny, tokenizer, tmp_path, 7)
    assert found["perplexity"] == pytest.approx(exp(nll / tokens), rel=1e-6)
    assert found["loss"] == pytest.approx(nll / tokens, rel=1e-6)
    size = sum(len(text.encode()) for text in TEXTS)
    assert found["bits_per_byte"] == pytest.approx(nll / size / log(2), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert", "t5"])
def test_no_batch_and_no_side_of_padding_changes_a_score(tmp_path: Path, kind: str) -> None:
    words = learned(kind if kind in STYLES else "gpt")
    tasks = {"bert": MaskedLM(length=16), "t5": Denoising(length=16)}
    task = tasks.get(kind, CausalLM(length=16, stride=8))
    tiny = model(kind, words)
    alone = measured(task, tiny, words, tmp_path, 1)
    for batch_size in (7, 32):
        for side in ("right", "left"):
            words.padding_side = side
            found = measured(task, tiny, words, tmp_path, batch_size)
            assert found == pytest.approx(alone, rel=1e-6), (batch_size, side)
    assert measured(task, tiny, words, tmp_path, 7) == measured(task, tiny, words, tmp_path, 7)


@given(ids=st.lists(st.integers(0, 99), max_size=80), length=st.integers(1, 20), share=st.floats(0, 1))
def test_every_token_is_predicted_once_with_as_much_context_as_promised(
    ids: list[int], length: int, share: float
) -> None:
    stride = max(1, round(share * length))
    said: list[int] = []
    for number, (read, new) in enumerate(split_document(ids, 100, length, stride)):
        assert len(read) == len(new) <= length
        places = [place for place, each in enumerate(new) if each != IGNORED]
        assert read == [100, *ids][number * stride : number * stride + len(read)]
        if number:
            assert all(place + 1 >= length - stride + 1 for place in places)
        for place in places:
            assert [100, *ids][: len(said) + 1][-place - 1 :] == read[: place + 1]
            said.append(new[place])
    assert said == ids


@pytest.mark.slow
@given(length=st.integers(8, 40))
def test_packing_learns_every_token_once_and_ends_every_document(
    tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory, length: int
) -> None:
    task = CausalLM(length=length)
    examples = encoded(task, tokenizer, tmp_path_factory.mktemp("packed"), packed=True)
    batch = task.runtime().encoder.collate(examples.__getitems__(keys(examples)), tokenizer, 1, train=True)
    stream = [each for ids in encode_plain(tokenizer, TEXTS) for each in (*ids, tokenizer.eos_token_id)]
    assert batch["labels"][batch["labels"] != IGNORED].tolist() == stream[1:]
    assert batch["input_ids"].shape == (len(examples), min(length, len(stream)))
    assert (examples.lengths[:-1] == length).all()


@pytest.mark.parametrize("padding", ["<|pad|>", "<|endoftext|>"])
def test_the_end_is_learned_even_where_it_is_padding_as_well(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, padding: str
) -> None:
    tokenizer = deepcopy(tokenizer)
    tokenizer.pad_token = padding
    task, end = CausalLM(length=64), tokenizer.eos_token_id
    examples = encoded(task, tokenizer, tmp_path, packed=True)
    batch = task.runtime().encoder.collate(examples.__getitems__(keys(examples)), tokenizer, 1, train=True)
    ids, labels = batch["input_ids"], batch["labels"]
    assert batch["attention_mask"].sum() == examples.lengths.sum() < ids.numel()
    assert (labels == end).sum() == len(TEXTS)
    assert (labels[:, :-1][labels[:, :-1] != IGNORED] == ids[:, 1:][labels[:, :-1] != IGNORED]).all()
    assert task.runtime().objective.count(batch) == examples.lengths.sum() - len(examples)
    assert (labels[-1, examples.lengths[-1] - 1 :] == IGNORED).all()


def loss(task: CausalLM, model: Any, batch: dict[str, torch.Tensor]) -> float:
    with torch.no_grad():
        return float(
            task.runtime()
            .objective.loss(forward(model, batch, task.runtime().objective.positions(batch)), batch)
            .total
        )


@separable
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("begin", [None, "<|pad|>"])
def test_the_loss_of_packed_documents_is_that_of_each_alone(
    tokenizer: PreTrainedTokenizerFast, kind: str, attention: str, begin: str | None
) -> None:
    """Once with a token of its own to begin a document, once with the one that ends it."""
    tokenizer = deepcopy(tokenizer)
    tokenizer.bos_token = begin or tokenizer.bos_token
    tiny = model(kind, tokenizer)
    tiny.set_attn_implementation(attention)
    apart, seen = CausalLM(length=512, documents="separate"), CausalLM(length=512)
    halves = []
    for texts in (TEXTS[:4], TEXTS[4:]):
        ids = [
            each
            for row in apart.runtime().encoder.encode({"text": texts}, tokenizer, FACTS)["input_ids"]
            for each in row
        ]
        begun = ids[:1] == [tokenizer.bos_token_id]
        halves.append({"input_ids": np.array(ids if begun else [tokenizer.bos_token_id, *ids])})
    together = loss(apart, tiny, apart.runtime().encoder.collate(halves, tokenizer, 1, train=True))
    alone = 0.0
    for text in encode_plain(tokenizer, TEXTS):
        one = {"input_ids": np.array([tokenizer.bos_token_id, *text, tokenizer.eos_token_id])}
        alone += loss(seen, tiny, seen.runtime().encoder.collate([one], tokenizer, 1, train=True))
    crossing = loss(seen, tiny, seen.runtime().encoder.collate(halves, tokenizer, 1, train=True))
    assert together == pytest.approx(alone, rel=1e-5)
    assert abs(crossing - alone) > 5e-4 * alone


def test_a_model_that_cannot_keep_documents_apart_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    apart = CausalLM(documents="separate")
    for kind in ("gpt2", "llama", "qwen3"):
        assert not list(apart.runtime().model_setup.check(model(kind, tokenizer)))
    [problem] = apart.runtime().model_setup.check(model("mamba", tokenizer))
    assert "keeps packed documents apart, and mamba does not" in problem.message
    assert not list(CausalLM().runtime().model_setup.check(model("mamba", tokenizer)))


def test_a_tokenizer_that_ends_nothing_is_refused() -> None:
    with pytest.raises(StageError, match="no bos_token and no eos_token"):
        CausalLM().runtime().encoder.encode({"text": TEXTS}, learned("bert"), FACTS)


def test_a_stride_that_skips_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="stride 17 would skip tokens"):
        CausalLM(length=16, stride=17)


def test_signatures_tell_how_much_context_a_score_rests_on() -> None:
    signatures = [
        metric.signature for metric in CausalLM(length=64, stride=16).runtime().evaluator.metrics(FACTS)
    ]
    assert "perplexity|average:tokens|length:64|stride:16" in signatures
    assert all(signature.endswith("|length:64|stride:16") for signature in signatures)


@pytest.mark.parametrize("name", CausalLM.baselines)
def test_baselines_are_counted_over_the_tokens_of_the_model(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, name: str
) -> None:
    task = CausalLM(length=16, stride=8)
    prediction = task.runtime().baseline(name).fit({"text": TEXTS}, FACTS, tokenizer)({"text": TEXTS})
    assert {"nll", "tokens", "bytes", "lost"} == prediction.keys()
    examples = encoded(task, tokenizer, tmp_path, packed=False)
    said = [examples[0, number]["labels"] for number in range(len(examples))]
    targets = np.bincount(examples.rows, [(labels != IGNORED).sum() for labels in said])
    assert prediction["tokens"].tolist() == targets.tolist()
    assert prediction["bytes"].tolist() == [len(text.encode()) for text in TEXTS]
    names = {metric.name for metric in task.runtime().baseline_metrics(name, FACTS)}
    assert names == {metric.name for metric in task.runtime().evaluator.metrics(FACTS)} - {"accuracy"}


def recipe(kind: str) -> dict[str, Any]:
    """Return a recipe that trains a causal model on real text for a few steps and measures it."""
    content = small.recipe()
    stages = content["stages"]
    stages["words"] |= {"algorithm": "bpe", "vocab_size": 600}
    stages["pretrain"] |= {
        "task": {"kind": "causal-lm", "length": 32, "stride": 16, "documents": "separate"},
        "model": {"type": kind, **MODELS[kind]},
    }
    stages["score"] = {
        "kind": "evaluate",
        "model": "stage:pretrain",
        "data": "stage:wiki",
        "baselines": ["unigram", "trigram"],
        "batch_size": 7,
    }
    del stages["topics"]
    return content


READ = {
    "gpt2": ("gpt", {"kind": "causal-lm", "length": 32, "stride": 16}),
    "llama": ("gpt", {"kind": "causal-lm", "length": 32}),
    "bert": ("bert", {"kind": "masked-lm", "length": 32}),
    "t5": ("t5", {"kind": "denoising", "length": 32}),
}
"""Model → style of its tokenizer, and what it is measured by."""


@pytest.mark.slow
def test_three_processes_give_the_perplexities_of_one(tmp_path: Path) -> None:
    stages = {"wiki": small.recipe()["stages"]["wiki"]}
    for kind, (style, task) in READ.items():
        tokenizer = learned(style)
        for part in (model(kind, tokenizer), tokenizer):
            part.save_pretrained(tmp_path / kind)
        stages[kind] = {
            "kind": "evaluate",
            "model": str(tmp_path / kind),
            "data": "stage:wiki",
            "task": task,
            "baselines": ["unigram", "trigram"] if task["kind"] == "causal-lm" else [],
            "batch_size": 7,
        }
    path = small.write(tmp_path, {"name": "small", "seed": 3, "stages": stages})
    run = hfpipe.run(hfpipe.load(path), tmp_path / "alone", say=lambda _: None)
    alone = {(kind, score.metric): score for kind in READ for score in run.reports[kind].scores}
    assert {kind for kind, metric in alone if metric == "perplexity"} == READ.keys()
    assert not alone["gpt2", "accuracy"].comparisons
    assert [each.baseline for each in alone["gpt2", "bits_per_byte"].comparisons] == ["unigram", "trigram"]
    runs = tmp_path / "together"
    processes.run(path, runs, processes.config_file(tmp_path, "ddp-cpu", 3))
    shared = hfpipe.open(path, runs)
    for (kind, metric), theirs in alone.items():
        [mine] = [score for score in shared.reports[kind].scores if score.metric == metric]
        assert mine.n == theirs.n == run.reports["wiki"].data.splits["test"]
        assert (mine.value, mine.low, mine.high) == pytest.approx(
            (theirs.value, theirs.low, theirs.high), rel=1e-6
        ), (kind, metric)


@pytest.mark.slow
def test_a_training_of_separate_documents_stops_where_the_model_mixes_them(tmp_path: Path) -> None:
    path = small.write(tmp_path, recipe("mamba"))
    with pytest.raises(StageError, match="stage pretrain: documents: separate needs a model that"):
        hfpipe.run(hfpipe.load(path), tmp_path / "runs", say=lambda _: None)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2-wikitext", "perplexity-of-a-hub-model"])
def test_the_recipes_on_hub_data_run_on_rows_of_a_user(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, name: str
) -> None:
    files = {}
    for split in ("train", "validation", "test"):
        files[split] = str(tmp_path / f"{split}.txt")
        Path(files[split]).write_text("\n".join([*TEXTS, split, "= A heading ="] * 5), encoding="utf-8")
    sets = [f"wikitext.source={json.dumps({'files': files})}"]
    if name == "gpt2-wikitext":
        tiny = {"type": "gpt2", **MODELS["gpt2"]}
        train = {"max_steps": 3, "per_device_train_batch_size": 4}
        sets += [
            "words.vocab_size=420",
            f"pretrain.model={json.dumps(tiny)}",
            f"pretrain.training={json.dumps(train)}",
            "pretrain.task.length=64",
        ]
    else:
        for part in (model("gpt2", tokenizer), tokenizer):
            part.save_pretrained(tmp_path / "model")
        sets += [f"score.model={tmp_path / 'model'}", "score.task.length=256", "score.task.stride=128"]
    recipe = hfpipe.load(small.ROOT / "recipes" / f"{name}.yaml", overrides=sets)
    [score, *_] = hfpipe.run(recipe, tmp_path / "runs", say=lambda _: None).reports["score"].scores
    assert score.metric == "perplexity"
    assert score.n == 5 * (len(TEXTS) + 2 - 1)  # all lines but the empty one
    assert [comparison.baseline for comparison in score.comparisons] == ["unigram", "trigram"]
