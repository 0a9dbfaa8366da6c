"""Schedules the stages of a plan, several of which may run concurrently."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hfpipe.errors import HfpipeError, RecipeError
from hfpipe.interruption import Interrupted, StopRequest
from hfpipe.recipe.messages import join_names
from hfpipe.runner.jobs.devices import DeviceShare
from hfpipe.runner.plan import PlannedStage
from hfpipe.store.store import is_done

POLL = 0.1
"""Seconds between checks of the jobs."""


class StageJob(Protocol):
    """A stage that this process prepares and finishes, and another process runs."""

    def begin(self) -> bool:
        """Lock and prepare the stage; return False, without the lock, if another run is making it."""

    def work(self, stop: StopRequest, share: DeviceShare) -> None:
        """Run it in other processes until they have ended; called in a thread. Raises HfpipeError."""

    def finish(self) -> None:
        """Write the report and release the lock."""

    def abandon(self) -> None:
        """Release the lock of a stage that has failed."""


class StageMaker(Protocol):
    """Runs and finishes single stages for a queue."""

    def make(self, step: PlannedStage) -> None:
        """Run a stage in this process."""

    def create_job(self, step: PlannedStage) -> StageJob:
        """Return a stage as a job."""

    def conclude(self, step: PlannedStage, *, new: bool) -> None:
        """Report that a stage is done; `new` is whether it was run now."""


@dataclass
class _Active:
    """A running job."""

    step: PlannedStage
    job: StageJob
    slot: int
    stop: StopRequest = field(default_factory=StopRequest)
    """Its own request, because that of the run belongs to the main thread."""
    error: BaseException | None = None
    thread: threading.Thread = field(init=False)

    def start(self, share: DeviceShare) -> None:
        """Start the thread of the job."""
        self.thread = threading.Thread(target=self._work, args=(share,), name=self.step.name, daemon=True)
        self.thread.start()

    def _work(self, share: DeviceShare) -> None:
        try:
            self.job.work(self.stop, share)
        except BaseException as error:  # raised again by the thread of the queue
            self.error = error


class JobQueue:
    """Runs the stages of a plan, up to `len(shares)` concurrently; one thread does all but the jobs' work.

    Args:
        steps: The plan.
        shares: Environment variables of the processes of each slot.
        maker: Runs a single stage.
        stop: Whether a signal requested the run to stop.
        say: Prints a line.
    """

    def __init__(
        self,
        steps: Sequence[PlannedStage],
        shares: Sequence[Mapping[str, str]],
        maker: StageMaker,
        stop: StopRequest,
        say: Callable[[str], None],
    ) -> None:
        self._shares, self._maker, self._stop, self._say = shares, maker, stop, say
        self._waiting = list(steps)
        self._folders = {step.name: step.folder for step in steps}
        self._lone = find_lone_stages(steps)
        self._active: list[_Active] = []
        self._failed: list[BaseException] = []
        self._before = {step.name for step in steps if step.done}

    def run(self) -> None:
        """Run all stages that are not done. Raises the errors of those that failed, as one.

        No job is running when an exception is raised.
        """
        while self._active or (self._waiting and not self._failed):
            try:
                moved = not self._failed and self._advance()
                if not moved:
                    self._wait()
            except BaseException as error:  # raised at the end, when no job runs any more
                self._fail(error)
        if self._failed:
            raise _join(self._failed)

    def _advance(self) -> bool:
        """Conclude or start the first stage that is ready; return whether there was one."""
        for step in self._waiting:
            if is_done(step.folder):
                self._conclude(step, new=step.name not in self._before)
                return True
        free = set(range(len(self._shares))) - {each.slot for each in self._active}
        for step in self._waiting:
            if not all(is_done(self._folders[name]) for name in step.identity.inputs):
                continue
            self._stop.check()
            if step.name in self._lone or step.stage.immediate:
                self._maker.make(step)
                self._conclude(step, new=True)
                return True
            if free and self._start(step, min(free)):
                return True
        return False

    def _conclude(self, step: PlannedStage, *, new: bool) -> None:
        self._waiting.remove(step)
        self._maker.conclude(step, new=new)

    def _start(self, step: PlannedStage, slot: int) -> bool:
        job = self._maker.create_job(step)
        if not job.begin():
            return False
        active = _Active(step, job, slot)
        self._waiting.remove(step)
        self._active.append(active)
        active.start(DeviceShare(step.name, self._shares[slot]))
        return True

    def _wait(self) -> None:
        """Wait briefly, and finish the jobs that have ended."""
        with self._stop.defer():
            if self._active:
                self._active[0].thread.join(POLL)
            else:
                time.sleep(POLL)  # another run makes the remaining stages
            if self._stop.number is not None:
                self._ask_to_stop(self._stop.number)
            ended = [each for each in self._active if not each.thread.is_alive()]
            for each in ended:
                self._active.remove(each)
                if each.error is None:
                    each.job.finish()
                    self._maker.conclude(each.step, new=True)
                else:
                    each.job.abandon()
                    self._fail(each.error)
        if not self._active:
            self._stop.check()

    def _fail(self, error: BaseException) -> None:
        """Store an error; unless it is that of a stage, the other jobs save a checkpoint and stop."""
        self._failed.append(error)
        if not isinstance(error, HfpipeError):
            self._ask_to_stop(error.number if isinstance(error, Interrupted) else signal.SIGTERM)
        elif self._active:
            names = join_names([each.step.name for each in self._active], "and")
            verb = "is completed" if len(self._active) == 1 else "are completed"
            self._say(f"{str(error).splitlines()[0]}; {names} {verb}, no further stage starts")

    def _ask_to_stop(self, number: int) -> None:
        for each in self._active:
            each.stop.number = each.stop.number or number


def find_lone_stages(steps: Sequence[PlannedStage]) -> set[str]:
    """Return the stages that cannot run concurrently with any other stage of a plan."""
    above: dict[str, set[str]] = {}
    for step in steps:
        direct = set(step.identity.inputs)
        above[step.name] = direct.union(*(above[name] for name in direct))
    return {
        name
        for name in above
        if all(name in above[other] or other in above[name] for other in above if other != name)
    }


def _join(errors: Sequence[BaseException]) -> BaseException:
    """Return several errors as one: only the first unexpected error, or else the messages of all."""
    foreign = [error for error in errors if not isinstance(error, HfpipeError | Interrupted)]
    if foreign or len(errors) == 1:
        return (foreign or errors)[0]
    stopped = [error for error in errors if isinstance(error, Interrupted)]
    text = "\n".join(dict.fromkeys(str(error) for error in errors))
    if stopped:
        return Interrupted(stopped[0].number, text)
    wrong = [error for error in errors if isinstance(error, RecipeError)]
    return wrong[0] if wrong else type(errors[0])(text)
