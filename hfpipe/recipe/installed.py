"""Arguments and configs of the installed Transformers, read from its source code.

The library itself imports torch, which takes seconds; `hfpipe check` and `plan` start without it.
`tests/test_recipe.py` compares every result with that of the imported library.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hfpipe.recipe.annotations import Form, read_annotation

_KWARGS_READERS = ("__post_init__", "convert_rope_params_to_dict")
_ARITHMETIC: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}


@dataclass(frozen=True)
class Field:
    """One argument: its allowed values, its default and its help."""

    form: Form
    default: Any = None
    """None also if the default is computed at run time."""
    help: str = ""


@dataclass(frozen=True)
class Config:
    """The entries of one model type's config."""

    fields: Mapping[str, Field]
    aliases: Mapping[str, str]
    """Common name → this model's own name, such as `hidden_size` → `n_embd` in GPT-2."""
    whole: bool
    """Whether all base classes were found; if not, other names may be valid too."""

    def get_value(self, given: Mapping[str, Any], name: str) -> Any:
        """Return the value of an entry by its common name: as given, or the default."""
        own = self.aliases.get(name, name)
        field = self.fields.get(own)
        return given.get(name, given.get(own, field.default if field else None))


@lru_cache(maxsize=1)
def read_installed_arguments() -> Mapping[str, Field]:
    """Return the fields of TrainingArguments, in their order."""
    root = _find_root()
    module = _parse_module(root / "training_args.py")
    enums: dict[str, tuple[str, ...]] = {}
    for tree in (module, _parse_module(root / "trainer_utils.py")):
        classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
        enums |= {
            cls.name: _list_enum_values(cls)
            for cls in classes
            if any("Enum" in ast.unparse(base) for base in cls.bases)
        }
    return dict(_read_fields(_find_class(module, "TrainingArguments"), enums))


