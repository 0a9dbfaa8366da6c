"""Silences progress bars and messages of libraries on the screen; messages go to the stage's log."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any


@contextmanager
def silence_libraries() -> Iterator[None]:
    """Disable progress bars and screen output of Transformers and Datasets, if they are imported.

    Messages of Transformers are propagated to the root logger. All settings are restored at the end.
    """
    with ExitStack() as stack:
        if "transformers" in sys.modules:
            stack.enter_context(_silence_transformers())
        if "datasets" in sys.modules:
            stack.enter_context(_hide_bars_of_datasets())
        yield


@contextmanager
def _silence_transformers() -> Iterator[None]:
    import transformers

    bars: Any = transformers.utils.logging
    logger = logging.getLogger("transformers")
    handlers, propagate = logger.handlers[:], logger.propagate
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    logger.handlers, logger.propagate = [logging.NullHandler()], True
    try:
        yield
    finally:
        logger.handlers, logger.propagate = handlers, propagate
        if shown:
            bars.enable_progress_bar()


@contextmanager
def _hide_bars_of_datasets() -> Iterator[None]:
    import datasets

    hidden = datasets.utils.are_progress_bars_disabled()
    datasets.utils.disable_progress_bars()
    try:
        yield
    finally:
        if not hidden:
            datasets.utils.enable_progress_bars()


@contextmanager
def allow_forks() -> Iterator[None]:
    """Suppress the warning of Tokenizers when data loaders fork workers, which do not tokenize."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before
