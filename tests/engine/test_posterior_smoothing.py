"""Which of several classes a voxel is, asked of its neighbourhood."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from medssl.benchmarking.simulated_annotator import annotate
from medssl.core.project.project import IGNORE, LabelClass, Project
from medssl.nn.data.device_dataset import load_device_dataset
from medssl.nn.models.unet import build
from medssl.tasks.inference import predict
from medssl.tasks.inference import scores as posteriors
from medssl.tasks.inference.posterior_smoothing import smooth_posteriors
from medssl.tasks.segment import finetune, smoothing_width
from medssl.tasks.segment.allowed_widths import Width, allowed_widths, best
from medssl.tasks.segment.smoothing_width import SmoothingWidth
from small import CPU, FINETUNE, Events, dataset, job_of, never, noise, plan, run, seeded, write_nifti
from torch import Tensor

SPACING = (1.0, 1.0, 1.0)


def halves(shape: tuple[int, int, int] = (12, 24, 24)) -> Tensor:
    """A block of two classes that adjoin in its middle, in background."""
    labels = torch.zeros(shape, dtype=torch.uint8)
    labels[2:-2, 4:-4, 4:12], labels[2:-2, 4:-4, 12:-4] = 1, 2
    return labels


def scores_of(labels: Tensor, classes: int, wrong: float) -> Tensor:
    """(n, 1 + K, rows, columns): 0.8 for the label, but where chance has it for the other class."""
    other = torch.rand(labels.shape, generator=seeded()) < wrong
    named = torch.where(other & (labels > 0), 3 - labels.long(), labels.long())
    return 0.8 * torch.nn.functional.one_hot(named, classes + 1).movedim(-1, 1) + 0.2 / (classes + 1)


def painted(*labels: Tensor, spacing_mm: tuple[float, float, float] = SPACING) -> float:
    """The widest by every third slice of these; 0 for none."""
    targets = []
    for each in labels:
        target = torch.full_like(each, IGNORE)
        target[::3] = each[::3]
        targets.append(target)
    scans = dataset(*(noise(tuple(each.shape)) for each in labels), targets=targets, spacing_mm=spacing_mm)
    return widest(allowed_widths(scans, int(max(each.max() for each in labels))))


def widest(allowed: Sequence[Width]) -> float:
    return max((each.sigma_mm for each in allowed), default=0.0)


# --- what becomes of scores -------------------------------------------------------------------------------


def test_voxels_with_the_wrong_name_are_renamed_and_the_border_stays() -> None:
    labels = halves()
    before = scores_of(labels, 2, wrong=0.2)
    after = smooth_posteriors(before, 2.0, SPACING)
    inside = labels > 0
    wrong = [(each.argmax(1) != labels)[inside].float().mean() for each in (before, after)]
    assert wrong[0] > 0.15
    assert wrong[1] < 0.02
    assert ((after.argmax(1) > 0) == inside).all()


def test_background_keeps_its_probability_and_the_rest_sums_up_to_one() -> None:
    before = scores_of(halves(), 2, wrong=0.2)
    after = smooth_posteriors(before, 2.0, SPACING)
    assert torch.equal(after[:, 0], before[:, 0])
    assert torch.allclose(after.sum(1), torch.ones_like(after[:, 0]), atol=1e-5)
    assert (after >= 0).all()


def test_one_class_or_no_width_leaves_the_scores_as_they_are() -> None:
    scores = scores_of(halves(), 2, wrong=0.2)
    assert smooth_posteriors(scores, 0.0, SPACING) is scores
    assert smooth_posteriors(scores[:, :2], 2.0, SPACING).shape[1] == 2


def test_the_neighbourhood_is_as_wide_in_mm_along_every_axis() -> None:
    """One voxel of a second class spreads as far in thick slices, which are fewer voxels."""
    scores = torch.zeros(15, 3, 15, 15)
    scores[:, 1], scores[7, 1, 7, 7], scores[7, 2, 7, 7] = 1, 0, 1
    spread = smooth_posteriors(scores, 2.0, (2.0, 1.0, 1.0))[:, 2]
    assert spread[8, 7, 7].item() == pytest.approx(spread[7, 9, 7].item(), rel=0.02)
    assert spread[7, 9, 7].item() == pytest.approx(spread[7, 7, 9].item(), rel=0.02)


def test_a_step_in_mixed_precision_changes_nothing() -> None:
    """Guesses are made within one."""
    scores = scores_of(halves(), 2, wrong=0.2)
    with torch.autocast("cpu", torch.bfloat16):
        within = smooth_posteriors(scores, 2.0, SPACING)
    assert torch.equal(within, smooth_posteriors(scores, 2.0, SPACING))


def test_where_no_class_is_near_scores_are_finite() -> None:
    scores = torch.zeros(4, 3, 300, 4)
    scores[:, 0] = 1
    scores[:, 1, 0], scores[:, 0, 0] = 1, 0
    assert smooth_posteriors(scores, 0.5, SPACING).isfinite().all()


# --- how wide ---------------------------------------------------------------------------------------------


def test_thick_classes_take_half_their_radius() -> None:
    """Blocks of 16 x 8 mm: a disc of that area has a radius of 6.4 mm."""
    assert painted(halves()) == pytest.approx(3.2, abs=0.05)
    assert painted(halves(), spacing_mm=(1.0, 2.0, 2.0)) == pytest.approx(6.4, abs=0.1)


def test_a_thin_class_inside_a_thick_one_makes_it_narrow_and_is_not_lost() -> None:
    labels = halves()
    labels[labels == 2] = 1
    labels[2:-2, 4:-4, 11:13] = 2  # a sheet of two voxels
    width = painted(labels)
    assert width < painted(halves()) / 2
    found = smooth_posteriors(scores_of(labels, 2, wrong=0.0), width, SPACING).argmax(1)
    assert ((found == 2) & (labels == 2)).sum() > 0.95 * (labels == 2).sum()


def test_a_checkerboard_takes_none() -> None:
    rows, columns = torch.meshgrid(torch.arange(24), torch.arange(24), indexing="ij")
    assert painted((1 + (rows + columns) % 2).to(torch.uint8).expand(6, -1, -1).contiguous()) == 0


def test_a_single_class_or_nothing_complete_takes_none() -> None:
    one = (halves() > 0).to(torch.uint8)
    assert painted(one) == 0
    strokes = torch.full((4, 10, 10), IGNORE, dtype=torch.uint8)
    strokes[1, 3:5], strokes[1, 7:9] = 1, 2
    assert allowed_widths(dataset(noise((4, 10, 10)), targets=[strokes]), 2) == ()


def test_a_class_that_no_slice_shows_is_no_obstacle() -> None:
    scans = dataset(noise((12, 24, 24)), targets=[halves()])
    assert allowed_widths(scans, 3) == allowed_widths(scans, 2) != ()


def test_the_width_is_taken_that_puts_more_names_right_than_wrong() -> None:
    """Of true names a width renames b; the share f that it renames of those found is f - b good and b bad."""
    allowed = (Width(3.0, 0.02), Width(2.0, 0.01), Width(1.0, 0.0))
    assert best(allowed, (0.10, 0.07, 0.03)) == 3.0, "0.06, 0.05, 0.03"
    assert best(allowed, (0.05, 0.04, 0.01)) == 2.0, "0.01, 0.02, 0.01"
    assert best(allowed, (0.04, 0.02, 0.00)) == 0.0, "names as true as painted ones stay"


@pytest.mark.parametrize("wrong", [0.0, 0.02, 0.2])
def test_the_more_names_are_wrong_the_wider_neighbours_are_asked(
    wrong: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = halves()
    allowed = allowed_widths(dataset(noise((12, 24, 24)), targets=[labels]), 2)
    asked = SmoothingWidth(allowed, dataset(noise((12, 24, 24))), 0)
    own = scores_of(labels, 2, wrong)
    monkeypatch.setattr(smoothing_width, "scores_of_slabs", lambda *smoothed: iter([own[:5], own[5:]]))
    width = asked.width_mm(build(plan(), 3, 0), plan())
    assert (width > 0) == (wrong > 0)
    assert wrong < 0.1 or width > 2
    own[:, 0] = 1
    assert asked.width_mm(build(plan(), 3, 0), plan()) == asked.widest_mm, "where nothing is found"


def test_of_a_large_scan_the_seed_draws_the_slices_that_are_sampled() -> None:
    count, many = smoothing_width.SLICES, [torch.zeros(1, 1, 1).expand(90, 500, 400)] * 30
    parts = SmoothingWidth((Width(1.0, 0.0),), dataset(*many), 0).slabs
    assert all(first >= 0 and last <= 90 and last - first == count for first, last in parts)
    assert min(parts)[0] < 10 and max(parts)[1] > 80
    assert parts == SmoothingWidth((Width(1.0, 0.0),), dataset(*many), 0).slabs
    assert parts != SmoothingWidth((Width(1.0, 0.0),), dataset(*many), 1).slabs
    smaller = dataset(torch.zeros(1, 1, 1).expand(90, 50, 37))
    (part,) = SmoothingWidth((Width(1.0, 0.0),), smaller, 0).slabs
    assert part[1] - part[0] == smoothing_width.VOXELS // (50 * 37)


# --- in a fine-tuning -------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """One painted scan of two adjoining classes."""
    classes = tuple(LabelClass(label, f"half {label}", "#ff0000") for label in (1, 2))
    made = Project.create(tmp_path / "project", classes)
    labels = halves((24, 32, 32)).numpy()
    scan = made.add_scan(write_nifti(tmp_path / "scan.nii", labels.astype(np.float32)))
    made.save_annotation(scan.id, annotate(labels, [4, 8, 12], 0))
    return made


@pytest.mark.parametrize("kind", ["finetune", "finetune-none"])
def test_a_fine_tuning_keeps_the_width_with_the_weights_and_predictions_ask_for_it(
    project: Project, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    def smoothed(scores: Tensor, *given: Any) -> Tensor:
        asked.extend(filter(None, given[-2:-1]))
        return scores

    monkeypatch.setattr(posteriors, "smooth_slab", smoothed)
    made = project.run(run(job_of(kind, project))["run"])
    assert bool(asked) == (kind == "finetune"), "pseudo-labels ask for it, too"
    width = made.card["plan"]["smoothing_sigma_mm"]
    assert width > 1
    asked.clear()
    predict.predict_scans(project, made, list(project.scans), "cpu", Events(), never)
    assert set(asked) == {width}


def test_guesses_are_what_both_the_voxel_and_its_neighbours_say(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = halves()
    own = scores_of(labels, 2, wrong=0.2)
    monkeypatch.setattr(posteriors, "_one_orientation", lambda *asked: iter([own[:5], own[5:]]))
    looked_with = replace(plan(), smoothing_sigma_mm=2.0)
    smoothed = predict.top1_posterior(build(looked_with, 3, 0), looked_with, [labels.float()], SPACING, CPU)
    confidence_threshold = smoothed.probability > 0.6 * 255
    assert (smoothed.best == labels)[confidence_threshold].all(), "wrong names are not learned"
    assert confidence_threshold.sum() > 0.6 * (labels > 0).sum()
    assert torch.equal(smoothed.background, (own[:, 0] * 255).round().to(torch.uint8))


@pytest.mark.parametrize(("unpainted", "painted_too"), [(0, 6), (6, 0)])
def test_a_few_scans_are_looked_at_however_many_there_are(
    project: Project, tmp_path: Path, unpainted: int, painted_too: int
) -> None:
    """Those that nobody painted, where there are any."""
    labels = halves((24, 32, 32)).numpy()
    for number in range(unpainted + painted_too):
        path = write_nifti(tmp_path / f"scan-{number}.nii", labels + np.float32(number))
        scan = project.add_scan(path)
        if number < painted_too:
            project.save_annotation(scan.id, annotate(labels, [4, 8, 12], 0))
    known = load_device_dataset(project, project.annotated(), plan(), CPU, class_ids=[1, 2])
    asked = SmoothingWidth.of(project, known, plan(), 0)
    assert asked is not None
    assert len(set(asked.scans.ids)) == len(asked.scans.ids) == smoothing_width.SCANS
    assert set(asked.scans.ids).isdisjoint(known.ids) == bool(unpainted)


def test_the_slice_that_is_held_back_has_no_say(project: Project) -> None:
    """Whatever is painted there, the same widths may be taken."""
    labels = halves((24, 32, 32)).numpy()
    allowed = []
    for checkered in (False, True):
        one = labels.copy()
        project.save_annotation("scan", annotate(one, [2, 4, 6, 8, 10, 12], 0))
        job = replace(
            job_of("finetune-none", project), settings={**FINETUNE, "validation_slice": True}, weights=None
        )
        if checkered:
            held = make(project, job).validation.card["index"]
            stripes = np.indices(one.shape[1:]).sum(0) % 2 + 1
            one[held] = np.where(one[held] > 0, stripes, 0)
            project.save_annotation("scan", annotate(one, [2, 4, 6, 8, 10, 12], 0))
        task = make(project, job)
        assert task.validation is not None
        allowed.append(task.smoothing_width.allowed)
    assert allowed[0] == allowed[1] != ()


def make(project: Project, job: Any) -> Any:
    return finetune.make_task(project, job, plan(), CPU, Events())[1]


def test_it_can_be_left_out(project: Project) -> None:
    job = job_of("finetune", project)
    result = run(replace(job, settings={**job.settings, "posterior_smoothing": False}))
    assert project.run(result["run"]).card["plan"]["smoothing_sigma_mm"] == 0
