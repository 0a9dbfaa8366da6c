"""Stages that do not depend on each other, side by side: `hfpipe run --jobs N`.

Which process does what. The process of `hfpipe run` goes through the plan. A stage whose inputs are done is
a job as soon as one of N slots is free: this process takes the stage's lock, checks what it reads and
prepares it (encoded data are so made by one process, once), and starts `hfpipe stage FOLDER`, which runs it.
When that process has ended, this one writes the report and frees the lock. With `--processes P` the job is
a launcher with P such processes. A stage that nothing can run next to runs in this process, as without
`--jobs`, with all devices and threads; so does one that only sums up reports.

What a job sees. Slots divide the GPUs (CUDA_VISIBLE_DEVICES), or the threads of a CPU (OMP_NUM_THREADS). Its
output is passed on line by line, with the stage's name in front.

What ends a job. Each has a `Coordinator` in this process, as the processes of `--processes` have, so that it
ends when this process does, however that dies; the next run waits until it has ended. If a job fails, no
other one starts; those that run go on to their end, and the run ends with the errors of all that failed. A
signal is passed on to all, which save a checkpoint.
"""

from __future__ import annotations

from hfpipe.runner.jobs.devices import DeviceShare
from hfpipe.runner.jobs.queue import JobQueue

__all__ = ["DeviceShare", "JobQueue"]
