"""What happens beside the steps of a training: its log, its progress bar, and its end."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

log = logging.getLogger(__name__)


class Ended(TrainerCallback):
    """Trains no further when a run is taken up again that was killed after its last step."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        kept = state.stateful_callbacks.get("TrainerControl", {})
        if kept.get("args", {}).get("should_training_stop"):
            control.should_training_stop = True
            control.should_evaluate = control.should_save = False


class History(TrainerCallback):
    """Writes what is logged to a file and to the stage's log, so that a running stage can be watched."""

    def __init__(self, path: Path, steps: int) -> None:
        self._path, self._steps = path, steps

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:  # steps after the checkpoint are logged again
            text = "".join(json.dumps(entry) + "\n" for entry in state.log_history)
            self._path.write_text(text, encoding="utf-8")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if not state.is_world_process_zero or not state.log_history:
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(state.log_history[-1]) + "\n")
        shown = ", ".join(f"{name} {value:.4g}" for name, value in (logs or {}).items() if _is_number(value))
        log.info("step %d of %d: %s", state.global_step, self._steps, shown)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class Steps(TrainerCallback):
    """Tells a progress bar of every step, those of an earlier try included."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance = advance

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._advance(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._advance(1)
