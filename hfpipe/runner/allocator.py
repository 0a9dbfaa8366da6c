"""How PyTorch allocates the memory of a GPU, which has to be set before it uses one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLE, ALSO = "PYTORCH_CUDA_ALLOC_CONF", ("PYTORCH_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
"""Environment variables that configure the allocator; every supported version of torch reads the first."""
GROWING = "expandable_segments:True"
"""Segments grow in place: batches of many lengths then leave no gaps that nothing fits into."""


@contextmanager
def expandable_segments() -> Iterator[None]:
    """Let the allocator grow its segments while stages run, here and in processes that are started.

    What the environment says already stays.
    """
    if any(name in os.environ for name in (VARIABLE, *ALSO)):
        yield
        return
    os.environ[VARIABLE] = GROWING
    try:
        yield
    finally:
        os.environ.pop(VARIABLE, None)
