"""`hfpipe demo` on the command line: serves the page until Ctrl-C."""

from __future__ import annotations

import argparse
import threading
from contextlib import suppress

from hfpipe.cli.console import say
from hfpipe.inference.serving import demo


def serve_model(options: argparse.Namespace) -> int:
    """Serve the page of a model until the command is interrupted, and return the exit code."""
    page = demo(options.model, task=options.task, options=options.set, runs=options.runs, port=options.port)
    with page, suppress(KeyboardInterrupt):
        say(f"open {page.url} in a browser on this machine; Ctrl-C ends it")
        threading.Event().wait()
    return 0
