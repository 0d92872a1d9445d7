"""No control of a step moves, and none takes another one's place, while a job or the pointer is at work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import pytest
from control_places import jumped, places
from medssl.core import events
from medssl.core.active_learning.slices import Suggestion
from medssl.core.features.retrieval import Match
from medssl.core.project.project import LabelClass, Project
from napari.components import ViewerModel
from napari.qt import get_stylesheet
from qtpy.QtWidgets import QVBoxLayout, QWidget
from scenes import add_scans
from user_simulation import open_and_wait, wait_until

from napari_medssl.model import run_host
from napari_medssl.widgets import Dock
from napari_medssl.widgets.run_on import HERE

LONG = "A scan was left out, because it has no channel of this name; " * 6
EXPECTED = {"a": 0.9, "b": 0.3, "c": 0.6}
STEPS = {"pretrain": 3, "finetune": 4, "predict": 5, "export": 5, "features": 6, "suggest": 2}


@pytest.fixture
def project(tmp_path) -> Project:
    """Four scans, of which the newest fine-tuning has segmented two, and one before it the first."""
    made = Project.create(tmp_path / "project", [LabelClass(1, "Liver", "#ff9e64")])
    add_scans(made, tmp_path, "abcd")
    for scans in ("a", "ab"):
        run = made.new_run("finetune", {"job": "finetune"}, "finetune")
        run.checkpoint.write_bytes(b"weights")
        for scan in scans:
            predict(made, scan)
    return made


def predict(project: Project, scan: str) -> str:
    """The newest fine-tuning has segmented a scan."""
    labels = np.zeros(project.scans[scan].geometry.shape_zyx, np.uint8)
    run = project.runs()[-1].id
    labels[2:6, 2 : 4 + len(project.runs()), 2:6] = 1
    project.save_prediction(run, scan, labels, expected_dice={1: EXPECTED.get(scan, 0.5)})
    return run


@pytest.fixture
def made(qtbot, said, project, monkeypatch) -> Dock:
    """A dock in a small window of napari's style, with the first scan on the screen and a slice painted."""
    monkeypatch.setattr(run_host, "ssh_hosts", lambda: ("gpu1",))
    window, opened = QWidget(), Dock(ViewerModel())
    window.setStyleSheet(get_stylesheet("dark"))
    qtbot.addWidget(window)
    around = QVBoxLayout(window)
    around.setContentsMargins(0, 0, 0, 0)
    around.addWidget(opened)
    window.resize(345, 700)
    window.show()
    open_and_wait(opened, project.root)
    qtbot.waitUntil(lambda: len(opened.prediction.review.queue.items) == 2, timeout=10_000)
    opened.workspace.new_annotation()
    opened.workspace.go_to(0, 2)
    opened.workspace.annotation_layer.paint((2, 5, 6), 1)
    opened.workspace.autosave.flush()
    yield opened
    opened._leave()


def stays(dock: Dock, *acts: Callable[[], object]) -> None:
    """Check after each of several acts that no control has jumped."""
    before = places(dock)
    for act in acts:
        act()
        after = places(dock)
        assert not jumped(before, after)
        before = after


def run_job(session, kind: str) -> list[Callable[[], object]]:
    """What happens in the window while a job runs: it starts, reports, tells, and ends."""
    return [
        lambda: session.handle_event(events.Progress("Training", 0.1, 5, 100.0)),
        lambda: session.handle_event(events.Notice("Short.")),
        lambda: session.handle_event(events.Notice(LONG)),
        lambda: session.handle_event(events.Progress("Training", 0.9, 5, 10000.0)),
        session.stopping,
        lambda: session.end("stopped", ""),
    ]


@pytest.mark.parametrize("kind", STEPS)
def test_nothing_jumps_while_a_job_runs(made, kind):
    made.steps[STEPS[kind] - 1].expand()
    stays(made, lambda: made.session.begin(kind), *run_job(made.session, kind))
    assert "left out" in made.session.job.notices[-1]


