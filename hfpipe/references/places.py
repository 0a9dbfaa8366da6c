"""References to data, models, code and files in a recipe, and the paths that they resolve to."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from glob import glob
from hashlib import sha256
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import core_schema

from hfpipe.errors import DataError

T = TypeVar("T", bound=str)


class _Text(str):
    """Base of strings with a special meaning, which can be collected from any settings."""

    pattern: ClassVar[str] = r"(?s).+"
    meant: ClassVar[str] = "text"
    prefix: ClassVar[str] = ""
    """Prefix to add if the key that contains the text already implies it."""
    form: ClassVar[str] = "text"
    """Name of such a value in the reference and the JSON Schema."""

    @classmethod
    def __get_pydantic_core_schema__(cls, _: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        def parse(text: str) -> _Text:
            if not re.fullmatch(cls.pattern, text):
                raise ValueError(f"{text!r} is not {cls.meant}")
            return cls(cls.prefix + text.removeprefix(cls.prefix))

        return core_schema.no_info_after_validator_function(parse, core_schema.str_schema(strict=True))

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler(core), "format": cls.form}


class Place(_Text):
    """Location of an artifact: `stage:NAME`, `package:DISTRIBUTION/path`, `./path`, `/path` or a Hub id."""

    pattern = (
        r"stage:[^\s:/]+|package:[^\s:/]+(/.+)?|\.{1,2}/.*|/.+|~/.+|[A-Za-z0-9][\w.-]*(/[\w.-]+)?(@[\w./-]+)?"
    )
    kinds: ClassVar[frozenset[str]] = frozenset()
    """Kinds of stage that produce such an artifact; empty if any kind does."""
    form = "reference"
    meant = "a reference: write stage:NAME, package:DISTRIBUTION/path, ./path, /path or a Hub id"

    @property
    def stage(self) -> str | None:
        """Name of the stage, if the place is a stage."""
        return self[6:] if self.startswith("stage:") else None

    @property
    def package(self) -> tuple[str, str] | None:
        """Distribution and path inside it, if the place is a package."""
        if not self.startswith("package:"):
            return None
        distribution, _, inside = self[8:].partition("/")
        return distribution, inside

    @property
    def path(self) -> str | None:
        """Path on disk, relative to the recipe's folder, if the place is a path."""
        return str(self) if self.startswith((".", "/", "~")) else None

    @property
    def hub(self) -> tuple[str, str | None] | None:
        """Hub id and revision (`owner/name@revision`), if the place is on the Hub."""
        if self.stage or self.package or self.path:
            return None
        name, _, revision = self.partition("@")
        return name, revision or None


class DataPlace(Place):
    """The place of a data set."""

    kinds = frozenset({"dataset"})


class StageSource(DataPlace):
    """An upstream stage as the value of the key `stage`: `{stage: wiki}`."""

    pattern = r"(stage:)?[^\s:/]+"
    form = "name of a stage"
    meant = "the name of a stage"
    prefix = "stage:"


class PackageSource(DataPlace):
    """A data file in an installed package, as the value of the key `package`: `{package: DIST/path}`."""

    pattern = r"(package:)?[^\s:/]+/.+"
    form = "DISTRIBUTION/path"
    meant = "a file inside a package: write DISTRIBUTION/path"
    prefix = "package:"


class ModelPlace(Place):
    """The place of a model."""

    kinds = frozenset({"pretrain", "finetune"})


class EvaluatedPlace(ModelPlace):
    """The place of a model that is run and not trained further; it may be an export."""

    kinds = ModelPlace.kinds | {"export"}


class BaselinePlace(EvaluatedPlace):
    """A model to compare with, or the name of a trivial baseline."""

    trivial: ClassVar[frozenset[str]] = frozenset(
        {
            "chance",
            "copy",
            "frequent",
            "gazetteer",
            "lead",
            "longest",
            "majority",
            "sentence",
            "tfidf",
            "trigram",
            "unigram",
        }
    )
    """Baseline names of the built-in tasks; other tasks may declare more, see `BaselineName`."""

    @property
    def is_trivial(self) -> bool:
        """Whether this is the name of a trivial baseline instead of the place of a model."""
        return self in self.trivial

    @property
    def hub(self) -> tuple[str, str | None] | None:
        """Hub id and revision, if the place is on the Hub."""
        return None if self.is_trivial else super().hub


class BaselineName(BaselinePlace):
    """The name of a trivial baseline that a task declares, such as a user-defined task."""

    @property
    def is_trivial(self) -> bool:
        return True


class MetricPlace(Place):
    """The place of a metric of `evaluate`, which no stage produces."""

    pattern = Place.pattern.partition("|")[2]
    meant = "a metric: write ./file.py, a folder, package:DISTRIBUTION/path or a Hub id"


class TokenizerPlace(Place):
    """The place of a tokenizer; the folder of a trained model contains one too."""

    kinds = frozenset({"tokenizer", "pretrain", "finetune"})


class Code(_Text):
    """User code: `file.py:name`, relative to the recipe; the file's text is part of the stage's key."""

    pattern = r"[^:]+\.py:[A-Za-z_]\w*"
    form = "file.py:name"
    meant = "user code: write file.py:name"

    @property
    def file(self) -> str:
        """Path of the file, relative to the recipe's folder."""
        return self.rpartition(":")[0]

    @property
    def attribute(self) -> str:
        """Name of the function or class inside the file."""
        return self.rpartition(":")[2]


