"""What several test files share."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import updating

from hfpipe.contract import Advance, RunContext
from hfpipe.report import Report

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
}
"""For this process and every one that a test starts.

Tests fork after tokenizing, hence the last but one; tiny models lose more to waiting threads than they gain.
"""

LONGEST = (
    "test_notebooks",
    "test_conformance",
    "test_supervision",
    "test_processes",
    "test_demo_page",
    "test_jobs",
    "test_bench_cpu",
    "test_elastic",
    "test_sharding",
    "test_search",
    "test_resume",
    "test_adapters",
    "test_bench_gpu",
    "test_compiled",
    "test_doctor",
    "test_muon",
    "test_fuzz",
    "test_recipes",
)
"""Files that take a minute or so: one that began late would be waited for with one process at work."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option to bring expected messages up to date."""
    parser.addoption(updating.OPTION, action="store_true", help=str(updating.__doc__).partition("\n")[0])


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return how many processes run the tests: a few for all of them, this one alone for named ones.

    A process of its own pays 10 s for its imports, and shows no prints and no debugger. Slow tests wait for
    processes that they start; one more process of tests than cores runs meanwhile.
    """
    everything = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    if not everything or config.getoption(updating.OPTION):
        return 0
    waits = config.option.markexpr != "not slow"
    return min(4, (os.cpu_count() or 1) + waits)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, then those with slow tests: quick ones let the processes end together."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: (item.path not in slow, ranks.get(item.path.stem, len(ranks))))


def pytest_configure(config: pytest.Config) -> None:
    """Cut the libraries off from the network and from this user's caches, before any of them is imported.

    Hypothesis tries the same examples on every machine, however long one of them takes.
    """
    slow_is_fine = [hypothesis.HealthCheck.too_slow]
    hypothesis.settings.register_profile(
        "any machine", deadline=None, derandomize=True, suppress_health_check=slow_is_fine
    )
    hypothesis.settings.load_profile("any machine")
    gc.set_threshold(10_000, 10, 10)  # as the command line does
    if config.getoption(updating.OPTION):
        config.pluginmanager.register(updating.ListChanged(pytest.raises), "list-changed-messages")
    os.environ.pop(
        "PYTHONDONTWRITEBYTECODE", None
    )  # else each process that a test starts compiles hfpipe again
    sys.dont_write_bytecode = False
    home = tempfile.TemporaryDirectory(prefix="hfpipe-tests-")
    config.add_cleanup(home.cleanup)
    os.environ.update(OFFLINE, HF_HOME=home.name)


def pytest_collection_finish() -> None:
    """Leave the modules of torch and others, which stay to the end, out of every search for garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def unchanged_search_path() -> Iterator[None]:
    """Check that a test leaves the search path for modules, whose first folders hide the standard library."""
    before = list(sys.path)
    yield
    after = list(sys.path)
    if after[: len(before)] != before:
        sys.path[:] = before
        pytest.fail(f"this test leaves another search path for modules: {after}")


@contextmanager
def no_progress(description: str, total: int | None) -> Iterator[Advance]:
    """Stand in for progress bars."""

    def advance(done: int, note: str = "") -> None:
        return

    yield advance


@pytest.fixture
def context(tmp_path: Path) -> Callable[..., RunContext]:
    """Return a maker of run contexts whose recipe lies in `tmp_path`."""

    def make(name: str = "data", seed: int = 17, inputs: dict[str, Path] | None = None) -> RunContext:
        folder = tmp_path / "runs" / name
        (folder / ".work").mkdir(parents=True, exist_ok=True)
        return RunContext(name, folder, tmp_path, seed, inputs or {}, no_progress)

    return make


@pytest.fixture
def make_data(context: Callable[..., RunContext]) -> Callable[..., tuple[Report, Path]]:
    """Return a function that runs a data set stage and gives its report and folder."""

    def make(
        settings: dict[str, Any], name: str = "data", seed: int = 17, inputs: dict[str, Path] | None = None
    ) -> tuple[Report, Path]:
        from hfpipe.stages.dataset import Dataset

        ctx = context(name, seed, inputs)
        report = Dataset.model_validate(settings).run(ctx)
        (ctx.folder / "report.json").write_text(report.model_dump_json(), encoding="utf-8")
        return report, ctx.folder

    return make


@pytest.fixture(scope="session")
def generated() -> dict[str, str]:
    """Return the pages of the manual that are generated from the code, by their path in `docs/`."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "docs" / "generator"))
    try:
        from pages import PAGES
    finally:
        del sys.path[0]
    return {path: page() for path, page in PAGES.items()}
