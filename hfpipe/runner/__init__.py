"""Plan and run: which stages are done, which would run and why, and running them."""

from __future__ import annotations

from hfpipe.distributed.world import check_world, first_process, is_first_of_machine
from hfpipe.runner.adoption import adopt_stage
from hfpipe.runner.execute import run_launched_stage, run_recipe
from hfpipe.runner.launch import Launch, arrange_processes, checked_file
from hfpipe.runner.plan import PlannedStage, plan_recipe

__all__ = [
    "Launch",
    "PlannedStage",
    "adopt_stage",
    "arrange_processes",
    "check_world",
    "checked_file",
    "first_process",
    "is_first_of_machine",
    "plan_recipe",
    "run_launched_stage",
    "run_recipe",
]
