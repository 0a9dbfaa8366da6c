"""Every promised model type is built from a recipe's mapping, learns, and opens in plain Transformers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import small
import torch
import transformers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hfpipe.modeling.loading.models import create_config, create_model
from hfpipe.modeling.losses.losses import IGNORED, compute_token_loss, find_target_positions, forward
from hfpipe.recipe.model import find_model_problems
from hfpipe.references.places import Place, locate_place
from hfpipe.tokenization.loading import complete_tokenizer
from hfpipe.tokenization.special_tokens import STYLES
from hfpipe.tokenization.training import Learner

BERT = {"num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 48}
BART = {"encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 48}
TYPES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("AutoModelForMaskedLM", "bert", BERT),
    "roberta": ("AutoModelForMaskedLM", "bart", BERT),
    "distilbert": ("AutoModelForMaskedLM", "bert", {"n_heads": 2, "n_layers": 2, "hidden_dim": 48}),
    "electra": ("AutoModelForMaskedLM", "bert", BERT | {"embedding_size": 24}),
    "modernbert": ("AutoModelForMaskedLM", "bert", BERT),
    "deberta-v2": ("AutoModelForMaskedLM", "bert", BERT),
    "gpt2": ("AutoModelForCausalLM", "gpt", {"n_layer": 2, "n_head": 2, "n_inner": 48}),
    "llama": ("AutoModelForCausalLM", "gpt", BERT),
    "qwen3": ("AutoModelForCausalLM", "gpt", BERT),
    "t5": ("AutoModelForSeq2SeqLM", "t5", {"num_layers": 2, "num_heads": 2, "d_ff": 48}),
    "bart": ("AutoModelForSeq2SeqLM", "bart", BART),
    "marian": ("AutoModelForSeq2SeqLM", "t5", BART),
}
"""Type → auto class, style of the tokenizer, entries in the names that its users know."""
ALGORITHMS = {"bert": "wordpiece", "bart": "bpe", "gpt": "bpe", "t5": "unigram"}
SEQ2SEQ = [kind for kind, (auto_class, *_) in TYPES.items() if auto_class == "AutoModelForSeq2SeqLM"]

each_type = pytest.mark.parametrize("kind", TYPES)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    file = locate_place(Place(small.SUMMARIES), Path(), {})
    assert file is not None
    rows = json.loads(file.read_text(encoding="utf-8")).values()
    return [row["extract"][:200] for row, _ in zip(rows, range(200), strict=False)]


@pytest.fixture(scope="module")
def tokenizers(texts: list[str]) -> dict[str, PreTrainedTokenizerFast]:
    made = {}
    for name, algorithm in ALGORITHMS.items():
        learner = Learner(algorithm, STYLES[name], [], 400, 1, lowercase=False)
        made[name] = complete_tokenizer(learner.learn(texts), STYLES[name])
    return made


@pytest.fixture
def built(kind: str, tokenizers: dict[str, PreTrainedTokenizerFast]) -> tuple[Any, PreTrainedTokenizerFast]:
    auto_class, style, entries = TYPES[kind]
    given = {"type": kind, "hidden_size": 32} | entries
    assert not list(find_model_problems(given, ("model",)))
    return create_model(auto_class, create_config(given, tokenizers[style], {}), seed=1), tokenizers[style]


def batch_of(model: Any, tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> dict[str, torch.Tensor]:
    """Return texts with every third piece a target; for an encoder-decoder each piece of their first half."""
    batch = dict(tokenizer(texts, return_tensors="pt", padding=True, return_token_type_ids=False))
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORED)
    if model.config.is_encoder_decoder:
        return batch | {"labels": labels[:, : labels.shape[1] // 2]}
    labels[:, torch.arange(labels.shape[1]) % 3 > 0] = IGNORED
    return batch | {"labels": labels}


def special_ids(config: Any) -> Iterator[tuple[str, int]]:
    """Yield the entries of a config that name pieces."""
    for name, value in config.to_dict().items():
        if "token" in name or name.endswith("_ids"):
            for each in value if isinstance(value, list) else [value]:
                if type(each) is int:
                    yield name, each


@each_type
def test_special_tokens_are_those_of_the_tokenizer(
    kind: str, built: tuple[Any, PreTrainedTokenizerFast]
) -> None:
    model, tokenizer = built
    configs = [model.config, model.generation_config] if model.can_generate() else [model.config]
    named = [entry for config in configs for entry in special_ids(config)]
    assert len(named) > 1
    for name, number in named:
        assert number in tokenizer.all_special_ids, name
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.pad_token_id == tokenizer.pad_token_id
    assert model.config.eos_token_id in (tokenizer.eos_token_id, tokenizer.sep_token_id)


@pytest.mark.parametrize(("kind", "start"), [("t5", "<pad>"), ("bart", "</s>"), ("marian", "<pad>")])
def test_a_decoder_starts_and_ends_as_its_type_does(
    kind: str, start: str, built: tuple[Any, PreTrainedTokenizerFast], texts: list[str]
) -> None:
    model, tokenizer = built
    assert tokenizer.convert_ids_to_tokens(model.generation_config.decoder_start_token_id) == start
    if kind != "t5":
        assert model.generation_config.forced_eos_token_id == tokenizer.eos_token_id
    written = model.generate(**tokenizer(texts[0], return_tensors="pt"), max_new_tokens=4)
    assert written[0, 0] == model.config.decoder_start_token_id


@pytest.mark.parametrize("kind", SEQ2SEQ)
def test_a_tokenizer_of_berts_style_serves_an_encoder_decoder(
    kind: str, tokenizers: dict[str, PreTrainedTokenizerFast]
) -> None:
    config = create_config({"type": kind}, tokenizers["bert"], {})
    assert config.eos_token_id == tokenizers["bert"].sep_token_id
    wanted = "[SEP]" if kind == "bart" else "[PAD]"
    assert tokenizers["bert"].convert_ids_to_tokens(config.decoder_start_token_id) == wanted


@each_type
def test_the_loss_at_targets_alone_is_the_loss_of_all_logits(
    kind: str, built: tuple[Any, PreTrainedTokenizerFast], texts: list[str]
) -> None:
    model, tokenizer = built
    batch = batch_of(model.eval(), tokenizer, texts[:3])
    positions = find_target_positions(batch["labels"])
    with torch.no_grad():
        dense, sparse = (forward(model, batch, where).logits for where in (None, positions))
    assert sparse.shape == (len(positions), len(tokenizer))
    assert compute_token_loss(sparse, batch["labels"]).total.item() == pytest.approx(
        compute_token_loss(dense, batch["labels"]).total.item(), rel=1e-6
    )


@pytest.mark.slow
@each_type
def test_a_few_steps_lower_the_loss_of_their_batch(
    kind: str, built: tuple[Any, PreTrainedTokenizerFast], texts: list[str]
) -> None:
    model, tokenizer = built
    batch = batch_of(model.train(), tokenizer, texts[:4])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(6):
        loss = compute_token_loss(forward(model, batch, None).logits, batch["labels"])
        (loss.total / loss.targets).backward()
        assert all(weight.grad is None or weight.grad.isfinite().all() for weight in model.parameters())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.total.item())
    assert losses[-1] < losses[0]


@each_type
def test_it_opens_in_plain_transformers_with_the_same_logits(
    kind: str, built: tuple[Any, PreTrainedTokenizerFast], texts: list[str], tmp_path: Path
) -> None:
    model, tokenizer = built
    model.eval().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = getattr(transformers, TYPES[kind][0]).from_pretrained(tmp_path)
    words = AutoTokenizer.from_pretrained(tmp_path)
    assert words(texts[:3])["input_ids"] == tokenizer(texts[:3])["input_ids"]
    assert words.special_tokens_map == tokenizer.special_tokens_map
    batch = batch_of(model, tokenizer, texts[:3])
    with torch.no_grad():
        assert torch.equal(forward(model, batch, None).logits, forward(again, batch, None).logits)
    if model.can_generate():
        assert again.generation_config.eos_token_id == model.generation_config.eos_token_id
        assert (
            again.generation_config.decoder_start_token_id == model.generation_config.decoder_start_token_id
        )


def test_what_a_recipe_leaves_out_fits_what_it_says(tokenizers: dict[str, PreTrainedTokenizerFast]) -> None:
    small_size = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    qwen3 = create_config({"type": "qwen3"} | small_size, tokenizers["gpt"], {})
    assert (qwen3.head_dim, qwen3.num_key_value_heads) == (16, 4)
    bart = create_config({"type": "bart"} | small_size, tokenizers["bart"], {})
    assert (bart.encoder_layers, bart.decoder_layers, bart.decoder_attention_heads) == (3, 3, 4)
    t5 = create_config({"type": "t5"} | small_size, tokenizers["t5"], {})
    assert (t5.num_layers, t5.num_decoder_layers, t5.d_kv) == (3, 3, 16)
    own = {"decoder_layers": 1, "decoder_start_token_id": 4}
    shallow = create_config({"type": "bart"} | small_size | own, tokenizers["bart"], {})
    assert (shallow.encoder_layers, shallow.decoder_layers, shallow.decoder_start_token_id) == (3, 1, 4)
    mistral = create_config({"type": "mistral", "num_attention_heads": 16}, tokenizers["gpt"], {})
    assert mistral.num_key_value_heads == 8  # a default that fits stays


@each_type
def test_the_sizes_of_a_type_that_says_nothing_are_its_own(
    kind: str, tokenizers: dict[str, PreTrainedTokenizerFast]
) -> None:
    tokenizer = tokenizers[TYPES[kind][1]]
    tokens = {name for name in create_config({"type": kind}, tokenizer, {}).to_dict() if "token" in name}
    ours, theirs = (
        {name: value for name, value in config.to_dict().items() if name not in tokens | {"vocab_size"}}
        for config in (create_config({"type": kind}, tokenizer, {}), transformers.CONFIG_MAPPING[kind]())
    )
    ours.pop("decoder_vocab_size", None)
    theirs.pop("decoder_vocab_size", None)
    assert ours == theirs


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"type": "t5", "d_mdel": 32}, "did you mean 'd_model'"),
        ({"type": "bart", "num_decoder_layers": 2}, "did you mean 'decoder_layers'"),
        ({"type": "marian", "hidden_size": 30, "num_attention_heads": 4}, "30 is not a multiple"),
        ({"type": "qwen3", "num_key_value_heads": "two"}, "num_key_value_heads"),
        ({"type": "t5", "num_layers": 1.5}, "num_layers"),
        ({"type": "qwen"}, "did you mean 'qwen"),
    ],
)
def test_a_wrong_entry_is_reported_before_anything_is_built(given: dict[str, Any], message: str) -> None:
    [problem] = find_model_problems(given, ("model",))
    assert message in problem.message
