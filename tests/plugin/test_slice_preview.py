"""The slice on the screen while a fine-tuning runs: what the engine is told, what comes of it, what stays."""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from medssl.core.errors import UserError
from napari.components import ViewerModel

from napari_medssl.engine import child_process
from napari_medssl.widgets import Dock

SHAPE = (12, 10, 8)
ENGINE = """
import sys, time
from pathlib import Path
import numpy as np
from medssl.core import jobs, events
from medssl.core.project.project import Project

if sys.argv[-1] == "-":
    named = sys.stdin.readline().split()
    if not named or named[0] != "job":
        sys.exit()
    sys.argv[-1] = named[1]
job = jobs.read_job(Path(sys.argv[-1]))
project = Project.open(Path(job.project))
run = project.new_run("finetune", jobs.to_json(job), "test")
def say(event):
    print(events.to_line(event), flush=True)
def answer():
    line = sys.stdin.readline()
    with (project.root / "told").open("a") as told:
        told.write(line)
    place = events.SliceInView.from_line(line)
    shape = list(project.scans[place.scan].geometry.shape_zyx)
    del shape[place.axis]
    labels = np.zeros(shape, np.uint8)
    labels[2:5, 2:5] = 1 + place.index % 3
    if place.axis == 0:
        say(events.SlicePreview.of(place, labels))
say(events.Started(run.id, {"slice_axis": 0}))
"""
PREDICTS = """
answer()
while not (project.root / "go").exists():
    time.sleep(0.05)
labels = np.full(project.scans["a"].geometry.shape_zyx, 2, np.uint8)
say(events.Preview("a", str(project.save_prediction(run.id, "a", labels))))
say(events.Done())
"""
FAILS = """
answer()
while not (project.root / "go").exists():
    time.sleep(0.05)
say(events.Failed("memory", "There is too little memory; close other programs."))
sys.exit(1)
"""
GOES_ON = """
while True:
    answer()
"""


def write_scan(path: Path, seed: int = 0) -> None:
    values = np.random.default_rng(seed).normal(size=SHAPE[::-1]).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.5, -1.5, 4, 1])), path)


@pytest.fixture
def make(qtbot, said, tmp_path):
    """Makes a dock with a painted scan on the screen; its engine ends as the line says."""
    made = []

    def with_engine(ending: str) -> Dock:
        script = tmp_path / "engine.py"
        script.write_text(ENGINE + ending)
        dock = Dock(ViewerModel(), command=(sys.executable, "-u", str(script)))
        made.append(dock)
        qtbot.addWidget(dock)
        dock.show()
        write_scan(tmp_path / "a.nii.gz")
        dock.scans.add([tmp_path / "a.nii.gz"])
        qtbot.waitUntil(lambda: not dock.scans.adder.busy and dock.session.scan == "a", timeout=10_000)
        dock.annotate.new.click()
        dock.workspace.go_to(0, 4)
        dock.workspace.annotation_layer.paint((4, 5, 6), 1)
        dock.workspace.autosave.flush()
        return dock

    yield with_engine
    for dock in made:
        dock._leave()
        for child in list(child_process._running):
            child.shutdown()


def predict(dock: Dock, label: int = 3) -> str:
    """A prediction of an earlier training, on the screen."""
    project = dock.session.project
    run = project.new_run("finetune", {"job": "finetune"}, "finetune")
    project.save_prediction(run.id, "a", np.full(SHAPE, label, np.uint8))
    dock.session.end("done", "")
    dock.workspace.predictions.show(run.id)
    return run.id


def shown(dock: Dock) -> np.ndarray:
    return np.asarray(dock.workspace.prediction_layer.data)


def preview_of(index: int) -> np.ndarray:
    labels = np.zeros(SHAPE[1:], np.uint8)
    labels[2:5, 2:5] = 1 + index % 3
    return labels


def arrives(qtbot, dock: Dock, index: int) -> None:
    qtbot.waitUntil(
        lambda: (
            dock.workspace.prediction_layer is not None
            and np.array_equal(shown(dock)[index], preview_of(index))
        ),
        timeout=20_000,
    )


