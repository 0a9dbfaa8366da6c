"""Splits texts of any script into words and sentences, since most metrics count words between spaces.

Scripts without spaces between words (Han, Thai, Khmer …) are split into characters, each with its combining
marks, as MLQA's evaluation script (Lewis et al., 2020) and sacrebleu's `zh` do. All other text is split at
spaces, so that English is split as in the reference implementations.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

import regex

UNSPACED = (
    r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Yi}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
    r"\p{Tai_Le}\p{New_Tai_Lue}\p{Tai_Tham}\p{Tai_Viet}\p{Javanese}\p{Balinese}\u30fc\uff70"
)
"""Scripts without spaces between words, as the inside of a character class."""
CHARACTER = rf"[[{UNSPACED}]&&[\p{{L}}\p{{N}}]]\p{{M}}*"
"""A character of such a script with its combining marks."""
JOINERS = r"\u200c\u200d"
"""Zero-width characters inside Persian and Indic words."""
_OTHER = rf"[\p{{L}}\p{{N}}--[{UNSPACED}]]"
WORD = rf"{_OTHER}(?:[{JOINERS}]?[{_OTHER}\p{{M}}])*"
"""A run of letters, digits and combining marks of all other scripts."""
EMOJI = (
    r"\p{Regional_Indicator}{2}|"
    r"[\p{Extended_Pictographic}--[©®™]][\uFE0F\p{Emoji_Modifier}]*"
    r"(?:\u200D\p{Extended_Pictographic}[\uFE0F\p{Emoji_Modifier}]*)*"
)
"""An emoji with its modifiers; letter-like symbols are excluded."""

_WORDS = regex.compile(rf"{CHARACTER}|{WORD}", regex.V1)
_ASCII_WORDS = re.compile(r"[A-Za-z0-9]+")
_ASCII_TERMS = re.compile(r"\w+", re.ASCII)
_ENGLISH_TERMS = re.compile(r"\w+")
_EMOJI = regex.compile(EMOJI, regex.V1)
_SPACED = regex.compile(rf"{CHARACTER}|(?:(?!{CHARACTER}).)+", regex.V1 | regex.DOTALL)
_TERMS = regex.compile(rf"(?P<run>(?:{CHARACTER})+)|(?:_|{WORD})+|(?:{EMOJI})", regex.V1)
_CHARACTER = regex.compile(CHARACTER, regex.V1)
_SENTENCE_END = regex.compile(
    r"[.!?…][\"')\]»]*(?=\s|$)|[\p{Sentence_Terminal}--[.!?]][\"'\p{Pe}\p{Pf}]*|\n+", regex.V1
)
_SENTENCE_BREAK = regex.compile(r"(?<=[.!?])\s+|(?<=[\p{Sentence_Terminal}--[.!?]])\s*", regex.V1)
_PUNCTUATION = regex.compile(r"[\p{P}--[\u0000-\u02ff\u2000-\u206f]]", regex.V1)
_SCRIPTS = {
    "letters": regex.compile(r"\p{L}"),
    "unspaced": regex.compile(rf"[[{UNSPACED}]&&\p{{L}}]", regex.V1),
    "kana": regex.compile(r"[\p{Hiragana}\p{Katakana}]"),
    "han": regex.compile(r"\p{Han}"),
    "hangul": regex.compile(r"\p{Hangul}"),
}
FOREIGN = 0.005
"""Fraction of non-ASCII letters above which texts are not English: names cause 0.001, German has 0.02."""
LONGEST = 3
"""Length of the longest character n-gram that counts as a word in a script without spaces."""


def split_words(text: str) -> list[str]:
    """Return the words of a text without punctuation and symbols, in Unicode normalization form NFC."""
    if text.isascii():  # ten times as fast
        return _ASCII_WORDS.findall(text)
    return _WORDS.findall(unicodedata.normalize("NFC", text))


def split_at_spaces(text: str) -> list[str]:
    """Return the strings between white space; in scripts without spaces, single characters."""
    parts = text.split()
    return parts if text.isascii() else [word for part in parts for word in _SPACED.findall(part)]


def extract_terms(text: str, *, english: bool = False) -> list[str]:
    """Return the terms of a bag of words: lower-case words, emoji, and n-grams of up to 3 characters.

    The n-grams replace words in scripts without spaces. With `english`, words are runs of letters and digits
    in the sense of Python's `re`, as in scikit-learn. If a text has no such terms, its characters are used,
    so that only an empty text has none.
    """
    text = text.lower()
    if text.isascii():
        found: list[str] = _ASCII_TERMS.findall(text)
    else:
        found = [*_ENGLISH_TERMS.findall(text), *_EMOJI.findall(text)] if english else _extract_terms(text)
    return found or [character for character in text if not character.isspace()]


def _extract_terms(text: str) -> list[str]:
    found: list[str] = []
    for match in _TERMS.finditer(unicodedata.normalize("NFC", text)):
        found += _extract_ngrams(match["run"]) if match["run"] else [match[0]]
    return found


def _extract_ngrams(run: str) -> list[str]:
    characters = _CHARACTER.findall(run)
    return [
        "".join(characters[start : start + size])
        for size in range(1, LONGEST + 1)
        for start in range(len(characters) - size + 1)
    ]


def find_sentence_ends(text: str) -> list[int]:
    """Return the end position of each sentence of a text, after its punctuation mark.

    A Latin mark ends a sentence only before white space, marks of other scripts anywhere; a line also ends
    one.
    """
    return [match.end() for match in _SENTENCE_END.finditer(text)]


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a text, at least one; line breaks, quotes and brackets do not end them."""
    found = _SENTENCE_BREAK.split(text)
    return [*found[:-1], *filter(None, found[-1:])] or [text]


def remove_foreign_punctuation(text: str) -> str:
    """Return a text without the punctuation of scripts other than Latin, Greek and Cyrillic."""
    return text if text.isascii() else _PUNCTUATION.sub("", text)


def detect_bleu_tokenizer(references: Iterable[str]) -> str:
    """Return the tokenizer of sacrebleu for the script of the references.

    `zh` if most letters are Han, `char` if most are of another script without spaces, of Japanese or of
    Korean, else `13a`. It depends only on the texts, not on installed packages.
    """
    counts = dict.fromkeys(_SCRIPTS, 0)
    for text in references:
        for name, pattern in () if text.isascii() else _SCRIPTS.items():
            counts[name] += len(pattern.findall(text))
        if text.isascii():
            counts["letters"] += sum(map(str.isalpha, text))
    if 2 * (counts["unspaced"] + counts["hangul"]) <= counts["letters"]:
        return "13a"
    # Japanese mixes both; Chinese has hardly any kana.
    return "zh" if 2 * counts["han"] > counts["letters"] and 10 * counts["kana"] < counts["han"] else "char"


def is_nearly_ascii(texts: Iterable[str]) -> bool:
    """Return whether the texts have so few letters beyond ASCII as English has, all of them together."""
    letters = foreign = 0
    for text in texts:
        letters += sum(map(str.isalpha, text))
        if not text.isascii():
            composed = unicodedata.normalize("NFC", text)
            foreign += sum(each.isalpha() and not each.isascii() for each in composed)
    return foreign <= FOREIGN * letters
