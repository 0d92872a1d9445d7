"""Clicks from `medssl view FOLDER` to the first overlay: python benchmarks/first_overlay.py

In a real window (without a display: xvfb-run -a -s "-screen 0 1400x1000x24"), by mouse and keyboard, on
synthetic scans: a NIfTI folder, a DICOM folder, a patient with two MR sequences. Clicks are counted, except
what paints: strokes, [ for a thin brush, the arrow keys from slice to slice, and K. Exit code 1 if there are
more than six.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np
from medssl.benchmarking.report import markdown_table
from medssl.benchmarking.surroundings import surroundings
from medssl.core.files import write_whole
from medssl.core.io.geometry import Geometry
from medssl.core.labels.metrics import dice
from medssl.core.phantom import make_phantom
from qtpy.QtCore import Qt

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT / "tests" / "plugin"), str(ROOT / "tests" / "engine")]
import scenes  # noqa: E402
from dicom_files import write_series  # noqa: E402
from user_simulation import ClickCounter, wait_until  # noqa: E402

PAGE = ROOT / "docs" / "benchmarks" / "first_overlay.md"
MOST = 6
TIMEOUT_S = 600
LIVER = 1
SHAPE_ZYX, SPACING_ZYX_MM = (48, 80, 80), (6.7, 4.5, 4.5)
Phantom = tuple[np.ndarray, np.ndarray, Geometry]
"""Grey values and class ids (Z, Y, X), geometry."""


def nifti(folder: Path, phantoms: Sequence[Phantom]) -> None:
    """Two CTs as NIfTI."""
    for number, (scan, _, geometry) in enumerate(phantoms):
        scenes.write_nifti(folder / f"person_{number}.nii.gz", scan.astype(np.float32), geometry)


def dicom(folder: Path, phantoms: Sequence[Phantom]) -> None:
    """A CT as a DICOM series."""
    scan = phantoms[0][0]
    stored = (scan[:, ::-1, ::-1] + 1024).astype(np.int16)  # rows to posterior, columns to the left
    write_series(folder, stored, (0.0, 0.0, SPACING_ZYX_MM[0]), pixel_spacing=SPACING_ZYX_MM[1:])


def sequences(folder: Path, phantoms: Sequence[Phantom]) -> None:
    """Two patients in two made-up MR sequences, as nnU-Net has them."""
    for seed in range(len(phantoms)):
        *both, _, geometry = scenes.sequences(seed, SHAPE_ZYX, SPACING_ZYX_MM)
        for number, values in enumerate(both):
            path = folder / "imagesTr" / f"patient{seed}_{number:04d}.nii.gz"
            scenes.write_nifti(path, values, geometry)


INPUTS = {"NIfTI, two CTs": nifti, "DICOM, one CT": dicom, "NIfTI, two MRs of two sequences": sequences}


def measure(folder: Path, truth: np.ndarray, minutes: float) -> tuple[list[str], float, float]:
    """Go from a folder to an overlay.

    Args:
        folder: What `medssl view` is given.
        truth: Class ids of the first scan, uint8 (Z, Y, X).
        minutes: Of the fine-tuning.

    Returns:
        What was clicked, seconds from the last click to the first overlay, and Dice of the prediction.
    """
    import napari_medssl

    viewer = napari_medssl.view(folder)
    viewer.window.resize(1280, 800)
    dock = next(iter(viewer.window.dock_widgets.values()))
    user = ClickCounter(viewer, dock)
    wait_until(dock.scans.new_project.agree.isVisible, TIMEOUT_S, "the search for scans")
    user.click(dock.scans.new_project.agree)
    wait_until(lambda: dock.workspace.scan_layer is not None, TIMEOUT_S, "the first scan")
    wait_until(lambda: not dock.scans.adder.busy, TIMEOUT_S, "the other scans")
    user.click(dock.steps[1].toggleButton())
    wait_until(lambda: not dock.annotate.new.visibleRegion().isEmpty(), TIMEOUT_S, "step 2")
    user.click(dock.annotate.new)
    truth = np.where(truth == LIVER, truth, 0)
    inside = np.flatnonzero(truth.any((1, 2)))
    while dock.workspace.annotation_layer.brush_size > 1:
        user.key(Qt.Key.Key_BracketLeft)
    for index in np.linspace(inside[0], inside[-1], 5).round().astype(int).tolist():
        user.go_to_slice(index)
        user.paint_rows(dock.workspace.annotation_layer, index, truth[index] > 0)
        user.key(Qt.Key.Key_K)
    dock.finetune.minutes.setValue(minutes)
    wait_until(dock.train.isEnabled, TIMEOUT_S, "the strokes on the disk")
    user.click(dock.train)
    begin = time.perf_counter()
    wait_until(lambda: dock.workspace.prediction_layer is not None, TIMEOUT_S, "the first overlay")
    seconds = time.perf_counter() - begin
    wait_until(lambda: not dock.session.job.running, TIMEOUT_S, "the fine-tuning")
    found = np.asarray(dock.workspace.prediction_layer.data)
    viewer.close()
    return user.clicked, seconds, dice(found, truth, [LIVER])[LIVER]


def main() -> None:
    """Measure all inputs and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=0.5, help="of each fine-tuning")
    parser.add_argument("--out", type=Path, default=PAGE)
    options = parser.parse_args()
    phantoms = [make_phantom(seed, SHAPE_ZYX, SPACING_ZYX_MM) for seed in range(2)]
    machine, rows, most = surroundings("cpu"), [], 0
    inputs = [next(iter(INPUTS.items())), *INPUTS.items()]
    for number, (name, write) in enumerate(inputs):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "scans"
            folder.mkdir()
            write(folder, phantoms)
            clicked, seconds, score = measure(folder, phantoms[0][1], options.minutes)
        if number == 0:
            continue  # the first window loads modules and fills caches
        most = max(most, len(clicked))
        rows.append([name, str(len(clicked)), ", ".join(clicked), f"{seconds:.1f}", f"{score:.2f}"])
        print(*rows[-1], flush=True)
    page = PAGE_TEXT.format(
        most=MOST, command=f"python benchmarks/first_overlay.py --minutes {options.minutes:g}",
        day=f"{date.today():%d %B %Y}", cpu=machine["cpu"], torch=machine["torch"], commit=machine["commit"],
        minutes=options.minutes,
        table=markdown_table(["folder", "clicks", "which", "s", "Dice"], rows, text=(0, 2)),
    )  # fmt: skip
    write_whole(options.out, lambda file: file.write(page.encode()))
    sys.exit(most > MOST)


PAGE_TEXT = """# Clicks to the first overlay

From `medssl view FOLDER` to the first segmentation of the slice on the screen, in a real window on synthetic
scans. Everything that is clicked besides painting is counted; painting is strokes, `[` for a thin brush, the
arrow keys from slice to slice, and K. The goal is at most {most}. Seconds from the last click to the first
overlay; Dice of the liver in the whole scan after {minutes:g} minutes, from five painted slices. One
run on the first folder comes before and is not counted: it loads modules and fills caches.

`{command}`, {day}, {cpu}, torch {torch}, commit {commit}.

{table}
"""


if __name__ == "__main__":
    main()
