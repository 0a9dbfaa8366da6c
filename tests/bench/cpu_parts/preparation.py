"""Data preparation in MB of text a second: hfpipe, the example scripts, and the raw tokenizer."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from cpu_parts.records import Settings, emit
from cpu_parts.works import abstracts, sentences

LENGTH = 256
VOCABULARY = 16_384
AT_ONCE = 1000
"""Texts that the raw tokenizer is given at once."""
EVERY = 0.05
"""Seconds between two looks at the memory."""


def files(settings: Settings) -> tuple[Path, Path]:
    """Return the file of the texts and the folder of the tokenizer."""
    return settings.data / f"text-{settings.megabytes}.jsonl", settings.data / "bpe"


def write_texts(settings: Settings) -> None:
    """Write documents of real sentences that are drawn at random."""
    path, _ = files(settings)
    found = [text for text, _ in sentences()]
    random = np.random.default_rng(17)
    left = settings.megabytes * 1_000_000 if not settings.toy else 100_000
    with path.open("w", encoding="utf-8") as file:
        while left > 0:
            text = " ".join(found[at] for at in random.integers(len(found), size=random.integers(2, 9)))
            left -= len(text.encode())
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")


def write_tokenizer(settings: Settings) -> None:
    """Write a byte-level BPE trained on the abstracts."""
    from transformers import PreTrainedTokenizerFast

    _, folder = files(settings)
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000 if settings.toy else VOCABULARY,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(
        (article["extract"] for article in abstracts()[: 500 if settings.toy else None]), trainer
    )
    end = "<|endoftext|>"
    PreTrainedTokenizerFast(tokenizer_object=core, bos_token=end, eos_token=end).save_pretrained(folder)


class Memory:
    """Looks at the memory of this process and of those that it starts, by what is being done."""

    def __init__(self) -> None:
        self.doing = ""
        self.peaks: dict[str, tuple[float, float]] = {}
        """What is done → most resident memory, and most of it that is not a mapped file, both in MB."""
        threading.Thread(target=self._watch, daemon=True).start()

    @contextmanager
    def during(self, what: str) -> Iterator[None]:
        """Look at what is done inside, once more at its end, as it may be short."""
        self.doing = what
        yield
        self._look()
        self.doing = ""

    def _watch(self) -> None:
        while True:
            self._look()
            time.sleep(EVERY)

    def _look(self) -> None:
        doing, now = self.doing, [_memory(process) for process in _family()]
        resident, own = (sum(each) / 1e6 for each in zip(*now, strict=True))
        before = self.peaks.get(doing, (0.0, 0.0))
        self.peaks[doing] = max(before[0], resident), max(before[1], own)

    def of(self, what: str) -> dict[str, int]:
        """Return the peaks of what was done under a name that contains `what`."""
        found = [peaks for name, peaks in list(self.peaks.items()) if what in name]
        return {
            "rss_mb": round(max((rss for rss, _ in found), default=0)),
            "anonymous_mb": round(max((own for _, own in found), default=0)),
        }


def _family() -> list[int]:
    this = psutil.Process()
    return [this.pid, *(child.pid for child in this.children(recursive=True))]


def _memory(process: int) -> tuple[int, int]:
    """Return the resident bytes of a process and those of no file; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0, 0
    sizes = {
        name: value.split()[0] for name, _, value in (line.partition(":") for line in lines) if value.split()
    }
    return int(sizes.get("VmRSS", 0)) * 1024, int(sizes.get("RssAnon", 0)) * 1024


def run(settings: Settings, contender: str) -> None:
    """Measure one contender and write one line for each thing that is measured."""
    {"hfpipe": _hfpipe, "scripts": _scripts, "raw": _raw}[contender](settings)


def _emit(settings: Settings, contender: str, what: str, seconds: float, **more: Any) -> None:
    text, _ = files(settings)
    # The text itself: a JSON line has 12 bytes around it.
    size = sum(len(line) - 13 for line in text.open("rb")) / 1e6
    emit(
        "preparation",
        contender=contender,
        what=what,
        round=settings.round,
        megabytes=round(size, 1),
        seconds=round(seconds, 2),
        mb_s=round(size / seconds, 2) if seconds else None,
        **more,
    )


def _hfpipe(settings: Settings) -> None:
    import hfpipe

    text, tokenizer = files(settings)
    folder = settings.work / f"preparation-{settings.megabytes}-{settings.round}"
    folder.mkdir()
    model = {"type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 1, "n_positions": LENGTH}
    stages = {
        "texts": {"kind": "dataset", "source": {"files": str(text)}},
        "train": {
            "kind": "pretrain",
            "task": {"kind": "causal-lm", "length": LENGTH},
            "data": "stage:texts",
            "tokenizer": str(tokenizer),
            "model": model,
            "training": {"max_steps": 1, "per_device_train_batch_size": 1},
        },
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps({"name": "preparation", "seed": 17, "stages": stages}), encoding="utf-8")
    memory, seconds = Memory(), dict[str, float]()

    @contextmanager
    def progress(what: str, total: int | None) -> Iterator[Callable[..., None]]:
        with memory.during(what):
            started = time.perf_counter()
            yield lambda count, note="": None
            seconds[what] = seconds.get(what, 0.0) + time.perf_counter() - started

    found = hfpipe.run(hfpipe.load(path), folder / "runs", progress=progress)
    dataset = float(json.loads((found.folder("texts") / "report.json").read_text())["seconds"])
    _emit(settings, "hfpipe", "dataset", dataset, **memory.of("cleaning"))
    encoding = sum(value for name, value in seconds.items() if "encoding" in name)
    _emit(settings, "hfpipe", "encoding", encoding, **memory.of("encoding"))


def _scripts(settings: Settings) -> None:
    """As run_clm does: load_dataset, then two passes of map."""
    from transformers import AutoTokenizer

    from cpu_parts.scripts import grouped, load

    text, folder = files(settings)
    tokenizer, memory = AutoTokenizer.from_pretrained(folder), Memory()
    for what in ("dataset", "encoding"):
        with memory.during(what):
            started = time.perf_counter()
            if what == "dataset":
                rows = load(text, settings)
            else:
                grouped(rows, tokenizer, LENGTH, masked=False)
            seconds = time.perf_counter() - started
        _emit(settings, "scripts", what, seconds, **memory.of(what))


def _raw(settings: Settings) -> None:
    """`encode_batch_fast` alone, on texts that are in memory; the ids are counted, and kept by nobody."""
    text, folder = files(settings)
    texts = [json.loads(line)["text"] for line in text.read_text(encoding="utf-8").splitlines()]
    tokenizer, memory, tokens = Tokenizer.from_file(str(folder / "tokenizer.json")), Memory(), 0
    with memory.during("encoding"):  # which looks at memory here too: a look takes 2 ms
        started = time.perf_counter()
        for at in range(0, len(texts), AT_ONCE):
            tokens += sum(map(len, tokenizer.encode_batch_fast(texts[at : at + AT_ONCE])))
        seconds = time.perf_counter() - started
    facts = {"tokens": tokens, "threads": os.cpu_count(), **memory.of("encoding")}
    _emit(settings, "raw", "encoding", seconds, **facts)
