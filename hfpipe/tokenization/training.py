"""Learns a vocabulary from text, deterministically.

The trainers of Tokenizers iterate over hash maps whose order changes from run to run: WordPiece then numbers
the tokens inside words differently each time, and Unigram gives rare characters different scores. Both are
corrected here; byte-level BPE is deterministic.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from hfpipe.errors import StageError, format_one_line
from hfpipe.tokenization.special_tokens import Style

LONGEST = 4096
"""Maximum characters per text: trainers need quadratic time for a text without white space."""

BLANKS = ("[MASK]", "<mask>")
"""Special tokens that replace a word, and therefore include the space before it."""


@dataclass(frozen=True)
class Learner:
    """Settings for learning a vocabulary; the result may have fewer tokens than `vocab_size`."""

    algorithm: Literal["wordpiece", "bpe", "unigram"]
    style: Style
    extra: Sequence[str]
    """Additional tokens after those of the style, which are never split."""
    vocab_size: int
    min_frequency: int
    lowercase: bool

    def learn(self, texts: Iterable[str]) -> Tokenizer:
        """Learn from texts, which are iterated once by `bpe` and twice by the other algorithms.

        The others learn at most the `vocab_size / 4` most frequent characters, so that a long tail of
        characters leaves room for words; rarer characters are unknown.

        Raises StageError when the trainer fails.
        """
        trained = self._create_tokenizer()
        try:
            alphabet, feed = (
                ([], _split_long(texts)) if self.algorithm == "bpe" else self._find_characters(texts)
            )
            trained.train_from_iterator(feed, self._make_trainer(trained, alphabet))
        except Exception as error:  # Tokenizers raises bare Exceptions
            raise StageError(f"{self.algorithm}: the trainer failed: {format_one_line(error)}") from error
        tokenizer = self._create_tokenizer()
        tokenizer.model = self._make_model(trained)
        tokenizer.add_special_tokens([_make_special_token(token) for token in self.style.tokens])
        tokenizer.add_tokens(make_added_tokens(self._specials[len(self.style.tokens) :]))
        tokenizer.post_processor = self._make_post_processor(tokenizer)
        return tokenizer

    @property
    def _specials(self) -> list[str]:
        return list(dict.fromkeys([*self.style.tokens, *self.extra]))

    @property
    def _unknown(self) -> str | None:
        return self.style.roles.get("unk_token")

    def _create_tokenizer(self) -> Tokenizer:
        """Return a complete tokenizer except for its vocabulary."""
        if self.algorithm == "wordpiece":
            tokenizer = Tokenizer(models.WordPiece(unk_token=self._unknown))
            tokenizer.normalizer = normalizers.BertNormalizer(lowercase=self.lowercase)
            tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
            tokenizer.decoder = decoders.WordPiece()
            return tokenizer
        fold = [normalizers.Lowercase()] if self.lowercase else []
        if self.algorithm == "bpe":
            tokenizer = Tokenizer(models.BPE())
            tokenizer.normalizer = normalizers.Sequence(fold)
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            tokenizer.decoder = decoders.ByteLevel()
            return tokenizer
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFKC(), *fold, normalizers.Replace(Regex(" {2,}"), " ")]
        )
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        return tokenizer

    def _find_characters(self, texts: Iterable[str]) -> tuple[list[str], Iterator[str]]:
        """Return the characters to learn, and the normalized texts with others replaced by spaces."""
        # A separate normalizer: that of the tokenizer in training is locked while it reads the texts.
        normalize = self._create_tokenizer().normalizer.normalize_str
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(normalize(text))
        ranked = sorted(counts, key=lambda character: (-counts[character], character))
        room = max(1, self.vocab_size // 4)
        blank = str.maketrans(dict.fromkeys(ranked[room:], " "))
        return ranked[:room], _split_long(normalize(text).translate(blank) for text in texts)

    def _make_trainer(self, tokenizer: Tokenizer, alphabet: list[str]) -> Any:
        if self.algorithm == "unigram":
            return trainers.UnigramTrainer(
                vocab_size=self.vocab_size,
                special_tokens=self._specials,
                unk_token=self._unknown,
                show_progress=False,
            )
        if self.algorithm == "bpe":
            return trainers.BpeTrainer(
                vocab_size=self.vocab_size,
                min_frequency=self.min_frequency,
                special_tokens=self._specials,
                initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                show_progress=False,
            )
        # Special tokens get their ids before any hash map is iterated, so that ties between merges, which are
        # broken by id, are deterministic.
        inside = [f"##{character}" for character in alphabet if _occurs_in_word(tokenizer, character)]
        return trainers.WordPieceTrainer(
            vocab_size=self.vocab_size,
            min_frequency=self.min_frequency,
            special_tokens=[*self._specials, *inside],
            show_progress=False,
        )

    def _make_model(self, trained: Tokenizer) -> Any:
        """Return the trained model with an order and scores that do not depend on a hash map."""
        if self.algorithm == "bpe":
            return trained.model
        if self.algorithm == "wordpiece":
            return models.WordPiece(trained.get_vocab(), unk_token=self._unknown)
        specials = self._specials
        learned = json.loads(trained.to_str())["model"]["vocab"]
        vocab = [(token, 0.0) for token in specials] + _sort_by_score(
            [(token, score) for token, score in learned if token not in specials]
        )
        return models.Unigram(vocab, unk_id=specials.index(self._unknown or specials[0]))

    def _make_post_processor(self, tokenizer: Tokenizer) -> Any:
        """Return the post-processor: adds special tokens, and trims spaces from byte-level offsets."""
        steps: list[Any] = [processors.ByteLevel(trim_offsets=True)] if self.algorithm == "bpe" else []
        if self.style.single:
            used = [(token, tokenizer.token_to_id(token)) for token in self.style.tokens]
            steps.append(
                processors.TemplateProcessing(
                    single=self.style.single, pair=self.style.pair, special_tokens=used
                )
            )
        return steps[0] if len(steps) == 1 else processors.Sequence(steps)


def make_added_tokens(tokens: Iterable[str]) -> list[AddedToken]:
    """Return added tokens that are matched in any text and, unlike control tokens, kept in decoding."""
    return [AddedToken(token, special=False, normalized=False) for token in tokens]


def _make_special_token(token: str) -> AddedToken:
    return AddedToken(token, special=True, normalized=False, lstrip=token in BLANKS)


def _occurs_in_word(tokenizer: Tokenizer, character: str) -> bool:
    """Return whether a character can occur inside a word."""
    word = tokenizer.normalizer.normalize_str(f"a{character}a")
    return len(tokenizer.pre_tokenizer.pre_tokenize_str(word)) == 1


def _split_long(texts: Iterable[str]) -> Iterator[str]:
    """Split long texts, at a space if there is one."""
    for text in texts:
        start = 0
        while len(text) - start > LONGEST:
            space = text.rfind(" ", start, start + LONGEST)
            end = space if space > start else start + LONGEST
            yield text[start:end]
            start = end
        yield text[start:]


def _sort_by_score(tokens: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Return the tokens of a Unigram model sorted by score, with deterministic scores.

    Characters lost in pruning get the lowest score plus 0.0001 for each one before them in a hash map; here
    all of them get the lowest score. Sums over the map in another order differ in the last digits, so scores
    are rounded to four decimals.
    """
    lowest = min((score for _, score in tokens), default=0.0)
    reach = lowest + 0.0001 * sum(len(token) == 1 for token, _ in tokens)
    steady = [
        (token, round(lowest if len(token) == 1 and score <= reach else score, 4)) for token, score in tokens
    ]
    return sorted(steady, key=lambda item: (-item[1], item[0]))
