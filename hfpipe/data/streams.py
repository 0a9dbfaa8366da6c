"""Opens text files, plain or compressed, and says where they are damaged."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import pyarrow as pa

from hfpipe.errors import DataError

COMPRESSION = {".gz": "gzip", ".zst": "zstd"}


@contextmanager
def text_stream(path: Path, name: str, encoding: str, newline: str | None) -> Iterator[TextIO]:
    """Open a file as text, decompressing by its ending; `name` is what messages call it.

    While it is read, raises DataError for a stream that is cut off or damaged, and for the first byte that
    the encoding does not have.
    """
    # A byte-order mark is no part of the first column's name.
    codec = "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding
    try:
        with _open(path) as stream:
            yield io.TextIOWrapper(stream, encoding=codec, newline=newline)
    except UnicodeDecodeError:
        raise _undecodable(path, name, codec) from None
    except OSError as error:
        raise DataError(f"{name}: {_cause(error, path)}") from None


def _open(path: Path) -> pa.NativeFile:
    return pa.input_stream(str(path), compression=COMPRESSION.get(path.suffix))


def _cause(error: OSError, path: Path) -> str:
    if "Truncated" in str(error):
        return f"is cut off: the {COMPRESSION[path.suffix]} stream has no end; copy or download it again"
    if error.errno is None and path.suffix in COMPRESSION:
        return f"is no {COMPRESSION[path.suffix]} file, or damaged; copy or download it again"
    return f"cannot be read ({error.strerror or error}); mend the path or its permissions"


def _undecodable(path: Path, name: str, encoding: str) -> DataError:
    """Find the byte that cannot be decoded, counted from 0 in the decompressed text."""
    decoder = codecs.getincrementaldecoder(encoding)()
    done = 0
    with _open(path) as stream:
        while True:
            chunk = stream.read(1 << 20)
            held = len(decoder.getstate()[0])
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                return DataError(
                    f"{name}: byte {done - held + error.start:,} ({error.object[error.start]:#04x}) is no "
                    f"{encoding.removesuffix('-sig')}; name the `encoding` of the file, as latin-1 or cp1252"
                )
            done += len(chunk)
