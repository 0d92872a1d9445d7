"""The instant preview in the viewer: where its outlines are, when they go, and that nothing keeps them."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from medssl.core.features.similarity import write_features
from medssl.core.project.annotation import Annotation
from medssl.core.project.project import LabelClass, Project
from napari.components import ViewerModel
from napari.utils.shortcuts import default_shortcuts

from napari_medssl import layers
from napari_medssl.explore import preview_worker
from napari_medssl.explore.instant_preview import InstantPreview
from napari_medssl.explore.similarity import SimilaritySearch
from napari_medssl.model.session import Session
from napari_medssl.widgets.dock import PREVIEW_KEY
from napari_medssl.widgets.instant_preview import InstantPreviewBox
from napari_medssl.workspace import Workspace

SHAPE = (12, 20, 16)
SPACING = (4.0, 1.5, 1.0)
ORGAN = (slice(3, 9), slice(6, 14), slice(4, 12))
PATIENCE = 20_000


@pytest.fixture
def truth() -> np.ndarray:
    truth = np.zeros(SHAPE, np.uint8)
    truth[ORGAN] = 1
    return truth


@pytest.fixture
def project(tmp_path, truth) -> Project:
    """Two scans with features that tell an organ from what is around it."""
    project = Project.create(tmp_path / "project", [LabelClass(1, "One", "#ff0000")])
    run = new_run(project)
    for number, name in enumerate("ab"):
        values = np.random.default_rng(number).normal(size=SHAPE[::-1]).astype(np.float32)
        path = tmp_path / f"{name}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(values, np.diag([*SPACING[::-1], 1])), path)
        cells = truth[:, ::2, ::2] == 1
        vectors = np.where(cells[..., None], (1, 0), (0, 1)).astype(np.float16)
        write_features(project, project.add_scan(path).id, run, vectors, (1, 2, 2))
    return project


def new_run(project: Project) -> str:
    run = project.new_run("pretrain", {"job": "pretrain", "method": "pgl"}, "pgl")
    run.checkpoint.write_bytes(b"weights")
    return run.id


@pytest.fixture
def workspace(qtbot, project):
    """A viewer without a window, one scan on the screen, the preview switched on."""
    session = Session()
    workspace = Workspace(ViewerModel(), session)
    workspace.said = []
    session.message.connect(lambda severity, text: workspace.said.append(text))
    similar = SimilaritySearch(workspace)
    workspace.preview = InstantPreview(workspace, similar)
    session.open(project.root)
    session.select("a")
    similar.run = session.runs("pretrain")[0].id
    workspace.new_annotation()
    workspace.go_to(0, 5)
    workspace.preview.switch(True)
    yield workspace
    qtbot.waitUntil(lambda: workspace.preview._worker is None, timeout=PATIENCE)
    workspace.preview.close()
    workspace.close()


def rest(qtbot, workspace: Workspace) -> None:
    """Wait until nothing is being computed or waited for."""
    quiet = lambda: workspace.preview._worker is None and not workspace.preview._soon.isActive()  # noqa: E731
    qtbot.wait(60)
    qtbot.waitUntil(quiet, timeout=PATIENCE)


def paint(workspace: Workspace, voxels: tuple, label: int) -> None:
    """A stroke, told as napari tells it."""
    layer = workspace.annotation_layer
    layer.data_setitem(voxels, label)


def strokes(qtbot, workspace: Workspace) -> None:
    """One in the organ, one outside of it, in axial slice 5."""
    columns = np.arange(5, 11)
    paint(workspace, (np.full(6, 5), np.full(6, 10), columns), 1)
    paint(workspace, (np.full(16, 5), np.full(16, 2), np.arange(16)), 255)
    qtbot.waitUntil(lambda: shown(workspace) is not None, timeout=PATIENCE)
    rest(qtbot, workspace)


def shown(workspace: Workspace) -> np.ndarray | None:
    """What the screen shows of the outlines: ends of vectors in mm of the scan, (N, 2, 3), or None."""
    layer = workspace.preview.layer
    if layer is None or not layer.visible or not len(layer.data):
        return None
    inside = layer.data[layer._view_indices].astype(float)
    ends = np.stack([inside[:, 0], inside.sum(1)], 1) * layer.scale
    return ends if len(ends) else None


def spans(ends: np.ndarray) -> list[tuple[float, float]]:
    """Lowest and highest voxel of the outlines along each axis."""
    return [(float(x.min()), float(x.max())) for x in np.moveaxis(ends / SPACING, -1, 0)]


def assert_round_the_organ(found: list[tuple[float, float]], axis: int, index: int) -> None:
    for other, (low, high) in enumerate(found):
        if other == axis:
            assert (low, high) == (index, index)
        else:
            edges = (ORGAN[other].start - 0.5, ORGAN[other].stop - 0.5)
            assert (low, high) == pytest.approx(edges, abs=1.5)


def test_strokes_become_outlines_in_the_colour_of_their_class(qtbot, workspace):
    strokes(qtbot, workspace)
    assert_round_the_organ(spans(shown(workspace)), 0, 5)
    red, *others = workspace.preview.layer.edge_color[
        0
    ]  # a dark shade of the class's red: nothing of it is painted
    assert 0 < red < 1 and others == [0, 0, 1] and not workspace.said
    assert np.all(workspace.preview.layer.edge_color == workspace.preview.layer.edge_color[0])
    assert workspace.viewer.layers.selection.active is workspace.annotation_layer, "the brush stays in hand"


@pytest.mark.parametrize(("axis", "index"), [(0, 7), (1, 9), (2, 8)])
def test_they_follow_the_slice_in_every_orientation(qtbot, workspace, axis, index):
    strokes(qtbot, workspace)
    workspace.go_to(axis, index)
    assert shown(workspace) is None or spans(shown(workspace))[axis] == (index, index), (
        "never those of another slice"
    )
    qtbot.waitUntil(lambda: shown(workspace) is not None, timeout=PATIENCE)
    assert_round_the_organ(spans(shown(workspace)), axis, index)


def test_the_sliders_keep_their_steps(qtbot, workspace):
    before = tuple(workspace.viewer.dims.range)
    strokes(qtbot, workspace)
    for axis in (1, 2, 0):
        workspace.go_to(axis, 8)
        rest(qtbot, workspace)
        assert tuple(workspace.viewer.dims.range) == before


def test_taking_a_stroke_back_takes_it_out_of_the_outlines(qtbot, workspace):
    strokes(qtbot, workspace)
    before = workspace.preview.layer.data.copy()
    paint(workspace, (np.full(4, 5), np.full(4, 17), np.arange(4)), 1)
    # A stroke wins even where features speak against it.
    qtbot.waitUntil(lambda: spans(shown(workspace))[1][1] > 16, timeout=PATIENCE)
    workspace.annotation_layer.undo()
    qtbot.waitUntil(lambda: workspace.preview.layer.data.shape == before.shape, timeout=PATIENCE)
    rest(qtbot, workspace)
    assert workspace.preview.layer.data == pytest.approx(before, abs=1e-3)


def test_strokes_on_other_scans_count(qtbot, workspace):
    strokes(qtbot, workspace)
    workspace.autosave.flush()
    workspace.session.select("b")
    workspace.go_to(0, 6)
    qtbot.waitUntil(lambda: shown(workspace) is not None, timeout=PATIENCE)
    assert_round_the_organ(spans(shown(workspace)), 0, 6)


def test_off_leaves_nothing(qtbot, workspace):
    strokes(qtbot, workspace)
    layer = workspace.annotation_layer
    workspace.preview.switch(False)
    assert workspace.preview.layer is None and workspace.preview.missing == ""
    paint(workspace, (np.full(4, 5), np.full(4, 17), np.arange(4)), 1)
    rest(qtbot, workspace)
    assert workspace.preview.layer is None and workspace.annotation_layer is layer


def test_switching_off_while_it_computes_leaves_nothing(qtbot, workspace):
    paint(workspace, (np.full(6, 5), np.full(6, 10), np.arange(5, 11)), 1)
    paint(workspace, (np.full(6, 5), np.full(6, 2), np.arange(5, 11)), 255)
    assert workspace.preview._worker is not None
    workspace.preview.switch(False)
    rest(qtbot, workspace)
    assert workspace.preview.layer is None


def test_it_is_never_saved(qtbot, workspace):
    strokes(qtbot, workspace)
    workspace.leave()
    root = workspace.session.project.root
    labels = workspace.session.project.annotation("a").labels
    assert set(np.unique(labels)) == {0, 1, 255} and (labels != 0).sum() == 22, "the strokes alone"
    files = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    kept = {name for name in files if Path(name).parts[0] not in ("scans", "features", "runs")}
    saved = {"project.json", "project.lock", "view-state.json", "annotations/a.npz"}
    assert {name for name in kept if not name.startswith(".")} == saved
    assert "preview" not in (root / "project.json").read_text() + (root / "view-state.json").read_text()
    assert not workspace.session.predictions()


def test_the_three_dimensional_view_shows_none(qtbot, workspace):
    strokes(qtbot, workspace)
    workspace.viewer.dims.ndisplay = 3
    rest(qtbot, workspace)
    assert shown(workspace) is None and "Ctrl+Y" in workspace.preview.missing
    workspace.viewer.dims.ndisplay = 2
    qtbot.waitUntil(lambda: shown(workspace) is not None, timeout=PATIENCE)
    assert workspace.preview.missing == ""


def test_one_class_alone_is_one_sentence(qtbot, workspace):
    paint(workspace, (np.full(6, 5), np.full(6, 10), np.arange(5, 11)), 1)
    qtbot.waitUntil(lambda: "two classes" in workspace.preview.missing, timeout=PATIENCE)
    assert shown(workspace) is None and not workspace.said


def test_features_of_other_weights_are_one_sentence(qtbot, workspace, project):
    strokes(qtbot, workspace)
    workspace.preview._similarity.run = new_run(project)
    workspace.preview.ask()
    assert "other weights" in workspace.preview.missing and shown(workspace) is None


def test_no_features_are_one_sentence(qtbot, workspace, project):
    for path in (project.root / "features").glob("a-*.json"):
        path.unlink()
    workspace.preview.ask()
    assert "no features yet" in workspace.preview.missing


def test_outdated_features_are_one_sentence(qtbot, workspace, project):
    strokes(qtbot, workspace)
    workspace.session.runs("pretrain")[0].checkpoint.write_bytes(b"trained further")
    workspace.preview.ask()
    qtbot.waitUntil(lambda: "outdated" in workspace.preview.missing, timeout=PATIENCE)
    assert shown(workspace) is None and not workspace.said


def test_the_box_says_what_is_missing(qtbot, workspace):
    box = InstantPreviewBox(workspace.preview)
    qtbot.addWidget(box)
    assert box.box.isChecked()
    qtbot.waitUntil(lambda: "two classes" in box.status.text(), timeout=PATIENCE)
    box.toggle()
    assert not workspace.preview.on and not box.status.isVisibleTo(box)


def test_its_key_is_not_napari_s():
    taken = {str(key) for keys in default_shortcuts.values() for key in keys}
    assert PREVIEW_KEY not in taken


def test_outlines_of_a_scan_go_with_it(qtbot, workspace):
    strokes(qtbot, workspace)
    workspace.preview._similarity.run = None
    workspace.session.select("b")
    assert shown(workspace) is None
    assert len([x for x in workspace.viewer.layers if layers.entry_of(x).get("role") == layers.PREVIEW]) == 1


def test_strokes_while_it_computes_do_no_harm(qtbot, workspace, monkeypatch):
    """numpy refuses arrays that change under its hands, so the thread works on a copy."""
    qtbot.waitUntil(lambda: workspace.preview._worker is None, timeout=PATIENCE)  # its thread calls fit, too
    labels = np.zeros(SHAPE, np.uint8)
    labels[5, 10, 5:11], labels[5, 2] = 1, 255
    fit = preview_worker.fit

    def paint_meanwhile(*moments):
        labels[:] = 1
        return fit(*moments)

    monkeypatch.setattr(preview_worker, "fit", paint_meanwhile)
    run = workspace.session.runs("pretrain")[0].id
    request = preview_worker.PreviewRequest(workspace.session.project, "a", run, Annotation(labels), 0, 5)
    found = preview_worker.PreviewWorker().compute(request).outlines[1]
    assert found[..., 0].max() < 16, "the slice as it was when the thread began"


def test_after_strokes_and_undo_of_any_slice_the_preview_knows_all_labels(qtbot, workspace):
    """It looks again only where labels are said to have changed."""
    strokes(qtbot, workspace)
    layer = workspace.annotation_layer
    paint(workspace, (np.array([5]), np.array([11]), np.array([6])), 1)
    for edit in (lambda: None, layer.undo, lambda: workspace.go_to(0, 8), layer.redo, layer.undo):
        edit()
        rest(qtbot, workspace)
        known = workspace.preview._computation._learner.annotation.labels
        assert np.array_equal(known, layer.data)


def test_labels_that_are_replaced_are_looked_at_as_a_whole(workspace):
    labels = np.zeros(SHAPE, np.uint8)
    labels[5, 10, 5:11], labels[5, 2] = 1, 255
    run, project = workspace.session.runs("pretrain")[0].id, workspace.session.project
    worker = preview_worker.PreviewWorker()
    for number in (1, 3):
        labels = labels.copy()
        labels[7, 10, :number] = 1
        request = preview_worker.PreviewRequest(project, "a", run, Annotation(labels), 0, 5, frozenset())
        worker.compute(request)
        assert np.array_equal(worker._learner.annotation.labels, labels)
