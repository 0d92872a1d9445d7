"""The order in which the tour goes through the guide."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication

import napari_medssl
from docs.tour import checking, exploring, filling, opening, painting, reading, training
from docs.tour.camera import Camera
from docs.tour.files import Files, write_files
from docs.tour.guide_text import Guide
from docs.tour.parts import PARTS
from docs.tour.pictures import Loop, scans_in
from docs.tour.stage import Stage, failures_shown

GUIDE = Path(__file__).parents[1] / "guide.md"
SHORT = 0.2
"""Minutes of the trainings on the sample project."""
EMPTY = 20
"""A slice of the sample's first scan that is not painted."""


def go(
    folder: Path, out: Path, minutes: float, themes: list[str], size: tuple[int, int], parts: Sequence[str]
) -> list[str]:
    """Go through the guide.

    Args:
        folder: An empty scratch folder.
        out: Folder of the pictures.
        minutes: Minutes of the trainings in the pictures.
        themes: napari's themes; the pictures of the first one have plain names.
        size: Width and height of the windows.
        parts: Names of the parts to do, with those that they need.

    Returns:
        What the guide tells to do and no part has done; empty where parts were left out.
    """
    QApplication.setAttribute(Qt.ApplicationAttribute.AA_DontUseNativeDialogs)
    guide, files = Guide.read(GUIDE), write_files(folder)
    actions = (
        lambda: opening.opened_by_napari(guide, files, size),
        lambda: sample(Stage(napari_medssl.view(), guide, size), folder),
        lambda: project(Stage(napari_medssl.view(), guide, size), files),
        lambda: pictures(guide, folder, out, minutes, themes, size),
    )
    with failures_shown(guide, out):
        for name, act in zip(PARTS, actions, strict=True):
            if name in parts:
                print(f"{name}:", flush=True)
                act()
    return guide.missing() if set(parts) == set(PARTS) else []


def sample(stage: Stage, folder: Path) -> None:
    """All steps on the sample project."""
    opening.sample_project(stage)
    exploring.similar_voxels(stage, (32, 50, 40))
    exploring.landmarks(stage, folder / "landmarks.csv")
    painting.classes(stage)
    reading.windows(stage)
    reading.three_planes(stage)
    painting.tools(stage, EMPTY)
    painting.complete_slices(stage, EMPTY)
    filling.interpolated(stage)
    filling.fills(stage, EMPTY)
    filling.proposals(stage, EMPTY)
    painting.instant_preview(stage, EMPTY)
    training.pretraining(stage, 4 * SHORT)
    training.finetuning(stage, SHORT)
    checking.another_scan(stage)
    training.second_round(stage)
    checking.go_through(stage, EMPTY)
    checking.review(stage)
    checking.cleaning(stage)
    checking.surfaces(stage, folder / "surfaces")
    checking.exports(stage, folder / "exports")
    exploring.colors(stage)
    painting.next_slice(stage)
    training.deleted_runs(stage)
    stage.close()


def project(stage: Stage, files: Files) -> None:
    """A project of one's own files."""
    opening.projects(stage, files)
    opening.files_and_folders(stage, files)
    opening.rows(stage, files)
    filling.masks(stage, files)
    opening.sequences(stage, files)
    training.weights_of_another_project(stage)
    stage.close()


def pictures(
    guide: Guide, folder: Path, out: Path, minutes: float, themes: list[str], size: tuple[int, int]
) -> None:
    """The loop on a real CT."""
    scene = scans_in(folder / "CT")
    stage = Stage(napari_medssl.view(folder / "CT"), guide, size)
    camera = Camera(stage.user, out, themes)
    Loop(stage, camera, scene, minutes).run()
    camera.write_gif(out / "loop.gif")
    stage.close()
