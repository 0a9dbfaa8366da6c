"""The generated pages of the manual explain every setting, metric, command, function and module."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import hfpipe
from hfpipe.cli.main import COMMANDS
from hfpipe.contract import Settings
from hfpipe.metrics import module_names
from hfpipe.recipe.training import arguments
from hfpipe.stages import KINDS
from hfpipe.tasks import TASKS

PACKAGE = Path(hfpipe.__file__).parent


def tables(page: str) -> dict[str, dict[str, list[str]]]:
    """Return the tables of a page by their heading: first cell of a row, without backticks → the others."""
    found = {}
    for part in re.split(r"^(?=#+ )", page, flags=re.MULTILINE):
        title, _, text = part.partition("\n")
        rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("| `")]
        found[title] = {row[0].strip(" `"): [cell.strip() for cell in row[1:]] for row in rows}
    return found


def test_every_key_of_every_stage_and_task_is_in_the_reference(generated: dict[str, str]) -> None:
    found = tables(generated["reference/settings.md"])
    for title, classes in (("Stage", KINDS), ("Task", TASKS)):
        for name, cls in classes.items():
            [section] = [rows for heading, rows in found.items() if f"{title} `{name}`" in heading]
            assert section.keys() == set(cls.model_fields) - {"kind"}, name


def test_every_mapping_inside_a_recipe_is_in_the_reference(generated: dict[str, str]) -> None:
    found = {
        heading.partition(" {")[0]: rows
        for heading, rows in tables(generated["reference/settings.md"]).items()
    }
    inner = {cls.__name__: cls for cls in subclasses(Settings) if f"### {cls.__name__}" in found}
    assert {"Source", "Clean", "LabelColumn", "Adapter", "EarlyStopping", "Dedup", "Script"} <= inner.keys()
    for name, cls in inner.items():
        assert found[f"### {name}"].keys() == set(cls.model_fields), name


def subclasses(cls: type) -> Iterator[type]:
    for each in cls.__subclasses__():
        yield each
        yield from subclasses(each)


def test_every_setting_has_a_type_a_default_and_a_meaning(generated: dict[str, str]) -> None:
    found = tables(generated["reference/settings.md"])
    assert sum(map(len, found.values())) > 150
    for heading, rows in found.items():
        for key, (kind, default, meaning) in rows.items():
            assert kind not in ("", "any value"), f"{heading}: {key}"
            assert default, f"{heading}: {key}"
            assert len(meaning) > 5, f"{heading}: {key}"


def test_every_key_of_training_is_in_the_reference(generated: dict[str, str]) -> None:
    found = tables(generated["reference/training-arguments.md"])
    own, managed = found["# Training arguments"], found["## Set by hfpipe"]
    assert list(own) == arguments.list_arguments()
    assert list(managed) == list(arguments.MANAGED)
    assert all(kind for kind, *_ in own.values())
    assert own["logging_steps"][1] == "`0.02`"
    assert "Muon" in own["optim"][-1]


def test_every_metric_has_a_definition_and_a_source(generated: dict[str, str]) -> None:
    found = {
        name: row for rows in tables(generated["reference/metrics.md"]).values() for name, row in rows.items()
    }
    assert sorted(found) == module_names()
    for name, (definition, source) in found.items():
        assert len(definition) > 20, name
        assert source, f"{name} does not say where its definition is from"


def test_every_public_name_is_in_the_reference(generated: dict[str, str]) -> None:
    shown = re.findall(r"^::: hfpipe\.(\S+)$", generated["reference/api.md"], re.MULTILINE)
    assert sorted(shown) == sorted({*hfpipe.__all__, "metrics.path", "metrics.module_names"} - {"metrics"})


def test_every_module_is_in_the_reference_with_its_sentence(generated: dict[str, str]) -> None:
    lines = re.findall(r"^ *(\S+\.py) +(\S.*)$", generated["reference/modules.md"], re.MULTILINE)
    there = [path.name for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]
    assert sorted(name for name, _ in lines) == sorted(there)


def test_every_command_is_in_the_reference(generated: dict[str, str]) -> None:
    page = generated["reference/command-line.md"]
    assert set(re.findall(r"^## hfpipe (\w+)$", page, re.MULTILINE)) == COMMANDS.keys()
    assert "--accelerate" in page
