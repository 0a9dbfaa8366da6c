"""Passes on what a job prints, line by line, with the name of its stage in front."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import IO

LONGEST = 1 << 16
"""Bytes after which a line that does not end is passed on."""


def pass_lines(stream: IO[bytes], to: int, name: str, passes: Callable[[bytes], bool]) -> None:
    """Write those lines of a stream to a file descriptor that `passes` accepts, until the stream ends.

    Lines of several jobs do not mix, as each is written at once. A closed descriptor does not stop the job:
    the rest is read and lost.
    """
    start = f"{name}: ".encode()
    for line in _lines(stream.fileno()):
        text = line.rpartition(b"\r")[2].rstrip()
        if passes(line) and text:
            with suppress(OSError):
                os.write(to, text + b"\n" if text.startswith(start) else start + text + b"\n")


def _lines(descriptor: int) -> Iterator[bytes]:
    rest = b""
    while chunk := os.read(descriptor, LONGEST):
        *whole, rest = (rest + chunk).split(b"\n")
        yield from (line.removesuffix(b"\r") for line in whole)
        if len(rest) > LONGEST:
            yield rest
            rest = b""
    yield rest.removesuffix(b"\r")
