"""The forms of the steps: made for everything that can be chosen, and what is changed reaches the job."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from medssl.core import recipes, settings
from medssl.core.errors import UserError
from medssl.core.jobs import FinetuneJob, PretrainJob
from medssl.core.settings import FINETUNING
from napari.components import ViewerModel
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtGui import QWheelEvent
from qtpy.QtWidgets import QApplication, QLabel

from napari_medssl.widgets import Dock
from napari_medssl.widgets.advanced import Advanced
from napari_medssl.widgets.dock import WIDTH

FORMS = {f"{m}-{w}": (lambda m=m, w=w: settings.of_pretraining(m, w)) for m, w, _ in recipes.pretrainings()}
FORMS |= {
    f"{semi_supervised}": (
        lambda semi_supervised=semi_supervised: settings.of_finetuning(semi_supervised, "quick")
    )
    for semi_supervised in FINETUNING
}
FORMS["predict"] = settings.of_prediction


@pytest.fixture
def form(qtbot) -> Advanced:
    made = Advanced()
    qtbot.addWidget(made)
    made.show_settings("mae-quick", lambda: settings.of_pretraining("mae", "quick"))
    made.expand()
    return made


@pytest.fixture
def dock(qtbot, said, tmp_path: Path) -> Dock:
    values = np.random.default_rng(0).normal(size=(12, 10, 8)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "a.nii.gz")
    made = Dock(ViewerModel())
    qtbot.addWidget(made)
    made.show()
    made.scans.add([tmp_path / "a.nii.gz"])
    qtbot.waitUntil(lambda: not made.scans.adder.busy and made.session.scan is not None, timeout=10_000)
    return made


@pytest.mark.parametrize("which", FORMS)
def test_every_choice_has_a_form_that_shows_its_defaults_and_changes_nothing(qtbot, which: str) -> None:
    made = Advanced()
    qtbot.addWidget(made)
    made.show_settings(which, FORMS[which])
    made.expand()
    for each in [each for group in FORMS[which]().values() for each in group]:
        assert made.editor(each.name) is not None
        made.reset(each.name)
    assert made.values() == {}
    assert made.minimumSizeHint().width() <= WIDTH - 40


@pytest.mark.parametrize(
    ("name", "shown", "value"),
    [("ratio", 0.5, 0.5), ("block", 4, 4), ("learning_rate", 0.0004, 0.0004), ("batch", "6", 6),
     ("patch", "3, 64, 64", [3, 64, 64]), ("dims", 2, 2), ("precision", "bf16", "bf16"),
     ("device", "cpu", "cpu")],
)  # fmt: skip
def test_a_change_is_a_value_is_marked_and_can_be_taken_back(
    form: Advanced, name: str, shown: object, value: object
) -> None:
    form.editor(name).value = shown
    assert form.values() == {name: value}
    assert form.text() == "Advanced (1 changed)" and form._rows[name].label.font().bold()
    form._rows[name].back.click()
    assert form.values() == {} and form.text() == "Advanced" and not form._rows[name].label.font().bold()


@pytest.mark.parametrize(("name", "text"), [("patch", "large"), ("batch", "0"), ("batch", "many")])
def test_a_wrong_value_is_one_sentence(form: Advanced, name: str, text: str) -> None:
    form.editor(name).value = text
    with pytest.raises(UserError, match=name) as refusal:
        form.values()
    assert "\n" not in str(refusal.value)


def test_numbers_stay_in_the_range_of_their_setting(form: Advanced) -> None:
    form.editor("ratio").native.setValue(3)
    assert form.values() == {"ratio": 1.0}


def test_changes_stay_with_their_method(form: Advanced) -> None:
    form.editor("ratio").value = 0.5
    form.show_settings("pgl-quick", lambda: settings.of_pretraining("pgl", "quick"))
    assert form.values() == {} and form.editor("hidden").value == 512
    form.show_settings("mae-quick", lambda: settings.of_pretraining("mae", "quick"))
    assert form.values() == {"ratio": 0.5} and form.editor("ratio").value == 0.5


def test_the_tooltip_is_the_text_below_the_field(form: Advanced) -> None:
    label = next(each for each in form.findChildren(QLabel) if each.text() == "Ratio")
    assert "Fraction of the blocks that is masked." in label.toolTip()


def test_the_wheel_over_a_form_changes_no_number(form: Advanced) -> None:
    native = form.editor("block").native
    here = QPointF(native.rect().center())
    none = Qt.MouseButton.NoButton
    turn = QWheelEvent(
        here, QPointF(native.mapToGlobal(here.toPoint())), QPoint(), QPoint(0, 120), none,
        Qt.KeyboardModifier.NoModifier, Qt.ScrollPhase.NoScrollPhase, False,
    )  # fmt: skip
    QApplication.sendEvent(native, turn)
    assert form.values() == {}


def test_what_is_changed_reaches_the_pre_training(dock: Dock, monkeypatch) -> None:
    started: list[PretrainJob] = []
    monkeypatch.setattr(dock.jobs, "start", started.append)
    dock.pretrain.advanced.expand()
    dock.pretrain.advanced.editor("learning_rate").value = 0.004
    dock.pretrain.advanced.editor("seed").value = 3
    dock.pretrain.start.click()
    (job,) = started
    assert (job.settings, job.seed, job.device) == ({"learning_rate": 0.004}, 3, "auto")


def test_what_is_changed_reaches_the_fine_tuning_beside_the_slice_held_back(dock: Dock, monkeypatch) -> None:
    started: list[FinetuneJob] = []
    monkeypatch.setattr(dock.jobs, "start", started.append)
    dock.annotate.new.click()
    dock.workspace.annotation_layer.paint((4, 5, 6), 1)
    dock.annotate.complete.click()
    dock.finetune.hold.click()
    dock.finetune.advanced.expand()
    dock.finetune.advanced.editor("location_prior").value = False
    dock.finetune.start.click()
    (job,) = started
    assert job.settings == {"validation_slice": True, "location_prior": False}


def test_a_wrong_value_starts_nothing_and_is_said(dock: Dock, said) -> None:
    dock.pretrain.advanced.expand()
    dock.pretrain.advanced.editor("patch").value = "large"
    dock.pretrain.start.click()
    ((severity, text),) = said
    assert severity == "error" and "'patch'" in text and not dock.session.job.running


@pytest.mark.parametrize("step", ["pretrain", "finetune", "prediction"])
def test_an_open_form_does_not_widen_the_dock(dock: Dock, step: str) -> None:
    before = dock.scroll_area.widget().minimumSizeHint().width()
    content = getattr(dock, step)
    content.advanced.expand()
    assert dock.scroll_area.widget().minimumSizeHint().width() == before
    assert content.minimumSizeHint().width() <= WIDTH
