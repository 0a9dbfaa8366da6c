"""Recipes: YAML 1.2, places of messages, overrides, shipped recipes misspelt, schema, no heavy imports."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hfpipe.errors import Problem, RecipeError, Spot
from hfpipe.recipe import Recipe, aliases, check_facts, installed, load_recipe, make_recipe_schema
from hfpipe.recipe.source import parse_yaml
from hfpipe.recipe.training import arguments, budget
from hfpipe.references.places import Code
from hfpipe.report import DataFacts
from hfpipe.stages import KINDS
from hfpipe.stages.train import Adapter
from hfpipe.tasks import TASKS
from hfpipe.tasks.shared.generation_config import Sampling

ROOT = Path(__file__).parents[1]
SHIPPED = [path for path in sorted((ROOT / "recipes").rglob("*.yaml")) if "accelerate" not in path.parts]
FREE = {"stages", "columns", "labels", "split", "drop", "require", "files"}
"""Mappings whose keys are names of a person's own choosing, so that no spelling of them is wrong."""


def read(recipe: str, folder: Path, overrides: tuple[str, ...] = (), **more: Any) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_text(recipe, encoding="utf-8")
    (folder / "a.txt").touch()
    return load_recipe(path, kinds=KINDS, tasks=TASKS, overrides=overrides, **more)


def problems(recipe: str, folder: Path, overrides: tuple[str, ...] = ()) -> list[Any]:
    with pytest.raises(RecipeError) as caught:
        read(recipe, folder, overrides)
    return caught.value.problems


RECIPE = """\
name: small
stages:
  texts:
    kind: dataset
    source: {files: a.txt}
    columns: {text: body, label: topic}
    split: {validation: 0.1}
  words: {kind: tokenizer, data: stage:texts, algorithm: wordpiece}
  lm:
    kind: pretrain
    task: masked-lm
    data: stage:texts
    tokenizer: stage:words
    model: {type: bert}
  topics:
    kind: finetune
    task: text-classification
    data: stage:texts
    model: stage:lm
    training: {learning_rate: 3e-4}
"""


# shipped recipes


def slips() -> list[tuple[Path, int, int, str, str]]:
    """Return (recipe, line, column, key, misspelt key) for every key of every shipped recipe."""
    found = {}
    for path in SHIPPED:
        for keys, spot in parse_yaml(path.read_text(encoding="utf-8"), path).keys.items():
            name = keys[-1]
            if isinstance(name, str) and len(name) > 2 and (len(keys) < 2 or keys[-2] not in FREE):
                for wrong in (name[0] + name[2:], name + name[-1]):
                    found[path, spot.line, spot.column, wrong] = (path, spot.line, spot.column, name, wrong)
    return list(found.values())


@pytest.mark.slow
def test_every_key_of_every_shipped_recipe_misspelt_is_caught_with_the_right_suggestion():
    assert len(slips()) > 50
    for path, line, column, name, wrong in slips():
        lines = path.read_text(encoding="utf-8").splitlines()
        lines[line - 1] = lines[line - 1][: column - 1] + wrong + lines[line - 1][column - 1 + len(name) :]
        told = [str(p).partition("\n")[0] for p in problems_in_copy(path, "\n".join(lines))]
        part, _, key = name.rpartition(".")  # a setting that is searched is named with its part
        spelt = {repr(wrong), repr(wrong.removeprefix(f"{part}."))}
        hints = {f"did you mean {name!r}?", f"did you mean {key!r}?"}
        here = [each for each in told if f":{line}:{column}: " in each]
        assert [t for t in here if any(w in t for w in spelt) and any(h in t for h in hints)], (wrong, told)


def test_every_stage_misspelt_is_caught_where_it_is_named():
    for path in SHIPPED:
        text = path.read_text(encoding="utf-8")
        named = {name for name in yaml.safe_load(text)["stages"] if f"stage:{name}" in text}
        assert named
        for name in named:
            wrong = re.sub(rf"(?m)^  {name}:", f"  {name}{name[-1]}:", text)
            told = [p.message for p in problems_in_copy(path, wrong)]
            expected = [
                f"there is no stage '{name}{each}' above; did you mean '{name}{name[-1]}{each}'?"
                for each in re.findall(rf"stage: ?{name}(?![\w-])(@\w+)?", text)
            ]
            assert [each for each in told if each in expected] == expected, told


