"""Liger's kernels: without effect on a CPU, and refused where there are none for a model."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hfpipe.encoding.sampler import BatchLayout
from hfpipe.errors import StageError
from hfpipe.modeling.performance import on_cpu
from hfpipe.training.arguments import TrainingPlan, create_training_arguments
from hfpipe.training.ineffective_settings import find_ineffective_settings
from hfpipe.training.liger import check_liger
from hfpipe.training.speed.choice import Speed

ASKED = {"use_liger_kernel": True, "liger_kernel_config": {"rope": False}}
TABLE = "MODEL_TYPE_TO_APPLY_LIGER_FN = {'llama': None}\n"
"""Stands for the module of Liger that lists the types of models it knows."""


@pytest.fixture
def liger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file of a package that stands for Liger, which needs Triton."""
    for name in [each for each in sys.modules if each.partition(".")[0] == "liger_kernel"]:
        monkeypatch.delitem(sys.modules, name)
    folder = tmp_path / "liger_kernel" / "transformers"
    folder.mkdir(parents=True)
    for each in (folder.parent, folder):
        (each / "__init__.py").touch()
    file = folder / "monkey_patch.py"
    file.write_text(TABLE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return file


@pytest.mark.skipif(not on_cpu(), reason="the settings have an effect on a GPU")
def test_on_a_cpu_the_settings_have_no_effect_and_the_log_says_so(tmp_path: Path) -> None:
    plan = TrainingPlan(BatchLayout(2, 1, 1), 3, Speed(bf16=False, compiled=False))
    made = create_training_arguments(ASKED, tmp_path, 1, plan, None, early=False)
    assert not made.use_liger_kernel
    assert made.liger_kernel_config is None
    assert [*find_ineffective_settings(ASKED, validated=True, alone=True)] == [
        "training.use_liger_kernel: true has no effect here: there is no GPU; Liger's kernels are written "
        "for GPUs"
    ]


def test_a_model_without_kernels_is_refused_by_name(liger: Path) -> None:
    check_liger("llama")
    with pytest.raises(StageError, match="Liger has no kernels for bert; delete use_liger_kernel"):
        check_liger("bert")


def test_a_package_that_cannot_be_imported_is_named_with_the_cause(liger: Path) -> None:
    liger.write_text("import triton_that_is_missing\n", encoding="utf-8")
    with pytest.raises(StageError, match=r"liger_kernel cannot be imported: .*triton_that_is_missing"):
        check_liger("llama")
