"""Liger's kernels: no effect on a CPU, refused where there are none, and a loss only if it is right."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from hfpipe.encoding.sampler import BatchLayout
from hfpipe.errors import StageError
from hfpipe.modeling.losses.chunked_loss import compute_linear_cross_entropy
from hfpipe.modeling.losses.liger_loss import choose_linear_loss, compute_liger_loss, load_liger_loss
from hfpipe.modeling.performance import runs_on_cpu
from hfpipe.training.arguments import TrainingPlan, create_training_arguments
from hfpipe.training.ineffective_settings import find_ineffective_settings
from hfpipe.training.liger import check_liger
from hfpipe.training.speed.choice import Speed

ASKED = {"use_liger_kernel": True, "liger_kernel_config": {"rope": False}}
TABLE = "MODEL_TYPE_TO_APPLY_LIGER_FN = {'llama': None}\n"
"""Stands for the module of Liger that lists the types of models it knows."""
LOSS = """
import torch
from torch.nn import functional as F

class LigerFusedLinearCrossEntropyLoss:
    def __init__(self, ignore_index, label_smoothing, reduction, accum_dtype):
        self.options = {"ignore_index": ignore_index, "label_smoothing": label_smoothing}
        self.options["reduction"] = reduction

    def __call__(self, weight, hidden, targets, bias=None):
        logits = hidden @ weight.T + (0 if bias is None else bias)
        return F.cross_entropy(logits.float(), targets, **self.options)
"""
"""Stands for Liger's loss, with its interface."""
CPU = torch.device("cpu")


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


@pytest.mark.skipif(not runs_on_cpu(), reason="the settings have an effect on a GPU")
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_loss_with_the_right_results_is_used(liger: Path, dtype: torch.dtype, smoothing: float) -> None:
    liger.with_name("__init__.py").write_text(LOSS, encoding="utf-8")
    found = load_liger_loss(CPU, dtype, smoothing)
    assert found is not None
    random = torch.Generator().manual_seed(3)
    hidden, weight = (torch.randn(shape, generator=random) for shape in ((20, 16), (50, 16)))
    targets = torch.randint(50, (20,), generator=random)
    targets[:4] = -100
    settings = {"smoothing": smoothing, "dtype": dtype}
    mine, other = (
        each(hidden, weight, None, targets, **settings) for each in (compute_linear_cross_entropy, found)
    )
    torch.testing.assert_close(other, mine, rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (LOSS.replace("hidden @", "2 * hidden @"), "Liger's kernel deviates by "),
        (LOSS.replace("hidden @", "float('nan') * hidden @"), "Liger's kernel deviates by nan"),
        (LOSS.replace(", accum_dtype", ""), "Liger's kernel failed and is not used: "),
    ],
    ids=["wrong", "not a number", "another interface"],
)
def test_a_loss_with_other_results_or_another_interface_is_not_used_and_the_log_says_so(
    liger: Path, wrong: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    liger.with_name("__init__.py").write_text(wrong, encoding="utf-8")
    assert load_liger_loss(CPU, torch.float32, 0.0) is None
    [line] = caplog.messages
    assert message in line
    assert "\n" not in line


def test_a_micro_batch_without_targets_has_a_loss_of_zero() -> None:
    hidden, weight = torch.zeros(0, 16, requires_grad=True), torch.ones(50, 16, requires_grad=True)
    total = compute_liger_loss(hidden, weight, None, torch.zeros(0, dtype=torch.int64))
    total.backward()
    assert (total.item(), weight.grad.abs().sum().item()) == (0, 0)


@pytest.mark.skipif(find_spec("liger_kernel") is not None, reason="it is installed")
def test_without_liger_hfpipe_computes_the_loss(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert load_liger_loss(CPU, torch.float32, 0.0) is None
    assert choose_linear_loss(CPU, torch.float32, 0.0) is compute_linear_cross_entropy
    assert not caplog.messages
