"""One version: medssl.__version__; whatever else names one agrees."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import medssl

import napari_medssl

ROOT = Path(__file__).parents[1]


def _first(pattern: str, name: str) -> str:
    match = re.search(pattern, (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
    assert match, f"{name} names no version"
    return match[1]


def test_the_installed_package_and_the_plugin_have_the_engines_version() -> None:
    assert version("napari-medssl") == medssl.__version__ == napari_medssl.__version__


def test_citation_and_changelog_name_it() -> None:
    assert _first(r"^version: (\S+)$", "CITATION.cff") == medssl.__version__
    assert _first(r"^## (\S+)", "CHANGELOG.md") == medssl.__version__
