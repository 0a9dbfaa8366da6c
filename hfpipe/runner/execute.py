"""Running what is not done yet, in order, alone or as one of several processes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from hfpipe.contract import Progress, RunContext
from hfpipe.distributed.world import check_world, is_launched, rank
from hfpipe.errors import StageError
from hfpipe.interruption import StopRequest
from hfpipe.recipe import Recipe
from hfpipe.report import Report, read_versions
from hfpipe.runner.allocator import expandable_segments
from hfpipe.runner.failures import locate_errors, log_stage, place_setting_errors, translate_errors
from hfpipe.runner.hub import check_hub
from hfpipe.runner.inputs import check_inputs
from hfpipe.runner.jobs import DeviceShare, JobQueue
from hfpipe.runner.jobs.folders import FoldersAtOnce, noting_failure
from hfpipe.runner.launch import Launch, check_launch, check_processes, divide_machine, start
from hfpipe.runner.plan import PlannedStage, check_known, check_stages, plan_recipe
from hfpipe.runner.provenance import describe_start, digest_inputs
from hfpipe.runner.signals import catch_signals
from hfpipe.runner.supervision import Alone, Member, join_launcher, join_run
from hfpipe.stages import revive
from hfpipe.store.files import write_whole
from hfpipe.store.stage_names import folder_name
from hfpipe.store.store import StageFile, Store, done, read_report, read_stage

if TYPE_CHECKING:
    from hfpipe.report import Provenance

log = logging.getLogger(__name__)

POLL = 0.2
"""Seconds between looks at the file system while another process works."""


def run_recipe(
    recipe: Recipe,
    runs: Path,
    *,
    until: str | None = None,
    launch: Launch = Launch(),  # noqa: B008 - frozen
    say: Callable[[str], None],
    progress: Progress,
    planned: Callable[[list[PlannedStage]], None] = lambda _: None,
    finished: Callable[[PlannedStage], None] = lambda _: None,
) -> list[PlannedStage]:
    """Run every stage that is not done, up to `until`, and return the finished plan.

    In the first process `planned` is called with the plan, before anything starts, and `finished` with each
    stage that is done, whether or not it was before.

    Raises RecipeError before anything starts when the recipe is wrong, StageError or DataError when a
    stage fails; what was finished before stays as it is.
    """
    check_world()
    with (
        catch_signals(announces=not is_launched()) as stop,
        join_launcher(runs / recipe.name, stop) as member,
        stop.closing(),
    ):
        check_launch(launch)
        steps = plan_recipe(recipe, runs, until)
        todo = {step.name: step.stage for step in steps if not step.done}
        check_processes(launch, todo)
        check_hub(recipe, todo)
        if rank() == 0:
            planned(steps)
        running = _Running(recipe, runs, launch, say, progress, member, stop, steps, finished)
        with expandable_segments():
            if launch.jobs > 1:
                JobQueue(steps, divide_machine(launch), running, stop, say).run()
            else:
                for step in steps:
                    new = not done(step.folder)
                    if new:
                        stop.check()
                        running.make(step)
                    running.conclude(step, new=new)
    return [replace(step, done=True, why=()) for step in steps]


def run_launched_stage(folder: Path, progress: Progress) -> None:
    """Be one of the processes of a stage that `run` has prepared and launched.

    Raises StageError when the folder is not a prepared stage, when no `hfpipe run` started this process (a
    stage's settings can name code to execute), or when the processes are not those asked for.
    """
    check_world()
    file = read_stage(folder)
    if done(folder) or not (folder / ".work").is_dir():
        raise StageError(f"{folder}: is not being made; hfpipe run RECIPE prepares a stage and starts this")
    with catch_signals(announces=False) as stop, join_run(stop) as member, stop.closing():
        member.stand(file.name, "")
        ctx = _context(file, folder, member.observe(progress), stop)
        with (
            locate_errors(file.name, process=rank() if is_launched() else None),
            translate_errors(ctx),
            Store(folder.parent).share(folder, rank()),
            log_stage(ctx),
            expandable_segments(),
        ):
            with noting_failure(folder):
                report = revive(file.identity.settings, Path(file.base), folder).run(ctx)
            if rank() == 0:
                write_whole(ctx.work / "result.json", report.model_dump_json())


@dataclass(frozen=True)
class _Running:
    """What the stages of a run share."""

    recipe: Recipe
    runs: Path
    launch: Launch
    say: Callable[[str], None]
    progress: Progress
    member: Member | Alone
    stop: StopRequest
    steps: list[PlannedStage]
    finished: Callable[[PlannedStage], None]
    waiting: set[str] = field(default_factory=set)
    """Stages that another run makes, as it was said."""

    def make(self, step: PlannedStage) -> None:
        """Make a stage, or wait until the first process has made it."""
        check_stages(self.recipe, self.steps)
        place = self.place(step)
        self.member.stand(step.name, place)
        if self.alone:
            _lead(self, step)
            return
        with locate_errors(step.name, place, rank() if is_launched() else None):
            if rank() == 0:
                _lead(self, step)
            else:
                _follow_stage(self, step)

    def conclude(self, step: PlannedStage, *, new: bool) -> None:
        """Say what a stage made that is done, and check the others by it if it is `new`."""
        if rank() == 0:
            self.store.clean(step.folder)  # what a kill after the report left there
            report = read_report(step.folder)
            self.say(f"{step.name}: {'done' if step.done else f'{report.seconds:.0f} s'} · {report.summary}")
            self.finished(step)
        if new:
            check_known(self.recipe, self.steps)  # after the summary, which may explain what is wrong

    def job(self, step: PlannedStage) -> _Job:
        """Return a stage that another process runs."""
        check_stages(self.recipe, self.steps)
        return _Job(self, step)

    def wait_for(self, step: PlannedStage, owner: str) -> None:
        """Say once that another run is making a stage."""
        if step.name not in self.waiting:
            self.waiting.add(step.name)
            self.say(f"{step.name}: waiting for {owner}, which is making it")

    def place(self, step: PlannedStage) -> str:
        """Return where a stage stands in the recipe."""
        return str(self.recipe.spot(("stages", step.name)) or self.recipe.path)

    @property
    def store(self) -> Store:
        return Store(self.runs / self.recipe.name)

    @cached_property
    def start(self) -> Provenance:
        """What is known of this run, found out when the first stage needs it."""
        return describe_start(self.recipe.path)

    @property
    def alone(self) -> bool:
        """Whether stages run in this process and in no other."""
        return self.launch.here and not is_launched()

    def context(self, step: PlannedStage) -> RunContext:
        """Return what a stage is given in addition to its settings."""
        file, progress = stage_file(self.recipe, step), self.member.observe(self.progress)
        ctx = _context(file, step.folder, progress, self.stop)
        if self.launch.jobs == 1:
            return ctx
        shares = divide_machine(replace(self.launch, processes=None, config=None))
        return replace(ctx, run_at_once=FoldersAtOnce(shares, self.stop))


@dataclass(frozen=True)
class _Begun:
    """A stage that is locked and whose folder is ready."""

    running: _Running
    step: PlannedStage
    ctx: RunContext
    started: float
    provenance: Provenance

    @classmethod
    def here(cls, running: _Running, step: PlannedStage, ctx: RunContext) -> _Begun:
        """Check what a stage reads, and make its folder ready."""
        check_inputs(step.stage, ctx, running.runs)
        running.store.begin(step.folder, stage_file(running.recipe, step))
        started, read = time.monotonic(), digest_inputs(step.identity.files, ctx.inputs)
        return cls(running, step, ctx, started, running.start.model_copy(update={"read": read}))

    def prepare(self) -> None:
        """Do what one process does before the stage runs."""
        for notice in self.step.stage.notices(self.ctx, alone=self.running.alone):
            self.running.say(f"{self.step.name}: {notice}")
            log.warning(notice)
        with place_setting_errors(self.running.recipe, self.step.name):
            self.step.stage.prepare(self.ctx)

    def finish(self, report: Report) -> None:
        """Mark the stage as done."""
        report = _complete_report(report, time.monotonic() - self.started, self.provenance)
        self.running.store.finish(self.step.folder, report)


def _lead(running: _Running, step: PlannedStage) -> None:
    ctx = running.context(step)
    with translate_errors(ctx), running.store.lock(step.folder, partial(running.wait_for, step)):
        if done(step.folder):
            return
        begun = _Begun.here(running, step, ctx)
        with log_stage(ctx):
            begun.prepare()
            report = _run_here_or_launched(running, step, ctx)
        begun.finish(report)


class _HeldElsewhere(Exception):  # noqa: N818 - no failure
    """Another run is making the stage."""


class _Job:
    """A stage that this process prepares and finishes, and another one runs."""

    def __init__(self, running: _Running, step: PlannedStage) -> None:
        self._running, self._step = running, step
        self._ctx = running.context(step)
        self._held = ExitStack()

    def begin(self) -> bool:
        """Lock and prepare the stage; return False where another run is making it."""
        with suppress(_HeldElsewhere), ExitStack() as held:
            held.enter_context(self._running.store.lock(self._step.folder, self._leave))
            if done(self._step.folder):
                return False
            with self._errors():
                self._begun = _Begun.here(self._running, self._step, self._ctx)
                with log_stage(self._ctx, until="prepared"):
                    self._begun.prepare()
            self._held = held.pop_all()
            return True
        return False

    def work(self, stop: StopRequest, share: DeviceShare) -> None:
        """Run the stage in other processes, and wait for them."""
        launch = self._running.launch if self._step.stage.distributed else Launch()
        with self._errors():
            start(launch, self._ctx.folder, stop, share)

    def finish(self) -> None:
        """Write the report and free the lock."""
        with self._errors(), self._held:
            self._begun.finish(_read_result(self._ctx))

    def abandon(self) -> None:
        """Free the lock."""
        self._held.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        with locate_errors(self._step.name, self._running.place(self._step)), translate_errors(self._ctx):
            yield

    def _leave(self, owner: str) -> None:
        self._running.wait_for(self._step, owner)
        raise _HeldElsewhere


def _run_here_or_launched(running: _Running, step: PlannedStage, ctx: RunContext) -> Report:
    if step.stage.distributed and not running.launch.here:
        start(running.launch, ctx.folder, running.stop)
        return _read_result(ctx)
    if step.stage.distributed and is_launched():
        write_whole(ctx.work / "ready", running.member.token)
    return step.stage.run(ctx)


def _read_result(ctx: RunContext) -> Report:
    """Return what the processes that ran a stage report."""
    return Report.model_validate_json((ctx.work / "result.json").read_text(encoding="utf-8"))


def _follow_stage(running: _Running, step: PlannedStage) -> None:
    ctx, member = running.context(step), running.member
    while not done(step.folder) and not (step.stage.distributed and _is_prepared(ctx, member)):
        time.sleep(POLL)
    if not done(step.folder):
        with translate_errors(ctx), running.store.share(step.folder, rank()), log_stage(ctx):
            if _is_prepared(ctx, member):  # still, now that no other run can begin
                step.stage.run(ctx)
    while not done(step.folder):
        time.sleep(POLL)


def _is_prepared(ctx: RunContext, member: Member | Alone) -> bool:
    """Tell whether the first process of this very start of the launcher has prepared the stage."""
    with suppress(OSError):  # not there yet, or another run has just finished the stage
        token = (ctx.work / "ready").read_text(encoding="utf-8")
        return bool(token) and token == member.token
    return False


def stage_file(recipe: Recipe, step: PlannedStage) -> StageFile:
    """Return what a stage's folder begins with."""
    folders = {name: folder_name(name, key) for name, key in step.identity.inputs.items()}
    base = str(recipe.base.absolute())
    return StageFile(name=step.name, base=base, folders=folders, identity=step.identity)


def _context(file: StageFile, folder: Path, progress: Progress, stop: StopRequest) -> RunContext:
    return RunContext(
        name=file.name,
        folder=folder,
        base=Path(file.base),
        seed=file.identity.seed,
        inputs={name: folder.parent / other for name, other in file.folders.items()},
        progress=progress,
        stop=stop,
    )


def _complete_report(report: Report, seconds: float, provenance: Provenance) -> Report:
    more = {"seconds": round(seconds, 3), "versions": read_versions(), "provenance": provenance}
    return report.model_copy(update=more)
