"""Several machines: two network namespaces with a cable between them, on one file system."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
import small
from commands import LIMIT, hfpipe_messages, wait_until
from test_processes import outcome

import hfpipe

IP = shutil.which("ip") or "/sbin/ip"
ADDRESSES = ("10.77.0.1", "10.77.0.2")
SILENCE = 8
"""Seconds after which a machine is taken for lost, so that the test is short; 30 by default."""


def ip(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([IP, *arguments], capture_output=True, text=True, check=False)


class Hosts:
    """Two machines with a cable between them."""

    def __init__(self) -> None:
        self.names = [f"hfpipe-{os.getpid()}-{rank}" for rank in (0, 1)]

    def build(self) -> str:
        """Return what the system says if it refuses."""
        first, second = self.names
        commands = [
            *(["netns", "add", name] for name in self.names),
            "link add cable0 netns A type veth peer name cable1 netns B".replace("A", first)
            .replace("B", second)
            .split(),
        ]
        for rank, name in enumerate(self.names):
            commands += [
                ["-n", name, "addr", "add", f"{ADDRESSES[rank]}/24", "dev", f"cable{rank}"],
                ["-n", name, "link", "set", "lo", "up"],
                ["-n", name, "link", "set", f"cable{rank}", "up"],
            ]
        return next((done.stderr for done in (ip(*found) for found in commands) if done.returncode), "")

    def cut(self) -> None:
        assert ip("-n", self.names[1], "link", "set", "cable1", "down").returncode == 0

    def join(self) -> None:
        assert ip("-n", self.names[1], "link", "set", "cable1", "up").returncode == 0

    def remove(self) -> None:
        for name in self.names:
            ip("netns", "del", name)

    @contextmanager
    def launch(self, *arguments: str | Path) -> Iterator[list[subprocess.Popen[str]]]:
        """Start `accelerate launch -m hfpipe run` on both."""
        with ExitStack() as stack:
            started = []
            for rank, name in enumerate(self.names):
                command = [IP, "netns", "exec", name, sys.executable, "-m", "accelerate.commands.launch"]
                command += ["--multi_gpu", "--num_machines", "2", "--num_processes", "2"]
                command += ["--machine_rank", str(rank), "--main_process_ip", ADDRESSES[0]]
                command += ["--main_process_port", "29500", "-m", "hfpipe", "run", *map(str, arguments)]
                environ = {"GLOO_SOCKET_IFNAME": f"cable{rank}", "HFPIPE_SILENCE": str(SILENCE), "CI": "true"}
                process = subprocess.Popen(
                    command,
                    env=os.environ | environ,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
                started.append(stack.enter_context(process))
                stack.callback(process.kill)
            yield started


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """Return two hosts; skips where the system allows no network namespaces."""
    found = Hosts()
    try:
        try:
            refused = found.build()
        except FileNotFoundError as error:
            refused = str(error)
        if refused:
            pytest.skip(f"no network namespaces here: {refused.strip()}")
        yield found
    finally:
        found.remove()


SLOW = """
import time
from pathlib import Path
from dataclasses import replace
from hfpipe.tasks.text_classification import TextClassification
from hfpipe.tasks.text_classification.runtime import TextClassificationEncoder

class SlowEncoder(TextClassificationEncoder):
    def collate(self, examples, tokenizer, seed, *, train):
        time.sleep(0.5 * (Path(__file__).parent / "slow").exists())
        return super().collate(examples, tokenizer, seed, train=train)

class Slow(TextClassification):
    kind: str = "slow.py:Slow"

    def runtime(self):
        return replace(super().runtime(), encoder=SlowEncoder(self))
"""
"""A task that takes half a second a step while there is a certain file."""


def recipe(folder: Path) -> Path:
    (folder / "slow.py").write_text(SLOW, encoding="utf-8")
    made = small.recipe("bert", max_steps=10, save_steps=3)
    task = {"kind": "slow.py:Slow", "length": 32}
    made["stages"]["topics"] |= {"task": task, "tokenizer": "stage:words", "model": small.MODELS["bert"]}
    del made["stages"]["pretrain"]
    made["stages"]["score"]["task"] = task
    return small.write(folder, made)


@pytest.mark.slow
def test_two_hosts_give_the_numbers_of_one_also_when_the_cable_was_cut(hosts: Hosts, tmp_path: Path) -> None:
    path, runs = recipe(tmp_path), tmp_path / "runs"
    alone = hfpipe.run(hfpipe.load(path), tmp_path / "alone", say=lambda _: None)
    (tmp_path / "slow").touch()
    with hosts.launch(path, "--runs", runs) as started:
        sealed = "small/topics-*/.work/checkpoint-3/complete.json"
        wait_until(lambda: list(runs.glob(sealed)), started[0])
        assert started[1].poll() is None
        hosts.cut()
        began = time.monotonic()
        for rank, process in enumerate(started):
            stderr = process.communicate(timeout=LIMIT)[1]
            print(f"host {rank} ended after {time.monotonic() - began:.1f} s")
            assert process.returncode != 0
            (line,) = hfpipe_messages(stderr)
            assert re.match(
                rf"hfpipe: {path}:1:\d+: stage topics: process {1 - rank} \(pid \d+ on \S+\)"
                r"( at topics, \d)? no longer answers \(.*\): its machine or the network is down; "
                r"run the same command again to resume",
                line,
            ), line
    hosts.join()
    (tmp_path / "slow").unlink()
    with hosts.launch(path, "--runs", runs) as started:
        ended = [process.communicate(timeout=LIMIT) for process in started]
        assert [process.returncode for process in started] == [0, 0], ended
    assert "result: accuracy" in ended[0][0]
    assert ended[1][0] == ""
    together = hfpipe.open(path, runs)
    assert "resuming from checkpoint-" in (together.folders["topics"] / "stage.log").read_text()
    mine, theirs = outcome(together, ["topics"]), outcome(alone, ["topics"])
    assert mine.keys() == theirs.keys()
    largest = max(np.abs(np.asarray(mine[key]) - np.asarray(value)).max() for key, value in theirs.items())
    print("largest deviation", largest)
    assert largest < 1e-4


@pytest.mark.slow
def test_a_data_stage_that_fails_on_the_first_host_ends_the_second(hosts: Hosts, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "The Nile"}\n{"text": \n', encoding="utf-8")
    rows = {"kind": "dataset", "source": {"files": "rows.jsonl"}}
    path = tmp_path / "rows.yaml"
    path.write_text(json.dumps({"name": "rows", "stages": {"rows": rows}}), encoding="utf-8")
    with hosts.launch(path, "--runs", tmp_path / "runs") as started:
        ended = [process.communicate(timeout=LIMIT)[1] for process in started]
        assert all(process.returncode != 0 for process in started)
    for stderr in ended:
        (line,) = hfpipe_messages(stderr)
        assert line.startswith(f"hfpipe: {path}:1:"), line
        assert "stage rows: process 0: " in line
        assert "rows.jsonl, line 2: " in line
