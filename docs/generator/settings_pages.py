"""Pages of the settings: every key of a recipe and of `training:`, from the classes and their docstrings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from inspect import getdoc
from typing import Any

import yaml
from formatting import cell, prose, table

from hfpipe.contract import Settings
from hfpipe.recipe.schema import make_recipe_schema
from hfpipe.recipe.training import arguments
from hfpipe.recipe.training.defaults import DEFAULTS, EVALUATED
from hfpipe.stages import KINDS
from hfpipe.tasks import TASKS

Schema = Mapping[str, Any]
WORDS = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "object": "mapping",
    "array": "list",
}
"""Type of JSON → what the manual calls it."""
SIGNS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def settings() -> str:
    """Return the page of every key of a recipe: of its stages, its tasks and the mappings in them."""
    tables = _Tables()
    parts = ["# Settings", "Every key of a recipe, with its type, default and meaning."]
    parts += ["## Recipe {#recipe}", tables.table(make_recipe_schema(KINDS, TASKS)["properties"], ["stages"])]
    for name, kind in KINDS.items():
        parts += tables.section(f"## Stage `{name}` {{#stage-{name}}}", kind)
    parts += ["## Tasks {#tasks}", "The options of `task:`, by its `kind`."]
    for name, task in TASKS.items():
        parts += tables.section(f"### Task `{name}` {{#task-{name}}}", task)
    parts += ["## Mappings {#mappings}", "The keys of mappings that are values of the keys above."]
    return "\n\n".join([*parts, *tables.linked()]) + "\n"


class _Tables:
    """Tables of keys, and the mappings that they link to."""

    def __init__(self) -> None:
        self._definitions: dict[str, Schema] = {}
        self._linked: list[str] = []

    def section(self, heading: str, cls: type[Settings]) -> Iterator[str]:
        """Yield heading, description and table of a class."""
        found = cls.model_json_schema()
        self._definitions |= found.get("$defs", {})
        yield heading
        yield prose(getdoc(cls) or "")
        yield self.table(found["properties"], found.get("required", ()))

    def linked(self) -> Iterator[str]:
        """Yield the section of each mapping that a table links to, those in such sections as well."""
        for name in self._linked:  # which grows meanwhile
            definition = self._definitions[name]
            mapping = _with_keys(definition) or definition
            yield f"### {name} {{#{name.lower()}}}"
            yield prose(mapping.get("description", ""))
            yield self.table(mapping["properties"], mapping.get("required", ()))

    def table(self, fields: Mapping[str, Schema], required: Sequence[str]) -> str:
        """Return the table of the keys of a mapping, but for the `kind` that chooses it."""
        rows = (
            (f"`{name}`", self._type(field), _default(field, name in required), cell(self._meaning(field)))
            for name, field in fields.items()
            if not (name == "kind" and "const" in field)
        )
        return table(("key", "type", "default", "meaning"), rows)

    def _meaning(self, field: Schema) -> str:
        """Return what is written about a key, and about the type of its value where that has no section."""
        parts = [field.get("description", "")]
        for option in [field, *field.get("anyOf", ())]:
            definition = self._definition(option)
            if definition is not None and _with_keys(definition) is None:
                parts.append(definition.get("description", ""))
        return "\n\n".join(part for part in dict.fromkeys(parts) if part)

    def _definition(self, option: Schema) -> Schema | None:
        return self._definitions.get(option["$ref"].rpartition("/")[2]) if "$ref" in option else None

    def _type(self, field: Schema) -> str:
        """Return in words what a value may be."""
        if "$ref" in field:
            return self._named(field["$ref"].rpartition("/")[2])
        if "anyOf" in field:
            options = [option for option in field["anyOf"] if option.get("type") != "null"]
            return " or ".join(dict.fromkeys(map(self._type, options or field["anyOf"])))
        if "enum" in field or "const" in field:
            return ", ".join(f"`{_written(value)}`" for value in field.get("enum", [field.get("const")]))
        inside = field.get("items") or field.get("additionalProperties")
        if isinstance(inside, Mapping):
            kind = "list of" if field["type"] == "array" else "mapping of text →"
            return f"{kind} {self._type(inside)}"
        return field.get("format") or _plain(field)

    def _named(self, name: str) -> str:
        """Return the type of a definition: a link to its section if it has keys of its own."""
        definition = self._definitions[name]
        if name == "TaskConfig":
            return "[task](#tasks)"
        if _with_keys(definition) is None:
            return self._type(definition)
        if name not in self._linked:
            self._linked.append(name)
        return f"[{name}](#{name.lower()})"


def _with_keys(definition: Schema) -> Schema | None:
    """Return the mapping with its own keys that a definition is, or may be in its long form."""
    options = definition.get("anyOf", [definition])
    return next((option for option in options if option.get("properties")), None)


def _plain(field: Schema) -> str:
    """Return the type of a value without parts, and its bounds."""
    kinds = [field["type"]] if isinstance(field.get("type"), str) else field.get("type", [])
    words = [WORDS[kind] for kind in kinds if kind in WORDS]
    if "number" in kinds and "integer" in kinds:
        words.remove(WORDS["integer"])
    bounds = ", ".join(f"{sign} {field[name]:,}" for name, sign in SIGNS.items() if name in field)
    return f"{' or '.join(words) or 'any value'} {bounds}".strip()


def _default(field: Schema, required: bool) -> str:
    value = field.get("default")
    return "required" if required else "not set" if value is None else f"`{_written(value)}`"


def _written(value: Any) -> str:
    """Return a value as a recipe writes it, without keys that are not set."""
    if isinstance(value, Mapping):
        value = {key: each for key, each in value.items() if each is not None}
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1000)
    return text.removesuffix("...\n").strip()


def training_arguments() -> str:
    """Return the page of every key of `training:`, with the defaults of hfpipe where they differ."""
    fields = make_recipe_schema(KINDS, TASKS)["$defs"]["training"]["properties"]
    for name in arguments.MEASURED:
        fields[name]["default"] = "auto"
    fields |= {name: {**fields[name], "default": value} for name, value in (DEFAULTS | EVALUATED).items()}
    managed = [(f"`{name}`", cell(why)) for name, why in arguments.MANAGED.items()]
    own, usual = (", ".join(f"`{name}`" for name in names) for names in (arguments.WORDS, EVALUATED))
    parts = [
        "# Training arguments",
        "Every key of `training:`: the `TrainingArguments` of the installed Transformers, with the defaults "
        f"of hfpipe where they differ, and {own}. Without a validation split, the defaults of {usual} are "
        "those of Transformers. A fraction in `logging_steps`, `save_steps` or `eval_steps` is a share of "
        "all steps.",
        _Tables().table(fields, ()),
        "## Set by hfpipe",
        "These fields of `TrainingArguments` cannot be set in a recipe.",
        table(("key", "what to do instead"), managed),
    ]
    return "\n\n".join(parts) + "\n"
