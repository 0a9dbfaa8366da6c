"""Part a: which machine this is, what it lacks, and its two ceilings: matrix products and memory."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires, version

from gpu_parts.records import Settings, emit, median_seconds

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
NEEDED = (
    "accelerate",
    "datasets",
    "datasketch",
    "evaluate",
    "huggingface-hub",
    "peft",
    "pydantic",
    "rouge-score",
    "sacrebleu",
    "scikit-learn",
    "seqeval",
    "tokenizers",
    "transformers",
)
"""hfpipe's own requirements, whose requirements are checked in turn."""


def run(settings: Settings) -> None:
    """Write one line of facts."""
    import torch

    cuda = settings.device == "cuda"
    emit(
        "a",
        gpu=torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
        driver=_driver() if cuda else None,
        memory_gb=round(torch.cuda.get_device_properties(0).total_memory / 1e9, 1) if cuda else None,
        cores=os.cpu_count(),
        python=sys.version.split()[0],
        versions={name: _version(name) for name in LIBRARIES},
        unmet=unmet(),
        gemm_tflops=_gemm(settings),
        copy_gb_s=_copy(settings),
    )


def unmet() -> list[str]:
    """Return the requirements that this environment does not meet."""
    from packaging.requirements import Requirement

    missing = []
    for name in NEEDED:
        if _version(name) is None:
            missing.append(f"{name} is not installed")
            continue
        for text in requires(name) or []:
            requirement = Requirement(text)
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
                continue
            there = _version(requirement.name)
            if there is None or not requirement.specifier.contains(there, prereleases=True):
                missing.append(f"{name} needs {requirement.name}{requirement.specifier}; there is {there}")
    return missing


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=20).stdout.strip()


def _gemm(settings: Settings) -> float:
    """Return TFLOP/s of a square bf16 product of random matrices."""
    import torch

    size = 512 if settings.toy else 8192
    a, b = (torch.randn(size, size, device=settings.device).bfloat16() for _ in range(2))
    seconds = median_seconds(lambda: a @ b, settings.device, 5 if settings.toy else 30)
    return round(2 * size**3 / seconds / 1e12, 3)


def _copy(settings: Settings) -> float:
    """Return GB/s of a copy within the device's memory, bytes read and written."""
    import torch

    count = 1 << (22 if settings.toy else 30)
    source = torch.randn(count // 2, device=settings.device)
    target = torch.empty_like(source)
    seconds = median_seconds(lambda: target.copy_(source), settings.device, 5 if settings.toy else 20)
    return round(2 * source.nbytes / seconds / 1e9, 1)
