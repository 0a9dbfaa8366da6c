"""JSON files that carry a digest of themselves, so that damage to what vouches for others shows as well.

The digest comes first, as the entry `seal`: sha256 of the whole text with zeros in its place.
"""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path

from hfpipe.store.files import write_whole

_ZEROS = "0" * 64
_SEAL = re.compile(r'\{"seal": "([0-9a-f]{64})",')


def write_sealed(path: Path, text: str) -> None:
    """Write the text of a JSON object that is not empty, whole or not at all, with its digest."""
    blank = f'{{"seal": "{_ZEROS}",{text[1:]}'
    write_whole(path, blank.replace(_ZEROS, _digest(blank), 1))


def read_sealed(path: Path) -> str:
    """Return the text that was written; one without a digest, as of an earlier version, is returned as it is.

    Raises ValueError when it is not what was written, OSError when it cannot be read.
    """
    text = path.read_text(encoding="utf-8")
    seal = _SEAL.match(text)
    if seal is None:
        return text
    if _digest(text.replace(seal[1], _ZEROS, 1)) != seal[1]:
        raise ValueError("its content is not what was written")
    return "{" + text[seal.end() :]


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()