def problems_in_copy(path: Path, text: str) -> list[Any]:
    """Return the problems of a changed recipe, read where the shipped one lies."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", encoding="utf-8") as changed:
        changed.write(text)
        changed.flush()
        with pytest.raises(RecipeError) as caught:
            load_recipe(Path(changed.name), kinds=KINDS, tasks=TASKS)
    return caught.value.problems


# YAML and places


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-4", 5e-4),
        ("1E3", 1000.0),
        ("2.", 2.0),
        (".5", 0.5),
        ("-.inf", float("-inf")),
        ("012", 12),
        ("0o17", 15),
        ("0x1F", 31),
        ("+3", 3),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("Off", "Off"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2024-01-31", "2024-01-31"),
        ("5e-4x", "5e-4x"),
        ("'5'", "5"),
        ("!!str 5", "5"),
        ("!!float 5", 5.0),
    ],
)
def test_values_are_read_as_yaml_1_2(text: str, value: Any):
    data = parse_yaml(f"key: {text}", Path("r")).data["key"]
    assert (data, type(data)) == (value, type(value))


@pytest.mark.parametrize(
    "text", ["!!binary aGk=", "!!timestamp 2024-01-31", "!!set {a}", "!mine 3", "!!int x"]
)
def test_other_tags_are_refused(text: str):
    assert parse_yaml(f"key: {text}", Path("r")).problems


def test_a_merge_fills_in_what_is_not_given_and_keeps_its_place():
    document = parse_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {<<: [{y: 4}, *a]}", Path("r"))
    assert document.data == {"a": {"x": 1, "y": 2}, "b": {"y": 3, "x": 1}, "c": {"y": 4, "x": 1}}
    assert [str(document.keys["b", key]) for key in ("x", "y")] == ["r:1:8", "r:2:13"]


@pytest.mark.slow
def test_aliases_of_aliases_do_not_fill_the_memory():
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))]
    assert "100,000 values" in parse_yaml("\n".join(lines), Path("r")).problems[0].message


def test_a_message_shows_the_line_and_points_at_the_key(tmp_path: Path):
    (problem,) = problems(RECIPE.replace("learning_rate", "learnin_rate"), tmp_path)
    assert str(problem) == (
        f"{tmp_path}/recipe.yaml:20:16: unknown key 'learnin_rate' in stages.topics.training;"
        " did you mean 'learning_rate'?\n"
        "        training: {learnin_rate: 3e-4}\n"
        "                   ^"
    )


def test_a_spot_is_the_value_or_the_key_that_leads_to_it(tmp_path: Path):
    recipe = read(RECIPE, tmp_path)
    paths = [
        ("stages", "lm", "task"),
        ("stages", "topics", "training", "learning_rate"),
        ("stages", "lm"),
        ("stages", "lm", "training", "learning_rate"),
    ]
    spots = [recipe.find_spot(path) for path in paths]
    assert [(spot.line, spot.column) for spot in spots if spot] == [(11, 11), (20, 31), (9, 3), (9, 3)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file"),
        (b"name: caf\xe9\n", "recipe.yaml:1: byte 9 is not UTF-8; save the file as UTF-8"),
        (b"a: 1\nname: a\x00b\n", "recipe.yaml:2:8: broken YAML: the character #x0000 is not allowed"),
        (b"[" * 5000, "recipe.yaml:1:1: broken YAML: nested too deeply"),
    ],
)
def test_a_file_that_cannot_be_read_is_an_error_of_one_line(
    content: bytes | None, message: str, tmp_path: Path
):
    path = tmp_path / "recipe.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, kinds=KINDS, tasks=TASKS)
    assert message in str(caught.value.problems[0]).partition("\n")[0]


def test_a_folder_is_not_a_recipe(tmp_path: Path):
    with pytest.raises(RecipeError, match="is a folder; name a recipe file"):
        load_recipe(tmp_path, kinds=KINDS, tasks=TASKS)


def test_a_byte_order_mark_and_windows_line_ends_are_no_trouble(tmp_path: Path):
    path = tmp_path / "recipe.yaml"
    (tmp_path / "a.txt").touch()
    path.write_bytes(b"\xef\xbb\xbf" + RECIPE.replace("\n", "\r\n").encode())
    assert list(load_recipe(path, kinds=KINDS, tasks=TASKS).stages) == ["texts", "words", "lm", "topics"]


# overrides


def test_overrides_reach_every_level(tmp_path: Path):
    sets = (
        "seed=7",
        "topics.training.learning_rate=1e-5",
        "stages.topics.training.budget=3 epochs",
        "topics.task.length=64",
        "lm.training.max_steps=5",
        "texts.clean=[unicode, {min_chars: 3}]",
        "texts.clean.1.min_chars=4",
    )
    recipe = read(RECIPE, tmp_path, sets)
    stages: dict[str, Any] = recipe.stages
    assert recipe.seed == 7
    assert stages["topics"].training == {"learning_rate": 1e-5, "budget": "3 epochs"}
    assert stages["topics"].task.length == 64
    assert stages["lm"].training == {"max_steps": 5}
    assert stages["texts"].clean[1].model_dump(mode="json") == {"min_chars": 4}


def test_an_override_of_what_an_alias_brings_in_changes_one_place_only(tmp_path: Path):
    text = RECIPE.replace("model: {type: bert}", "model: {type: bert}\n    training: &t {seed: 3}")
    text = text.replace("seed: 3", "max_steps: 3").replace("training: {learning_rate: 3e-4}", "training: *t")
    stages: dict[str, Any] = read(text, tmp_path, ("topics.training.max_steps=9",)).stages
    assert [stages[name].training["max_steps"] for name in ("lm", "topics")] == [3, 9]


# everything at once, anything at all


def test_problems_come_in_the_order_of_the_file_and_those_of_overrides_last(tmp_path: Path):
    text = (
        RECIPE.replace("masked-lm", "maskedlm")
        .replace("3e-4", "x")
        .replace("stage:texts, alg", "stage:text, alg")
    )
    told = problems(text.replace("name:", "nmae:"), tmp_path, ("words.vocab_size=1",))
    places = [(p.spot.line, p.spot.column) for p in told if p.spot]
    assert places == sorted(places)
    assert len(places) == 4
    assert [p.message for p in told if p.spot is None] == [
        "--set words.vocab_size=1: stages.words.vocab_size: must be at least 16, got 1"
    ]


KNOWN = """
    name seed stages kind dataset tokenizer pretrain finetune evaluate source files hub python stage data
    stage:a a b task masked-lm model type bert training learning_rate budget clean unicode drop split
    baselines require length