def told(dock: Dock) -> list[str]:
    return (dock.session.project.root / "told").read_text().splitlines()


def ends(qtbot, dock: Dock) -> None:
    qtbot.waitUntil(lambda: not dock.session.job.running, timeout=20_000)


def test_the_slice_on_the_screen_is_told_at_the_start_and_its_preview_is_shown(make, qtbot, said):
    dock = make(GOES_ON)
    dock.finetune.start.click()
    arrives(qtbot, dock, 4)
    layer = dock.workspace.prediction_layer
    assert layer.visible and not shown(dock)[:4].any() and not shown(dock)[5:].any()
    assert told(dock) == ['show {"scan": "a", "axis": 0, "index": 4}']
    assert not said


def test_a_preview_is_drawn(make, qtbot):
    dock = make(GOES_ON)
    dock.finetune.start.click()
    arrives(qtbot, dock, 4)
    assert np.array_equal(np.asarray(dock.workspace.prediction_layer._slice.image.raw), preview_of(4))


def test_scrolling_tells_the_last_slice_only(make, qtbot):
    dock = make(GOES_ON)
    dock.finetune.start.click()
    arrives(qtbot, dock, 4)
    for index in (5, 6, 7, 8):
        dock.workspace.go_to(0, index)
    arrives(qtbot, dock, 8)
    assert [line.split()[-1] for line in told(dock)] == ["4}", "8}"]
    assert np.array_equal(shown(dock)[4], preview_of(4)), "what was said of the slice before stays on it"


def test_only_that_slice_of_the_prediction_on_the_screen_is_another_one(make, qtbot):
    dock = make(GOES_ON)
    run = predict(dock)
    dock.finetune.start.click()
    arrives(qtbot, dock, 4)
    assert (np.delete(shown(dock), 4, axis=0) == 3).all()
    assert (dock.session.project.prediction(run, "a") == 3).all()
    assert (dock.workspace.predictions._labels[dock.workspace.predictions.shown] == 3).all()


def test_what_is_shown_is_said_to_be_in_the_making(make, qtbot):
    dock = make(GOES_ON)
    layout = dock.finetune.layout()
    widgets = [layout.itemAt(number).widget() for number in range(layout.count())]
    label = [widget for widget in widgets if widget is not None][-1]
    assert not label.text()
    dock.finetune.start.click()
    arrives(qtbot, dock, 4)
    assert "live preview" in label.text().lower() and label.isVisibleTo(dock.finetune)
    dock.jobs.stop()
    dock.jobs.stop()
    ends(qtbot, dock)
    assert not label.text() and not label.isVisibleTo(dock.finetune)


# --- what it ends with -------------------------------------------------------------------------------


def test_the_prediction_takes_its_place(make, qtbot, said):
    dock = make(PREDICTS)
    dock.finetune.start.click()
    arrives(qtbot, dock, 4)
    (dock.session.project.root / "go").touch()
    ends(qtbot, dock)
    assert (shown(dock) == 2).all() and not dock.workspace.predictions.unfinished
    assert not said


@pytest.mark.parametrize("ending", [FAILS, GOES_ON])
def test_a_training_that_fails_or_is_ended_brings_the_last_prediction_back(make, qtbot, ending):
    dock = make(ending)
    run = predict(dock)
    dock.finetune.start.click()
    arrives(qtbot, dock, 4)
    (dock.session.project.root / "go").touch()
    if ending == GOES_ON:
        dock.jobs.stop()
        dock.jobs.stop()
    ends(qtbot, dock)
    assert (shown(dock) == 3).all() and dock.workspace.predictions.shown_run == run
    assert dock.workspace.prediction_layer.visible


def test_without_an_earlier_prediction_a_training_that_fails_leaves_none(make, qtbot):
    dock = make(FAILS)
    dock.finetune.start.click()
    arrives(qtbot, dock, 4)
    (dock.session.project.root / "go").touch()
    ends(qtbot, dock)
    assert not shown(dock).any() and not dock.workspace.prediction_layer.visible
    assert dock.workspace.predictions.shown is None


