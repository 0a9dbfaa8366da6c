"""The JSON Schema of a recipe, for completion, documentation and validation in editors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hfpipe.contract import Stage
from hfpipe.recipe.annotations import Form
from hfpipe.recipe.installed import Field, list_model_types, read_model_config
from hfpipe.recipe.training import arguments
from hfpipe.references.places import Code
from hfpipe.task import TaskConfig

_TYPES = {
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "str": "string",
    "list": "array",
    "dict": "object",
    "null": "null",
}
_LISTED = (
    "bert",
    "roberta",
    "distilbert",
    "electra",
    "modernbert",
    "gpt2",
    "llama",
    "qwen3",
    "t5",
    "bart",
)
_STAGE_NAME = "^[a-z0-9][a-z0-9_-]*$"


def make_recipe_schema(
    kinds: Mapping[str, type[Stage]], tasks: Mapping[str, type[TaskConfig]]
) -> dict[str, Any]:
    """Return the schema (draft 2020-12) of a recipe with these kinds of stage and tasks."""
    shared: dict[str, Any] = {"training": _make_training_schema(), "model": _make_model_schema()}
    shared["task"] = _make_task_schema(tasks, shared)
    stages = []
    for name, kind in kinds.items():
        own = kind.model_json_schema(ref_template="#/$defs/{model}")
        for definition, value in own.pop("$defs", {}).items():
            if definition != TaskConfig.__name__:  # the tasks have a separate definition
                shared.setdefault(definition, value)
        stages.append(_make_stage_schema(name, own))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "hfpipe recipe",
        "type": "object",
        "required": ["stages"],
        "additionalProperties": False,
        "properties": {
            "name": {
                "type": "string",
                "description": "Names the folder of the run; by default the file's name.",
            },
            "seed": {"type": "integer", "minimum": 0, "description": "Seed of everything that is random."},
            "matrix": _make_matrix_schema(),
            "stages": {
                "type": "object",
                "description": "Name of a stage → its settings, in the order in which they run.",
                "propertyNames": {"pattern": _STAGE_NAME},
                "minProperties": 1,
                "additionalProperties": {
                    "type": "object",
                    "required": ["kind"],
                    "properties": {"kind": {"enum": list(kinds)}},
                    "allOf": stages,
                },
            },
        },
        "$defs": shared,
    }


def _make_matrix_schema() -> dict[str, Any]:
    """Return the schema of a matrix: lists of values, or named values of several settings."""
    plain = {"type": ["string", "number", "boolean"]}
    settings = {"type": "object", "minProperties": 1, "propertyNames": {"pattern": r"^[^.]+\..+$"}}
    return {
        "type": "object",
        "description": "Settings that vary (`STAGE.SETTING`) → their values, or a name → named values, each "
        "a mapping of settings. The stages that depend on them are run for all combinations.",
        "minProperties": 1,
        "additionalProperties": {
            "anyOf": [
                {"type": "array", "minItems": 1, "uniqueItems": True, "items": plain},
                {"type": "object", "minProperties": 1, "additionalProperties": settings},
            ]
        },
    }


def _make_stage_schema(name: str, own: dict[str, Any]) -> dict[str, Any]:
    """Apply the settings of a kind only if `kind` names it, so that messages concern only that kind."""
    for key, reference in (("task", "task"), ("training", "training")):
        if key in own["properties"]:
            own["properties"][key] = _keep_description(
                own["properties"][key], {"$ref": f"#/$defs/{reference}"}
            )
    model = own["properties"].get("model", {})
    if "anyOf" in model:
        mapping = {"$ref": "#/$defs/model"}
        model["anyOf"] = [mapping if part.get("type") == "object" else part for part in model["anyOf"]]
    own["properties"]["kind"] = {"const": name, "description": own.get("description", "")}
    return {"if": {"properties": {"kind": {"const": name}}}, "then": own}


def _keep_description(old: Mapping[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    return {"description": old["description"], **new} if "description" in old else new


def _make_task_schema(tasks: Mapping[str, type[TaskConfig]], shared: dict[str, Any]) -> dict[str, Any]:
    options = []
    for name, task in tasks.items():
        own = task.model_json_schema(ref_template="#/$defs/{model}")
        shared |= own.pop("$defs", {})
        own["properties"]["kind"] = {"const": name}
        options.append({"if": {"properties": {"kind": {"const": name}}}, "then": own})
    code = {"type": "string", "pattern": f"^{Code.pattern}$"}
    named: dict[str, Any] = {"anyOf": [{"enum": list(tasks)}, code]}
    mapping = {"type": "object", "required": ["kind"], "properties": {"kind": named}, "allOf": options}
    return {"anyOf": [named, mapping]}


def _make_training_schema() -> dict[str, Any]:
    properties: dict[str, Any] = {name: {"description": text} for name, text in arguments.WORDS.items()}
    properties["budget"]["type"] = "string"
    for name in arguments.MEASURED:
        properties[name]["enum"] = [True, False, "auto"]
    properties["padding_free"] |= {"type": "boolean", "default": False}
    known = arguments.read_arguments()
    for name in arguments.list_arguments():
        properties.setdefault(name, _make_field_schema(known[name]) if name in known else {})
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _make_field_schema(field: Field) -> dict[str, Any]:
    entry = _make_type_schema(field.form)
    if field.help:
        entry["description"] = field.help
    if field.default is not None:
        entry["default"] = field.default
    return entry


def _make_type_schema(form: Form) -> dict[str, Any]:
    types = [_TYPES[kind] for kind in sorted(form.kinds)]
    if form.choices:
        others = [{"type": kind} for kind in types if kind != "string"]
        return {"anyOf": [{"enum": list(form.choices)}, *others]} if others else {"enum": list(form.choices)}
    return {"type": types[0] if len(types) == 1 else types} if types else {}


def _make_model_schema() -> dict[str, Any]:
    """Return the schema of a new model; entries are listed for the most common types of text models."""
    kinds = {"enum": list(list_model_types()), "description": "Architecture, as Transformers names it."}
    branches = []
    for kind in _LISTED:
        known = read_model_config(kind)
        if known is not None:
            properties = {
                "type": {"const": kind},
                **{name: _make_field_schema(f) for name, f in known.fields.items()},
            }
            properties |= {name: _make_field_schema(known.fields[own]) for name, own in known.aliases.items()}
            then = {"additionalProperties": not known.whole, "properties": properties}
            branches.append({"if": {"properties": {"type": {"const": kind}}}, "then": then})
    return {"type": "object", "required": ["type"], "properties": {"type": kinds}, "allOf": branches}
