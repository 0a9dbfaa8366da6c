"""`hfpipe push` on the command line: prints what is uploaded, what is not, and the address."""

from __future__ import annotations

import argparse

from hfpipe.cli.console import say
from hfpipe.number_format import format_bytes


def push_model(options: argparse.Namespace) -> int:
    """Upload a model, or show what would be uploaded, and return the exit code."""
    from hfpipe.publishing.upload import push

    found = push(
        options.stage, options.repository, options.runs, dry_run=options.dry_run, private=options.private
    )
    size = format_bytes(sum(found.files.values()))
    say(f"{'would upload' if found.url is None else 'uploaded'} {len(found.files)} files ({size}):")
    for name, number in found.files.items():
        say(f"    {name}  {format_bytes(number)}")
    say(f"not uploaded: {', '.join(found.kept) or 'nothing'}")
    say("nothing was uploaded" if found.url is None else found.url)
    return 0
