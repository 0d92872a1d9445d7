"""Fields of a settings dataclass, read from the source of its module without an import.

Settings stand beside code that imports torch, which the viewer must not load. tests/engine/test_settings.py
compares what is read here with the imported classes.
"""

from __future__ import annotations

import ast
import inspect
import re
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from medssl.core.errors import UserError


@dataclass(frozen=True)
class Setting:
    """One field of a settings dataclass."""

    name: str
    kind: Any
    """Its type; Annotated with msgspec.Meta where only some values are allowed."""
    default: Any
    help: str

    @property
    def label(self) -> str:
        """The name in words, its unit in brackets: "d_max_mm" is "D max (mm)"."""
        words = self.name.split("_")
        unit = f" ({words.pop()})" if words[-1] in ("mm", "px", "s", "degrees", "ml") else ""
        return " ".join(words).capitalize() + unit


def of_class(path: str) -> list[Setting]:
    """The fields of a dataclass "package.module:Class", those of its bases first; nothing is imported."""
    module, _, name = path.partition(":")
    return _fields(module, name)


@dataclass(frozen=True)
class _Source:
    """A module's classes, what its names stand for where they are imported, and its constants."""

    classes: dict[str, ast.ClassDef]
    imported: dict[str, str]
    """{name: "package.module:name" or "package.module"}."""
    names: dict[str, Any]
    """For annotations and defaults: types, constants, and what comes from torch-free modules."""


@lru_cache(maxsize=32)
def _source(module: str) -> _Source:
    tree = ast.parse(_file(module).read_text(encoding="utf-8"))
    names: dict[str, Any] = {**vars(typing), **vars(__import__("builtins"))}
    imported: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                here = alias.asname or alias.name
                imported[here] = f"{node.module}:{alias.name}"
                if node.module.startswith("medssl.core") or node.module == "msgspec":
                    names[here] = getattr(import_module(node.module), alias.name, None)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                names[node.targets[0].id] = _evaluated(node.value, names)
            except Exception:
                continue  # no constant
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    return _Source(classes, imported, names)


def _file(module: str) -> Path:
    """Where a module's source is; importing a package may load torch, so its folders are walked instead."""
    top, *rest = module.split(".")
    spec = find_spec(top)
    if spec is None or spec.origin is None:
        raise UserError(f"The package {top} is not installed; install it again.", code="no-method")
    path = Path(spec.origin)
    if rest:
        path = path.parent.joinpath(*rest)
        path = path / "__init__.py" if path.is_dir() else path.with_name(path.name + ".py")
    return path


def settings_class(module: str, method: str) -> tuple[str, str]:
    """Module and name of the class that a method's class calls `Settings`."""
    source = _source(module)
    if method not in source.classes and ":" in source.imported.get(method, ""):
        return settings_class(*source.imported[method].split(":"))
    body = source.classes[method].body if method in source.classes else []
    for node in body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        if isinstance(target, ast.Name) and target.id == "Settings" and isinstance(value, ast.Name):
            return module, value.id
    raise UserError(f"The method {method} has no Settings in {module}; update its package.", code="no-method")


def _fields(module: str, name: str) -> list[Setting]:
    source = _source(module)
    if name not in source.classes:
        module, _, name = source.imported[name].partition(":")
        return _fields(module, name)
    settings: dict[str, Setting] = {}
    for base in source.classes[name].bases:
        settings.update({each.name: each for each in _fields(*_named(base, module, source))})
    settings.update({each.name: each for each in _own(source, source.classes[name])})
    return list(settings.values())


def _named(base: ast.expr, module: str, source: _Source) -> tuple[str, str]:
    """Module and name of a base class."""
    text = ast.unparse(base)
    if "." in text:
        where, _, name = text.rpartition(".")
        return source.imported[where].replace(":", "."), name
    return module, text


def _own(source: _Source, node: ast.ClassDef) -> Iterator[Setting]:
    for line, after in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(line, ast.AnnAssign) or not isinstance(line.target, ast.Name):
            continue
        text = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            text = re.sub(r" \([\w/]+\.py\)", "", " ".join(str(after.value.value).split()))
        default = inspect.Parameter.empty if line.value is None else _default(line.value, source.names)
        yield Setting(line.target.id, _evaluated(line.annotation, source.names), default, text)


def _default(value: ast.expr, names: dict[str, Any]) -> Any:
    if isinstance(value, ast.Call) and ast.unparse(value.func).endswith("field"):
        given = {word.arg: _evaluated(word.value, names) for word in value.keywords}
        return given["default_factory"]() if "default_factory" in given else given.get("default")
    return _evaluated(value, names)


def _evaluated(node: ast.expr, names: dict[str, Any]) -> Any:
    """What an annotation or a default stands for, as an import of the module would have it."""
    return eval(compile(ast.Expression(node), "<settings>", "eval"), names)