"""
WORDS = st.sampled_from(KNOWN.split())
TEXTS = WORDS | st.text(max_size=8)
VALUES = st.recursive(
    TEXTS | st.none() | st.booleans() | st.integers() | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS | st.integers(), inner, max_size=4),
    max_leaves=12,
)
STAGE = st.dictionaries(WORDS, VALUES, max_size=5).flatmap(
    lambda rest: st.sampled_from(sorted(KINDS)).map(lambda kind: {**rest, "kind": kind})
)


@settings(max_examples=60, deadline=None)
@example({"\n": "\0"})
@given(VALUES | st.dictionaries(st.sampled_from("ab"), STAGE).map(lambda stages: {"stages": stages}))
def test_any_yaml_gives_a_recipe_or_its_problems(value: Any):
    either(yaml.safe_dump(value, allow_unicode=True))


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="stagekind:{}[]-&*!<>|'\"#%@`,? \n\t\\0x1e", max_size=40))
def test_any_text_gives_a_recipe_or_its_problems(text: str):
    either(text)


ODD = yaml.safe_load(
    """[null, true, -1, .inf, 99999999999999999999, '', "./a\\0b", 'stage:', 'stage:texts', 'stage:lm',
    'package:a/b', 'x.py:y', a b, masked-lm, 5e-4x, [], {}, [[]], {kind: [1]}, {1: 2}, [null],
    {type: [1]}, {stage: texts}]"""
)
JUNK = st.sampled_from(ODD)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.integers(min_value=0), JUNK | VALUES, st.booleans())
def test_a_good_recipe_with_anything_anywhere_gives_a_recipe_or_its_problems(
    place: int, junk: Any, named: bool
):
    data = yaml.safe_load(RECIPE)
    spots = list(inner(data))
    above, key = spots[place % len(spots)]
    if named and isinstance(above, dict):
        above["x"] = above.pop(key)
    else:
        above[key] = junk
    either(yaml.safe_dump(data, sort_keys=False))


def inner(value: Any) -> Any:
    """Yield every (mapping or list, key or index) inside a value."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from inner(value[key])


