"""Numbers in words, as `num2words` writes them (LGPL; any of its languages would do)."""

from collections.abc import Iterator
from itertools import chain

from num2words import num2words


def english_french() -> Iterator[dict[str, str]]:
    """Yield numbers in English and in French: all below 10,000, and every 61st from there to a million."""
    for number in chain(range(10_000), range(10_000, 1_000_000, 61)):
        yield {"source": num2words(number, lang="en"), "target": num2words(number, lang="fr")}
