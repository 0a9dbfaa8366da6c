"""Opens text files, plain or compressed, in their encoding, and reports where they are damaged."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import pyarrow as pa

from hfpipe.data.readers.file_options import DataFile, FileOptions
from hfpipe.errors import DataError

COMPRESSION = {".gz": "gzip", ".zst": "zstd"}
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins with the mark of UTF-16, so it is tested first
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order mark → the encoding that decodes and removes it."""
BINARY = (
    (b"\x1f\x8b", "a gzip file; rename it to end in .gz", ""),
    (b"\x28\xb5\x2f\xfd", "a zstd file; rename it to end in .zst", ""),
    (b"BZh", "a bzip2 file; decompress it, or compress it with gzip", ""),
    (b"\xfd7zXZ\x00", "an xz file; decompress it, or compress it with gzip", ""),
    (b"PK\x03\x04", "a zip archive (unpack it) or an Excel workbook", "xlsx"),
    (b"PAR1", "a Parquet file", "parquet"),
    (b"ARROW1", "an Arrow file", "arrow"),
    (b"\xd0\xcf\x11\xe0", "an old Office file (.xls or .doc); save it as .xlsx or .csv", ""),
    (b"%PDF-", "a PDF; extract its text first", ""),
)
"""First bytes of files that are not text → the type of file, the fix, and the format that reads it."""
HEAD = 4096
"""Number of bytes examined to detect the encoding."""


@contextmanager
def open_text(file: DataFile, newline: str | None = None) -> Iterator[TextIO]:
    """Open a file as text, decompressed according to its extension.

    While reading, raises DataError for a truncated or damaged stream, and for the first byte that is invalid
    in the encoding.
    """
    with _translate_os_errors(file.path, file.name):
        try:
            with _open_stream(file.path) as stream:
                yield io.TextIOWrapper(stream, encoding=file.codec, newline=newline)
        except UnicodeError:
            raise _make_decoding_error(file) from None


@contextmanager
def _translate_os_errors(path: Path, name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"{name}: {_describe_cause(error, path)}") from None


def detect_encoding(path: Path, name: str, options: FileOptions) -> str:
    """Return the codec of a file: that of its byte order mark if it has one, otherwise that of the options.

    Raises DataError when mark and options contradict each other, when the bytes are not text, and for UTF-16
    or UTF-32 without a mark, whose byte order is unknown.
    """
    with _translate_os_errors(path, name), _open_stream(path) as stream:
        head = stream.read(HEAD)
    given = codecs.lookup(options.encoding).name.removesuffix("-sig")
    for mark, codec in MARKS:
        if head.startswith(mark):
            if given == "utf-8" or given in (codec, _add_byte_order(mark, codec)):
                return codec
            raise DataError(
                f"{name}: begins with the byte order mark of {codec.removesuffix('-sig')}; delete "
                f"{options.advise(encoding=options.encoding)}, which contradicts it"
            )
    _require_text(head, name, given, options)
    return options.encoding


def _require_text(head: bytes, name: str, given: str, options: FileOptions) -> None:
    """Raise DataError if the first bytes are not text, or are UTF-16 or UTF-32 without a mark."""
    order = _detect_byte_order(head)
    if given in ("utf-16", "utf-32"):
        fixes = (
            [order] if order else [each for each in (f"{given}-le", f"{given}-be") if _can_decode(head, each)]
        )
        fix = " or ".join(options.advise(encoding=each) for each in fixes)
        if not fix:
            raise DataError(f"{name}: is not {given}; {_advise_encoding(given, options)}")
        raise DataError(f"{name}: has no byte order mark; write {fix}")
    if given == "utf-8":
        for start, what, kind in BINARY:
            if head.startswith(start):
                fix = f"; write {options.advise(format=kind)}" if kind else ""
                raise DataError(f"{name}: is not text but {what}{fix}")
        if order:
            raise DataError(
                f"{name}: looks like {order[:6]} without a byte order mark; write "
                f"{options.advise(encoding=order)}"
            )


def _can_decode(head: bytes, codec: str) -> bool:
    """Return whether a codec decodes the first bytes of a file, whose last character may be incomplete."""
    try:
        codecs.getincrementaldecoder(codec)().decode(head)
    except UnicodeError:
        return False
    return True


def _add_byte_order(mark: bytes, codec: str) -> str:
    """Return the name of the codec with the byte order that a mark states."""
    return f"{codec}-{'le' if mark.startswith(codecs.BOM_UTF16_LE) else 'be'}"


def _detect_byte_order(head: bytes) -> str:
    """Detect UTF-16 or UTF-32 of Latin text by the positions of its zero bytes; empty for other files."""
    size = len(head) // 4
    if size < 1:
        return ""
    zeros = [head[place : size * 4 : 4].count(0) > size / 2 for place in range(4)]
    return {
        (False, True, False, True): "utf-16-le",
        (True, False, True, False): "utf-16-be",
        (False, True, True, True): "utf-32-le",
        (True, True, True, False): "utf-32-be",
    }.get((zeros[0], zeros[1], zeros[2], zeros[3]), "")


def _open_stream(path: Path) -> pa.NativeFile:
    return pa.input_stream(str(path), compression=COMPRESSION.get(path.suffix))


def _describe_cause(error: OSError, path: Path) -> str:
    if "Truncated" in str(error):
        return f"is truncated: the {COMPRESSION[path.suffix]} stream has no end; copy or download it again"
    if error.errno is None and path.suffix in COMPRESSION:
        return f"is not a {COMPRESSION[path.suffix]} file, or damaged; copy or download it again"
    return f"cannot be read ({error.strerror or error}); fix the path or its permissions"


def _make_decoding_error(file: DataFile) -> DataError:
    """Return the error for a byte that cannot be decoded, with its offset (decompressed, from 0) and line."""
    name, encoding = file.name, file.codec
    decoder = codecs.getincrementaldecoder(encoding)()
    done, line = 0, 1
    codec = encoding.removesuffix("-sig")
    advice = _advise_encoding(codec, file.options)
    with _open_stream(file.path) as stream:
        while True:
            chunk = stream.read(1 << 20)
            held = len(decoder.getstate()[0])
            try:
                line += decoder.decode(chunk, final=not chunk).count("\n")
            except UnicodeDecodeError as error:
                before = error.object[: error.start].decode(encoding, "replace")
                return DataError(
                    f"{name}, line {line + before.count(chr(10))}: byte {done - held + error.start:,} "
                    f"({error.object[error.start]:#04x}) is not {codec}; {advice}"
                )
            except UnicodeError as error:
                return DataError(f"{name}, line {line}: is not {codec} ({error}); {advice}")
            done += len(chunk)
            if not chunk:  # decoding succeeded this time, so the file has changed
                return DataError(f"{name}: changed while it was read; run again")


def _advise_encoding(encoding: str, options: FileOptions) -> str:
    others = ["latin-1", "cp1252"] if encoding == "utf-8" else ["utf-8", "cp1252", "gb18030"]
    *some, last = [options.advise(encoding=other) for other in others]
    return f"name the encoding of the file, such as {', '.join(some)} or {last}"
