"""What a model writes does not depend on the batch it is written in, and ends where the model ends it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedTokenizerFast

from hfpipe.encoding.padding import pad_inputs
from hfpipe.errors import StageError
from hfpipe.modeling.random import create_generator
from hfpipe.tasks.shared.generation import configure_generation, generate_texts, pad_left
from hfpipe.tasks.shared.generation_config import Generation, Sampling
from hfpipe.tokenization.special_tokens import STYLES

TEXTS = [
    "the river flows through ten countries",
    "light",
    "she was the first to win it",
    "water boils on mountains",
    "two people walked on the moon while one orbited it",
    "the moon",
    "ten people win light on the river while it boils",
]
SMALL: dict[str, dict[str, Any]] = {
    "t5": {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "initializer_factor": 3.0},
    "marian": {"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "init_std": 0.3}
    | dict.fromkeys(
        ("encoder_layers", "decoder_layers", "encoder_attention_heads", "decoder_attention_heads"), 2
    ),
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "initializer_range": 1.0},
    "llama": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    | {"initializer_range": 1.0},
}
"""Weights so large that what comes next depends on all that came before."""


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    words = sorted({word for text in TEXTS for word in text.split()})
    vocabulary = {word: number for number, word in enumerate(["<pad>", "</s>", "<unk>", *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, STYLES["t5"].roles["unk_token"]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, **STYLES["t5"].roles)


def model(kind: str, tokenizer: PreTrainedTokenizerFast) -> Any:
    torch.manual_seed(5)
    ids = {"vocab_size": len(tokenizer), "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
    start = {"decoder_start_token_id": 0} if kind in ("t5", "marian") else {}
    config = AutoConfig.for_model(kind, **ids, **start, **SMALL[kind])
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    made = auto.from_config(config).eval()
    made.generation_config.forced_eos_token_id = 1 if kind == "marian" else None
    return made


def written(
    made: Any, tokenizer: PreTrainedTokenizerFast, settings: Generation, size: int, **more: Any
) -> list:
    ids = [np.asarray(tokenizer(text)["input_ids"]) for text in TEXTS]
    if not made.config.is_encoder_decoder:
        ids = [each[:-1] for each in ids]
    rows = []
    for start in range(0, len(ids), size):
        random = [create_generator(3, None, number) for number in range(len(ids))][start : start + size]
        out = generate_texts(
            made, pad_inputs(ids[start : start + size], tokenizer), tokenizer, settings, random=random, **more
        )
        rows += [tuple(row) for row in zip(out.texts, out.tokens.tolist(), out.cut.tolist(), strict=True)]
    return rows


SETTINGS = {
    "greedy": Generation(max_new_tokens=12),
    "beams": Generation(max_new_tokens=12, num_beams=4, length_penalty=0.5),
    "penalties": Generation(
        max_new_tokens=12, num_beams=2, no_repeat_ngram_size=2, repetition_penalty=1.5, min_new_tokens=3
    ),
    "sampled": Sampling(max_new_tokens=12, do_sample=True, temperature=3.0, top_p=0.9),
}


@pytest.mark.slow
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("kind", SMALL)
def test_what_is_written_does_not_depend_on_the_batch(kind, settings, tokenizer) -> None:
    made = model(kind, tokenizer)
    alone, together = (written(made, tokenizer, SETTINGS[settings], size) for size in (1, 7))
    assert alone == together
    assert len({text for text, *_ in alone}) > 1
    for text, tokens, cut in alone:
        assert "</s>" not in text
        assert "<pad>" not in text
        assert tokens == 12 if cut else 1 <= tokens <= 12
    if settings == "penalties":
        assert min(tokens for _, tokens, _ in alone) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", SMALL)
def test_what_is_written_is_what_the_model_says_step_by_step(kind, tokenizer) -> None:
    made = model(kind, tokenizer)
    settings = Generation(max_new_tokens=8, num_beams=1)
    for text, (said, tokens, cut) in zip(TEXTS, written(made, tokenizer, settings, 7), strict=True):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        ids = ids if made.config.is_encoder_decoder else ids[:, :-1]
        start = torch.tensor([[0]]) if made.config.is_encoder_decoder else ids
        line = start
        while line.shape == start.shape or (line.shape[1] - start.shape[1] < 8 and line[0, -1] != 1):
            given = {"input_ids": ids, "decoder_input_ids": line} if start is not ids else {"input_ids": line}
            line = torch.cat([line, made(**given).logits[:, -1:].argmax(-1)], dim=1)
        new = line[0, start.shape[1] :]
        assert said == tokenizer.decode(new, skip_special_tokens=True)
        assert (tokens, cut) == (len(new), int(new[-1]) != 1)


def test_the_first_token_can_be_forced_and_the_config_stays_as_it_was(tokenizer) -> None:
    made = model("marian", tokenizer)
    before = made.generation_config.to_dict()
    forced = tokenizer.convert_tokens_to_ids("moon")
    rows = written(made, tokenizer, Generation(max_new_tokens=5), 7, forced_bos_token_id=forced)
    assert {text.split()[0] for text, *_ in rows} == {"moon"}
    assert made.generation_config.to_dict() == before


@pytest.mark.slow
@pytest.mark.parametrize("settings", ["greedy", "beams", "penalties"])
@pytest.mark.parametrize("kind", SMALL)
def test_a_saved_model_writes_the_same_by_itself(kind, settings, tokenizer, tmp_path) -> None:
    made = model(kind, tokenizer)
    made.generation_config.update(num_beams=5, early_stopping=True, max_length=9, do_sample=True, top_p=0.5)
    forced = tokenizer.convert_tokens_to_ids("moon") if made.config.is_encoder_decoder else None
    asked = SETTINGS[settings].model_copy(update={"num_beams": SETTINGS[settings].num_beams or 1})
    wanted = written(made, tokenizer, asked, 1, forced_bos_token_id=forced)
    configure_generation(made, tokenizer, asked, forced)
    made.save_pretrained(tmp_path)
    auto = AutoModelForSeq2SeqLM if made.config.is_encoder_decoder else AutoModelForCausalLM
    saved = auto.from_pretrained(tmp_path)
    assert written(saved, tokenizer, Generation(), 7) == wanted
    for text, (said, *_) in zip(TEXTS, wanted, strict=True):
        ids = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        if not made.config.is_encoder_decoder:
            ids = {name: tensor[:, :-1] for name, tensor in ids.items()}
        start = 0 if made.config.is_encoder_decoder else ids["input_ids"].shape[1]
        assert tokenizer.decode(saved.generate(**ids)[0][start:], skip_special_tokens=True) == said


def test_a_saved_model_that_draws_does_so_by_itself_and_is_still_measured_as_before(tokenizer, tmp_path):
    made, settings = model("llama", tokenizer), SETTINGS["sampled"]
    wanted = written(made, tokenizer, settings, 7)
    configure_generation(made, tokenizer, settings)
    made.save_pretrained(tmp_path)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert written(saved, tokenizer, settings, 7) == wanted
    ids = torch.tensor([tokenizer("the moon")["input_ids"][:-1]] * 16)
    assert len({tuple(row) for row in saved.generate(ids).tolist()}) > 1


def test_a_text_may_be_shorter_than_the_saved_model_was_made_to_write(tokenizer) -> None:
    made = model("llama", tokenizer)
    configure_generation(made, tokenizer, Generation(max_new_tokens=12, min_new_tokens=10))
    assert all(tokens <= 4 for _, tokens, _ in written(made, tokenizer, Generation(max_new_tokens=4), 7))
    with pytest.raises(ValueError, match="min_new_tokens exceeds max_new_tokens"):
        Generation(max_new_tokens=4, min_new_tokens=5)


def test_what_cannot_be_saved_is_refused_before_training(tokenizer) -> None:
    with pytest.raises(StageError, match="length_penalty has no effect without beam search"):
        configure_generation(model("t5", tokenizer), tokenizer, Generation(length_penalty=2.0))


@pytest.mark.slow
def test_a_draw_is_another_with_another_seed_only(tokenizer) -> None:
    made, settings = model("llama", tokenizer), SETTINGS["sampled"]
    assert written(made, tokenizer, settings, 7) == written(made, tokenizer, settings, 2)
    drawn, likeliest = written(made, tokenizer, settings, 7), written(made, tokenizer, SETTINGS["greedy"], 7)
    assert drawn != likeliest


def test_a_draw_takes_no_beams_from_the_models_own_config(tokenizer) -> None:
    made, settings = model("llama", tokenizer), SETTINGS["sampled"]
    wanted = written(made, tokenizer, settings, 7)
    made.generation_config.num_beams = 4
    assert written(made, tokenizer, settings, 7) == wanted


@pytest.mark.slow
def test_draws_are_as_frequent_as_they_are_probable(tokenizer) -> None:
    made = model("llama", tokenizer)
    ids = np.asarray(tokenizer("the moon")["input_ids"][:-1])
    random = [create_generator(3, None, number) for number in range(4000)]
    settings = Sampling(max_new_tokens=1, do_sample=True, temperature=6.0)
    out = generate_texts(made, pad_inputs([ids] * 4000, tokenizer), tokenizer, settings, random=random)
    said = {text: (out.texts == text).mean() for text in set(out.texts)}
    wanted = (made(input_ids=torch.tensor(ids[None])).logits[0, -1].detach() / 6).softmax(-1)
    for text, share in said.items():
        if text:
            assert share == pytest.approx(float(wanted[tokenizer.convert_tokens_to_ids(text)]), abs=0.03)
    assert len(said) > 5


def test_a_model_that_nothing_can_end_is_refused(tokenizer) -> None:
    made = model("gpt2", tokenizer)
    made.generation_config.eos_token_id = None
    endless = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(StageError, match="has an end token; set eos_token"):
        generate_texts(made, pad_inputs([np.asarray([3, 4])], endless), endless, Generation())


def test_padding_moves_to_the_left_and_the_order_stays() -> None:
    ids, mask = torch.tensor([[5, 6, 0, 0], [7, 8, 9, 4]]), torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    moved, seen = pad_left(ids, mask)
    assert moved.tolist() == [[0, 0, 5, 6], [7, 8, 9, 4]]
    assert seen.tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]
    assert pad_left(moved, seen)[0].tolist() == moved.tolist()
