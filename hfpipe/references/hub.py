"""Checks quickly whether the Hugging Face Hub is reachable, and what is in its cache."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

WAIT = 2.0
"""Timeout for the Hub in seconds; DNS lookups have no timeout, and libraries retry for a minute."""
FILES = ("config.json", "tokenizer_config.json", "README.md")


def is_offline() -> bool:
    """Return whether HF_HUB_OFFLINE forbids network access."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def is_cached(name: str, revision: str | None, kind: str = "model") -> bool:
    """Return whether the cache contains files of a model or a `dataset`."""
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = (try_to_load_from_cache(name, file, revision=revision, repo_type=kind) for file in FILES)
        if any(isinstance(path, str) for path in found):
            return True
    except HFValidationError:
        return False
    home = Path(os.environ.get("HF_DATASETS_CACHE", Path(constants.HF_HOME) / "datasets"))
    return kind == "dataset" and (home / name.replace("/", "___")).is_dir()


def is_metric_cached(name: str) -> bool:
    """Return whether the library evaluate has a cached copy of a metric module."""
    kept = name.replace("/", "--") if "/" in name else f"evaluate-*--{name}"
    return any(find_metrics_folder().glob(kept))


def find_metrics_folder() -> Path:
    """Return the folder in which evaluate caches metrics."""
    from huggingface_hub import constants

    modules = Path(os.environ.get("HF_MODULES_CACHE", Path(constants.HF_HOME) / "modules"))
    return modules / "evaluate_modules" / "metrics"


def explain_unreachable() -> str | None:
    """Return why the Hub, or the proxy in front of it, is unreachable; None if it is reachable."""
    from huggingface_hub import constants

    found: list[str | None] = []
    place = urlsplit(constants.ENDPOINT)
    proxy = getproxies().get(place.scheme)
    if proxy and not proxy_bypass(place.hostname or ""):
        place = urlsplit(proxy if "//" in proxy else f"//{proxy}")

    def look() -> None:
        try:
            port = place.port or (80 if place.scheme == "http" else 443)
            socket.create_connection((place.hostname or "", port), timeout=WAIT).close()
            found.append(None)
        except Exception as error:  # tests may block sockets with a custom exception
            found.append(str(getattr(error, "strerror", None) or error).partition("\n")[0])

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(WAIT)
    return found[0] if found else f"{place.hostname} did not answer within {WAIT:.0f} s"
