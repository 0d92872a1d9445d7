"""Pictures: written, of the right size, true to sides and scale, and with the colours that they promise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from medssl.benchmarking import pictures
from medssl.benchmarking.pictures.charts import apart, running_mean
from medssl.benchmarking.pictures.overlay import representative_slice
from medssl.benchmarking.pictures.page import DOTS_PER_INCH
from medssl.benchmarking.pictures.slice_counts import SliceCounts, slice_counts
from medssl.benchmarking.pictures.slices import AXIAL, CORONAL, greys, view
from medssl.core import palette
from medssl.core.errors import UserError
from medssl.core.events import Metric, Started, to_line
from medssl.core.io.intensity import normalise
from medssl.core.project.project import LabelClass

SPACING = (4.0, 2.0, 2.0)
CLASSES = (LabelClass(1, "one", palette.class_color(1)), LabelClass(2, "two", palette.class_color(2)))


def body() -> np.ndarray:
    """A grey ellipse in air, HU (Z, Y, X): 20 slices of 30 x 40 voxels."""
    y, x = np.mgrid[:30, :40]
    ellipse = ((y - 14.5) / 12) ** 2 + ((x - 19.5) / 17) ** 2 < 1
    return np.where(ellipse, 40.0, -1000.0)[None].repeat(20, 0).astype(np.float32)


def labels() -> np.ndarray:
    """Class 1 at the patient's right, class 2 at the left."""
    array = np.zeros((20, 30, 40), np.uint8)
    array[5:15, 10:20, 24:34] = 1
    array[5:15, 10:20, 6:14] = 2
    return array


def near(picture: np.ndarray, color: str, tolerance: float = 0.04) -> np.ndarray:
    """Which pixels have a colour."""
    return (np.abs(picture[..., :3] - to_rgb(color)) < tolerance).all(-1)


def write_overlay(path: Path, prediction: np.ndarray) -> np.ndarray:
    scan = pictures.Segmented(body(), SPACING, labels(), {"PGL": prediction}, "a scan")
    return imread(pictures.overlay(path, scan, CLASSES, "A title"))


def test_overlay_shows_each_class_in_its_colour(tmp_path):
    picture = write_overlay(tmp_path / "overlay.png", labels())
    middle = picture[: int(0.85 * len(picture))]  # the legend does not count
    for each in CLASSES:
        assert near(middle, each.color).sum() > 200, each.name


def test_overlay_fills_the_prediction(tmp_path):
    """Inside the label each pixel is the class's colour laid over the grey of the scan."""
    with_label = write_overlay(tmp_path / "with.png", labels())
    without = write_overlay(tmp_path / "without.png", np.zeros_like(labels()))
    changed = np.abs(with_label - without).max(-1) > 0.02
    strength = 0.42
    grey = (40 + 160) / 400
    for each in CLASSES:
        filled = np.array(to_rgb(each.color)) * strength + grey * (1 - strength)
        hits = (np.abs(with_label[..., :3] - filled) < 0.03).all(-1)
        assert hits.sum() > 2000
        assert changed[hits].mean() > 0.99


