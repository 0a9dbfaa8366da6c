"""Runs the stages that are not done, in order, in one process or as one of several."""

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
from hfpipe.distributed.world import check_world, get_rank, is_launched
from hfpipe.errors import StageError
from hfpipe.interruption import StopRequest
from hfpipe.recipe import Recipe
from hfpipe.report import Report, read_versions
from hfpipe.runner.allocator import use_expandable_segments
from hfpipe.runner.failures import locate_errors, log_stage, place_setting_errors, translate_errors
from hfpipe.runner.hub import check_hub
from hfpipe.runner.inputs import check_inputs
from hfpipe.runner.jobs import DeviceShare, JobQueue
from hfpipe.runner.jobs.folders import FoldersAtOnce, record_failure
from hfpipe.runner.launch import Launch, check_launch, check_processes, divide_machine, start
from hfpipe.runner.plan import PlannedStage, check_known, check_stages, plan_recipe
from hfpipe.runner.provenance import describe_start, digest_inputs
from hfpipe.runner.signals import catch_signals
from hfpipe.runner.supervision import Alone, Member, join_launcher, join_run
from hfpipe.stages import restore_stage
from hfpipe.store.files import write_atomically
from hfpipe.store.stage_names import make_folder_name
from hfpipe.store.store import StageFile, Store, is_done, read_report, read_stage

if TYPE_CHECKING:
    from hfpipe.report import Provenance

log = logging.getLogger(__name__)

