"""Packed documents: laid out without loss where they fit best, and read as if each were alone."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import MODELS
from transformers import AttentionInterface, PreTrainedTokenizerFast

from hfpipe.encoding.best_fit import pack_best_fit
from hfpipe.encoding.encoded import encode
from hfpipe.encoding.io import extract_facts
from hfpipe.encoding.padding import Collator
from hfpipe.encoding.shards import Batch
from hfpipe.errors import StageError
from hfpipe.modeling.attention.separate_documents import (
    FLEX_FROM,
    SeparateDocuments,
    Separation,
    choose_attention,
    find_document_bounds,
    find_separation,
)
from hfpipe.modeling.loading.models import create_config, create_model
from hfpipe.modeling.losses.losses import IGNORED, forward
from hfpipe.task import TaskConfig
from hfpipe.tasks.causal_lm import CausalLM
from hfpipe.tasks.denoising import Denoising
from hfpipe.tasks.masked_lm import MaskedLM
from hfpipe.tokenization.loading import complete_tokenizer
from hfpipe.tokenization.ragged import Ragged
from hfpipe.tokenization.special_tokens import STYLES
from hfpipe.tokenization.training import Learner
from hfpipe.training.step import TrainingStep, separate_documents

TEXTS = [
    "The Nile is a river in Africa that flows north into the Mediterranean Sea, past Khartoum and Cairo.",
    "Everest is the highest mountain above the sea, on the border of Nepal and China.",
    "The Amazon carries more water than any other river.",
    "",
    "The Danube flows through ten countries into the Black Sea. " * 4,
    "Kilimanjaro has three cones: Kibo, Mawenzi and Shira.",
    "The Rhine rises in the Alps.",
] * 3
SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
KINDS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 2},
    "llama": SMALL,
    "qwen2": SMALL | {"num_key_value_heads": 1},
    "modernbert": SMALL | {"num_hidden_layers": 4, "local_attention": 16},
    "bert": MODELS["bert"],
    "opt": {name: SMALL[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
    | {"word_embed_proj_dim": 64, "ffn_dim": 96},
}
BY_MASKS = ("modernbert", "bert", "opt")
"""Those that do not mask documents by themselves where positions begin again."""
kinds = pytest.mark.parametrize("kind", list(KINDS))


def learned(style: str) -> PreTrainedTokenizerFast:
    learner = Learner("bpe", STYLES[style], (), 300, 1, lowercase=False)
    return complete_tokenizer(learner.learn(TEXTS), STYLES[style])


def task_for(kind: str, **options: Any) -> TaskConfig:
    options = {"length": 64, "documents": "separate", "packing": "bfd"} | options
    return MaskedLM(mask=0.3, **options) if "bert" in kind else CausalLM(**options)


def model_for(kind: str, tokenizer: PreTrainedTokenizerFast) -> Any:
    """Return an untrained model whose weights are so large that what attention adds shows."""
    auto = "AutoModelForMaskedLM" if "bert" in kind else "AutoModelForCausalLM"
    model = create_model(auto, create_config({"type": kind} | KINDS[kind], tokenizer, {}, dropout=False), 3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4 if weight.dim() > 1 else 1)
    return model.eval()


def encoded(task: TaskConfig, tokenizer: PreTrainedTokenizerFast, folder: Path, **options: Any) -> Any:
    rows = datasets.Dataset.from_dict({"text": TEXTS})
    facts = extract_facts(datasets.DatasetDict(train=rows))
    path = folder / "train.arrow"
    return encode(
        task.runtime(), rows, tokenizer, facts, path, packed=True, advance=lambda _: None, **options
    )[0]


def keys(examples: Any) -> list[tuple[int, int]]:
    return [(0, number) for number in range(len(examples))]


@contextmanager
def eager_flex() -> Iterator[None]:
    """Run FlexAttention, which Transformers compiles, without a compiler."""
    with warnings.catch_warnings(), torch.compiler.set_stance("force_eager"):
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        yield


def compare(kind: str, attention: str, folder: Path) -> None:
    """Compare packed documents with each alone: what their tokens are predicted to be, and the loss."""
    tokenizer = learned("bert" if "bert" in kind else "gpt")
    task, model = task_for(kind), model_for(kind, tokenizer)
    found = find_separation(model)
    assert found is not None
    assert found.by == ("masks" if kind in BY_MASKS else "positions")
    examples = encoded(task, tokenizer, folder)
    batch: Any = Collator(task.runtime(), tokenizer, 5)(examples.__getitems__(keys(examples)))
    documents, labels = batch["_documents"], batch["labels"]
    assert documents.max() > 2
    separate = SeparateDocuments(model, Separation(found.by, attention))
    with torch.no_grad():
        with separate(batch) as inputs:
            together = forward(model, inputs, None).logits
        alone, nll = torch.zeros_like(together), torch.zeros(())
        every = {(row, int(each)) for row in range(len(documents)) for each in documents[row]}
        for row, number in every:
            here = (documents[row] == number).nonzero().squeeze(-1)
            if number:
                one = {"input_ids": batch["input_ids"][row, here][None], "labels": labels[row, here][None]}
                alone[row, here] = forward(model, one, None).logits
                nll += (
                    task.runtime()
                    .objective.loss(forward(model, one, task.runtime().objective.positions(one)), one)
                    .total
                )
        shown = documents > 0
        largest, size = (together[shown] - alone[shown]).abs().max(), alone[shown].abs().max()
        print(f"{kind}, {attention}: largest deviation {largest:.1e}, largest logit {size:.1f}")
        torch.testing.assert_close(together[shown], alone[shown], rtol=1e-5, atol=1e-5)
        loss = TrainingStep(task.runtime(), 0.0, separate=separate)(model, batch)[1].total
        mixed = forward(model, {"input_ids": batch["input_ids"]}, None).logits
    assert loss.item() == pytest.approx(nll.item(), rel=1e-5)
    assert not torch.allclose(mixed[shown], alone[shown], atol=1e-2)
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.slow
@kinds
def test_packed_documents_are_read_as_if_each_were_alone(kind: str, tmp_path: Path) -> None:
    compare(kind, "sdpa", tmp_path)


@pytest.mark.slow
@kinds
def test_flex_attention_keeps_packed_documents_apart(kind: str, tmp_path: Path) -> None:
    with eager_flex():
        compare(kind, "flex_attention", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "modernbert"])
def test_a_compiled_model_keeps_packed_documents_apart_in_one_graph(kind: str, tmp_path: Path) -> None:
    """By FlexAttention, whose kernel a CPU has forward only; aot_eager compiles all but the kernels."""
    from torch._dynamo.utils import counters

    tokenizer = learned("bert" if "bert" in kind else "gpt")
    task, model = task_for(kind), model_for(kind, tokenizer)
    examples = encoded(task, tokenizer, tmp_path)
    collate = Collator(task.runtime(), tokenizer, 5, static=True)
    separate = SeparateDocuments(
        model, Separation("masks" if "bert" in kind else "positions", "flex_attention")
    )
    whole = [key for key in keys(examples) if key[1] + 4 <= len(examples)]
    batches: list[Any] = [collate(examples.__getitems__(keys(examples)[n : n + 4])) for _, n in whole[:3]]
    assert {tuple(batch["input_ids"].shape) for batch in batches} == {(4, 64)}
    step = TrainingStep(task.runtime(), 0.0, separate=separate)
    with torch.no_grad():
        with eager_flex():
            eager = [step(model, batch)[1].total.item() for batch in batches]
        torch._dynamo.reset()
        counters.clear()
        model.compile(backend="aot_eager", dynamic=False)
        with warnings.catch_warnings():  # Dynamo warns of what it does itself
            warnings.filterwarnings("ignore", message=".*should not be instantiated")
            compiled = [step(model, batch)[1].total.item() for batch in batches]
    assert compiled == pytest.approx(eager, rel=1e-5)
    assert not counters["recompiles"]
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.slow
def test_flash_attention_is_given_the_bounds_of_the_documents(tmp_path: Path) -> None:
    """The kernel needs a GPU; an implementation of the same name attends by what it is given."""
    tokenizer = learned("gpt")
    task, model = task_for("llama"), model_for("llama", tokenizer)
    examples = encoded(task, tokenizer, tmp_path)
    batch: Any = Collator(task.runtime(), tokenizer, 5)(examples.__getitems__(keys(examples)))
    with torch.no_grad(), SeparateDocuments(model, Separation("positions", "sdpa"))(batch) as inputs:
        usual = forward(model, inputs, None).logits

    def varlen(module: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any) -> tuple[Any, None]:
        assert mask is None
        bounds, rows, length = options["cu_seq_lens_k"].tolist(), *query.shape[::2][:2]
        assert options["max_length_q"] == length
        flat = [each.transpose(1, 2).flatten(0, 1).transpose(0, 1) for each in (query, key, value)]
        parts = [
            torch.nn.functional.scaled_dot_product_attention(
                *(each[:, start:end] for each in flat), is_causal=True
            )
            for start, end in pairwise(bounds)
            if end > start
        ]
        attended = torch.cat(parts, 1).transpose(0, 1).reshape(rows, length, *query.shape[1::2])
        return attended, None

    AttentionInterface.register("flash_stand_in", varlen)
    model.config._attn_implementation = "flash_stand_in"
    assert find_separation(model) == Separation("positions", "flash_stand_in")
    assert AttentionInterface()["flash_stand_in"] is varlen
    model.config._attn_implementation = "sdpa"
    with (
        torch.no_grad(),
        SeparateDocuments(model, Separation("positions", "flash_stand_in"))(batch) as inputs,
    ):
        assert inputs["cu_seq_lens_q"].dtype == torch.int32
        found = forward(model, inputs, None).logits
    shown = batch["_documents"] > 0
    torch.testing.assert_close(found[shown], usual[shown], rtol=1e-5, atol=1e-5)


def test_bounds_are_those_of_documents_in_all_rows() -> None:
    documents = torch.tensor([[1, 1, 2, 0], [1, 2, 2, 2]])
    bounds = find_document_bounds(documents)
    assert bounds.tolist()[:6] == [0, 2, 3, 4, 5, 8]
    assert len(bounds) == 64
    assert set(bounds.tolist()[5:]) == {8}


@pytest.mark.slow
def test_flex_attention_is_taken_for_long_rows_on_a_gpu_unless_attention_weights_are_dropped() -> None:
    tokenizer, cuda = learned("gpt"), torch.device("cuda")
    model = model_for("gpt2", tokenizer)
    found = Separation("positions", "sdpa")
    assert choose_attention(model, found, FLEX_FROM, cuda) == Separation("positions", "flex_attention")
    assert choose_attention(model, found, FLEX_FROM - 1, cuda) == found
    assert choose_attention(model, found, 8 * FLEX_FROM, torch.device("cpu")) == found
    dropping = create_model(
        "AutoModelForCausalLM", create_config({"type": "gpt2"} | KINDS["gpt2"], tokenizer, {}), 3
    )
    before = torch.get_rng_state()
    assert choose_attention(dropping, found, FLEX_FROM, cuda) == found
    assert torch.equal(torch.get_rng_state(), before)
    assert choose_attention(model, Separation("positions", "eager"), FLEX_FROM, cuda).attention == "eager"
    scaling = create_config({"type": "gpt2", "reorder_and_upcast_attn": True} | KINDS["gpt2"], tokenizer, {})
    special = create_model("AutoModelForCausalLM", scaling, 3)  # which computes attention by itself
    assert choose_attention(special, found, FLEX_FROM, cuda) == found


@pytest.mark.slow
def test_a_model_that_mixes_documents_is_refused() -> None:
    tokenizer = learned("bert")
    config = create_config(MODELS["bert"] | {"type": "roberta"}, tokenizer, {})
    model = create_model("AutoModelForMaskedLM", config, 3)  # its positions begin behind that of padding
    [problem] = task_for("bert").runtime().model_setup.check(model)
    assert "keeps packed documents apart, and roberta does not" in problem.message
    with pytest.raises(StageError, match="roberta cannot separate packed documents"):
        separate_documents(task_for("bert").runtime(), model, torch.device("cpu"))
    assert separate_documents(MaskedLM().runtime(), model, torch.device("cpu")) is None


def test_a_tokenizer_that_begins_no_text_is_refused(tmp_path: Path) -> None:
    tokenizer = learned("t5")
    tokenizer.add_special_tokens({"mask_token": "<extra_id_0>"})
    with pytest.raises(StageError, match="needs a token that begins each text"):
        encoded(task_for("bert"), tokenizer, tmp_path)


def test_best_fit_is_accepted_with_the_setting_that_is_advised() -> None:
    with pytest.raises(ValueError, match="needs `documents: separate`; add it"):
        MaskedLM.model_validate({"packing": "bfd"})
    assert MaskedLM.model_validate({"packing": "bfd", "documents": "separate"}).best_fit


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"packing": "bfd"}, "needs `documents: separate`"),
        ({"next_sentence": True, "documents": "separate"}, "are not packed"),
        ({"next_sentence": True, "packing": "bfd"}, "are not packed"),
    ],
)
def test_packing_that_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskedLM.model_validate(options)


@pytest.mark.slow
@given(
    batches=st.lists(st.lists(st.integers(0, 40), max_size=12), max_size=5),
    length=st.integers(4, 12),
    shared=st.integers(0, 1),
    opened=st.booleans(),
    window=st.integers(1, 80),
)
def test_best_fit_lays_out_every_id_once_and_begins_examples_where_documents_begin(
    batches: list[list[int]], length: int, shared: int, opened: bool, window: int
) -> None:
    numbers = iter(range(100, 10**6))
    documents = [[[next(numbers) for _ in range(size)] for size in sizes] for sizes in batches]
    given_as = (Batch({"input_ids": Ragged.from_rows(each)}, len(each)) for each in documents)
    opening = [7] if opened else []
    found = list(pack_best_fit(given_as, length, shared, opening, window))
    assert sum(batch.rows for batch in found) == sum(map(len, documents))
    whole = {each[0]: each for part in documents for each in part if each}
    seen: list[int] = []
    for example in (row.tolist() for batch in found for row in batch.columns["input_ids"]):
        assert 0 < len(example) <= length
        begins = opened and example[0] == 7
        ids = example[1:] if begins else example
        if not begins and ids[0] not in whole:  # goes on with a document that is longer than an example
            number = (
                next(n for n, each in enumerate(ids[1:], 1) if each in whole)
                if set(ids[1:]) & whole.keys()
                else len(ids)
            )
            seen += ids[shared:number]
            ids = ids[number:]
        while ids:
            document = whole[ids[0]]
            size = min(len(document), len(ids))
            assert ids[:size] == document[:size]
            assert size == len(document) or len(document) + len(opening) > length
            seen += ids[:size]
            ids = ids[size:]
    assert sorted(seen) == sorted(each for document in whole.values() for each in document)


def test_best_fit_fills_the_least_room_there_is() -> None:
    documents = [[1] * size for size in (3, 5, 2, 6, 4)]
    [batch] = pack_best_fit(iter([Batch({"input_ids": documents}, 5)]), 8, 0, ())
    sizes = sorted(len(row) for row in batch.columns["input_ids"])
    assert sizes == [4, 8, 8]  # 6 with 2, 5 with 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt2", "modernbert"])
def test_an_encoding_by_best_fit_goes_on_where_it_was_killed(kind: str, tmp_path: Path) -> None:
    tokenizer = learned("bert" if "bert" in kind else "gpt")
    task = task_for(kind)
    (tmp_path / "whole").mkdir()
    whole = encoded(task, tokenizer, tmp_path / "whole", shard_tokens=1)
    files = sorted((tmp_path / "whole").glob("*.arrow"))
    (tmp_path / "killed").mkdir()
    for name in ("train-00000.arrow", "train-00000.json"):
        (tmp_path / "killed" / name).write_bytes((tmp_path / "whole" / name).read_bytes())
    (tmp_path / "killed" / "train-00001.arrow").write_bytes(b"half")
    again = encoded(task, tokenizer, tmp_path / "killed", shard_tokens=1)
    assert [file.read_bytes() for file in sorted((tmp_path / "killed").glob("*.arrow"))] == [
        file.read_bytes() for file in files
    ]
    assert again.lengths.tolist() == whole.lengths.tolist()
    assert whole.lengths.max() <= 64


@pytest.mark.slow
@pytest.mark.parametrize(("style", "begin"), [("gpt", None), ("gpt", "<|pad|>")])
def test_every_token_of_a_document_is_learned_once_by_best_fit(
    style: str, begin: str | None, tmp_path: Path
) -> None:
    """Once with the token that ends a document as the one that begins it, once with another."""
    tokenizer = learned(style)
    tokenizer.bos_token = begin or tokenizer.bos_token
    task = CausalLM(length=24, packing="bfd")
    examples = encoded(task, tokenizer, tmp_path)
    batch: Any = Collator(task.runtime(), tokenizer, 1)(examples.__getitems__(keys(examples)))
    learning = batch["labels"][batch["labels"] != IGNORED]
    wanted = [
        [*ids, tokenizer.eos_token_id] for ids in tokenizer(TEXTS, add_special_tokens=False)["input_ids"]
    ]
    assert sorted(learning.tolist()) == sorted(each for ids in wanted for each in ids)
    assert int(task.runtime().objective.count(batch)) == sum(map(len, wanted))


def test_denoising_learns_from_whole_texts_by_best_fit(tmp_path: Path) -> None:
    tokenizer = learned("t5")
    task = Denoising(length=48, packing="bfd")
    examples = encoded(task, tokenizer, tmp_path)
    plain = tokenizer(TEXTS, add_special_tokens=False)["input_ids"]
    assert int(examples.lengths.sum()) == sum(map(len, plain))
    batch = task.runtime().encoder.collate(examples.__getitems__(keys(examples)), tokenizer, 1, train=True)
    assert len(batch["labels"]) == len(examples)
    assert np.all(examples.lengths <= 48)


def test_settings_that_came_later_change_no_key_until_they_are_set() -> None:
    plain = CausalLM(length=64)
    assert plain.model_dump() == {"kind": "causal-lm", "length": 64, "text": "text", "stride": None} | {
        "documents": "packed"
    }
    assert "documents" not in MaskedLM().model_dump(mode="json")
    chosen = task_for("bert")
    assert MaskedLM.model_validate(chosen.model_dump()) == chosen
    assert chosen.model_dump()["packing"] == "bfd"
    assert CausalLM.model_validate(plain.model_dump()) == plain
