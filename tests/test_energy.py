"""The energy of a training is measured by codecarbon without a network, where the recipe asks for it."""

from __future__ import annotations

import pytest

from hfpipe.training.speed.energy import measure_energy, remove_codecarbon


def test_codecarbon_is_never_left_to_transformers_which_would_ask_a_server() -> None:
    assert remove_codecarbon("codecarbon") == []
    assert remove_codecarbon(["tensorboard", "codecarbon"]) == ["tensorboard"]
    assert remove_codecarbon("none") == "none"
    assert "codecarbon" not in remove_codecarbon("all")


@pytest.mark.parametrize("report_to", [None, "none", "all", ["tensorboard"]])
def test_nothing_is_measured_unless_the_recipe_names_codecarbon(report_to: str | list[str] | None) -> None:
    with measure_energy(report_to, first=True) as energy:
        pass
    assert energy.kwh is None


def test_the_energy_of_a_block_is_measured_without_a_network() -> None:
    pytest.importorskip("codecarbon")
    with measure_energy("codecarbon", first=True) as energy:
        sum(range(10**7))
    assert energy.kwh is not None
    assert energy.kwh > 0
