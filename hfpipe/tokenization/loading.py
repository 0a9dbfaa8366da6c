"""Loads, completes and measures tokenizers; all stages use these functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from hfpipe.errors import StageError, format_one_line
from hfpipe.modeling.loading.checkpoint_files import check_tokenizer_files, get_name_and_revision
from hfpipe.references.places import Place
from hfpipe.tokenization.encoding import encode_texts
from hfpipe.tokenization.special_tokens import Style

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TEXTS_AT_ONCE = 256


def load_tokenizer(place: Path | Place, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a folder, without network access, or by Hub id (`owner/name@revision`).

    A tokenizer without a padding token pads with its end token, which is still learned, because masks are
    computed from lengths. Raises StageError when there is no tokenizer or it cannot be read.
    """
    check_tokenizer_files(place)
    name, revision = get_name_and_revision(place)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            name,
            revision=revision or "main",
            local_files_only=isinstance(place, Path),
            trust_remote_code=trust_remote_code,
        )
    except Exception as error:  # Tokenizers raises bare Exceptions
        raise StageError(f"tokenizer {place}: cannot be loaded: {format_one_line(error)}") from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def set_pad_token_id(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Set `pad_token_id` in the config of a model that classifies by the last token, if it is unset."""
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id


def complete_tokenizer(backend: Backend, style: Style) -> PreTrainedTokenizerFast:
    """Wrap a trained backend as a Transformers tokenizer, with the roles of its special tokens.

    It returns token types if the style numbers the second of two texts, as in BERT; models without token
    types ignore them.
    """
    types = ["token_type_ids"] if ":1" in style.pair else []
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_input_names=["input_ids", *types, "attention_mask"],
        extra_special_tokens=list(style.extra),
        clean_up_tokenization_spaces=False,
        padding_side="right",
        **style.roles,
    )


def measure_tokenizer(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> dict[str, float]:
    """Return statistics of a tokenizer on texts, without special tokens.

    `fertility` is the number of tokens per word (words are separated by white space), `bytes_per_token`
    counts UTF-8 bytes, `unknown_rate` is the fraction of unknown tokens, and `coverage` is the fraction of
    characters that are not unknown, which only fast tokenizers provide.
    """
    counts: Counter[str] = Counter()
    texts = iter(texts)
    while batch := list(islice(texts, TEXTS_AT_ONCE)):
        counts.update(words=sum(len(text.split()) for text in batch), characters=sum(map(len, batch)))
        counts.update(bytes=sum(len(text.encode()) for text in batch))
        encoded = encode_texts(
            tokenizer,
            batch,
            add_special_tokens=False,
            return_offsets_mapping=tokenizer.is_fast,
            verbose=False,
        )
        spans = encoded.get("offset_mapping") or [[(0, 0)] * len(ids) for ids in encoded["input_ids"]]
        for ids, offsets in zip(encoded["input_ids"], spans, strict=True):
            unknown = [
                span for token, span in zip(ids, offsets, strict=True) if token == tokenizer.unk_token_id
            ]
            counts.update(
                tokens=len(ids), unknown=len(unknown), lost=sum(end - start for start, end in unknown)
            )
    rates = {
        "fertility": counts["tokens"] / max(1, counts["words"]),
        "unknown_rate": counts["unknown"] / max(1, counts["tokens"]),
        "bytes_per_token": counts["bytes"] / max(1, counts["tokens"]),
    }
    if tokenizer.is_fast:
        rates["coverage"] = 1 - counts["lost"] / max(1, counts["characters"])
    return rates
