"""Forwards the output of a job line by line, prefixed with the name of its stage."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import IO

LONGEST = 1 << 16
"""Number of bytes after which an incomplete line is forwarded."""


def pass_lines(stream: IO[bytes], to: int, name: str, passes: Callable[[bytes], bool]) -> None:
    """Write the lines of a stream that `passes` accepts to a file descriptor, until the stream ends.

    Lines of several jobs do not mix, because each is written at once. A closed descriptor does not stop the
    job: the rest is read and discarded.
    """
    start = f"{name}: ".encode()
    for line in _read_lines(stream.fileno()):
        text = line.rpartition(b"\r")[2].rstrip()
        if passes(line) and text:
            with suppress(OSError):
                os.write(to, text + b"\n" if text.startswith(start) else start + text + b"\n")


def _read_lines(descriptor: int) -> Iterator[bytes]:
    rest = b""
    while chunk := os.read(descriptor, LONGEST):
        *whole, rest = (rest + chunk).split(b"\n")
        yield from (line.removesuffix(b"\r") for line in whole)
        if len(rest) > LONGEST:
            yield rest
            rest = b""
    yield rest.removesuffix(b"\r")
