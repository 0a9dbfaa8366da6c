"""Where things lie: places, code and files as a recipe writes them, and the paths they mean."""

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
    """A string with a meaning of its own, so that it is found again inside any settings."""

    pattern: ClassVar[str] = r"(?s).+"
    meant: ClassVar[str] = "text"
    prefix: ClassVar[str] = ""
    """Put in front where the key that holds the text already says it."""
    form: ClassVar[str] = "text"
    """What the reference and the JSON Schema call such a value."""

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
    """Where something lies: `stage:NAME`, `package:DISTRIBUTION/path`, `./path`, `/path` or a Hub id."""

    pattern = (
        r"stage:[^\s:/]+|package:[^\s:/]+(/.+)?|\.{1,2}/.*|/.+|~/.+|[A-Za-z0-9][\w.-]*(/[\w.-]+)?(@[\w./-]+)?"
    )
    kinds: ClassVar[frozenset[str]] = frozenset()
    """Kinds of stage that give what is asked for; empty when any does."""
    form = "reference"
    meant = "a place: write stage:NAME, package:DISTRIBUTION/path, ./path, /path or a Hub id"

    @property
    def stage(self) -> str | None:
        """Name of the stage meant, if one is."""
        return self[6:] if self.startswith("stage:") else None

    @property
    def package(self) -> tuple[str, str] | None:
        """Distribution and the path inside it, if a package is meant."""
        if not self.startswith("package:"):
            return None
        distribution, _, inside = self[8:].partition("/")
        return distribution, inside

    @property
    def path(self) -> str | None:
        """Path on disk, relative to the recipe's folder, if one is meant."""
        return str(self) if self.startswith((".", "/", "~")) else None

    @property
    def hub(self) -> tuple[str, str | None] | None:
        """Hub id and revision (`owner/name@revision`), if the Hub is meant."""
        if self.stage or self.package or self.path:
            return None
        name, _, revision = self.partition("@")
        return name, revision or None


class DataPlace(Place):
    """A place of a data set."""

    kinds = frozenset({"dataset"})


class StageSource(DataPlace):
    """A stage above, under a key that says so: `{stage: wiki}`."""

    pattern = r"(stage:)?[^\s:/]+"
    form = "name of a stage"
    meant = "the name of a stage"
    prefix = "stage:"


class PackageSource(DataPlace):
    """A data file inside an installed package, under a key that says so: `{package: DIST/path}`."""

    pattern = r"(package:)?[^\s:/]+/.+"
    form = "DISTRIBUTION/path"
    meant = "a file inside a package: write DISTRIBUTION/path"
    prefix = "package:"


class ModelPlace(Place):
    """A place of a model."""

    kinds = frozenset({"pretrain", "finetune"})


class BaselinePlace(ModelPlace):
    """A model to compare with, or a trivial one by its name."""

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
    """Names that the tasks of hfpipe declare; other tasks may declare more, see `BaselineName`."""

    @property
    def is_trivial(self) -> bool:
        """Whether it is the name of a baseline, not the place of a model."""
        return self in self.trivial

    @property
    def hub(self) -> tuple[str, str | None] | None:
        """Hub id and revision, if the Hub is meant."""
        return None if self.is_trivial else super().hub


class BaselineName(BaselinePlace):
    """A trivial baseline by a name that the task declares, as that of user code."""

    @property
    def is_trivial(self) -> bool:
        return True


class MetricPlace(Place):
    """A place of a metric of `evaluate`, which no stage makes."""

    pattern = Place.pattern.partition("|")[2]
    meant = "a metric: write ./file.py, a folder, package:DISTRIBUTION/path or a Hub id"


class TokenizerPlace(Place):
    """A place of a tokenizer; a trained model's folder holds one too."""

    kinds = frozenset({"tokenizer", "pretrain", "finetune"})


class Code(_Text):
    """One's own code: `file.py:name`, relative to the recipe; its text is part of the stage's key."""

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
    """A path or pattern of local files, relative to the recipe; their content is part of the key."""

    form = "path or pattern"


