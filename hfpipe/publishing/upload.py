"""Uploads the selected files of a model to a repository of the Hub, in one commit."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfpipe.errors import Problem, RecipeError, StageError, format_one_line
from hfpipe.publishing.selection import list_kept_files, select_files
from hfpipe.runs.lookup import find_stage
from hfpipe.store.artifacts import MODELS

REPOSITORY = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"


@dataclass(frozen=True)
class Pushed:
    """The files that were uploaded, or would be."""

    repository: str
    files: dict[str, int]
    """Path in the repository → size in bytes."""
    kept: list[str]
    """Files that are not uploaded."""
    url: str | None
    """URL of the commit; None if nothing was uploaded."""


def push(
    stage: str | Path,
    repository: str,
    runs: str | Path = Path("runs"),
    *,
    dry_run: bool = False,
    private: bool = False,
) -> Pushed:
    """Upload a trained or exported model to `repository` (`owner/name`) on the Hub, in one commit.

    `stage` is the folder of a stage, or a run or recipe with `:STAGE`. Only model, tokenizer and card are
    uploaded, and the main scores on data of the Hub; `dry_run` uploads nothing. The repository is created if
    it does not exist, `private` if set. Endpoint and token are those of huggingface_hub (`HF_ENDPOINT`,
    `HF_TOKEN`, or `hf auth login`).

    Raises RecipeError when there is no such stage or the name is not a repository, and StageError when a file
    is damaged or holds a secret, or the Hub rejects the upload.
    """
    from hfpipe.publishing.eval_results import create_result_files

    if not re.fullmatch(REPOSITORY, repository):
        raise RecipeError([Problem(f"{repository}: is not the name of a repository; write owner/name")])
    run, name = find_stage(str(stage), Path(runs), MODELS, "trained model")
    folder = run.folder(name)
    selected, results = select_files(folder), create_result_files(folder)
    sizes = {each: (folder / each).stat().st_size for each in selected}
    sizes |= {each: len(text.encode()) for each, text in results.items()}
    kept = list_kept_files(folder, selected)
    if dry_run:
        return Pushed(repository, sizes, kept, None)
    files: dict[str, Path | bytes] = {each: folder / each for each in selected}
    files |= {each: text.encode() for each, text in results.items()}
    return Pushed(repository, sizes, kept, _upload(repository, files, name, private=private))


def _upload(repository: str, files: dict[str, Path | bytes], name: str, *, private: bool) -> str:
    """Upload the files, and return the URL of the commit."""
    from huggingface_hub import CommitOperationAdd, HfApi

    from hfpipe.library_output import silence_libraries

    operations: list[Any] = [CommitOperationAdd(path, content) for path, content in files.items()]
    with _translate_hub_errors(repository), silence_libraries():
        api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
        api.create_repo(repository, exist_ok=True, private=private)
        found = api.create_commit(repository, operations, commit_message=f"Upload {name} by hfpipe")
    return str(found.commit_url)


@contextmanager
def _translate_hub_errors(repository: str) -> Iterator[None]:
    """Convert errors of the Hub or the network to a one-line StageError."""
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    try:
        yield
    except OfflineModeIsEnabled:
        raise StageError("push needs the network, and HF_HUB_OFFLINE is set; unset it") from None
    except LocalTokenNotFoundError:
        raise StageError("push needs a token of the Hub; run `hf auth login`, or set HF_TOKEN") from None
    except HfHubHTTPError as error:
        denied = error.response.status_code in (401, 403)
        fix = "; run `hf auth login` with a token that may write there, or set HF_TOKEN" if denied else ""
        raise StageError(f"{repository}: the Hub rejects it: {format_one_line(error)[:300]}{fix}") from error
    except (OSError, ValueError, RuntimeError) as error:
        raise StageError(f"{repository}: cannot be uploaded: {format_one_line(error)[:300]}") from error
    except Exception as error:  # the HTTP library has its own errors
        kind = type(error).__name__
        raise StageError(
            f"{repository}: the Hub cannot be reached ({kind}: {format_one_line(error)[:200]})"
        ) from error
