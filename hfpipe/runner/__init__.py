"""Plan and run: which stages are done, which would run and why, and running them."""

from __future__ import annotations

from hfpipe.runner.execute import run, run_stage
from hfpipe.runner.launch import Launch, arrangement, checked_file
from hfpipe.runner.plan import Step, plan
from hfpipe.runner.world import check_world, first_of_machine, first_process

__all__ = [
    "Launch",
    "Step",
    "arrangement",
    "check_world",
    "checked_file",
    "first_of_machine",
    "first_process",
    "plan",
    "run",
    "run_stage",
]
