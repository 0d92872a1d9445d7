"""Features as colours: the same in all scans of a run, kept, and made anew when their sources change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from feature_scenes import STEP, body, make_project
from medssl.core.errors import UserError
from medssl.core.features import pca_colors
from medssl.core.features.pca_colors import colors_of
from medssl.core.features.similarity import write_features
from medssl.core.project.project import Project


@pytest.fixture
def made(tmp_path: Path) -> tuple[Project, str]:
    return make_project(tmp_path)


def test_the_same_place_has_the_same_colour_in_every_scan(made: tuple[Project, str]) -> None:
    project, run = made
    first, step = colors_of(project, "scan0", run)
    second, _ = colors_of(project, "scan1", run)
    assert step == STEP and first.dtype == np.uint8 and first.shape == (16, 10, 12, 3)
    assert np.abs(first[2:, 2:, 2:].astype(int) - second[:-2, :-2, :-2]).max() <= 1
    assert first.reshape(-1, 3).std(0).min() > 30, "all three colours are made use of"


def test_colours_are_read_and_not_computed_again(made: tuple[Project, str], monkeypatch) -> None:
    project, run = made
    first, _ = colors_of(project, "scan0", run)
    monkeypatch.setattr(pca_colors, "to_rgb", lambda *_: pytest.fail("they were there"))
    assert np.array_equal(colors_of(project, "scan0", run)[0], first)


def test_a_read_only_project_shows_colours_and_writes_nothing(made: tuple[Project, str]) -> None:
    project, run = made
    written = project.run(run).folder / "colors"
    project.read_only = "Another window writes."
    first, _ = colors_of(project, "scan0", run)
    assert not written.exists()
    project.read_only = ""
    assert np.array_equal(colors_of(project, "scan0", run)[0], first) and written.exists()


def test_a_scan_that_comes_later_changes_no_colour(made: tuple[Project, str]) -> None:
    project, run = made
    about = project.root / "features" / f"scan2-{run}.json"
    text = about.read_text()
    about.unlink()
    before, _ = colors_of(project, "scan0", run)
    about.write_text(text)
    colors_of(project, "scan2", run)
    assert np.array_equal(colors_of(project, "scan0", run)[0], before)


def test_other_weights_have_other_colours(made: tuple[Project, str]) -> None:
    project, run = made
    before, _ = colors_of(project, "scan0", run)
    project.run(run).checkpoint.write_bytes(b"trained further")
    with pytest.raises(UserError):
        colors_of(project, "scan0", run)
    write_features(project, "scan0", run, body(5)[..., ::-1], STEP)
    after, _ = colors_of(project, "scan0", run)
    assert not np.array_equal(before, after)
    assert len(list((project.run(run).folder / "colors").glob("scan0-*.npy"))) == 1, "the older ones are gone"


def test_a_damaged_cache_is_made_anew(made: tuple[Project, str]) -> None:
    project, run = made
    before, _ = colors_of(project, "scan0", run)
    for path in (project.run(run).folder / "colors").iterdir():
        path.write_bytes(path.read_bytes()[:50])
    assert np.array_equal(colors_of(project, "scan0", run)[0], before)
