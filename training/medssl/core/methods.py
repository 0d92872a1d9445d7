"""Registry of pre-training methods, including those of other installed packages. Does not import torch.

Another package registers a method by an entry point and puts its recipes beside the module:

    [project.entry-points."medssl.methods"]
    yours = "yours:Yours"            # a class with the interface medssl.nn.methods.Method

    yours.py
    recipes/yours-quick.toml
"""

from __future__ import annotations

from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

GROUP = "medssl.methods"
"""Entry point group in which other packages register methods."""

_BUILT_IN = {
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

WITHOUT_SCANS = {"shapes": "medssl.nn.methods.shapes:Shapes"}
"""Methods that learn from synthetic volumes; their trainings need no project with scans."""


def _registered() -> dict[str, str]:
    """Methods of other packages; they cannot replace a built-in method."""
    built_in = {**_BUILT_IN, **WITHOUT_SCANS}
    return {point.name: point.value for point in entry_points(group=GROUP) if point.name not in built_in}


METHODS = {**_BUILT_IN, **_registered()}
"""{name on the command line, in job files and recipes: "package.module:Class"}."""


def recipe_folders() -> list[Path]:
    """Recipe folders of methods from other packages; packages that cannot be imported are skipped."""
    folders = []
    for name in METHODS.keys() - _BUILT_IN.keys():
        try:
            spec = find_spec(METHODS[name].partition(":")[0])
        except ImportError:
            continue
        if spec is not None and spec.origin is not None:
            folders.append(Path(spec.origin).parent / "recipes")
    return folders
