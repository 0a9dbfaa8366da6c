"""Configures how PyTorch allocates GPU memory, which must be set before it uses a GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLE, ALSO = "PYTORCH_CUDA_ALLOC_CONF", ("PYTORCH_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
"""Environment variables that configure the allocator; every supported version of torch reads the first."""
GROWING = "expandable_segments:True"
"""Segments grow in place, so that batches of varying lengths do not fragment the memory."""


@contextmanager
def use_expandable_segments() -> Iterator[None]:
    """Use expandable segments while stages run, in this process and in those that it starts.

    Settings in the environment are not overridden.
    """
    if any(name in os.environ for name in (VARIABLE, *ALSO)):
        yield
        return
    os.environ[VARIABLE] = GROWING
    try:
        yield
    finally:
        os.environ.pop(VARIABLE, None)
