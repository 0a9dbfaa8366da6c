"""JSON files that contain a digest of themselves, so that damage to a file of digests is detected too.

The digest is the first entry, `seal`: the sha256 of the whole text with zeros in its place.
"""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path

from hfpipe.store.files import write_atomically

_ZEROS = "0" * 64
_SEAL = re.compile(r'\{"seal": "([0-9a-f]{64})",')


def write_sealed(path: Path, text: str) -> None:
    """Write the text of a nonempty JSON object with its digest, atomically."""
    blank = f'{{"seal": "{_ZEROS}",{text[1:]}'
    write_atomically(path, blank.replace(_ZEROS, _digest(blank), 1))


def read_sealed(path: Path) -> str:
    """Return the text without its digest; a file of an earlier version, without one, is returned unchanged.

    Raises ValueError when the digest does not match, OSError when the file cannot be read.
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
