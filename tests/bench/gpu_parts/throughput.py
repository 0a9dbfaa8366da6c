"""Part c: tokens per second of a model through `hfpipe.run`, and through Trainer with every speed flag."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from parts.corpus import WORDS, drawn, write_texts, write_tokenizer
from parts.models import BENCHES, Bench, sized
from parts.timing import graphs, peak_gb, profiler, release, synchronize, write_profile

from gpu_parts.records import LOG, Settings, emit, peaks

TOKENS = 2_500_000
WARM, TIMED, PROFILED = 12, 25, 4
"""Steps before, in and after the window that is timed; the last are profiled, where that is asked for."""
TOY_TOKENS, TOY_WARM, TOY_TIMED = 20_000, 2, 4
LEAST = 40
"""Seconds that have to be left before another measurement is begun."""


class Clock:
    """Takes the time of a training's steps; the device is waited for at both ends of the window only."""

    def __init__(self, settings: Settings, *, profile: bool) -> None:
        self.device = settings.device
        self.warm, self.timed = (TOY_WARM, TOY_TIMED) if settings.toy else (WARM, TIMED)
        self.steps = self.warm + self.timed + (PROFILED if profile else 0)
        self.started = self.first = self.begun = self.ended = 0.0
        self._profile = profile
        self._profiler: Any = None
        self._step = 0

    def start(self) -> None:
        """Note when training begins; later calls, with which hfpipe reports a log, change nothing."""
        self.started = self.started or time.perf_counter()

    def tick(self) -> None:
        """Note the end of a step."""
        self._step += 1
        if self._step in (1, self.warm, self.warm + self.timed):
            synchronize(self.device)
        now = time.perf_counter()
        if self._step == 1:
            self.first = now
        if self._step == self.warm:
            self.begun = now
        if self._step == self.warm + self.timed:
            self.ended = now
            if self._profile:
                self._profiler = profiler(self.device)
                self._profiler.start()
        if self._step == self.steps and self._profiler is not None:
            self._profiler.stop()

    def write_profile(self, title: str) -> None:
        """Append the kernels that take the most time to the log."""
        if self._profiler is not None:
            write_profile(self._profiler, title, self.device, LOG)

    def facts(self, bench: Bench, **more: Any) -> dict[str, Any]:
        """Return what a record says of the measurement."""
        speed = self.timed * bench.tokens / (self.ended - self.begun)
        nominal, measured = peaks()
        return {
            "model": bench.name,
            "micro": bench.micro,
            "length": bench.length,
            "tokens_s": round(speed),
            "mfu": bench.share(speed, nominal),
            "of_gemm": bench.share(speed, measured),
            "gflop_token": round(bench.flops / 1e9, 4),
            "step_ms": round((self.ended - self.begun) / self.timed * 1000, 2),
            "first_step_s": round(self.first - self.started, 1),
            "peak_gb": peak_gb(),
            **graphs(),
            **more,
        }


def run(settings: Settings, name: str) -> None:
    """Measure a model through hfpipe, then through Trainer; Llama with an adapter as well."""
    bench = sized(BENCHES[name], toy=settings.toy)
    adapter = sized(BENCHES["llama-0.5b-lora"], toy=settings.toy) if name == "llama-0.5b" else None
    folder = settings.work / name
    folder.mkdir(parents=True, exist_ok=True)
    _guarded(bench.name, "hfpipe", settings, lambda: _hfpipe(bench, adapter, folder, settings))
    _guarded(bench.name, "trainer", settings, lambda: _trainer(bench, folder, settings))
    if adapter is not None:
        _guarded(adapter.name, "trainer", settings, lambda: _trainer(adapter, folder, settings))


def _guarded(model: str, contender: str, settings: Settings, work: Callable[[], None]) -> None:
    """Measure; a failure is recorded and does not stop what comes next."""
    if contender not in settings.contenders:
        return
    if not settings.toy and settings.left < LEAST:
        emit("c", model=model, contender=contender, skipped="no time left")
        return
    release()
    try:
        work()
    except Exception as error:
        import traceback

        traceback.print_exc()
        emit("c", model=model, contender=contender, error=f"{type(error).__name__}: {error}"[:500])


def _hfpipe(bench: Bench, adapter: Bench | None, folder: Path, settings: Settings) -> None:
    clocks = {"train": Clock(settings, profile=adapter is None), "adapter": Clock(settings, profile=False)}
    facts = train_through_hfpipe(bench, adapter, folder, clocks, settings)
    clocks["train"].write_profile(f"{bench.name}, hfpipe")
    emit("c", contender="hfpipe", **clocks["train"].facts(bench, **facts))
    if adapter is not None:
        emit("c", contender="hfpipe", **clocks["adapter"].facts(adapter))