def test_nothing_jumps_when_all_scans_are_segmented_and_gone_through(made, project, qtbot):
    made.steps[4].expand()
    session, review = made.session, made.prediction.review

    def segment(scan: str) -> None:
        run, known = predict(project, scan), len(review.queue.items)
        session.predicted.emit(scan, run)
        wait_until(lambda: len(review.queue.items) == known + 1, 10, "the queue")

    def following() -> None:
        scan = session.scan
        review.next_button.click()
        wait_until(lambda: session.scan != scan, 10, "the next scan")

    def open_scan(scan: str) -> None:
        made.workspace.scan_loader.open(scan)
        wait_until(lambda: session.scan == scan, 10, "the scan")

    assert review.segment_all.isEnabled()
    stays(
        made, following, following, lambda: open_scan("d"), lambda: session.begin("predict"),
        lambda: segment("c"), lambda: session.handle_event(events.Notice(LONG)), lambda: segment("d"),
        lambda: session.end("done", ""), following, review.accept_button.click, following,
    )  # fmt: skip
    assert not review.segment_all.isEnabled()


def test_nothing_jumps_when_predictions_are_compared_and_cleaned(made, qtbot):
    made.steps[4].expand()
    step, predictions = made.prediction, made.workspace.predictions
    qtbot.waitUntil(lambda: predictions.changes != {}, timeout=10_000)

    def clean() -> None:
        step.largest.click()
        wait_until(lambda: bool(predictions.previewed) and not predictions.busy, 10, "cleaning")

    stays(made, step.go_back, step.go_back, clean, step.largest.click)


def test_nothing_jumps_from_slice_to_slice(made):
    made.steps[1].expand()
    go_to, annotation = made.workspace.go_to, made.session.annotation

    def complete(*indices: int) -> None:
        annotation.set_complete({*annotation.complete, *((0, index) for index in indices)})

    def suggest() -> None:
        suggestion = Suggestion("a", 0, 3, LONG, expected_error_mm2=1.0, novelty=1.0)
        made.session.suggested.emit({"suggestions": [asdict(suggestion)]})
        wait_until(lambda: made.annotate.next.reason, 10, "the suggestion")

    stays(
        made, made.annotate.complete.click, lambda: complete(6), lambda: go_to(0, 4), lambda: go_to(0, 7),
        lambda: complete(0, 2, 4, 6), lambda: go_to(1, 3), lambda: annotation.mark(1, 3, True),
        lambda: go_to(2, 3), lambda: annotation.mark(2, 3, True), suggest, lambda: go_to(0, 5),
    )  # fmt: skip


def test_nothing_jumps_while_strokes_are_saved_and_slices_interpolated(made, qtbot):
    made.steps[1].expand()
    annotation, interpolation = made.session.annotation, made.annotate.interpolation
    annotation.set_complete({(0, 2), (0, 6)})
    made.workspace.go_to(0, 4)

    def interpolate() -> None:
        made.annotate.interpolate_button.click()
        wait_until(lambda: interpolation.available and not interpolation.busy, 10, "the interpolation")

    stays(
        made, interpolate, lambda: made.workspace.go_to(0, 1), made.annotate.remove_button.click,
        lambda: made.workspace.annotation_layer.paint((1, 5, 6), 1), made.workspace.autosave.flush,
    )  # fmt: skip


def test_nothing_jumps_when_matches_come_in(made):
    made.steps[5].expand()
    search = made.features.similarity
    made.features.follow.setChecked(True)

    def match(scan: str) -> None:
        search.matches[scan] = Match(scan, (1, 2, 3), 0.5)
        search.changed.emit()

    match("a")
    stays(made, lambda: match("b"), lambda: match("c"), lambda: match("d"))


@pytest.mark.parametrize("step", ["pretrain", "finetune"])
def test_nothing_jumps_when_another_computer_is_chosen(made, step):
    made.steps[STEPS[step] - 1].expand()
    box = getattr(made, step).run_on
    assert box.isVisible()
    stays(made, lambda: box.setCurrentText("gpu1"), lambda: box.setCurrentText(HERE))


def test_nothing_jumps_when_another_window_takes_the_project(made):
    made.steps[3].expand()

    def lose() -> None:
        made.session.project.read_only = "The project is open in another window, so it is read-only here."
        made.session.lock_changed.emit()

    stays(made, lose)


def test_the_helper_sees_what_moves_and_what_takes_a_place(made):
    made.steps[4].expand()
    before = places(made)
    made.prediction.status.hide()
    assert any(line.startswith("Accept scan") for line in jumped(before, places(made)))
    made.prediction.status.show()
    made.prediction.flip.hide()
    without = places(made)
    made.prediction.toggle_button.hide()
    made.prediction.flip.show()
    assert jumped(without, places(made)) == ["Flip to previous came to the place of Show / hide"]
