"""Checks, before a stage starts, that its inputs are as the upstream stages wrote them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hfpipe.contract import RunContext, Stage
from hfpipe.references.places import Place, collect, locate_place
from hfpipe.store.digests import Digests
from hfpipe.store.store import check_whole


def check_inputs(stage: Stage, ctx: RunContext, runs: Path) -> None:
    """Raise StageError, with the file, when a folder that the stage reads is damaged.

    Digests of unchanged files are cached in `runs`.
    """
    digests = Digests(runs / ".digests.json")
    for folder in _find_folders(stage, ctx):
        check_whole(folder, digests)
    digests.save()


def _find_folders(stage: Stage, ctx: RunContext) -> Iterator[Path]:
    """Yield the folders that a stage reads, including those of other recipes and the base of an adapter."""
    for _, place in collect(stage, Place):
        folder = locate_place(place, ctx.base, ctx.inputs)
        if folder is None or not folder.is_dir():
            continue
        yield folder
        if (folder / "adapter_config.json").is_file():
            from hfpipe.modeling.loading.lora import find_base, read_adapter_config

            adapter = read_adapter_config(str(folder), None, local=True)
            base = find_base(adapter, folder) if adapter is not None else None
            if isinstance(base, Path):
                yield base