def test_overlay_puts_the_patients_right_on_the_left(tmp_path):
    picture = write_overlay(tmp_path / "overlay.png", labels())
    reference = picture[: int(0.85 * len(picture)), : picture.shape[1] // 2]
    right, left = (np.argwhere(near(reference, each.color))[:, 1].mean() for each in CLASSES)
    assert right < left


def test_overlay_grows_with_scans_and_predictions(tmp_path):
    scan = pictures.Segmented(body(), SPACING, labels(), {"random": labels(), "PGL": labels()})
    one = imread(pictures.overlay(tmp_path / "one.png", scan, CLASSES))
    two = imread(pictures.overlay(tmp_path / "two.png", [scan, scan], CLASSES))
    single = write_overlay(tmp_path / "single.png", labels())
    assert two.shape[1] == one.shape[1] > single.shape[1] * 1.3
    assert two.shape[0] > one.shape[0] * 1.6


def test_overlay_of_mr(tmp_path):
    image = np.random.default_rng(0).gamma(3, 100, (20, 30, 40)).astype(np.float32)
    scan = pictures.Segmented(image, SPACING, labels(), {"PGL": labels()}, modality="mr")
    picture = imread(pictures.overlay(tmp_path / "mr.png", scan, CLASSES))
    assert picture[..., :3].std() > 0.1


def test_normalised_ct_looks_like_hu(tmp_path):
    grey = body() + np.linspace(-150, 150, 40, dtype=np.float32) * (body() > 0)
    shown = []
    for name, image in (("hu", grey), ("normalised", normalise(grey, "ct").astype(np.float16))):
        scan = pictures.Segmented(image, SPACING, labels())
        shown.append(imread(pictures.overlay(tmp_path / f"{name}.png", scan, CLASSES)))
    assert np.abs(shown[0] - shown[1]).mean() < 0.005


def test_view_is_cropped_to_the_body_in_mm():
    seen = view(body(), SPACING, "ct", AXIAL, 10)
    width, height = seen.size_mm
    assert width == pytest.approx(34 * 2 + 16, abs=8)
    assert height == pytest.approx(24 * 2 + 16, abs=8)


def test_coronal_view_has_the_slice_distance_as_height():
    seen = view(body(), SPACING, "ct", CORONAL, 15)
    assert seen.size_mm[1] == 20 * 4.0


def test_a_voxel_is_marked_where_its_slice_shows_it():
    volume = np.zeros((20, 30, 40))
    volume[4, 7, 33] = 1
    for axis in (AXIAL, CORONAL):
        seen = view(body(), SPACING, "ct", axis, (4, 7)[axis])
        row, column = np.argwhere(seen.cut(volume))[0]
        x, y = seen.position((4, 7, 33))
        assert x == pytest.approx((column + 0.5) * 2.0)
        assert y == pytest.approx((row + 0.5) * (2.0 if axis == AXIAL else 4.0))


def test_coarse_maps_lie_over_their_voxels():
    """40 voxels in cells of 16 are three cells; the third sticks out at the high end, left in the picture."""
    seen = view(body(), SPACING, "ct", AXIAL, 17)
    plane = seen.cut(np.zeros((2, 2, 3)), (16, 16, 16))
    assert seen.extent(plane, (16, 16, 16)) == (-16.0, 80.0, 60.0, -4.0)


def test_windows():
    assert greys(body(), "ct") == (-160, 240)
    assert greys(normalise(body(), "ct"), "ct") == pytest.approx((-np.arcsinh(2), np.arcsinh(2)))
    low, high = greys(np.full((3, 3, 3), 7.0), "mr")
    assert low < high


def test_the_representative_slice_shows_small_classes_too():
    array = np.zeros((10, 20, 20), np.uint8)
    array[1, :18] = 1
    array[6, :10], array[6, 12:14, :2] = 1, 2
    assert representative_slice(array, 0, (1, 2)) == 6


def test_similarity_marks_the_voxel_in_both_scans(tmp_path):
    values = np.random.default_rng(0).uniform(0, 1, (5, 8, 10)).astype(np.float32)
    scans = [
        pictures.Similar(body(), SPACING, values, (10, 12, 20), title, (4, 4, 4))
        for title in ("clicked", "best match\ncosine 0.9")
    ]
    picture = imread(pictures.similarity(tmp_path / "similar.png", scans, "Where else?"))
    marked = near(picture, palette.ACCENT, 0.02)
    half = len(picture) // 2
    assert marked[:half].sum() > 50 < marked[half:].sum()


def test_similarity_takes_one_scan(tmp_path):
    values = np.linspace(-1, 1, 20 * 30 * 40).reshape(20, 30, 40)
    path = pictures.similarity(tmp_path / "one.png", pictures.Similar(body(), SPACING, values, (1, 2, 3)))
    assert imread(path).shape[1] == 11 * DOTS_PER_INCH


def test_curves_have_a_line_for_each_run(tmp_path):
    steps = np.arange(0, 1000, 10.0)
    runs = [
        pictures.Curve(name, np.stack([steps, fall / (steps + 100)], 1), np.empty((0, 2)))
        for name, fall in (("random", 300), ("PGL", 100))
    ]
    picture = imread(pictures.curves(tmp_path / "curves.png", runs, "Loss"))
    for color in palette.RUN_COLORS[:2]:
        assert near(picture, color).sum() > 300


def test_dice_gets_a_chart_of_its_own(tmp_path):
    loss, dice = np.array([[0, 1.0], [10, 0.5]]), np.array([[0, 0.1], [10, 0.7]])
    without = pictures.curves(tmp_path / "a.png", [pictures.Curve("run", loss, np.empty((0, 2)))])
    both = pictures.curves(tmp_path / "b.png", [pictures.Curve("run", loss, dice)])
    assert imread(both).shape[1] > 1.6 * imread(without).shape[1]


def test_a_curve_is_read_from_events(tmp_path):
    path = tmp_path / "events.jsonl"
    told = [Started("0001"), Metric(5, {"loss": 1.5}), Metric(10, {"loss": 1.0, "dice": 0.4})]
    path.write_text("\n".join(map(to_line, told)) + '\n{"event": "met')
    curve = pictures.read_curve(path, "run")
    assert curve.loss.tolist() == [[5, 1.5], [10, 1.0]]
    assert curve.dice.tolist() == [[10, 0.4]]


def test_a_missing_event_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.jsonl"):
        pictures.read_curve(tmp_path / "nothing.jsonl", "run")


def test_running_mean_keeps_the_first_value_and_lines():
    line = np.arange(50.0)
    assert np.allclose(running_mean(line, 4)[:46], line[:46])


def test_dice_table_draws_means_and_leaves_out_unknowns(tmp_path):
    scores = {
        "random": {"liver": [0.5, 0.6], "spleen": [float("nan")]},
        "PGL": {"liver": [0.8, 0.9], "spleen": [0.4]},
    }
    colors = {"liver": CLASSES[0].color, "spleen": CLASSES[1].color}
    picture = imread(pictures.dice_table(tmp_path / "dice.png", scores, "Dice", colors))
    assert near(picture, palette.RUN_COLORS[1]).sum() > 100
    assert near(picture, CLASSES[1].color).sum() > 20


def test_an_unknown_ending_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"\.png"):
        pictures.curves(tmp_path / "curves.bmp", [pictures.Curve("run", np.ones((2, 2)), np.empty((0, 2)))])