POLL = 0.2
"""Seconds between checks of the file system while another process works."""


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

    The first process calls `planned` with the plan before anything starts, and `finished` with each stage
    that is done, including those that were done before.

    Raises RecipeError before anything starts when the recipe is wrong, StageError or DataError when a
    stage fails; finished stages are not changed.
    """
    check_world()
    with (
        catch_signals(announces=not is_launched()) as stop,
        join_launcher(runs / recipe.name, stop) as member,
        stop.defer_after_error(),
    ):
        check_launch(launch)
        steps = plan_recipe(recipe, runs, until)
        todo = {step.name: step.stage for step in steps if not step.done}
        check_processes(launch, todo)
        check_hub(recipe, todo)
        if get_rank() == 0:
            planned(steps)
        running = _Running(recipe, runs, launch, say, progress, member, stop, steps, finished)
        with use_expandable_segments():
            if launch.jobs > 1:
                JobQueue(steps, divide_machine(launch), running, stop, say).run()
            else:
                for step in steps:
                    new = not is_done(step.folder)
                    if new:
                        stop.check()
                        running.make(step)
                    running.conclude(step, new=new)
    return [replace(step, done=True, why=()) for step in steps]


def run_launched_stage(folder: Path, progress: Progress) -> None:
    """Run one process of a stage that `hfpipe run` has prepared and launched.

    Raises StageError when the folder is not a prepared stage, when `hfpipe run` did not start this process
    (the settings of a stage can name code to execute), or when the number of processes is not the requested
    one.
    """
    check_world()
    file = read_stage(folder)
    if is_done(folder) or not (folder / ".work").is_dir():
        raise StageError(
            f"{folder}: is not a stage in progress; hfpipe run RECIPE prepares stages and starts this"
        )
    with catch_signals(announces=False) as stop, join_run(stop) as member, stop.defer_after_error():
        member.set_stage(file.name, "")
        ctx = _make_context(file, folder, member.track(progress), stop)
        with (
            locate_errors(file.name, process=get_rank() if is_launched() else None),
            translate_errors(ctx),
            Store(folder.parent).share(folder, get_rank()),
            log_stage(ctx),
            use_expandable_segments(),
        ):
            with record_failure(folder):
                report = restore_stage(file.identity.settings, Path(file.base), folder).run(ctx)
            if get_rank() == 0:
                write_atomically(ctx.work / "result.json", report.model_dump_json())


@dataclass(frozen=True)
class _Running:
    """State that the stages of a run share."""

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
    """Stages for which it was printed that another run is making them."""

    def make(self, step: PlannedStage) -> None:
        """Run a stage, or wait until the first process has run it."""
        check_stages(self.recipe, self.steps)
        place = self.locate(step)
        self.member.set_stage(step.name, place)
        if self.alone:
            _make_stage(self, step)
            return
        with locate_errors(step.name, place, get_rank() if is_launched() else None):
            if get_rank() == 0:
                _make_stage(self, step)
            else:
                _follow_stage(self, step)

    def conclude(self, step: PlannedStage, *, new: bool) -> None:
        """Print the summary of a finished stage; if it is `new`, check the others against its result."""
        if get_rank() == 0:
            self.store.clean(step.folder)  # left over if a run was killed after writing the report
            report = read_report(step.folder)
            self.say(f"{step.name}: {'done' if step.done else f'{report.seconds:.0f} s'} · {report.summary}")
            self.finished(step)
        if new:
            check_known(self.recipe, self.steps)  # after the summary, which may explain what is wrong

    def create_job(self, step: PlannedStage) -> _Job:
        """Return the job that runs a stage in another process."""
        check_stages(self.recipe, self.steps)
        return _Job(self, step)

    def wait_for(self, step: PlannedStage, owner: str) -> None:
        """Print once that another run is making a stage."""
        if step.name not in self.waiting:
            self.waiting.add(step.name)
            self.say(f"{step.name}: waiting for {owner}, which is running it")

    def locate(self, step: PlannedStage) -> str:
        """Return the position of a stage in the recipe."""
        return str(self.recipe.find_spot(("stages", step.name)) or self.recipe.path)

    @property
    def store(self) -> Store:
        return Store(self.runs / self.recipe.name)

    @cached_property
    def start(self) -> Provenance:
        """Provenance of this run, collected when the first stage needs it."""
        return describe_start(self.recipe.path)

    @property
    def alone(self) -> bool:
        """Whether stages run in this process only."""
        return self.launch.here and not is_launched()

    def make_context(self, step: PlannedStage) -> RunContext:
        """Return the context of a stage."""
        file, progress = make_stage_file(self.recipe, step), self.member.track(self.progress)
        ctx = _make_context(file, step.folder, progress, self.stop)
        if self.launch.jobs == 1:
            return ctx
        shares = divide_machine(replace(self.launch, processes=None, config=None))
        return replace(ctx, run_at_once=FoldersAtOnce(shares, self.stop))


@dataclass(frozen=True)
class _LockedStage:
    """A stage whose folder is locked and prepared."""

    running: _Running
    step: PlannedStage
    ctx: RunContext
    started: float
    provenance: Provenance

    @classmethod
    def prepare_folder(cls, running: _Running, step: PlannedStage, ctx: RunContext) -> _LockedStage:
        """Check the inputs of a stage, and prepare its folder."""
        check_inputs(step.stage, ctx, running.runs)
        running.store.begin(step.folder, make_stage_file(running.recipe, step))
        started, read = time.monotonic(), digest_inputs(step.identity.files, ctx.inputs)
        return cls(running, step, ctx, started, running.start.model_copy(update={"read": read}))

    def prepare(self) -> None:
        """Do the work of a single process before the stage runs."""
        for notice in self.step.stage.list_notices(self.ctx, alone=self.running.alone):
            self.running.say(f"{self.step.name}: {notice}")
            log.warning(notice)
        with place_setting_errors(self.running.recipe, self.step.name):
            self.step.stage.prepare(self.ctx)

    def finish(self, report: Report) -> None:
        """Mark the stage as done."""
        report = _complete_report(report, time.monotonic() - self.started, self.provenance)
        self.running.store.finish(self.step.folder, report)


def _make_stage(running: _Running, step: PlannedStage) -> None:
    ctx = running.make_context(step)
    with translate_errors(ctx), running.store.lock(step.folder, partial(running.wait_for, step)):
        if is_done(step.folder):
            return
        begun = _LockedStage.prepare_folder(running, step, ctx)
        with log_stage(ctx):
            begun.prepare()
            report = _run_here_or_launched(running, step, ctx)
        begun.finish(report)


class _HeldElsewhere(Exception):  # noqa: N818 - no failure
    """Another run is making the stage."""


class _Job:
    """A stage that this process prepares and finishes, and another process runs."""

    def __init__(self, running: _Running, step: PlannedStage) -> None:
        self._running, self._step = running, step
        self._ctx = running.make_context(step)
        self._held = ExitStack()

    def begin(self) -> bool:
        """Lock and prepare the stage; return False if another run is making it."""
        with suppress(_HeldElsewhere), ExitStack() as held:
            held.enter_context(self._running.store.lock(self._step.folder, self._leave))
            if is_done(self._step.folder):
                return False
            with self._translate_errors():
                self._begun = _LockedStage.prepare_folder(self._running, self._step, self._ctx)
                with log_stage(self._ctx, until="prepared"):
                    self._begun.prepare()
            self._held = held.pop_all()
            return True
        return False

    def work(self, stop: StopRequest, share: DeviceShare) -> None:
        """Run the stage in other processes, and wait for them."""
        launch = self._running.launch if self._step.stage.distributed else Launch()
        with self._translate_errors():
            start(launch, self._ctx.folder, stop, share)

    def finish(self) -> None:
        """Write the report and release the lock."""
        with self._translate_errors(), self._held:
            self._begun.finish(_read_result(self._ctx))

    def abandon(self) -> None:
        """Release the lock."""
        self._held.close()

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        with locate_errors(self._step.name, self._running.locate(self._step)), translate_errors(self._ctx):
            yield

    def _leave(self, owner: str) -> None:
        self._running.wait_for(self._step, owner)
        raise _HeldElsewhere


def _run_here_or_launched(running: _Running, step: PlannedStage, ctx: RunContext) -> Report:
    if step.stage.distributed and not running.launch.here:
        start(running.launch, ctx.folder, running.stop)
        return _read_result(ctx)
    if step.stage.distributed and is_launched():
        write_atomically(ctx.work / "ready", running.member.token)
    return step.stage.run(ctx)


def _read_result(ctx: RunContext) -> Report:
    """Return the report of the processes that ran a stage."""
    return Report.model_validate_json((ctx.work / "result.json").read_text(encoding="utf-8"))


def _follow_stage(running: _Running, step: PlannedStage) -> None:
    ctx, member = running.make_context(step), running.member
    while not is_done(step.folder) and not (step.stage.distributed and _is_prepared(ctx, member)):
        time.sleep(POLL)
    if not is_done(step.folder):
        with translate_errors(ctx), running.store.share(step.folder, get_rank()), log_stage(ctx):
            if _is_prepared(ctx, member):  # checked again, now that no other run can begin
                step.stage.run(ctx)
    while not is_done(step.folder):
        time.sleep(POLL)


def _is_prepared(ctx: RunContext, member: Member | Alone) -> bool:
    """Return whether the first process of this launch has prepared the stage."""
    with suppress(OSError):  # does not exist yet, or another run has just finished the stage
        token = (ctx.work / "ready").read_text(encoding="utf-8")
        return bool(token) and token == member.token
    return False


def make_stage_file(recipe: Recipe, step: PlannedStage) -> StageFile:
    """Return the `stage.json` of a stage."""
    folders = {name: make_folder_name(name, key) for name, key in step.identity.inputs.items()}
    base = str(recipe.base.absolute())
    return StageFile(name=step.name, base=base, folders=folders, identity=step.identity)


def _make_context(file: StageFile, folder: Path, progress: Progress, stop: StopRequest) -> RunContext:
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