def either(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            assert read(text, Path(folder)).stages
        except RecipeError as error:
            wrong = error
        else:
            return
    assert wrong.problems
    assert all("\n" not in problem.message for problem in wrong.problems)


# what the data set holds


FACTS = DataFacts(
    columns={"text": "string", "label": "label"},
    splits={"train": 9, "validation": 1},
    labels={"label": ["a", "b"]},
)


def test_what_a_finished_data_set_lacks_is_reported_at_its_key(tmp_path: Path):
    text = RECIPE.replace("    columns: {text: body, label: topic}\n", "")
    recipe = read(
        text.replace("task: text-classification", "task: {kind: text-classification, label: topic}"), tmp_path
    )
    assert check_facts(recipe, {}) == []
    (problem,) = check_facts(recipe, {"texts": FACTS})
    assert "no column 'topic'" in problem.message
    assert problem.spot is not None
    assert problem.spot.line == 16


def test_a_finished_data_set_with_all_that_is_asked_for_has_no_problem(tmp_path: Path):
    assert check_facts(read(RECIPE, tmp_path, facts={"texts": FACTS}), {"texts": FACTS}) == []


# code, the Hub, budgets, foreign names


def test_a_task_of_a_user_is_loaded_from_the_folder_of_the_recipe(tmp_path: Path):
    (tmp_path / "mine.py").write_text(
        "from hfpipe.tasks.masked_lm.task import MaskedLM\n\n\nclass Mine(MaskedLM):\n"
        "    kind: str\n    depth: int = 1\n"
    )
    text = RECIPE.replace("task: masked-lm", 'task: {kind: "mine.py:Mine", depth: 3}')
    task: Any = read(text, tmp_path).stages["lm"]
    assert (type(task.task).__name__, task.task.depth) == ("Mine", 3)
    (problem,) = problems(text.replace("depth: 3", "dept: 3"), tmp_path)
    assert problem.message == "unknown key 'dept' in stages.lm.task; did you mean 'depth'?"


def test_a_hub_id_that_is_not_cached_is_refused_while_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    text = RECIPE.replace("model: stage:lm", "model: someone/some-model")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert read(text, tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (problem,) = problems(text, tmp_path)
    assert problem.message.startswith("someone/some-model: HF_HUB_OFFLINE is set and ")
    assert problem.spot.line == 19


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("4min", budget.Budget(seconds=240)),
        ("90s", budget.Budget(seconds=90)),
        ("1.5 h", budget.Budget(seconds=5400)),
        ("20M tokens", budget.Budget(tokens=20_000_000)),
        ("2.5M tokens", budget.Budget(tokens=2_500_000)),
        ("1 epoch", budget.Budget(epochs=1)),
        ("0.5 epochs", budget.Budget(epochs=0.5)),
        ("500 steps", budget.Budget(steps=500)),
        ("10k steps", budget.Budget(steps=10_000)),
    ],
)
def test_a_budget_is_a_time_or_an_amount(text: str, meant: budget.Budget):
    assert budget.parse_budget(text) == meant


@pytest.mark.parametrize("text", ["", "4", "min", "-4min", "0 steps", "4 days", "3 epochs 2h", "1e3 steps"])
def test_a_budget_without_a_meaning_is_refused(text: str):
    with pytest.raises(ValueError, match="write a"):
        budget.parse_budget(text)


def test_every_foreign_name_leads_to_a_key_that_exists():
    tasks = {field for task in TASKS.values() for field in task.model_fields}
    stages = {field for kind in KINDS.values() for field in kind.model_fields}
    inside = {
        "training": set(arguments.list_arguments()),
        "task": tasks,
        "generation": set(Sampling.model_fields),
        "model": {"type", *(known.fields if (known := installed.read_model_config("bert")) else ())},
        "source": set(KINDS["dataset"].model_fields["source"].annotation.model_fields),  # type: ignore[union-attr]
        "early_stopping": {"patience", "threshold"},
        "adapter": set(Adapter.model_fields),
        "columns": {"text", "label"},
        "split": {"validation"},
    }
    for name, entry in aliases.NAMES.items():
        section, _, key = entry.target.rpartition(".")
        assert entry.target or entry.note, name
        assert not entry.target or key in (inside[section.rpartition(".")[2]] if section else stages), name
        assert name not in arguments.list_arguments(), name
    assert set(aliases.KINDS.values()) <= {*TASKS, *KINDS}
    assert not set(aliases.KINDS) & {*TASKS, *KINDS}


def test_every_managed_argument_is_one_of_the_installed():
    assert set(arguments.MANAGED) <= set(installed.read_installed_arguments())


# schema and imports


