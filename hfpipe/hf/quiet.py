"""Sends what Transformers says to the stage's log, not the screen; its settings stay as they were."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging as transformers_logging


@contextmanager
def quiet() -> Iterator[None]:
    """Run without the progress bars and the screen output of Transformers; warnings reach the root logger."""
    logger = logging.getLogger("transformers")
    handlers, propagate = logger.handlers[:], logger.propagate
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    logger.handlers, logger.propagate = [logging.NullHandler()], True
    try:
        yield
    finally:
        logger.handlers, logger.propagate = handlers, propagate
        if bars:
            transformers_logging.enable_progress_bar()


@contextmanager
def quiet_forks() -> Iterator[None]:
    """Let loaders start their workers without the warning of Tokenizers; workers do not tokenize."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before
