"""Assigns local files to splits: by the recipe, or by the file names in a folder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from hfpipe.advice import advise
from hfpipe.data.readers.files import find_format
from hfpipe.errors import DataError

Found = Mapping[str, Sequence[Path]]
"""Pattern as written → the matching files, or the folder of that name."""
WORDS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
"""Word in a file name → its split."""
_WORD = re.compile(rf"(?<![^\W\d_])({'|'.join(WORDS)})(?![^\W\d_])", re.IGNORECASE)
_WILD = re.compile(r"[*?\[]")


def split_files(
    patterns: Mapping[str | None, Found], base: Path, left_out: list[str]
) -> dict[str | None, list[Path]]:
    """Return split → files; the key is None if the files are not assigned to splits.

    A split in the recipe contains the files that match its patterns. Otherwise, if file names in a folder or
    pattern contain a split, files are assigned to it: `train.csv`, `test-00000.csv`, `dev/a.csv`. The words
    of the pattern itself are ignored. Files in a folder that are not data files are added to `left_out`.
    Raises DataError for a pattern without matches, for a file name with no split (if other file names have
    one) or with two, and for a file in a split whose name contains another split.
    """
    splits: dict[str | None, list[Path]] = {}
    for split, found in patterns.items():
        stated = {
            path: word
            for pattern in found
            for path, word in _match_files(pattern, found[pattern], base, left_out)
        }
        if split is None:
            _refuse_mixed_list(list(found))
            splits |= _group_paths(stated, base)
        else:
            _require_matching_names(split, stated, base)
            splits[split] = list(stated)
    return splits


def _match_files(
    pattern: str, paths: Sequence[Path], base: Path, left_out: list[str]
) -> Iterator[tuple[Path, str | None]]:
    """Yield the files of a pattern, each with the split in the rest of its name."""
    if not paths:
        raise DataError(f"{pattern}: no file matches; fix the pattern, which is relative to the recipe")
    wild = _WILD.search(pattern)
    for path in paths:
        if wild is None and path.is_dir():
            for inside in _list_folder(pattern, path, base, left_out):
                yield inside, _find_split(inside, len(path.as_posix()), base)
        elif wild is None:
            yield path, None
        else:
            fixed = (base / Path(pattern[: wild.start()] + "x").expanduser()).as_posix()
            yield path, _find_split(path, len(fixed) - 1, base)


def _list_folder(pattern: str, folder: Path, base: Path, left_out: list[str]) -> list[Path]:
    """Return the data files below a folder, all of one format, without hidden and other files."""
    below = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    shown = [path for path in below if not any(part[0] in "._" for part in path.relative_to(folder).parts)]
    files = [path for path in shown if find_format(path) is not None]
    formats = sorted({find_format(path) or "" for path in files})
    if len(formats) != 1:
        what = f"holds {' and '.join(formats)} files" if formats else "is a folder without data files"
        ending = files[0].name.partition(".")[2] if files else "jsonl"
        raise DataError(f"{pattern}: {what}; name the files to read, as {pattern.rstrip('/')}/*.{ending}")
    left_out += [format_path(path, base) for path in sorted({*below} - {*files})]
    return files


def _find_split(path: Path, fixed: int, base: Path) -> str | None:
    """Return the split in a file's name after the first `fixed` characters, or else in its folders."""
    whole = path.as_posix()
    words = [found for found in _WORD.finditer(whole) if found.end() > fixed]
    own = [found for found in words if found.start() > whole.rfind("/")]
    splits = {WORDS[found[0].lower()] for found in own or words}
    if len(splits) > 1:
        raise DataError(
            f"{format_path(path, base)}: its name contains {' and '.join(sorted(splits))}; name its "
            f"split, as with {advise(files={min(splits): format_path(path, base)})}"
        )
    return splits.pop() if splits else None


def _require_matching_names(split: str, stated: Mapping[Path, str | None], base: Path) -> None:
    for path, other in stated.items():
        if other not in (None, WORDS.get(split, split)):
            raise DataError(
                f"{format_path(path, base)}: matches the pattern of {split}, but its name contains {other}; "
                "narrow the pattern, or list the files"
            )


def _refuse_mixed_list(patterns: Sequence[str]) -> None:
    names = [Path(pattern).name for pattern in patterns if not _WILD.search(pattern)]
    splits = {WORDS[word.lower()] for name in names for word in _WORD.findall(name)}
    if len(names) > 1 and len(splits) > 1:
        raise DataError(
            f"`files` lists {', '.join(names)}, whose names contain {' and '.join(sorted(splits))}; write "
            f"{advise(files=_group_patterns(patterns))}, or, to put all in one split, "
            f"{advise(files={'train': list(patterns)})}"
        )


def _group_patterns(patterns: Sequence[str]) -> dict[str, list[str]]:
    """Return split → patterns, by the last word in each pattern that names a split; train by default."""
    splits: dict[str, list[str]] = {}
    for pattern in patterns:
        words = _WORD.findall(Path(pattern).name)
        splits.setdefault(WORDS[words[-1].lower()] if words else "train", []).append(pattern)
    return splits


def _group_paths(stated: Mapping[Path, str | None], base: Path) -> dict[str | None, list[Path]]:
    splits = sorted({split for split in stated.values() if split is not None})
    if not splits:
        return {None: list(stated)}
    other = next((path for path, split in stated.items() if split is None), None)
    if other is not None:
        example, split = next((path, split) for path, split in stated.items() if split is not None)
        advice = advise(files={split: format_path(example, base), "train": format_path(other, base)})
        if split == "train":
            advice = advise(files={"train": [format_path(example, base), format_path(other, base)]})
        raise DataError(
            f"{format_path(other, base)}: its name contains no split, but that of "
            f"{format_path(example, base)} does; list the files of each split, as with {advice}, or "
            "narrow the pattern"
        )
    return {name: [path for path, split in stated.items() if split == name] for name in splits}


def format_path(path: Path, base: Path) -> str:
    """Return the name of a file in messages: its path, relative to the recipe's folder if it is inside."""
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else str(path)