@pytest.mark.slow
def test_the_schema_accepts_every_shipped_recipe_and_refuses_slips():
    validator = jsonschema.Draft202012Validator(make_recipe_schema(KINDS, TASKS))
    validator.check_schema(validator.schema)
    assert SHIPPED
    for path in SHIPPED:
        data = parse_yaml(path.read_text(encoding="utf-8"), path).data
        assert list(validator.iter_errors(data)) == []
        for stage in data["stages"].values():
            stage["slip"] = 1
        assert len(list(validator.iter_errors(data))) == len(data["stages"])


def test_the_schema_explains_every_key_of_a_stage():
    defined = make_recipe_schema(KINDS, TASKS)["properties"]["stages"]["additionalProperties"]["allOf"]
    keys = [entry for branch in defined for entry in branch["then"]["properties"].items()]
    assert len(keys) > 20
    assert [key for key, entry in keys if not entry.get("description")] == []


@pytest.mark.slow
def test_reading_a_recipe_imports_nothing_heavy():
    code = (
        "import sys, pathlib; from hfpipe.recipe import load_recipe, make_recipe_schema; "
        "from hfpipe.stages import KINDS; from hfpipe.tasks import TASKS;"
        "load_recipe(pathlib.Path(sys.argv[1]), kinds=KINDS, tasks=TASKS);"
        "make_recipe_schema(KINDS, TASKS); print([m for m in sys.argv[2:] if m in sys.modules])"
    )
    heavy = ["torch", "transformers", "datasets", "numpy", "pyarrow", "sklearn", "tokenizers", "accelerate"]
    command = [sys.executable, "-W", "error", "-c", code, str(ROOT / "recipes" / "demo.yaml"), *heavy]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.slow
def test_what_is_read_from_the_source_is_what_the_installed_classes_take():
    from transformers import TrainingArguments
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
    from transformers.models.auto import modeling_auto
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    assert dict(installed.list_model_types()) == dict(CONFIG_MAPPING_NAMES)
    assert list(installed.read_installed_arguments()) == [
        field.name for field in dataclasses.fields(TrainingArguments)
    ]
    assert set(installed.list_trackers()) == set(INTEGRATION_TO_CALLBACK)
    built = {name for name in dir(modeling_auto) if re.fullmatch("AutoModel[A-Z]\\w*|AutoModel", name)}
    assert set(installed.list_auto_classes()) == built
    for name in ("AutoModelForMaskedLM", "AutoModelForCausalLM", "AutoModelForSequenceClassification"):
        assert installed.list_types_with(name) == set(
            getattr(modeling_auto, name)._model_mapping._model_mapping
        )


EVERY = sorted(installed.list_model_types())
ELSEWHERE = ["data2vec-text", "donut-swin", "gpt-sw3", "maskformer-swin", "rt_detr_resnet"]
"""Model types whose config class is in a file that is not named after them."""
COMPUTED = ["distilbert", "imagegpt", "mistral", "mixtral", "recurrent_gemma", "xlm"]
"""Model types with a default such as `4096 * 32`."""


@pytest.mark.slow
def test_configs_read_from_the_source_are_those_of_the_installed_library():
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    named = [
        "bert",
        "roberta",
        "modernbert",
        "gpt2",
        "llama",
        "t5",
        "bart",
        "deberta-v2",
        "electra",
        "marian",
    ]
    assert len(EVERY) > 400
    for kind in [*named, *ELSEWHERE, *COMPUTED, *EVERY[::40]]:
        known, real = installed.read_model_config(kind), CONFIG_MAPPING[kind]
        assert known is not None
        assert known.whole
        fields = {field.name: field for field in dataclasses.fields(real) if not field.name.startswith("_")}
        assert set(fields) <= set(known.fields), kind
        assert dict(known.aliases) == real.attribute_map, kind
        given = {name: field.default for name, field in fields.items()}
        plain = {name: value for name, value in given.items() if isinstance(value, int | float | str | list)}
        assert {name: known.fields[name].default for name in plain} == plain, kind


def test_code_is_found_without_running_it(tmp_path: Path):
    from hfpipe.references.user_code import find_code

    (tmp_path / "mine.py").write_text("raise SystemExit\ndef rows(): ...\n")
    assert find_code(Code("mine.py:rows"), tmp_path) == tmp_path / "mine.py"


def test_of_a_very_long_line_the_part_round_the_fault_is_shown() -> None:
    line = "x" * 300 + "wrong" + "y" * 300
    shown = str(Problem("no such key", spot=Spot(Path("r.yaml"), 1, 301, line))).splitlines()
    assert len(shown[1]) < 130
    assert shown[1][shown[2].index("^") :].startswith("wrongy")
