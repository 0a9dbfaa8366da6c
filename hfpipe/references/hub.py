"""What can be told of the Hugging Face Hub at once: whether it can be reached, and what is cached of it."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

WAIT = 2.0
"""Seconds to wait for the Hub; looking up a name has no limit of its own, and libraries try for a minute."""
FILES = ("config.json", "tokenizer_config.json", "README.md")


def offline() -> bool:
    """Tell whether the network is forbidden by HF_HUB_OFFLINE."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def cached(name: str, revision: str | None, kind: str = "model") -> bool:
    """Tell whether the cache holds files of a model or a `dataset`."""
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


def cached_metric(name: str) -> bool:
    """Tell whether the library evaluate, which keeps metrics as modules, has a copy of one."""
    kept = name.replace("/", "--") if "/" in name else f"evaluate-*--{name}"
    return any(metrics_folder().glob(kept))


def metrics_folder() -> Path:
    """Return where evaluate keeps metrics."""
    from huggingface_hub import constants

    modules = Path(os.environ.get("HF_MODULES_CACHE", Path(constants.HF_HOME) / "modules"))
    return modules / "evaluate_modules" / "metrics"


def unreachable() -> str | None:
    """Return why the Hub, or the proxy before it, cannot be reached; None when it can."""
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
        except Exception as error:  # a test may forbid sockets by an error of its own
            found.append(str(getattr(error, "strerror", None) or error).partition("\n")[0])

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(WAIT)
    return found[0] if found else f"{place.hostname} did not answer within {WAIT:.0f} s"