# --- what it leaves alone ----------------------------------------------------------------------------


def test_neither_the_annotation_nor_its_undo_nor_the_disk_knows_of_it(make, qtbot):
    dock = make(GOES_ON)
    layer = dock.workspace.annotation_layer
    before, steps = np.array(layer.data), len(layer._undo_history)
    dock.finetune.start.click()
    arrives(qtbot, dock, 4)
    assert np.array_equal(layer.data, before) and len(layer._undo_history) == steps
    assert dock.session.predictions() == []
    assert not list(dock.session.project.root.rglob("predictions/*"))
    with pytest.raises(UserError, match="no prediction"):
        dock.workspace.export_source()


def test_it_cannot_be_accepted_as_annotation(make, qtbot):
    dock = make(GOES_ON)
    predict(dock)
    dock.finetune.start.click()
    arrives(qtbot, dock, 4)
    before = np.array(dock.workspace.annotation_layer.data)
    with pytest.raises(UserError, match="running training"):
        dock.annotate.edits.accept()
    assert np.array_equal(dock.workspace.annotation_layer.data, before)
    dock.jobs.stop()
    dock.jobs.stop()
    ends(qtbot, dock)
    dock.annotate.edits.accept()
    assert dock.workspace.annotation_layer.data[4, 0, 0] == 3


def test_another_prediction_may_be_looked_at_meanwhile(make, qtbot):
    dock = make(GOES_ON)
    old, new = predict(dock, 2), predict(dock, 3)
    dock.finetune.start.click()
    arrives(qtbot, dock, 4)
    dock.prediction.go_back()
    assert dock.workspace.predictions.shown_run == old and (shown(dock) == 2).all()
    dock.workspace.go_to(0, 7)
    arrives(qtbot, dock, 7)
    assert (np.delete(shown(dock), 7, axis=0) == 2).all()
    dock.prediction.go_back()
    assert dock.workspace.predictions.shown_run == new and (shown(dock) == 3).all()


def test_from_the_side_the_last_prediction_is_shown_and_nothing_is_asked(make, qtbot):
    dock = make(GOES_ON)
    predict(dock)
    dock.finetune.start.click()
    arrives(qtbot, dock, 4)
    dock.workspace.go_to(1, 3)
    qtbot.waitUntil(lambda: "axial" in dock.live.status, timeout=5_000)
    assert (shown(dock) == 3).all() and not dock.workspace.predictions.unfinished
    dock.workspace.go_to(0, 5)
    arrives(qtbot, dock, 5)
    assert "live preview" in dock.live.status.lower()


def test_a_hidden_prediction_stays_hidden(make, qtbot):
    dock = make(GOES_ON)
    predict(dock)
    dock.workspace.predictions.toggle()
    dock.finetune.start.click()
    arrives(qtbot, dock, 4)
    assert not dock.workspace.prediction_layer.visible


def test_another_scan_shows_its_own(make, qtbot, tmp_path):
    dock = make(GOES_ON)
    predict(dock)
    write_scan(tmp_path / "b.nii.gz", seed=1)
    other = dock.session.project.add_scan(tmp_path / "b.nii.gz").id
    dock.finetune.start.click()
    arrives(qtbot, dock, 4)
    dock.session.select(other)
    dock.workspace.go_to(0, 9)
    arrives(qtbot, dock, 9)
    assert '"scan": "b"' in told(dock)[-1] and not np.delete(shown(dock), 9, axis=0).any()
    dock.session.select("a")
    dock.workspace.go_to(0, 2)
    arrives(qtbot, dock, 2)
    dock.jobs.stop()
    dock.jobs.stop()
    ends(qtbot, dock)
    assert (shown(dock) == 3).all()


