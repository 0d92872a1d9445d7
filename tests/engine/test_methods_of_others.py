"""A method from another package: one module, one recipe, one entry point."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

MODULE = """
from dataclasses import dataclass

from torch import nn

from medssl.nn.data.crop_sampling import sample_anywhere
from medssl.nn.data.crops import cut, shown
from medssl.nn.methods import Method


@dataclass(frozen=True)
class GreySettings:
    weight: float = 1.0


class Grey(Method):
    Settings = GreySettings
    TRANSFERS = ("encoder.",)

    def __init__(self, network, plan, settings):
        self.plan, self.settings = plan, settings
        self.modules = nn.ModuleDict({"network": network})

    def loss(self, pool, generator, fraction):
        views = sample_anywhere(pool, self.plan, self.plan.patch_vox, generator)
        images = shown(cut(pool, views, self.plan))
        return self.settings.weight * (self.modules["network"](images) - images).square().mean(), {}
"""
"""The shortest method that trains: repaint what is there."""
RECIPE = """
purpose = "Repaints grey values."
[loop]
learning_rate = 1e-3
[method]
weight = 0.5
"""
TRAIN = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from medssl.core.features.similarity import open_features, query_at, similarity
from medssl.core.jobs import FeaturesJob
from small import job_of, make_project, run
project = make_project(Path({folder!r}), (0, 1), shape=(6, 32, 32))
result = run(job_of("grey", project, steps=2))
run(FeaturesJob(str(project.root), device="cpu", weights=result["run"]))
cache = open_features(project, next(iter(project.scans)), result["run"])
click = (3, 10, 20)
similar = similarity(cache, query_at(cache, click))
print("clicked", similar[cache.cell_of(click)] == similar.max(), "elsewhere", similar.min() < similar.max())
print("steps", result["step"], "of", project.run(result["run"]).card["method"])
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder as an installer would leave it: module, recipe and metadata."""
    site = tmp_path / "site"
    (site / "recipes").mkdir(parents=True)
    (site / "grey_method.py").write_text(MODULE)
    (site / "recipes" / "grey-quick.toml").write_text(RECIPE)
    (site / "grey_method-1.0.dist-info").mkdir()
    (site / "grey_method-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: grey-method\nVersion: 1.0\n"
    )
    register(site, "grey")
    return site


def register(site: Path, name: str) -> None:
    entry = f"[medssl.methods]\n{name} = grey_method:Grey\n"
    (site / "grey_method-1.0.dist-info" / "entry_points.txt").write_text(entry)


def python(site: Path, *words: str) -> str:
    """What a fresh interpreter prints that has `site` among its packages."""
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "200"},
        check=False,
    )
    return done.stdout + done.stderr


def test_it_is_listed_and_trains_and_its_features_serve_a_click(site: Path, tmp_path: Path) -> None:
    assert "Repaints grey values." in python(site, "-m", "medssl", "methods")
    program = TRAIN.format(tests=str(Path(__file__).parent), folder=str(tmp_path / "project"))
    printed = python(site, "-c", program)
    assert "steps 2 of grey" in printed
    assert "clicked True elsewhere True" in printed


def test_the_viewer_offers_it(site: Path) -> None:
    program = "from medssl.core import recipes\nprint(*(method for method, _, _ in recipes.pretrainings()))"
    assert "grey" in python(site, "-c", program).split()


def test_one_that_cannot_be_loaded_is_said_in_a_sentence(site: Path) -> None:
    (site / "grey_method.py").write_text("raise ImportError('no such library')")
    said = python(site, "-c", "from medssl.nn.methods import find\nfind('grey')")
    assert "UserError" in said
    assert "grey_method:Grey, which cannot be loaded (no such library)" in said


def test_a_class_that_is_no_method_is_said_in_a_sentence(site: Path) -> None:
    (site / "grey_method.py").write_text("class Grey: pass")
    said = python(site, "-c", "from medssl.nn.methods import find\nfind('grey')")
    assert "UserError" in said
    assert "grey_method:Grey, which is no medssl.nn.methods.Method" in said


def test_a_name_of_ours_stays_ours(site: Path) -> None:
    register(site, "pgl")
    program = "from medssl.core.methods import METHODS\nprint(METHODS['pgl'])"
    assert python(site, "-c", program).strip() == "medssl.nn.methods.pgl:PGL"
