"""The provenance of a stage: command, commit of the recipe, machine; no environment variables or passwords.

It does not affect results: it is written to the report only, and unknown parts are omitted.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

from hfpipe.report import GitState, Machine, Provenance
from hfpipe.runner.redaction import redact_words
from hfpipe.store.digests import compute_digest

WAIT = 5.0
"""Timeout of another program in seconds; after that it is killed and its output is omitted."""
NO_CODE = {
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ATTR_SOURCE": "4b825dc642cb6eb9a060e54bf8d69288fbee4904",
}
"""Prevents git from writing, prompting, and running filters named in a repository's attributes (the value is
the hash of the empty tree)."""


def describe_start(recipe: Path) -> Provenance:
    """Return the provenance of a run that this process starts."""
    return Provenance(
        command=redact_words(_shorten_command(sys.argv)),
        started=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        git=read_git_state(recipe),
        machine=describe_machine(),
    )


def digest_inputs(files: Mapping[str, str], folders: Mapping[str, Path]) -> dict[str, str]:
    """Return input of a stage → sha256: local files as in `stage.json`, and the reports of upstream stages.

    A report contains the digest of each file of its stage.
    """
    reports = {f"stage:{name}": folder / "report.json" for name, folder in folders.items()}
    return {**files, **{name: compute_digest(path) for name, path in reports.items()}}


def _shorten_command(words: Sequence[str]) -> list[str]:
    """Return a command with the name of its program instead of the path."""
    if not words:
        return []
    program = Path(words[0])
    name = program.parent.name if program.name == "__main__.py" else program.name
    return [name, *words[1:]]


def read_git_state(recipe: Path) -> GitState | None:
    """Return commit and state of the repository that contains a recipe; None if unknown.

    It is dirty if a tracked file differs from the commit, or the recipe is not tracked.
    """
    folder = recipe.absolute().parent
    git = shutil.which("git")
    if git is None or not any((each / ".git").exists() for each in (folder, *folder.parents)):
        return None
    asked = [git, "-c", "core.fsmonitor=false", "-C", str(folder)]
    commit = _run_program([*asked, "rev-parse", "HEAD"])
    changed = _run_program([*asked, "status", "--porcelain", "--untracked-files=no"])
    tracked = _run_program([*asked, "ls-files", "--", recipe.name])
    if commit is None or changed is None or tracked is None or not re.fullmatch(r"[0-9a-f]{40,64}\n", commit):
        return None
    return GitState(commit=commit.strip(), dirty=bool(changed) or not tracked)


def describe_machine() -> Machine:
    """Return the machine that this process runs on."""
    return Machine(
        system=f"{platform.system()} {platform.release()}",
        cpu=_find_cpu(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0,
        memory=_find_memory(),
        gpus=_find_gpus(),
    )


def _find_cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor()
    found = re.search(r"(?m)^model name\s*:\s*(.+)$", text)
    return found[1].strip() if found else platform.processor() or platform.machine()


def _find_memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # other operating systems
        return None


def _find_gpus() -> list[str]:
    """Return name and memory of each GPU; runs the driver's program, because CUDA would allocate memory."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    found = _run_program([program, "--query-gpu=name,memory.total", "--format=csv,noheader"]) or ""
    return [line.strip() for line in found.splitlines() if line.strip()]


def _run_program(command: Sequence[str]) -> str | None:
    """Return the output of a program; None if it fails or takes too long."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | NO_CODE,
            start_new_session=True,  # so that its child processes are killed with it
        )
    except OSError:
        return None
    try:
        out, _ = process.communicate(timeout=WAIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return None
    return out.decode("utf-8", "replace") if process.returncode == 0 else None
