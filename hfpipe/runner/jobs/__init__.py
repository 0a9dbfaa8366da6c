"""Runs independent stages concurrently: `hfpipe run --jobs N`.

Processes. The process of `hfpipe run` goes through the plan. A stage whose inputs are done becomes a job when
one of N slots is free: this process locks the stage, checks its inputs, prepares it (so that data are encoded
once, by one process), and starts `hfpipe stage FOLDER`, which runs it. When that process has ended, this one
writes the report and releases the lock. With `--processes P` the job is a launcher with P such processes. A
stage that cannot run concurrently with any other runs in this process, as without `--jobs`, with all devices
and threads; so does a stage that only summarizes reports.

Devices and output. Slots divide the GPUs (CUDA_VISIBLE_DEVICES), or the threads of a CPU (OMP_NUM_THREADS).
The output of a job is forwarded line by line, prefixed with the name of the stage.

End. Each job has a `Coordinator` in this process, as with `--processes`, so that it ends whenever this
process ends, for any reason; the next run waits until it has ended. If a job fails, no other job starts,
running jobs are completed, and the run ends with the errors of all failed jobs. A signal is forwarded to all
jobs, which save a checkpoint.
"""

from __future__ import annotations

from hfpipe.runner.jobs.devices import DeviceShare
from hfpipe.runner.jobs.queue import JobQueue

__all__ = ["DeviceShare", "JobQueue"]