@pytest.mark.parametrize("ending", [".svg", ".pdf"])
def test_vector_formats(tmp_path, ending: str):
    path = tmp_path / f"curves{ending}"
    pictures.curves(path, [pictures.Curve("run", np.ones((2, 2)), np.empty((0, 2)))])
    assert path.stat().st_size > 2000


def test_neighbouring_class_colours_differ():
    colors = np.array([to_rgb(color) for color in palette.CLASS_COLORS])
    apart = np.linalg.norm(colors[:, None] - colors[None], axis=-1)
    assert apart[~np.eye(len(colors), dtype=bool)].min() > 0.2


def test_names_that_would_touch_are_moved_apart_around_their_places() -> None:
    assert apart([0.0, 1.0], 0.5) == [0.0, 1.0]
    assert apart([0.0, 0.0, 5.0], 1.0) == [-0.5, 0.5, 5.0]
    assert apart([0.0, 0.2, 1.0], 1.0) == pytest.approx([-0.6, 0.4, 1.4])


def test_amounts_draws_single_numbers_of_slices_and_several(tmp_path: Path) -> None:
    one = [SliceCounts("random", {10: [0.5, 0.6]}), SliceCounts("nnU-Net", {10: [0.4]}, peer=True)]
    more = [
        SliceCounts("random", {5: [0.5, 0.6], 20: [0.7]}),
        SliceCounts("MAE", {5: [0.4], 20: [0.5]}, quiet=True),
    ]
    for name, methods in (("one.png", one), ("more.png", more)):
        assert slice_counts(tmp_path / name, methods, "Dice", "words").stat().st_size > 5_000
