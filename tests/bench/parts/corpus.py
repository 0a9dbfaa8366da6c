"""Synthetic text whose number of tokens is known, and tokenizers of any vocabulary size for it.

Words are drawn by Zipf's law, and each word is one token: speed depends on the number of tokens and on the
size of the vocabulary, not on what is said.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

WORDS = 30_000
DOCUMENT = 600
"""Mean words of a document."""
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<|endoftext|>")


def drawn(count: int, words: int, seed: int) -> np.ndarray:
    """Return the numbers of words, int64 (count,), below `words`, the first of them the most frequent."""
    random = np.random.default_rng(seed)
    shares = 1 / (np.arange(words) + 10.0)
    return random.choice(words, size=count, p=shares / shares.sum())


def write_texts(path: Path, tokens: int, words: int = WORDS, seed: int = 17) -> None:
    """Write documents of together `tokens` words as JSON lines with a column `text`."""
    random = np.random.default_rng(seed + 1)
    numbers = drawn(tokens, words, seed)
    ends = np.cumsum(random.integers(DOCUMENT // 2, DOCUMENT * 3 // 2, size=2 * tokens // DOCUMENT))
    names = np.array([f"w{number}" for number in range(words)])
    with path.open("w", encoding="utf-8") as file:
        for part in np.split(numbers, ends[ends < tokens]):
            file.write(json.dumps({"text": " ".join(names[part])}) + "\n")


def write_pairs(path: Path, rows: int, longest: int, words: int, seed: int = 17) -> None:
    """Write pairs of texts, `source` and `target` of up to `longest` words each, as JSON lines."""
    random = np.random.default_rng(seed + 1)
    sources = random.integers(longest // 8, longest, size=rows, endpoint=True)
    targets = np.clip(sources + random.integers(-longest // 8, longest // 8, size=rows), 4, longest)
    lengths = np.stack([sources, targets], 1).reshape(-1)
    texts = np.split(
        np.array([f"w{number}" for number in drawn(lengths.sum(), words, seed)]), lengths.cumsum()
    )
    with path.open("w", encoding="utf-8") as file:
        for source, target in zip(texts[0:-1:2], texts[1::2], strict=True):
            file.write(json.dumps({"source": " ".join(source), "target": " ".join(target)}) + "\n")


def write_tokenizer(
    folder: Path, vocabulary: int, *, encoder: bool, words: int = WORDS, ended: bool = False
) -> None:
    """Save a tokenizer of exactly `vocabulary` entries: special tokens, the words, and unused ones.

    `ended` ends each text by the token that ends a text, as T5's tokenizer does.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    entries = [*SPECIAL, *(f"w{number}" for number in range(words))][:vocabulary]
    entries += [f"unused{number}" for number in range(vocabulary - len(entries))]
    ids = {entry: number for number, entry in enumerate(entries)}
    core = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))  # noqa: S106 - no password
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if encoder:
        core.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    if ended:
        last = "<|endoftext|>"
        core.post_processor = processors.TemplateProcessing(f"$A {last}", special_tokens=[(last, ids[last])])
    end = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    around = {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    roles = {"pad_token": "[PAD]", "unk_token": "[UNK]"} | (around if encoder else end)
    PreTrainedTokenizerFast(tokenizer_object=core, **roles).save_pretrained(folder)
