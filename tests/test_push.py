"""`hfpipe push`: only the model, its tokenizer, card and scores leave the machine, and no secret does."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import small
import torch
import yaml
from huggingface_hub import parse_eval_result_entries
from safetensors.torch import save_file
from test_report import KEYS, finish, make_run, measured

import hfpipe
from hfpipe.cli.main import main
from hfpipe.errors import RecipeError, StageError
from hfpipe.report import DataFacts, Report
from hfpipe.reporting.model_card import refresh_card
from hfpipe.store.store import Store, read_stage

TOKEN = "hf_" + "s3cr3t" * 6
GOES = {
    ".eval_results/score.yaml",
    "README.md",
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}
STAYS = {
    "checkpoint-3/optimizer.pt",
    "metrics.jsonl",
    "optimizer.pt",
    "rows.jsonl",
    "runs/events.out",
    "train.arrow",
    "training_args.bin",
    "env.json",
    "nested/config.json",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a finished training stage that holds much more than its model."""
    root = make_run(tmp_path / "demo")
    facts = DataFacts(columns={"text": "string"}, splits={"train": 1000, "test": 1336})
    source = {"kind": "dataset", "source": {"hub": "owner/abstracts", "revision": "main", "config": None}}
    finish(root, "wiki", source, [], Report(kind="dataset", summary="", data=facts))
    evaluation = {"kind": "evaluate", "model": "stage:topics", "data": "stage:wiki", "split": "test"}
    report = Report(kind="evaluate", summary="", scores=measured([]))
    finish(root, "score", evaluation, ["topics", "wiki"], report)
    made, store = read_stage(root / f"topics-{KEYS['topics']}"), Store(root)
    path = store.get_folder("topics", KEYS["topics"])
    store.begin(path, made)
    for name in (GOES | STAYS) - {".eval_results/score.yaml", "README.md", "model.safetensors"}:
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text("{}", encoding="utf-8")
    save_file({"weight": torch.zeros(2)}, path / "model.safetensors")
    store.finish(path, Report(kind="finetune", summary="trained", facts={"pipeline": "text-classification"}))
    assert refresh_card(path, {})
    return path


def test_a_dry_run_shows_what_would_go_and_what_stays(folder, capsys):
    assert main(["push", str(folder), "owner/topics", "--dry-run"]) == 0
    said = capsys.readouterr().out
    shown = {line.split()[0] for line in said.splitlines() if line.startswith("    ")}
    assert shown == GOES
    [stays] = [line for line in said.splitlines() if line.startswith("not uploaded: ")]
    named = set(stays.removeprefix("not uploaded: ").split(", "))
    assert {name.partition("/")[0] + "/" * ("/" in name) for name in STAYS} | {
        "report.json",
        "stage.json",
    } == named
    assert said.endswith("nothing was uploaded\n")


def test_results_on_data_of_the_hub_are_written_as_the_hub_reads_them(folder):
    from hfpipe.publishing.eval_results import create_result_files

    [(name, text)] = create_result_files(folder).items()
    [entry] = parse_eval_result_entries(yaml.safe_load(text))
    score = measured([])[0]
    assert (name, entry.dataset_id, entry.value) == (
        ".eval_results/score.yaml",
        "owner/abstracts",
        score.value,
    )
    assert entry.notes is not None
    assert entry.notes.startswith(f"{score.metric} ")


@pytest.mark.parametrize(
    ("name", "content", "variable", "message"),
    [
        (
            "config.json",
            '{"note": "passw0rd-of-mine"}',
            "MY_PASSWORD",
            "contains the value of the environment variable",
        ),
        (
            "README.md",
            "use key abcdefghij",
            "WANDB_API_KEY",
            "contains the value of the environment variable",
        ),
        (
            "tokenizer.json",
            json.dumps({"x": TOKEN}),
            "UNRELATED",
            "contains a string that looks like an access token",
        ),
    ],
)
def test_a_file_with_a_secret_is_refused(name, content, variable, message, folder, monkeypatch):
    values = {"MY_PASSWORD": "passw0rd-of-mine", "WANDB_API_KEY": "abcdefghij", "UNRELATED": "x"}
    monkeypatch.setenv(variable, values[variable])
    made, store = read_stage(folder), Store(folder.parent)
    kept = {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
    store.begin(folder, made)
    for other, data in kept.items():
        (folder / other).write_bytes(data)
    (folder / name).write_text(content, encoding="utf-8")
    store.finish(folder, Report(kind="finetune", summary="trained"))
    with pytest.raises(StageError, match=f"{name}: {message}") as error:
        hfpipe.push(folder, "owner/topics", dry_run=True)
    assert TOKEN not in str(error.value)
    assert values[variable] == "x" or values[variable] not in str(error.value)


def test_a_file_that_was_changed_or_linked_is_not_uploaded(folder, tmp_path):
    (folder / "config.json").write_text('{"changed": 1}', encoding="utf-8")
    with pytest.raises(StageError, match=r"config\.json: "):
        hfpipe.push(folder, "owner/topics", dry_run=True)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "private.md").write_text("private", encoding="utf-8")
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to(tmp_path / "private.md")
    with pytest.raises(StageError, match=r"README\.md: is a link to"):
        hfpipe.push(folder, "owner/topics", dry_run=True)


