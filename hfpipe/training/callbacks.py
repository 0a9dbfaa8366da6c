"""Trainer callbacks: logs, samples, progress bar and early end of a training."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from hfpipe.modeling.performance import is_sharded
from hfpipe.number_format import format_bytes, format_count, format_number, is_number
from hfpipe.report import replace_not_finite
from hfpipe.store.artifacts import read_lines, read_metrics

if TYPE_CHECKING:
    from hfpipe.contract import Advance
    from hfpipe.evaluation.samples import SampleWriter

log = logging.getLogger(__name__)


class StopIfFinishedCallback(TrainerCallback):
    """Ends a resumed training that was killed after its last step."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        kept = state.stateful_callbacks.get("TrainerControl", {})
        if kept.get("args", {}).get("should_training_stop"):
            control.should_training_stop = True
            control.should_evaluate = control.should_save = False


class EvaluationCallback(TrainerCallback):
    """Calls a function after each evaluation; training stops if it returns true.

    Its arguments are the number of evaluations so far, including this one, the scores under the names of
    Trainer, and whether the training has ended.
    """

    def __init__(self, observe: Callable[[int, Mapping[str, Any], bool], bool]) -> None:
        self._observe = observe

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any) -> None:
        done = sum("eval_runtime" in entry for entry in state.log_history)
        if self._observe(done, metrics or {}, state.global_step >= state.max_steps):
            control.should_training_stop = True


class MetricsFile(TrainerCallback):
    """Writes logged values to `metrics.jsonl` and to the stage's log.

    Each line is what Trainer logs (`step`, `epoch`, `loss` in nats, `learning_rate`, `grad_norm`, `eval_`
    scores), with `time` (seconds since 1970), `steps` (of the whole training) and, next to a loss,
    `tokens_per_second` since the previous line, and `memory_bytes`, the peak so far. A number that is not
    finite is null. `advance` receives a short form. Callbacks of trackers run later and receive the same
    numbers.
    """

    def __init__(self, path: Path, steps: int, tokens_a_step: float, advance: Advance) -> None:
        self._path, self._steps, self._tokens = path, steps, tokens_a_step
        self._advance = advance
        self._since, self._from = time.monotonic(), 0
        self._validation = ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._since, self._from = time.monotonic(), state.global_step
        if state.is_world_process_zero:  # steps after the checkpoint are logged again
            before = {_get_line_key(entry): entry for entry in read_metrics(self._path.parent)}
            kept = [before.get(_get_line_key(entry), {}) | entry for entry in state.log_history]
            # A checkpoint has the names sorted; in a report the most important score is the first.
            history = zip(kept, state.log_history, strict=True)
            state.log_history = [{name: old[name] for name in entry if name in old} for entry, old in history]
            self._path.write_text("".join(map(_format_line, kept)), encoding="utf-8")

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any) -> None:
        self._since += (metrics or {}).get("eval_runtime", 0.0)  # evaluation does not count for the speed

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if not state.is_world_process_zero or not state.log_history:
            return
        entry = state.log_history[-1] | {"time": round(time.time(), 3), "steps": self._steps}
        if "loss" in entry:
            more = self._measure_speed(state.global_step) | {"memory_bytes": measure_peak_memory()}
            entry |= more
            logs |= more  # for the trackers, which are called later
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_format_line(entry))
        self._advance(0, self._note(entry))
        shown = ", ".join(f"{name} {value:.4g}" for name, value in (logs or {}).items() if is_number(value))
        log.info("step %d of %d: %s", state.global_step, self._steps, shown)

    def _measure_speed(self, step: int) -> dict[str, float]:
        now = time.monotonic()
        steps, seconds = step - self._from, now - self._since
        self._since, self._from = now, step
        return {"tokens_per_second": round(steps * self._tokens / seconds, 1)} if seconds > 0 else {}

    def _note(self, entry: Mapping[str, Any]) -> str:
        """Return metrics as a short text, empty without a loss."""
        if "eval_loss" in entry:
            self._validation = f"validation loss {format_number(entry['eval_loss'])}"
        parts = [f"loss {format_number(entry['loss'])}"] if "loss" in entry else []
        parts += [self._validation] if self._validation and parts else []
        if "tokens_per_second" in entry:
            parts.append(f"{format_count(entry['tokens_per_second'])} tokens/s")
        return ", ".join(parts + ([format_bytes(entry["memory_bytes"])] if "memory_bytes" in entry else []))


class SamplesFile(TrainerCallback):
    """Writes samples generated at each evaluation to `samples.jsonl`, with entries `step` and `samples`.

    A model that is split over processes does not generate samples.
    """

    def __init__(self, path: Path, writer: SampleWriter) -> None:
        self._path, self._writer = path, writer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:  # samples after the checkpoint are generated again
            kept = [entry for entry in read_lines(self._path) if entry["step"] <= state.global_step]
            self._path.write_text("".join(map(_format_line, kept)), encoding="utf-8")

    def on_evaluate(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if state.is_world_process_zero and not is_sharded():
            entry = {"step": state.global_step, "samples": self._writer.generate(model)}
            with self._path.open("a", encoding="utf-8") as file:
                file.write(_format_line(entry))


def _get_line_key(entry: Mapping[str, Any]) -> tuple[Any, bool, bool]:
    """Return the key of a line: step, and whether it is an evaluation or the end."""
    return entry.get("step"), "eval_runtime" in entry, "train_runtime" in entry


def _format_line(entry: Mapping[str, Any]) -> str:
    return json.dumps(replace_not_finite(entry)) + "\n"


def measure_peak_memory() -> int:
    """Return the peak memory of this process in bytes, on its GPU if it has one, otherwise on the host."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class ProgressCallback(TrainerCallback):
    """Updates a progress bar at each step; steps before a resumed checkpoint are included."""

    def __init__(self, advance: Advance) -> None:
        self._advance = advance

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._advance(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._advance(1)