def collect(
    value: Any, kind: type[T], path: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], T]]:
    """Yield (path of keys, string) for every string of one kind inside settings, in a fixed order."""
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
    """Return the file or folder a place means, or None for a Hub id; never touches the network.

    `base` is the recipe's folder, `inputs` maps the stages above to their folders.
    Raises DataError when a package is not installed, the path is not there, or reading it would never end.
    """
    if place.stage is not None:
        return inputs[place.stage]
    if place.package is not None:
        return in_package(*place.package)
    if place.path is None:
        return None
    try:
        path = (base / Path(place.path).expanduser()).resolve()
        there = path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, links in a circle, no such user
        cause = getattr(error, "strerror", None) or error
        raise DataError(f"{place[:200]}: cannot be looked up ({cause}); fix the path") from None
    if not there:
        raise DataError(f"{place}: there is no {path}; fix the path, which is read relative to {base}")
    check_regular(path)
    return path


def check_regular(path: Path) -> None:
    """Raise DataError when a file, or an entry of a folder, is a pipe, a device or a socket.

    Libraries open the files of a model's or tokenizer's folder by name and would wait for ever.
    """
    try:
        for item in (path, *sorted(path.iterdir())) if path.is_dir() else (path,):
            with suppress(FileNotFoundError):  # a link that leads nowhere
                if not item.is_dir() and (kind := irregular(item)) is not None:
                    raise DataError(
                        f"{item}: is {kind}, which has no end; name a regular file, or take it out"
                    )
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); fix the path or its permissions"
        ) from None


def irregular(path: Path) -> str | None:
    """Return what a path is when it is not a file that ends: a folder, a named pipe, a device or a socket.

    Links are followed. Raises OSError when there is nothing there, ValueError for a zero byte in the path.
    """
    mode = path.stat().st_mode
    if stat.S_ISREG(mode):
        return None
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def in_package(name: str, inside: str) -> Path:
    """Return a file or folder inside an installed distribution, without importing it.

    Raises DataError when the distribution is not installed, has no such file, or the path leads out of it.
    """
    place = f"package:{name}/{inside}"
    try:
        found = distribution(name)
    except (PackageNotFoundError, ValueError):  # a name of white space is a ValueError
        raise DataError(f"package:{name} is not installed; pip install {name}") from None
    if not inside.strip("./"):
        raise DataError(f"{place}: name a file or folder inside the package, as package:{name}/PATH")
    try:
        roots = [Path(str(found.locate_file(""))), *_editable(found)]
        root = next((each for each in roots if (each / inside).exists()), roots[0])
        path = root / inside
        if not path.exists():
            raise DataError(f"{place}: {name} is installed but holds no {inside}")
        leads_out = ".." in Path(inside).parts or not path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, links in a circle, a zero byte
        raise DataError(f"{place}: cannot be looked up ({error})") from None
    if leads_out:
        raise DataError(f"{place}: leads out of the package; name a file that {name} installs")
    return path


def _editable(found: Distribution) -> Iterator[Path]:
    """Yield the folder of a package installed by `pip install -e`, which stays where it is (PEP 610)."""
    text = found.read_text("direct_url.json")
    origin = json.loads(text) if text else {}
    if origin.get("dir_info", {}).get("editable") and origin["url"].startswith("file:"):
        yield Path(url2pathname(urlsplit(origin["url"]).path))


def matches(pattern: Glob, base: Path) -> list[Path]:
    """Return the files a pattern means, sorted; empty when there are none.

    Raises DataError when a link below `**` leads back to a folder that holds it, so that it never ends.
    """
    try:
        absolute = str(base / Path(pattern).expanduser())
    except (RuntimeError, ValueError) as error:  # no such user, a zero byte
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
                    f"{pattern}: {link} links to a folder that holds it, so `**` never ends; delete the link"
                )


def slug(place: str) -> str:
    """Return a place as part of a file's name, another for each place; a digest tells `./a-b` from `a/b`."""
    plain = re.sub(r"[^\w.-]+", "-", place).strip("-.")
    own = plain == place and not place.startswith("stage-")
    if own or re.fullmatch(r"stage:\w[\w.-]*", place):
        return plain
    return f"{plain}-{sha256(place.encode()).hexdigest()[:8]}"
