"""Checks that the packages of training arguments are installed: optimizers, trackers and kernels."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any, NamedTuple

from hfpipe.errors import Problem
from hfpipe.recipe.installed import list_trackers
from hfpipe.recipe.messages import Keys, format_keys, suggest


class Package(NamedTuple):
    """The modules to import, and the package that installs them."""

    modules: tuple[str, ...]
    """Alternatives; one of them is sufficient."""
    install: str


def _make_package(name: str) -> Package:
    return Package((name,), f"pip install {name.replace('_', '-')}")


_OPTIMIZERS: dict[str, Package] = {
    r"galore_.*": _make_package("galore_torch"),
    r"apollo_.*": _make_package("apollo_torch"),
    r"lomo|adalomo": _make_package("lomo_optim"),
    r"grokadamw": _make_package("grokadamw"),
    r"schedule_free_.*": _make_package("schedulefree"),
    r"adamw_torch_\dbit": _make_package("torchao"),
    r"stable_adamw": Package(("optimi",), "pip install torch-optimi"),
    r"adamw_anyprecision": Package(("torchdistx",), "see https://github.com/pytorch/torchdistx"),
    r"adamw_torch_xla": _make_package("torch_xla"),
    r"adamw_torch_npu_fused": _make_package("torch_npu"),
    r".*8bit|.*bnb.*|paged_.*|lion_.*|ademamix.*": _make_package("bitsandbytes"),
}
"""Optimizer name → its package; the first match applies. Others are in torch or Transformers."""
_TRACKERS: dict[str, Package] = {
    "azure_ml": Package(("azureml",), "pip install azureml-core"),
    "tensorboard": Package(("tensorboard", "tensorboardX"), "pip install tensorboard"),
    "flyte": Package(("flytekit",), "pip install flytekit"),
    "dagshub": _make_package("dagshub"),
    "kubeflow": Package(("kubeflow",), "pip install kubeflow"),
}
"""Trackers whose module has a different name, or that have several alternative modules."""
_NEED_TARGETS = re.compile(r"(galore|apollo)_.*")


def find_package_problems(given: Mapping[str, Any], path: Keys) -> Iterator[Problem]:
    """Yield the packages that the arguments need and that are not installed; imports nothing."""
    optimizer = given.get("optim")
    if isinstance(optimizer, str):
        needed = next((of for name, of in _OPTIMIZERS.items() if re.fullmatch(name, optimizer)), None)
        yield from _check_package(f"the optimizer {optimizer!r}", needed, (*path, "optim"))
        if _NEED_TARGETS.fullmatch(optimizer) and not given.get("optim_target_modules"):
            message = f"the optimizer {optimizer!r} needs optim_target_modules, as all-linear"
            yield Problem(f"{format_keys((*path, 'optim'))}: {message}", (*path, "optim"))
    if given.get("use_liger_kernel") is True:
        yield from _check_package(
            "use_liger_kernel", _make_package("liger_kernel"), (*path, "use_liger_kernel")
        )
    yield from _check_trackers(given.get("report_to"), (*path, "report_to"))


def _check_trackers(given: Any, here: Keys) -> Iterator[Problem]:
    for name in given if isinstance(given, list) else [given]:
        if not isinstance(name, str) or name in ("none", "all"):
            continue
        if name not in list_trackers():
            known = [*list_trackers(), "none", "all"]
            yield Problem(f"{format_keys(here)}: there is no tracker {name!r}{suggest(name, known)}", here)
        else:
            yield from _check_package(f"the tracker {name!r}", _TRACKERS.get(name, _make_package(name)), here)


def _check_package(what: str, needed: Package | None, here: Keys) -> Iterator[Problem]:
    if needed is not None and not any(map(find_spec, needed.modules)):
        message = f"{what} needs {needed.modules[0]}, which is not installed; {needed.install}"
        yield Problem(f"{format_keys(here)}: {message}", here)