@pytest.mark.parametrize(
    "repository", ["topics", "https://huggingface.co/owner/topics", "owner/../x", "a/b/c", ""]
)
def test_a_name_that_is_not_a_repository_is_refused(repository, folder):
    with pytest.raises(RecipeError, match="write owner/name"):
        hfpipe.push(folder, repository, dry_run=True)


def test_a_stage_without_a_model_is_not_uploaded(folder):
    with pytest.raises(RecipeError, match="'wiki' is"):
        hfpipe.push(f"{folder.parent}:wiki", "owner/topics", dry_run=True)


# A stand-in for the Hub


class Hub(BaseHTTPRequestHandler):
    """Takes what huggingface_hub sends when a commit is made; keeps the files by their path."""

    files: dict[str, bytes]
    blobs: dict[str, bytes]
    asked: list[str]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.asked.append(f"{self.path} {self.headers.get('Authorization')}")
        if self.path.endswith("/commit/main"):
            self.answer(self.commit([json.loads(line) for line in body.splitlines() if line]))
            return
        given = json.loads(body or b"{}")
        if self.path == "/api/repos/create":
            self.answer({"url": f"{self.base}/owner/topics", "id": "1"})
        elif "/preupload/" in self.path:
            modes = {True: "lfs", False: "regular"}
            listed = [
                {
                    "path": each["path"],
                    "uploadMode": modes[each["path"].endswith(".safetensors")],
                    "shouldIgnore": False,
                }
                for each in given["files"]
            ]
            self.answer({"files": listed})
        elif self.path.endswith("/info/lfs/objects/batch"):
            actions = lambda oid: {"upload": {"href": f"{self.base}/blob/{oid}"}}  # noqa: E731
            listed = [each | {"actions": actions(each["oid"])} for each in given["objects"]]
            self.answer({"transfer": "basic", "objects": listed})
        else:
            self.answer({"errors": [], "warnings": []})

    def do_PUT(self) -> None:
        self.blobs[self.path.rpartition("/")[2]] = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer({})

    def commit(self, lines: list[dict[str, Any]]) -> dict[str, str]:
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.files[value["path"]] = self.blobs[value["oid"]]
        return {"commitUrl": f"{self.base}/owner/topics/commit/1", "commitOid": "1"}

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def answer(self, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def hub(socket_enabled: None) -> Iterator[type[Hub]]:
    """Yield a stand-in for the Hub on this machine, with its address in `url`."""
    kept = type("Kept", (Hub,), {"files": {}, "blobs": {}, "asked": [], "url": ""})
    with ThreadingHTTPServer(("127.0.0.1", 0), kept) as server:
        kept.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield kept
        server.shutdown()


def push(folder: Path, url: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if "OFFLINE" not in name}
    command = [sys.executable, "-m", "hfpipe", "push", str(folder), "owner/topics", "--private"]
    given = environment | {"HF_ENDPOINT": url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=small.ROOT, env=given)


@pytest.mark.slow
def test_exactly_the_listed_files_are_uploaded(folder, hub):
    done = push(folder, hub.url)
    assert done.returncode == 0, done.stderr
    assert hub.files.keys() == GOES
    for name in GOES - {".eval_results/score.yaml"}:
        assert hub.files[name] == (folder / name).read_bytes(), name
    assert any(f"Bearer {TOKEN}" in line for line in hub.asked)
    assert TOKEN not in done.stdout + done.stderr
    assert done.stdout.rstrip().endswith(f"{hub.url}/owner/topics/commit/1")
