"""Plans and runs recipes: which stages are done, which would run and why."""

from __future__ import annotations

from hfpipe.distributed.world import check_world, is_first_of_machine, is_first_process
from hfpipe.runner.adoption import adopt_stage
from hfpipe.runner.execute import run_launched_stage, run_recipe
from hfpipe.runner.launch import Launch, arrange_processes, check_accelerate_file
from hfpipe.runner.plan import PlannedStage, plan_recipe

__all__ = [
    "Launch",
    "PlannedStage",
    "adopt_stage",
    "arrange_processes",
    "check_accelerate_file",
    "check_world",
    "is_first_of_machine",
    "is_first_process",
    "plan_recipe",
    "run_launched_stage",
    "run_recipe",
]
