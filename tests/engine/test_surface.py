"""Surfaces of segmented structures, and STL files of them."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from medssl.cli import app
from medssl.core.errors import UserError
from medssl.core.export import surface
from medssl.core.export.stl import HEADER, export_surfaces
from medssl.core.export.surface import signed_volume, surfaces_of
from medssl.core.io.geometry import RAS_TO_LPS, Geometry
from medssl.core.project.annotation import Annotation
from medssl.core.project.project import LabelClass, Project
from typer.testing import CliRunner

SHAPE = (30, 36, 40)
OBLIQUE = Geometry.of(
    np.array([[-0.9, 0.1, 0, 40], [0.1, 0.9, -0.3, -12], [0, 0.4, 1.9, 7], [0, 0, 0, 1.0]]), SHAPE[::-1]
)


def ball(radius_mm: float, geometry: Geometry = OBLIQUE, centre=(14, 18, 21)) -> np.ndarray:
    """A ball in mm around a voxel, bool (Z, Y, X)."""
    away = np.stack(np.indices(geometry.shape_zyx), -1) - centre
    return np.linalg.norm(away @ geometry.canonical_affine[:3, :3].T, axis=-1) <= radius_mm


def read_stl(content: bytes) -> np.ndarray:
    """Corners of the triangles (M, 3, 3)."""
    count = int(np.frombuffer(content, "<u4", 1, 80)[0])
    assert len(content) == 84 + 50 * count
    rows = np.frombuffer(
        content, np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("_", "<u2")]), count, 84
    )
    return rows["corners"].astype(float)


@pytest.mark.parametrize("limit", [surface.MAX_VOXELS, 2000], ids=["fine", "halved"])
def test_a_surface_encloses_the_volume_of_its_voxels_and_faces_outwards(monkeypatch, limit):
    monkeypatch.setattr(surface, "MAX_VOXELS", limit)
    mask = ball(11)
    (found,) = surfaces_of(mask.astype(np.uint8) * 3, OBLIQUE)
    assert found.class_id == 3
    assert found.ml == pytest.approx(mask.sum() * OBLIQUE.voxel_ml)
    enclosed = signed_volume(found.patient_mm(OBLIQUE), found.faces) / 1000
    assert enclosed == pytest.approx(found.ml, rel=0.03)


def test_a_surface_is_where_its_voxels_are():
    (found,) = surfaces_of(ball(9).astype(np.uint8), OBLIQUE)
    radii = np.linalg.norm((found.vertices - (14, 18, 21)) @ OBLIQUE.canonical_affine[:3, :3].T, axis=1)
    assert radii.mean() == pytest.approx(9, abs=0.3)
    assert np.ptp(radii) < 1.5


def test_a_structure_at_the_border_is_closed():
    (found,) = surfaces_of(np.ones(SHAPE, np.uint8), OBLIQUE)
    edges = np.sort(np.concatenate([found.faces[:, pair] for pair in ([0, 1], [1, 2], [2, 0])]), axis=1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()


@pytest.fixture
def project(tmp_path) -> tuple[Project, str]:
    """A scan of an oblique grid, with two classes painted and everything else complete."""
    made = Project.create(
        tmp_path / "project", [LabelClass(1, "Liver / left", "#ff0000"), LabelClass(4, "Node", "#00ff00")]
    )
    values = np.random.default_rng(0).normal(0, 50, SHAPE).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(OBLIQUE.to_source(values), OBLIQUE.matrix), tmp_path / "scan.nii")
    scan = made.add_scan(tmp_path / "scan.nii", modality="ct")
    labels = ball(8).astype(np.uint8)
    labels[2:4, 3:6, 5:7] = 4
    made.save_annotation(scan.id, Annotation(labels, tuple((0, index) for index in range(SHAPE[0]))))
    return made, scan.id


def test_stl_files_are_in_mm_and_lps(project, tmp_path):
    made, scan_id = project
    liver, node = export_surfaces(made, scan_id, None, tmp_path / "out")
    assert (liver.name, node.name) == (f"{scan_id}_1_Liver---left.stl", f"{scan_id}_4_Node.stl")
    content = liver.read_bytes()
    assert content.startswith(HEADER)
    assert not content.startswith(b"solid")
    geometry = made.scans[scan_id].geometry
    centre = RAS_TO_LPS @ geometry.canonical_affine @ (14, 18, 21, 1)
    np.testing.assert_allclose(read_stl(content).mean((0, 1)), centre[:3], atol=0.4)
    assert liver.with_name(liver.name + ".json").exists()
    export_surfaces(made, scan_id, None, tmp_path / "out")  # an earlier export is replaced
    node.write_bytes(b"another program's")
    with pytest.raises(UserError, match="was changed after its export"):
        export_surfaces(made, scan_id, None, tmp_path / "out")
    assert node.read_bytes() == b"another program's"


def test_an_empty_segmentation_has_no_surface(project, tmp_path):
    made, scan_id = project
    made.save_annotation(scan_id, Annotation(np.zeros(SHAPE, np.uint8), ((0, 3),)))
    assert export_surfaces(made, scan_id, None, tmp_path) == []


def test_the_command_line_writes_surfaces_beside_the_segmentation(project, tmp_path):
    made, scan_id = project
    command = ["export", str(made.root), "--out", str(tmp_path / "out"), "--stl"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    names = {path.name for path in (tmp_path / "out").iterdir() if path.suffix != ".json"}
    stl = {f"{scan_id}_1_Liver---left.stl", f"{scan_id}_4_Node.stl"}
    assert names == {f"{scan_id}_segmentation.nii.gz", "volumes.csv", *stl}
