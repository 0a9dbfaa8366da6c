"""The models whose throughput is measured, at full size and as toys, and the FLOPs that each token needs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

GPT2_DROPOUTS = ("resid_pdrop", "embd_pdrop", "attn_pdrop")


@dataclass(frozen=True)
class Bench:
    """One model with its batch."""

    name: str
    kind: str
    """Transformers' `model_type`."""
    entries: dict[str, Any]
    """Entries of the config that differ from its defaults; for a GPU there is no dropout in any."""
    vocabulary: int
    length: int
    micro: int
    """Rows of a forward pass; a step has one."""
    mask: float | None = None
    """Share of tokens hidden; None for a model that predicts every token."""
    family: str | None = None
    """Transformers' class of the model; by default that of a masked or causal language model."""
    adapter: dict[str, Any] | None = None

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.micro * self.length

    def config(self) -> Any:
        """Return the config of the model."""
        from transformers import CONFIG_MAPPING

        made = CONFIG_MAPPING[self.kind](**self.entries, vocab_size=self.vocabulary)
        made.pad_token_id = None if self.auto_class == "AutoModelForCausalLM" else 0  # in any vocabulary
        if made.is_encoder_decoder:
            made.decoder_start_token_id = 0
        return made

    @property
    def auto_class(self) -> str:
        """Transformers' class of the model."""
        return self.family or ("AutoModelForCausalLM" if self.mask is None else "AutoModelForMaskedLM")

    @cached_property
    def flops(self) -> float:
        """Floating point operations that training needs for a token: `hfpipe plan --sizes`' formula.

        6 for each weight that a token is multiplied with (4 where it is frozen), the vocabulary head only for
        tokens that are predicted, and 12 · layers · hidden · attended length. A causal model counts as if it
        attended to the whole length, as is usual; layers with a window count for the window.
        """
        from hfpipe.training.cost import compute_flops, shape_of

        config = self.config()
        adapter = None if self.adapter is None else {**self.adapter, "modules_to_save": None}
        shape = shape_of(self.auto_class, config, adapter)
        kinds = getattr(config, "layer_types", None) or []
        windows = [
            min(self.length, 2 * config.sliding_window if kind == "sliding_attention" else self.length)
            for kind in kinds
        ]
        attended = sum(windows) / len(windows) if windows else self.length
        return compute_flops(shape, 1, attended, 1.0 if self.mask is None else self.mask)

    def share(self, tokens_a_second: float, peak: float | None) -> float | None:
        """Return the model FLOPs utilization (MFU) as a share of a peak in FLOP/s, where that is known."""
        return None if peak is None else round(tokens_a_second * self.flops / peak, 4)


GPT2 = Bench("gpt2-124m", "gpt2", dict.fromkeys(GPT2_DROPOUTS, 0.0), 50_304, 1024, 32)
MODERNBERT = Bench("modernbert-base", "modernbert", {}, 50_368, 1024, 32, mask=0.3)
BERT = Bench(
    "bert-base",
    "bert",
    {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    30_522,
    512,
    64,
    mask=0.15,
)
LLAMA = Bench(
    "llama-0.5b",
    "llama",
    {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "max_position_embeddings": 2048,
    },
    32_000,
    2048,
    8,
)
SMALL_LLAMA = Bench(
    "llama-125m",
    "llama",
    {
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 12,
        "max_position_embeddings": 8192,
    },
    32_000,
    512,
    64,
)
SMALL_BERT = Bench(
    "masked-lm-4x256",
    "bert",
    {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024},
    30_522,
    128,
    32,
    mask=0.15,
)
WIDE_BERT = replace(
    SMALL_BERT,
    name="masked-lm-6x512",
    entries={"hidden_size": 512, "num_hidden_layers": 6, "num_attention_heads": 8, "intermediate_size": 2048},
)
SMALL_GPT2 = Bench(
    "causal-lm-6x384", "gpt2", {"n_embd": 384, "n_layer": 6, "n_head": 6, "n_positions": 256}, 16_384, 256, 16
)
SMALL_T5 = Bench(
    "seq2seq-4x256",
    "t5",
    {"d_model": 256, "d_kv": 64, "d_ff": 1024, "num_layers": 4, "num_heads": 4},
    16_384,
    64,
    32,
    family="AutoModelForSeq2SeqLM",
)
LORA = replace(LLAMA, name="llama-0.5b-lora", adapter={"r": 16, "target_modules": "all-linear"})
BENCHES = {bench.name: bench for bench in (GPT2, MODERNBERT, BERT, LLAMA, LORA, SMALL_LLAMA)}
"""Those of a GPU."""

_TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_TOYS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "modernbert": {**_TINY, "intermediate_size": 96, "local_attention": 32, "global_attn_every_n_layers": 2},
    "bert": {**_TINY, "intermediate_size": 96},
    "llama": {**_TINY, "num_key_value_heads": 4, "intermediate_size": 96, "max_position_embeddings": 64},
    "t5": {"d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_heads": 4},
}


def sized(bench: Bench, *, toy: bool) -> Bench:
    """Return a model as it is, or small enough for a dry run."""
    if not toy:
        return bench
    entries = bench.entries | _TOYS[bench.kind]
    return replace(bench, entries=entries, vocabulary=512, length=64, micro=4)
