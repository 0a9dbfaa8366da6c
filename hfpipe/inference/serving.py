"""`hfpipe.demo`: serves a page on this machine to try a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hfpipe.runner import check_world

if TYPE_CHECKING:
    from hfpipe.inference.demo_page import DemoPage


def demo(
    model: str | Path,
    *,
    task: str | None = None,
    options: Sequence[str] = (),
    runs: str | Path = "runs",
    port: int | None = None,
) -> DemoPage:
    """Serve a page on this machine to try a trained model; its predictions are those of `predict`.

    Returns the running page with its `url`; `close` ends it. Gradio (`pip install 'hfpipe[demo-page]'`)
    serves the page on 127.0.0.1; neither the server nor the page connects to another machine. `port` is by
    default the first free one from 7860. `model`, `task` and `options` are those of `predict`.

    Raises RecipeError when there is no such model, its task is unknown, Gradio is not installed or the port
    cannot be used, and StageError when the model cannot be loaded.
    """
    from hfpipe.inference.demo_page import DemoPage, import_gradio
    from hfpipe.inference.ports import check_port
    from hfpipe.inference.resolve import resolve_model

    check_world()
    trained = resolve_model(str(model), Path(runs), task, options)
    if port is not None:
        check_port(port)
    import_gradio()  # before the model is loaded, which is slow

    from hfpipe.inference.loaded_model import LoadedModel

    return DemoPage(LoadedModel(trained, batch_size=1), str(model), port)