@lru_cache(maxsize=1)
def list_trackers() -> tuple[str, ...]:
    """Return the names that `report_to` accepts: the trackers of Trainer."""
    text = (_find_root() / "integrations" / "integration_utils.py").read_text(encoding="utf-8")
    table = re.search(r"^INTEGRATION_TO_CALLBACK = \{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL)
    return tuple(re.findall(r'^ +"(\w+)":', table[1], re.MULTILINE)) if table else ()


@lru_cache(maxsize=1)
def list_model_types() -> Mapping[str, str]:
    """Return model type → name of its config class."""
    return dict(_read_table("CONFIG_MAPPING_NAMES"))


@lru_cache(maxsize=1)
def list_auto_classes() -> tuple[str, ...]:
    """Return the names of the auto classes that build models, in the library's order."""
    text = (_find_root() / "models" / "auto" / "modeling_auto.py").read_text(encoding="utf-8")
    return tuple(re.findall(r"^class (AutoModel\w*)\(", text, re.MULTILINE))


@lru_cache(maxsize=8)
def list_types_with(auto_class: str) -> frozenset[str]:
    """Return the model types that an auto class can build; empty if there is no such class."""
    file = _find_root() / "models" / "auto" / "modeling_auto.py"
    text = file.read_text(encoding="utf-8")
    table = re.search(rf"^class {auto_class}\(.*\n\s+_model_mapping = (\w+)", text, re.MULTILINE)
    block = table and re.search(rf"^{table[1]}_NAMES = OrderedDict\(\n((?:.*\n)*?)\)", text, re.MULTILINE)
    return frozenset(re.findall(r'\(\s*"([\w.-]+)",', block[1]) if block else ())


@lru_cache(maxsize=32)
def read_model_config(model_type: str) -> Config | None:
    """Return the entries of a model type's config, or None if there is no such type."""
    name = list_model_types().get(model_type)
    if name is None:
        return None
    module = dict(_read_table("SPECIAL_MODEL_TYPE_TO_MODULE_NAME")).get(
        model_type, model_type.replace("-", "_")
    )
    file = _find_root() / "models" / module / f"configuration_{module}.py"
    if not file.is_file() or f"class {name}(" not in file.read_text(encoding="utf-8"):
        file = _find_defining_file(name) or file
    fields: dict[str, Field] = {}
    aliases: dict[str, str] = {}
    whole = True
    for cls in reversed(list(_iterate_bases(file, name))):
        if cls is None:
            whole = False
            continue
        fields |= dict(_read_fields(cls, {}))
        aliases |= _read_aliases(cls)
        fields = _apply_defaults(cls, fields)
        for key in _list_kwargs(cls, "rope_parameters" in fields):
            fields.setdefault(key, Field(Form()))
    return Config(fields, aliases, whole)


def _find_defining_file(name: str) -> Path | None:
    """Return the file of a config class that is not in the one named after its model type, as for gpt-sw3."""
    files = sorted((_find_root() / "models").glob("*/configuration_*.py"))
    return next((file for file in files if f"\nclass {name}(" in file.read_text(encoding="utf-8")), None)


def _find_root() -> Path:
    spec = find_spec("transformers")  # does not import a top-level package
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


@lru_cache(maxsize=32)
def _parse_module(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _find_class(module: ast.Module, name: str) -> ast.ClassDef:
    return next(node for node in module.body if isinstance(node, ast.ClassDef) and node.name == name)


def _list_enum_values(cls: ast.ClassDef) -> tuple[str, ...]:
    """Return the values of a string enumeration."""
    values = [node.value for node in cls.body if isinstance(node, ast.Assign)]
    return tuple(v.value for v in values if isinstance(v, ast.Constant) and isinstance(v.value, str))


def _read_fields(cls: ast.ClassDef, enums: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, Field]]:
    """Yield the annotated fields of a dataclass, and the arguments of its `__init__` if it defines one."""
    doc = ast.get_docstring(cls) or ""
    for node in cls.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            if "ClassVar" not in ast.unparse(node.annotation) and not node.target.id.startswith("_"):
                yield node.target.id, _read_field(node, enums, doc)
        elif isinstance(node, ast.FunctionDef) and node.name == "__init__":
            for argument in [*node.args.args[1:], *node.args.kwonlyargs]:
                yield argument.arg, Field(read_annotation(argument.annotation, enums))


def _read_field(node: ast.AnnAssign, enums: Mapping[str, tuple[str, ...]], doc: str) -> Field:
    assert isinstance(node.target, ast.Name)
    form, value = read_annotation(node.annotation, enums), node.value
    if not isinstance(value, ast.Call):
        return Field(form, _evaluate_literal(value), _find_help(node.target.id, doc))
    given = {keyword.arg: keyword.value for keyword in value.keywords}
    metadata = given.get("metadata")
    entries = zip(metadata.keys, metadata.values, strict=True) if isinstance(metadata, ast.Dict) else ()
    notes = {_evaluate_literal(key): _evaluate_literal(entry) for key, entry in entries}
    if isinstance(notes.get("choices"), list):
        form = replace(form, choices=tuple(notes["choices"]))
    return Field(
        form, _evaluate_literal(given.get("default")), str(notes.get("help") or "").replace("%%", "%")
    )


def _evaluate_literal(node: ast.expr | None) -> Any:
    """Return the value of a literal or of arithmetic such as `4096 * 32`; None for any other expression."""
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        left, right = _evaluate_literal(node.left), _evaluate_literal(node.right)
        return None if left is None or right is None else _ARITHMETIC[type(node.op)](left, right)
    try:
        return ast.literal_eval(node) if node is not None else None
    except ValueError:
        return None


def _find_help(name: str, doc: str) -> str:
    """Return the description of one argument in a class docstring."""
    match = re.search(rf"^(\s*){name} \(.*\):\n((\1\s+.*\n?)+)", doc, re.MULTILINE)
    return " ".join(match[2].split()) if match else ""


def _iterate_bases(file: Path, name: str) -> Iterator[ast.ClassDef | None]:
    """Yield a class and its base classes, nearest first; None for a class whose source was not found."""
    module = _parse_module(file) if file.is_file() else ast.Module([], [])
    cls = next((n for n in module.body if isinstance(n, ast.ClassDef) and n.name == name), None)
    if cls is not None or not name.endswith("Mixin"):  # a mixin has no fields, so it may be missing
        yield cls
    for base in cls.bases if cls else ():
        known = ast.unparse(base)
        origin = next((source for names, source in _list_imports(module, file) if known in names), file)
        if known == "PreTrainedConfig":
            origin = _find_root() / "configuration_utils.py"
        yield from _iterate_bases(origin, known)


def _list_imports(module: ast.Module, file: Path) -> Iterator[tuple[list[str], Path]]:
    """Yield the names of each relative import, and the file they come from."""
    for node in module.body:
        if isinstance(node, ast.ImportFrom) and node.level and node.module:
            folder = file.parents[node.level - 1].joinpath(*node.module.split("."))
            source = folder.with_suffix(".py")
            yield [a.name for a in node.names], source if source.is_file() else folder / "__init__.py"


def _read_aliases(cls: ast.ClassDef) -> dict[str, str]:
    for node in cls.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "attribute_map":
            return _evaluate_literal(node.value) or {}
    return {}


def _apply_defaults(cls: ast.ClassDef, fields: dict[str, Field]) -> dict[str, Field]:
    """Apply the defaults that a class overrides without an annotation."""
    plain = {ast.unparse(n.targets[0]): n.value for n in cls.body if isinstance(n, ast.Assign)}
    again = {
        name: replace(fields[name], default=_evaluate_literal(v))
        for name, v in plain.items()
        if name in fields
    }
    return fields | again


def _list_kwargs(cls: ast.ClassDef, rope: bool) -> Iterator[str]:
    """Yield names that a config accepts in addition to its fields, for older checkpoints."""
    for function in cls.body:
        if not isinstance(function, ast.FunctionDef) or function.name not in _KWARGS_READERS:
            continue
        if "rope" in function.name and not rope:
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("kwargs.pop", "kwargs.get"):
                name = _evaluate_literal(node.args[0]) if node.args else None
                if isinstance(name, str) and not name.startswith("_"):
                    yield name


def _read_table(name: str) -> Iterator[tuple[str, str]]:
    """Yield the pairs of one of the auto classes' tables, including later additions.

    Uses a regular expression, because parsing these long lists of pairs of strings takes ten times as long.
    """
    block = re.compile(rf"^{name}(?: = OrderedDict|\.update)\((?:\n(?:.*\n)*?\)|.*)", re.MULTILINE)
    for file in ("auto_mappings.py", "configuration_auto.py"):
        text = (_find_root() / "models" / "auto" / file).read_text(encoding="utf-8")
        for found in block.findall(text):
            yield from re.findall(r'"([\w.-]+)"(?:, |: )"([\w.-]+)"', found)
