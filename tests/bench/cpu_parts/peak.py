"""Which machine this is, and its ceiling: matrix products in bf16 and in float32."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch
from parts.machine import LIBRARIES, gemm, installed

from cpu_parts.records import Settings, emit

FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
SIZES = {"bfloat16": (1024, 2048, 3072), "float32": (1024, 2048)}
TURNS = 9


def run(settings: Settings) -> None:
    """Write one line."""
    speeds: dict[str, Any] = {}
    for dtype, full in SIZES.items():
        sizes = (256,) if settings.toy else full
        each = {str(size): round(gemm("cpu", size, turns=TURNS, dtype=dtype) / 1e9, 1) for size in sizes}
        speeds |= {f"{dtype}_gflops": max(each.values()), f"{dtype}_by_size": each}
    emit(
        "peak",
        round=settings.round,
        **speeds,
        **processor(),
        cores=os.cpu_count(),
        threads=torch.get_num_threads(),
        load=round(os.getloadavg()[0], 2),
        python=sys.version.split()[0],
        versions={name: found for name in LIBRARIES if (found := installed(name)) is not None},
    )


def processor() -> dict[str, Any]:
    """Return the name of the processor and the instructions for matrix products that it has."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {"processor": platform.processor() or platform.machine(), "flags": []}
    entries = dict(
        line.split(":", 1) for line in path.read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    )
    found = {name.strip(): value.strip() for name, value in entries.items()}
    there = found.get("flags", "").split()
    return {
        "processor": found.get("model name") or platform.machine(),
        "flags": [flag for flag in FLAGS if flag in there],
    }