def train_through_hfpipe(
    bench: Bench,
    adapter: Bench | None,
    folder: Path,
    clocks: dict[str, Clock],
    settings: Settings,
    **training: Any,
) -> dict[str, Any]:
    """Run a recipe with a training, and one with an adapter; return facts of the first for its record.

    `clocks` take the time of both. `training` holds further settings.
    """
    import hfpipe
    from hfpipe.errors import RecipeError

    tokens, words = (TOY_TOKENS, 400) if settings.toy else (TOKENS, WORDS)
    started = time.perf_counter()
    write_texts(folder / "texts.jsonl", tokens, words)
    write_tokenizer(folder / "tokenizer", bench.vocabulary, encoder=bench.mask is not None, words=words)
    path = folder / "recipe.yaml"
    recipe = _recipe(bench, adapter, clocks, settings)
    recipe["stages"]["train"]["training"] |= training
    path.write_text(json.dumps(recipe), encoding="utf-8")
    prepared: dict[str, float] = {"texts": round(time.perf_counter() - started, 1)}

    @contextmanager
    def progress(what: str, total: int | None) -> Iterator[Callable[..., None]]:
        begun = time.perf_counter()
        clock = clocks.get(what)
        yield lambda count, note="": None if clock is None else clock.tick() if count else clock.start()
        prepared[what] = round(time.perf_counter() - begun, 1)

    try:
        found = hfpipe.run(
            hfpipe.load(path), folder / "runs", until=None if adapter else "train", progress=progress
        )
    except RecipeError as error:
        raise RuntimeError("; ".join(problem.message for problem in error.problems)) from error
    facts = json.loads((found.folder("train") / "report.json").read_text(encoding="utf-8"))["facts"]
    told = {name: facts[name] for name in ("bf16", "compiled", "compile_mode")}
    return {"loss": _last_loss(facts["history"]), **told, "seconds": prepared}


def _recipe(
    bench: Bench, adapter: Bench | None, clocks: dict[str, Clock], settings: Settings
) -> dict[str, Any]:
    task = {"kind": "causal-lm"} if bench.mask is None else {"kind": "masked-lm", "mask": bench.mask}
    stages: dict[str, Any] = {
        "texts": {"kind": "dataset", "source": {"files": "texts.jsonl"}},
        "train": {
            "kind": "pretrain",
            "task": task | {"length": bench.length},
            "data": "stage:texts",
            "tokenizer": "./tokenizer",
            "model": {"type": bench.kind, **bench.entries},
            "training": _training(bench, clocks["train"], settings),
        },
    }
    if adapter is not None:
        stages["adapter"] = {
            **stages["train"],
            "kind": "finetune",
            "model": "stage:train",
            "adapter": {"type": "lora", **(adapter.adapter or {})},
            "training": _training(bench, clocks["adapter"], settings),
        }
    return {"name": "throughput", "seed": 17, "stages": stages}


def _training(bench: Bench, clock: Clock, settings: Settings) -> dict[str, Any]:
    """Return what a user would write for a long training; a short one would not compile by itself."""
    return {
        "max_steps": clock.steps,
        "per_device_train_batch_size": bench.micro,
        "learning_rate": 3e-4,
        "bf16": True,
        "compile": not settings.toy,
        "logging_steps": clock.warm,
        "save_strategy": "no",
    }


def _last_loss(history: list[dict[str, Any]]) -> float | None:
    return next((round(entry["loss"], 4) for entry in reversed(history) if "loss" in entry), None)


def _trainer(bench: Bench, folder: Path, settings: Settings) -> None:
    import torch
    import transformers
    from transformers import Trainer, TrainerCallback, TrainingArguments

    clock = Clock(settings, profile=False)

    class Ticks(TrainerCallback):
        """Passes the steps on to the clock."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            clock.start()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            clock.tick()

    transformers.set_seed(17)
    model = getattr(transformers, bench.auto_class).from_config(bench.config(), dtype=torch.float32)
    if bench.adapter is not None:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(**bench.adapter))
    rows = drawn(64 * bench.micro * bench.length, bench.vocabulary - 10, 17).reshape(-1, bench.length) + 6
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder / "trainer"),
            max_steps=clock.steps,
            per_device_train_batch_size=bench.micro,
            learning_rate=3e-4,
            bf16=True,
            tf32=None if settings.toy else True,
            torch_compile=not settings.toy,
            optim="adamw_torch" if settings.toy else "adamw_torch_fused",
            dataloader_num_workers=0 if settings.toy else 8,
            dataloader_persistent_workers=not settings.toy,
            dataloader_pin_memory=not settings.toy,
            use_cpu=settings.toy,
            logging_steps=clock.warm,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=[{"input_ids": row} for row in torch.from_numpy(rows)],
        data_collator=_unpadded if bench.mask is None else _masked(bench, folder),
        callbacks=[Ticks()],
    )
    trainer.train()
    emit(
        "c", contender="trainer", **clock.facts(bench, loss=_last_loss(trainer.state.log_history), bf16=True)
    )


def _unpadded(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a batch without an attention mask, as there is no padding."""
    import torch

    ids = torch.stack([row["input_ids"] for row in rows])
    return {"input_ids": ids, "labels": ids.clone()}


def _masked(bench: Bench, folder: Path) -> Any:
    from transformers import AutoTokenizer, DataCollatorForLanguageModeling

    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    return DataCollatorForLanguageModeling(tokenizer, mlm_probability=bench.mask)
