"""torch never enters the viewer's process; Qt and napari never enter the engine's."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

import medssl

import napari_medssl

HEAVY = ("torch", "monai", "torchvision")
SCREEN = ("napari", "qtpy", "PyQt5", "PyQt6", "PySide2", "PySide6", "superqt", "magicgui", "vispy")

EXERCISE = """
from pathlib import Path
import tempfile
from qtpy.QtWidgets import QApplication
application = QApplication([])
from napari.components import ViewerModel
from napari_medssl.io.samples import phantom
from napari_medssl.io.open_layers import save
from napari_medssl.model.job_factory import finetune_job
from napari_medssl.widgets import Dock
from napari.layers import Image
import numpy as np
folder = Path(tempfile.mkdtemp())
viewer = ViewerModel()
dock = Dock(viewer)
data, arguments, _ = phantom()[0]
path = save(Image(data, **arguments), folder).path
dock.session.open(folder / "project")
scan = dock.session.project.add_scan(path)
dock.session.select(scan.id)
dock.workspace.new_annotation()
dock.workspace.annotation_layer.paint((30, 50, 50), 1)
dock.workspace.toggle_complete()
dock.workspace.autosave.flush()
assert dock.session.project.annotated() == (scan.id,)
finetune_job(dock.session, None, 1.0)
for step in (dock.pretrain, dock.finetune, dock.prediction):
    step.advanced.expand()
    assert step.advanced.values() == {}
"""


def in_fresh_interpreter(code: str, forbidden: tuple[str, ...]) -> str:
    """Run `code`; return the forbidden packages that came with it."""
    check = f"\nimport sys\nprint('FOUND', *sorted(set({forbidden!r}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code + check],
        capture_output=True, text=True, timeout=240,
        env={**__import__("os").environ, "QT_QPA_PLATFORM": "offscreen"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def modules_of(package) -> list[str]:
    """All modules of a package, except those that run something when imported."""
    found = pkgutil.walk_packages([str(Path(package.__file__).parent)], package.__name__ + ".")
    return [item.name for item in found if not item.name.endswith("__main__")]


def test_the_plugin_with_all_its_modules_brings_no_torch():
    code = "\n".join(f"import {name}" for name in modules_of(napari_medssl))
    assert in_fresh_interpreter(code, HEAVY) == "FOUND"


def test_working_in_the_viewer_brings_no_torch():
    assert in_fresh_interpreter(EXERCISE, HEAVY) == "FOUND"


def test_a_nifti_is_read_and_written_without_the_libraries_of_other_formats():
    code = """
import tempfile
from pathlib import Path
import numpy as np
from medssl.core.io.geometry import Geometry
from medssl.core.io.labels import read_labels
from medssl.core.io.volume import read_scan, write_labels
path = Path(tempfile.mkdtemp()) / "labels.nii.gz"
labels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
write_labels(path, labels, Geometry.of(np.eye(4), (4, 3, 2)))
assert (read_labels(path).array == labels).all()
assert read_scan(path).array.shape == labels.shape
"""
    # nibabel itself loads pydicom where it is installed.
    assert in_fresh_interpreter(code, ("SimpleITK", "highdicom", "medssl.core.io.dicom")) == "FOUND"


def test_the_engine_with_all_its_modules_brings_no_qt():
    code = "\n".join(f"import {name}" for name in [*modules_of(medssl), "medssl.__main__"])
    assert in_fresh_interpreter(code, SCREEN) == "FOUND"
