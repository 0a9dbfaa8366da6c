"""How a stage was made is in its report: commit, command, machine and digests, and never a secret."""

from __future__ import annotations

import html
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import toys

from hfpipe.reporting.html import render_page
from hfpipe.runner import provenance
from hfpipe.runner.provenance import describe_machine, read_git_state
from hfpipe.runner.redaction import HIDDEN, redact, redact_words
from hfpipe.runs.run import read_run
from hfpipe.store.digests import compute_digest
from hfpipe.store.store import read_report, read_stage

PHRASE = "correct-horse-battery"
GIT = shutil.which("git")
needs_git = pytest.mark.skipif(GIT is None, reason="git is not installed")


def git(folder: Path, *words: str) -> str:
    assert GIT is not None
    who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    command = [GIT, "-C", str(folder), *who, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@needs_git
def test_the_commit_of_the_recipe_is_kept_with_what_is_not_in_it(tmp_path: Path) -> None:
    path = toys.write(tmp_path / "mine")
    assert read_git_state(path) is None  # in no repository
    git(tmp_path, "init", "-q")
    assert read_git_state(path) is None  # without a commit
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "one")
    state = read_git_state(path)
    assert state is not None
    assert state.dirty  # the recipe is not tracked
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "two")
    (tmp_path / "notes.txt").write_text("another file that is not tracked")
    state = read_git_state(path)
    assert state is not None
    assert (state.commit, state.dirty) == (git(tmp_path, "rev-parse", "HEAD"), False)
    (path.parent / "code.py").write_text("# changed")
    state = read_git_state(path)
    assert state is not None
    assert state.dirty


@needs_git
def test_a_repository_cannot_have_its_programs_run(tmp_path: Path) -> None:
    path = toys.write(tmp_path)
    git(tmp_path, "init", "-q")
    (tmp_path / ".gitattributes").write_text("*.py filter=mine\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "one")
    mark = tmp_path / "ran"
    for setting in ("filter.mine.clean", "core.fsmonitor"):
        git(tmp_path, "config", setting, f"touch {mark}; cat")
    (tmp_path / "code.py").write_text("# changed")
    assert read_git_state(path) is not None
    assert not mark.exists()


SLOW = [pytest.param(script, marks=pytest.mark.slow) for script in ("sleep 60", "sleep 60 & wait")]


@pytest.mark.parametrize("script", [*SLOW, "exit 3", "echo nonsense"])
def test_a_git_that_hangs_or_fails_leaves_the_commit_out(
    tmp_path: Path, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".git").mkdir()
    program = tmp_path / "bin" / "git"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setattr(provenance, "WAIT", 0.2)
    started = time.monotonic()
    assert read_git_state(tmp_path / "toy.yaml") is None
    assert time.monotonic() - started < 30


def test_a_report_says_how_its_stage_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/home/me/hfpipe/__main__.py", "run", "toy.yaml", "--runs", "x"])
    path = toys.write(tmp_path)
    toys.make(path, tmp_path / "runs")
    folders = {step.name: step.folder for step in toys.steps(path, tmp_path / "runs")}
    report = read_report(folders["topics"])
    made = report.provenance
    assert made is not None
    assert made.command == ["hfpipe", "run", "toy.yaml", "--runs", "x"]
    assert made.machine == describe_machine()
    assert made.machine.cores >= 1
    assert made.machine.cpu
    assert made.machine.memory is None or made.machine.memory > 10**8
    assert {"hfpipe", "torch", "transformers", "tokenizers", "datasets", "accelerate", "python"} <= {
        *report.versions
    }
    assert made.read == {
        f"stage:{name}": compute_digest(folders[name] / "report.json") for name in ("names", "words")
    }
    shown = render_page(read_run(folders))
    assert "hfpipe run toy.yaml --runs x" in shown
    assert html.escape(made.machine.cpu) in shown
    first = read_report(folders["names"]).provenance
    assert first is not None
    assert first.read == read_stage(folders["names"]).identity.files
    assert {"data/topics.tsv", "code.py"} <= first.read.keys()


LEAKS = """
import logging, os
def upper(text):
    secret = os.environ["HF_TOKEN"]
    logging.getLogger("lib").warning("GET https://me:%s@mirror.org/a?b=1", secret)
    logging.getLogger("lib").error("login with %s failed", secret)
    if "K2" in text:
        raise ValueError(f"401 for {secret}") from RuntimeError("proxy http://me:hunter2hunter2@proxy:80")
    return text.upper()
"""


def test_no_secret_of_the_environment_or_the_command_is_in_the_folder_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", PHRASE)
    monkeypatch.setattr(sys, "argv", ["hfpipe", "run", "toy.yaml", "--token", "abc", f"--note={PHRASE}"])
    path = toys.write(tmp_path)
    (path.parent / "code.py").write_text(LEAKS)
    with pytest.raises(Exception, match="401"):
        toys.make(path, tmp_path / "runs")
    (path.parent / "data" / "topics.tsv").write_text("The Nile\triver\n")
    toys.make(path, tmp_path / "runs")
    files = [file for file in (tmp_path / "runs").rglob("*") if file.is_file()]
    kept = b"\n".join(file.read_bytes() for file in files)
    assert b"stage.log" in b"\n".join(str(file).encode() for file in files)
    assert f"GET https://{HIDDEN}@mirror.org/a?b=1".encode() in kept
    assert f'"--token", "{HIDDEN}"'.encode() in kept.replace(b"\n   ", b" ")
    for secret in (PHRASE, "hunter2", '"abc"'):
        assert secret.encode() not in kept


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://me:pw@host/x and s3://key@b/y", f"https://{HIDDEN}@host/x and s3://{HIDDEN}@b/y"),
        ("mail to me@host, see https://host/a@b", "mail to me@host, see https://host/a@b"),
        ("password: letmein, n=3", f"password: {HIDDEN}, n=3"),
        ("{'api_key': 'k 1', 'n': 2}", f"{{'api_key': {HIDDEN}, 'n': 2}}"),
        ("hub_token=abc", f"hub_token={HIDDEN}"),
        ("mask_token='[MASK]', tokens: 300, pad_token: 0", "mask_token='[MASK]', tokens: 300, pad_token: 0"),
        ("hf_AbCdEfGhIjKlMnOpQrStUvWx failed", f"hf_{HIDDEN} failed"),
        ("sk-learn and the key: 4", "sk-learn and the key: 4"),
    ],
)
def test_secrets_are_taken_out_and_other_text_stays(text: str, expected: str) -> None:
    assert redact(text) == expected


def test_the_word_after_an_option_for_a_secret_is_taken_out() -> None:
    words = ["hfpipe", "run", "--token", "abc", "--set", "a.api_key=xyz", "--password=pw", "--processes", "2"]
    assert redact_words(words) == [
        *["hfpipe", "run", "--token", HIDDEN, "--set", f"a.api_key={HIDDEN}", f"--password={HIDDEN}"],
        *["--processes", "2"],
    ]


def test_common_environment_variables_are_not_taken_for_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false-but-long")
    monkeypatch.setenv("TOKEN_LIMIT", "100")
    assert redact("100 rows, false-but-long, /usr/bin") == "100 rows, false-but-long, /usr/bin"