class Glob(_Text):
    """A path or glob pattern of local files, relative to the recipe; their content is part of the key."""

    form = "path or pattern"


def collect(
    value: Any, kind: type[T], path: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], T]]:
    """Yield (path of keys, string) for every string of one class in settings, in a fixed order."""
    if isinstance(value, kind):
        yield path, value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from collect(getattr(value, name), kind, (*path, name))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from collect(item, kind, (*path, key))
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from collect(item, kind, (*path, number))


def locate_place(place: Place, base: Path, inputs: Mapping[str, Path]) -> Path | None:
    """Return the file or folder of a place, or None for a Hub id; never accesses the network.

    `base` is the recipe's folder, `inputs` maps upstream stages to their folders. Raises DataError when a
    package is not installed, and when the path does not exist or is not a regular file or folder.
    """
    if place.stage is not None:
        return inputs[place.stage]
    if place.package is not None:
        return locate_in_package(*place.package)
    if place.path is None:
        return None
    try:
        path = (base / Path(place.path).expanduser()).resolve()
        there = path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # name too long, circular links, unknown user
        cause = getattr(error, "strerror", None) or error
        raise DataError(f"{place[:200]}: cannot be looked up ({cause}); fix the path") from None
    if not there:
        raise DataError(f"{place}: there is no {path}; fix the path, which is relative to {base}")
    check_regular(path)
    return path


def check_regular(path: Path) -> None:
    """Raise DataError if a file, or an entry of a folder, is a pipe, a device or a socket.

    Libraries open the files in the folder of a model or tokenizer by name and would block on them.
    """
    try:
        for item in (path, *sorted(path.iterdir())) if path.is_dir() else (path,):
            with suppress(FileNotFoundError):  # a broken link
                if not item.is_dir() and (kind := find_irregular_type(item)) is not None:
                    raise DataError(f"{item}: is {kind}, which has no end; name a regular file, or remove it")
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); fix the path or its permissions"
        ) from None


def find_irregular_type(path: Path) -> str | None:
    """Return the type of a path that is not a regular file: a folder, a named pipe, a device or a socket.

    Links are followed. Raises OSError if the path does not exist, ValueError for a zero byte in the path.
    """
    mode = path.stat().st_mode
    if stat.S_ISREG(mode):
        return None
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def locate_in_package(name: str, inside: str) -> Path:
    """Return a file or folder inside an installed distribution, without importing it.

    Raises DataError if the distribution is not installed or has no such file, or the path is outside of it.
    """
    place = f"package:{name}/{inside}"
    try:
        found = distribution(name)
    except (PackageNotFoundError, ValueError):  # ValueError: the name is white space
        raise DataError(f"package:{name} is not installed; pip install {name}") from None
    if not inside.strip("./"):
        raise DataError(f"{place}: name a file or folder inside the package, as package:{name}/PATH")
    try:
        roots = [Path(str(found.locate_file(""))), *_find_editable_root(found)]
        root = next((each for each in roots if (each / inside).exists()), roots[0])
        path = root / inside
        if not path.exists():
            raise DataError(f"{place}: {name} is installed but contains no {inside}")
        leads_out = ".." in Path(inside).parts or not path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError) as error:  # name too long, circular links, zero byte
        raise DataError(f"{place}: cannot be looked up ({error})") from None
    if leads_out:
        raise DataError(f"{place}: leads out of the package; name a file that {name} installs")
    return path


def _find_editable_root(found: Distribution) -> Iterator[Path]:
    """Yield the source folder of a package installed with `pip install -e` (PEP 610)."""
    text = found.read_text("direct_url.json")
    origin = json.loads(text) if text else {}
    if origin.get("dir_info", {}).get("editable") and origin["url"].startswith("file:"):
        yield Path(url2pathname(urlsplit(origin["url"]).path))


def find_matches(pattern: Glob, base: Path) -> list[Path]:
    """Return the files that match a pattern, sorted; empty if there are none.

    Raises DataError if a link below `**` points to a folder that contains it, which would never end.
    """
    try:
        absolute = str(base / Path(pattern).expanduser())
    except (RuntimeError, ValueError) as error:  # unknown user, zero byte
        raise DataError(f"{pattern}: cannot be looked up ({error}); fix the path") from None
    if "**" in absolute:
        _check_ends(Path(absolute.partition("**")[0]), pattern)
    found = sorted(Path(path) for path in glob(absolute, recursive=True))
    for path in found:
        if not str(path).isprintable() and any("\ud800" <= character <= "\udfff" for character in str(path)):
            raise DataError(f"{pattern}: the name of {os.fsencode(path)!r} is not UTF-8; rename the file")
    return found


def _check_ends(root: Path, pattern: str) -> None:
    for folder, names, _ in os.walk(root, followlinks=True):
        for name in names:
            link = Path(folder, name)
            if link.is_symlink() and link.resolve() in (root.resolve(), *(p.resolve() for p in link.parents)):
                raise DataError(
                    f"{pattern}: {link} links to a folder that contains it, so `**` never ends; "
                    "delete the link"
                )


def make_slug(place: str) -> str:
    """Return a unique part of a file name for a place; a digest distinguishes `./a-b` from `a/b`."""
    plain = re.sub(r"[^\w.-]+", "-", place).strip("-.")
    own = plain == place and not place.startswith("stage-")
    if own or re.fullmatch(r"stage:\w[\w.-]*", place):
        return plain
    return f"{plain}-{sha256(place.encode()).hexdigest()[:8]}"
