"""Windows of grey values: presets in Hounsfield units however a CT is stored, percentiles for others."""

from __future__ import annotations

import numpy as np
import pytest
from headless import open_workspace
from medssl.core.io.intensity import HounsfieldScale, normalise
from reading_room import ct, write

from napari_medssl.contrast import percentiles, usual_limits
from napari_medssl.reading.window_level import PRESETS, WindowLevel

LUNG = next(preset for preset in PRESETS if preset.name == "Lung")


@pytest.fixture
def workspace(qtbot, tmp_path):
    """A viewer without a window, with an empty project."""
    made = open_workspace(tmp_path / "project")
    made.window = WindowLevel(made)
    yield made
    made.window.close()
    made.close()


def show(workspace, path, modality="ct"):
    scan = workspace.session.project.add_scan(path, modality=modality)
    workspace.session.select(scan.id)
    return scan


@pytest.mark.parametrize("offset", [0, 1024, 32768])
def test_presets_are_in_hounsfield_units_whatever_the_file_adds(workspace, tmp_path, offset):
    show(workspace, write(tmp_path / "ct.nii", ct(offset)))
    assert workspace.scan_layer.contrast_limits == [-150 + offset, 250 + offset]
    assert workspace.window.describe() == "Soft tissue"
    workspace.window.apply(LUNG)
    assert workspace.scan_layer.contrast_limits == [-1350 + offset, 150 + offset]


@pytest.mark.parametrize(
    "name, limits",
    [
        ("Soft tissue", (-150, 250)), ("Lung", (-1350, 150)), ("Bone", (-500, 1300)), ("Brain", (0, 80)),
        ("Liver", (-45, 105)), ("Mediastinum", (-125, 225)),
    ],
)  # fmt: skip
def test_each_preset_is_the_window_that_radiologists_mean_by_its_name(workspace, tmp_path, name, limits):
    show(workspace, write(tmp_path / "ct.nii", ct()))
    workspace.window.apply(next(preset for preset in PRESETS if preset.name == name))
    assert workspace.scan_layer.contrast_limits == list(limits) and workspace.window.describe() == name


def test_presets_fit_the_normalised_copy_of_a_scan_whose_file_is_gone(workspace, tmp_path):
    path = write(tmp_path / "ct.nii", ct())
    scan = workspace.session.project.add_scan(path, modality="ct")
    path.unlink()
    workspace.session.select(scan.id)
    assert workspace.scan_layer.data.dtype == np.float16
    workspace.window.apply(LUNG)
    expected = normalise(np.array([-1350.0, 150.0]).clip(-1024), "ct")
    assert workspace.scan_layer.contrast_limits[1] == pytest.approx(expected[1])
    assert workspace.scan_layer.contrast_limits[0] == pytest.approx(np.arcsinh((-1350 - 40) / 100))
    assert workspace.window.describe() == "Lung"


@pytest.mark.parametrize(
    "scale", [HounsfieldScale(), HounsfieldScale(1024), HounsfieldScale(normalised=True)]
)
def test_stored_values_and_hounsfield_units_are_inverse(scale):
    for hounsfield in (-1024.0, -3.5, 40.0, 3071.0):
        assert scale.hounsfield(scale.stored(hounsfield)) == pytest.approx(hounsfield)


def test_an_mr_has_a_window_of_percentiles_and_no_presets(workspace, tmp_path):
    values = np.random.default_rng(1).gamma(2, 100, (28, 24, 20))
    show(workspace, write(tmp_path / "mr.nii", values), "mr")
    limits = list(workspace.scan_layer.contrast_limits)
    assert limits == list(percentiles(workspace.scan_layer.data))
    workspace.window.apply(LUNG)
    assert workspace.scan_layer.contrast_limits == limits
    workspace.window.set_limits(0, 1)
    workspace.window.auto()
    assert workspace.scan_layer.contrast_limits == limits
    assert workspace.window.describe().startswith("L ")


def test_each_scan_keeps_its_window_while_the_dock_is_open(workspace, tmp_path):
    first = show(workspace, write(tmp_path / "a.nii", ct()))
    workspace.window.apply(LUNG)
    second = show(workspace, write(tmp_path / "b.nii", ct() * 0.9))
    assert workspace.window.describe() == "Soft tissue"
    workspace.window.set_limits(-20, 80)
    workspace.session.select(first.id)
    assert workspace.window.describe() == "Lung"
    workspace.session.select(second.id)
    assert workspace.scan_layer.contrast_limits == [-20, 80]


def test_ct_is_opened_in_a_soft_tissue_window_and_mr_in_its_percentiles():
    array = np.arange(8.0).reshape(2, 2, 2)
    assert usual_limits(array * 300 - 600) == (-150.0, 250.0)
    low, high = usual_limits(array)
    assert low < high
