"""Which part of the engine may import which, from core at the bottom to the command line (LAYERS)."""

from __future__ import annotations

import ast
from pathlib import Path

import medssl
import pytest

import napari_medssl

ENGINE = Path(medssl.__file__).parent
PLUGIN = Path(napari_medssl.__file__).parent
LAYERS = (
    ("core",),
    ("nn",),
    ("tasks",),
    ("remote",),
    ("engine", "worker"),
    ("server",),
    ("benchmarking",),
    ("cli",),
    ("__main__",),
)
"""Lowest first; a module imports from its own layer and from lower ones."""
TORCH = {"torch", "monai", "safetensors"}
VIEWER_IMPORTS = {"core", "worker"}
"""Parts of the engine that the plugin imports; worker says which messages its child process takes."""


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports anywhere, also inside functions; not those for type checkers only."""
    names: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                names.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module:
                names.update(f"{child.module}.{alias.name}" for alias in child.names)
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return names


def engine_parts(names: set[str]) -> set[str]:
    """Top-level parts of the engine among dotted names; its version is none."""
    parts = {name.split(".")[1] for name in names if name.startswith("medssl.")}
    return parts - {"__version__"}


def layer_of(part: str) -> int:
    return next(number for number, layer in enumerate(LAYERS) if part in layer)


def files(layer: int) -> list[Path]:
    found = []
    for part in LAYERS[layer]:
        folder, module = ENGINE / part, ENGINE / f"{part}.py"
        found += sorted(folder.rglob("*.py")) if folder.is_dir() else [module]
    return found


def test_every_file_of_the_engine_belongs_to_a_layer() -> None:
    listed = {path for number in range(len(LAYERS)) for path in files(number)}
    assert set(ENGINE.rglob("*.py")) - listed == {ENGINE / "__init__.py"}


@pytest.mark.parametrize("layer", range(len(LAYERS)), ids=lambda number: LAYERS[number][0])
def test_no_import_runs_upwards(layer: int) -> None:
    upwards = {
        f"{path.relative_to(ENGINE)} imports {part}"
        for path in files(layer)
        for part in engine_parts(imports(path))
        if layer_of(part) > layer
    }
    assert not upwards


def test_core_loads_no_torch_anywhere() -> None:
    loading = {str(path.relative_to(ENGINE)) for path in files(0) if _roots(path) & TORCH}
    assert not loading


def test_the_server_reaches_networks_through_engine_processes_alone() -> None:
    server = [path for number, layer in enumerate(LAYERS) if layer == ("server",) for path in files(number)]
    parts = {part for path in server for part in engine_parts(imports(path))}
    assert parts <= {*VIEWER_IMPORTS, "server"}
    assert not {str(path) for path in server if _roots(path) & TORCH}


def test_jobs_on_another_computer_load_no_torch_here() -> None:
    remote = [path for number, layer in enumerate(LAYERS) if layer == ("remote",) for path in files(number)]
    parts = {part for path in remote for part in engine_parts(imports(path))}
    assert parts <= {"core", "remote"}
    assert not {str(path) for path in remote if _roots(path) & TORCH}


def test_the_plugin_imports_core_alone() -> None:
    parts = {part for path in PLUGIN.rglob("*.py") for part in engine_parts(imports(path))}
    assert parts <= VIEWER_IMPORTS


def _roots(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}
