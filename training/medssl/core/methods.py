"""Registry of pre-training methods, including those of other installed packages. Does not import torch.

Another package registers a method by an entry point and puts its recipes beside the module:

    [project.entry-points."medssl.methods"]
    yours = "yours:Yours"            # a subclass of medssl.nn.methods.Method

    yours/__init__.py
    yours/recipes/yours-quick.toml   # in the wheel, too
"""

from __future__ import annotations

from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

GROUP = "medssl.methods"
"""Entry point group in which other packages register methods."""

_WITH_SCANS = {
    "pgl": "medssl.nn.methods.pgl:PGL",
    "mae": "medssl.nn.methods.mae:MAE",
    "mae+pgl": "medssl.nn.methods.mae_pgl:MAEPGL",
    "byol": "medssl.nn.methods.byol:BYOL",
    "simclr": "medssl.nn.methods.simclr:SimCLR",
    "moco": "medssl.nn.methods.moco:MoCo",
    "lrc": "medssl.nn.methods.lrc:LRC",
    "sal": "medssl.nn.methods.sal:SAL",
    "alice": "medssl.nn.methods.alice:Alice",
    "supervoxels": "medssl.nn.methods.supervoxels:SuperVoxels",
}

_WITHOUT_SCANS = {"shapes": "medssl.nn.methods.shapes:Shapes"}
"""Methods whose class has NEEDS_SCANS = False; named here too, for code that does not import torch."""
BUILT_IN = {**_WITH_SCANS, **_WITHOUT_SCANS}
"""All methods of this package."""


def _registered() -> dict[str, str]:
    """Methods of other packages; they cannot replace a built-in method."""
    return {point.name: point.value for point in entry_points(group=GROUP) if point.name not in BUILT_IN}


_FROM_OTHER_PACKAGES = _registered()
METHODS = {**_WITH_SCANS, **_FROM_OTHER_PACKAGES}
"""Methods that learn from a project's scans: {name on the command line, in job files and recipes:
"package.module:Class"}."""
ALL = {**METHODS, **_WITHOUT_SCANS}
"""All methods."""

_TITLES = {"simclr": "SimCLR", "moco": "MoCo", "alice": "Alice", "supervoxels": "supervoxels"}


def title(name: str) -> str:
    """Name of a method in tables and pictures."""
    return _TITLES.get(name, name.upper())


def needs_scans(name: str) -> bool:
    """Whether a method learns from scans; the others learn from synthetic volumes and need no project."""
    return name not in _WITHOUT_SCANS


def recipe_folders() -> list[Path]:
    """Recipe folders of methods from other packages; packages that cannot be imported are skipped."""
    folders = []
    for name in _FROM_OTHER_PACKAGES:
        try:
            spec = find_spec(_FROM_OTHER_PACKAGES[name].partition(":")[0])
        except ImportError:
            continue
        if spec is not None and spec.origin is not None:
            folders.append(Path(spec.origin).parent / "recipes")
    return folders