def test_a_preview_that_fits_no_slice_is_left_out(make, qtbot, said):
    from medssl.core.events import SliceInView, SlicePreview

    dock = make(GOES_ON)
    predict(dock)
    dock.finetune.start.click()
    arrives(qtbot, dock, 4)
    for odd in (SlicePreview.of(SliceInView("a", 0, 4), np.ones((3, 3), np.uint8)),
                SlicePreview.of(SliceInView("a", 0, 99), np.ones(SHAPE[1:], np.uint8)),
                SlicePreview.of(SliceInView("a", 0, -1), np.ones(SHAPE[1:], np.uint8))):  # fmt: skip
        dock.jobs.event_received.emit(odd)
    assert np.array_equal(shown(dock)[4], preview_of(4)) and (np.delete(shown(dock), 4, axis=0) == 3).all()
    assert not said


# --- an engine that is started ahead -------------------------------------------------------------------


@pytest.fixture
def ahead(monkeypatch):
    monkeypatch.setattr(child_process.StandbyEngine, "on", True)


def test_a_stroke_starts_one_engine_that_takes_the_job(make, qtbot, ahead, said):
    dock = make(GOES_ON)
    waiting = dock.jobs.standby._child
    assert waiting is not None
    qtbot.waitUntil(lambda: waiting.process_id() > 0)
    process = waiting.process_id()
    dock.workspace.annotation_layer.paint((5, 5, 6), 1)
    assert dock.jobs.standby._child is waiting
    dock.finetune.start.click()
    arrives(qtbot, dock, 4)
    assert dock.jobs.process_id() == process and dock.jobs.standby._child is None
    dock.workspace.annotation_layer.paint((6, 5, 6), 1)
    assert dock.jobs.standby._child is None, "not beside a training"
    assert not said


def test_an_engine_that_dies_while_it_waits_is_not_missed(make, qtbot, ahead, said):
    dock = make(GOES_ON)
    waiting = dock.jobs.standby._child
    waiting._process.kill()
    qtbot.waitUntil(lambda: dock.jobs.standby._child is None, timeout=10_000)
    dock.finetune.start.click()
    arrives(qtbot, dock, 4)
    assert not said


def test_a_closed_dock_leaves_none_behind(make, qtbot, ahead):
    dock = make(GOES_ON)
    waiting = dock.jobs.standby._child
    dock._leave()
    qtbot.waitUntil(lambda: waiting not in child_process._running, timeout=10_000)


REAL = """
import sys
from pathlib import Path
from medssl import worker
worker.NICENESS = 0  # the test waits for it
sys.exit(worker.run(Path(sys.argv[-1])))
"""


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_real_engine_is_warm_and_answers_before_its_first_step(make, qtbot, ahead, said, monkeypatch):
    dock = make(GOES_ON)
    dock.jobs.standby.cancel()
    command = (sys.executable, "-u", "-c", REAL)
    monkeypatch.setattr(dock.jobs, "_command", command)
    monkeypatch.setattr(dock.jobs.standby, "_command", command)
    for index in (3, 4, 5, 6):
        dock.workspace.go_to(0, index)
        for row in (2, 3, 4):
            dock.workspace.annotation_layer.paint((index, row, 3), 1)
        dock.session.annotation.mark(0, index, True)
    dock.workspace.autosave.flush()
    process = dock.jobs.standby._child
    dock.finetune.minutes.setValue(0.1)
    event_received = []
    dock.jobs.event_received.connect(event_received.append)
    dock.workspace.go_to(0, 4)
    dock.finetune.start.click()
    assert dock.jobs._child is process
    names = lambda: [type(event).__name__ for event in event_received]  # noqa: E731
    qtbot.waitUntil(lambda: "SlicePreview" in names(), timeout=180_000)
    assert "Metric" not in names()[: names().index("SlicePreview")]
    qtbot.waitUntil(lambda: not dock.session.job.running, timeout=180_000)
    assert dock.session.job.phase == "Finished" and not said
    (run,) = dock.session.predictions()
    assert np.array_equal(shown(dock), dock.session.project.prediction(run.id, "a"))
    assert "slicepreview" not in Path(run.folder / "events.jsonl").read_text()
