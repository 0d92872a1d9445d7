"""One 2.5D network looks at scans of nearly cubic voxels from several sides, once it has learned to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from medssl.nn.data.multiplanar import ORDERS, OWN, axis_orders, reoriented
from medssl.nn.models.network_weights import load_network
from medssl.nn.models.unet import build
from medssl.tasks.inference import score_volume
from medssl.tasks.inference import scores as posteriors
from medssl.tasks.inference.predict import segment_work, top1_posterior
from small import CPU, dataset, job_of, make_project, noise, plan, run, seeded
from test_predict import MM, Largest, Threshold, signs
from torch import Tensor
from tuning import IGNORE, half_painted, tuning

CUBES, THICK = MM, (5.0, 1.0, 1.0)
BOTH = (OWN, (1, 0, 2))
"""Axial slices, and coronal ones."""


def scores_from(order: tuple[int, ...], network: torch.nn.Module, image: Tensor) -> Tensor:
    """Scores (Z, Y, X, K) of the side alone: the image turned by hand, and back."""
    seen = image.permute(*order)
    parts = posteriors._one_orientation(network, plan(2), [seen], MM, CPU)  # type: ignore[arg-type]
    scores = torch.cat(list(parts)).movedim(1, -1)
    return scores.permute(*np.argsort(order).tolist(), 3)


@pytest.mark.parametrize(
    ("dims", "known", "spacing", "looks"),
    [
        (2, True, CUBES, BOTH),
        (2, True, (1.4, 1.0, 1.2), BOTH),
        (2, True, THICK, (OWN,)),
        (2, False, CUBES, (OWN,)),
        (3, True, CUBES, (OWN,)),
    ],
)
def test_other_sides_are_looked_at_where_they_were_learned_and_voxels_are_nearly_cubes(
    dims: int, known: bool, spacing: tuple[float, ...], looks: tuple[tuple[int, ...], ...]
) -> None:
    assert axis_orders(plan(dims, multiplanar=known), spacing) == looks


@pytest.mark.parametrize(("axis", "seen"), [(0, {0, 1}), (1, {1, 0}), (2, {2, 0, 1})])
def test_sagittal_slices_are_looked_at_only_where_they_are_painted(axis: int, seen: set[int]) -> None:
    """Left and right look the same there."""
    painted = plan(2, slice_axis=axis, multiplanar=True)
    orders = axis_orders(painted, CUBES)
    assert orders[0] == OWN
    assert {painted.work_axes[order[0]] for order in orders} == seen


def test_a_turned_pool_shares_its_voxels_and_turns_its_spacing() -> None:
    scans = dataset(noise((3, 4, 5)), spacing_mm=(3.0, 1.0, 2.0), targets=[torch.zeros(3, 4, 5).byte()])
    for order in ORDERS:
        seen = reoriented(scans, order)
        assert seen.images[0].shape == seen.targets[0].shape == tuple((3, 4, 5)[axis] for axis in order)
        assert seen.spacing_mm[0] == tuple((3.0, 1.0, 2.0)[axis] for axis in order)
        assert seen.images[0].data_ptr() == scans.images[0].data_ptr()


@pytest.mark.parametrize("shape", [(7, 33, 18), (1, 5, 9), (29, 4, 3)])
def test_every_voxel_gets_its_own_label_from_several_sides(
    shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posteriors, "BLOCK_VOXELS", 1)  # slabs of one slice
    image = torch.from_numpy(signs(shape)).float()
    found = top1_posterior(Threshold(), plan(2, multiplanar=True), [image], MM, CPU)  # type: ignore[arg-type]
    assert torch.equal(found.probability > found.background, image > 0)


def test_a_label_is_that_of_the_mean_of_all_sides() -> None:
    network, image = build(plan(2), 3, 0).eval(), noise((12, 20, 16))
    with torch.inference_mode():
        by_side = [scores_from(order, network, image) for order in BOTH]
    mean = torch.stack(by_side).mean(0)
    found = top1_posterior(network, plan(2, multiplanar=True), [image], MM, CPU)
    best = 1 + mean[..., 1:].argmax(-1)
    assert (found.best == best).float().mean() > 0.999, "sums may round differently, nothing else"
    assert (found.best != 1 + by_side[0][..., 1:].argmax(-1)).any(), "the sides agree, so this shows nothing"
    assert (found.background.float() / 255 - mean[..., 0]).abs().max() < 0.005


def test_scans_of_thick_slices_are_segmented_from_their_own_side() -> None:
    network, image = build(plan(2), 3, 0).eval(), noise((12, 20, 16))
    one, three = (
        segment_work(network, plan(2, multiplanar=each), [image], THICK, CPU) for each in (False, True)
    )
    assert torch.equal(one, three)


def test_scores_of_the_whole_scan_are_never_in_memory_from_several_sides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those of another side are of whole slices, so that twice as long ones come half as many at a time."""
    monkeypatch.setattr(score_volume, "MEMORY_BYTES", 0)
    monkeypatch.setattr(posteriors, "PIXELS_AT_ONCE", 8 * 128 * 64)
    monkeypatch.setattr(posteriors, "PIXELS_ACROSS", 8 * 128 * 64)
    monkeypatch.setattr(posteriors, "BLOCK_VOXELS", 8 * 64 * 64)
    wide, needed = plan(2, patch_vox=(3, 64, 64), multiplanar=True, smoothing_sigma_mm=2.0), []
    for slices in (128, 256):
        with Largest() as largest:
            segment_work(Threshold(4), wide, [np.ones((slices, 64, 64), np.float16)], MM, CPU)  # type: ignore[arg-type]
        needed.append(largest.numbers)
    assert needed[1] <= needed[0] < 4 * 128 * 64 * 64 / 2, "twice the slices need more memory"


def test_guesses_are_learned_from_several_sides_and_labels_turn_with_their_scans() -> None:
    task = tuning("self_training")
    task.loss(seeded(), 0.5)
    assert task.rounds is not None
    pseudo_labels = task.rounds.pseudo_labels
    for order, (seen, _) in zip(BOTH, pseudo_labels.orientations, strict=True):
        for one, own in zip(seen.targets, pseudo_labels.dataset.targets, strict=True):
            assert torch.equal(one, own.permute(order))
    generator = seeded()
    drawn = {pseudo_labels.draw_orientation(generator)[0].images[0].shape for _ in range(40)}
    assert len(drawn) == 2


def test_scans_of_thick_slices_are_learned_from_their_own_side_alone() -> None:
    scans = replace(half_painted(), spacing_mm=(CUBES, THICK))
    task = tuning("self_training", scans)
    task.loss(seeded(), 0.5)
    assert task.rounds is not None
    assert [set(seen.ids) for seen, _ in task.rounds.pseudo_labels.orientations] == [
        {"scan-0", "scan-1"},
        {"scan-0"},
    ]


def test_a_painted_slice_is_a_line_from_another_side() -> None:
    """Every third step or so sees what is painted from there; no voxel of it is another."""
    task = tuning("none")
    (own, _), (other, voxels) = task.orientations
    assert torch.equal(other.targets[0], own.targets[0].permute(1, 0, 2))
    lines = {int(line) for _, _, line, _ in torch.cat(voxels.by_class)}
    assert lines == {2, 6}
    generator = seeded()
    drawn = [task._draw_orientation(generator)[0] is other for _ in range(300)]
    assert 70 < sum(drawn) < 130


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("choice", ["self_training", "none"])
def test_the_plan_of_a_network_says_whether_it_is_multiplanar(
    tmp_path: Path, choice: str, known: bool
) -> None:
    project = make_project(tmp_path, shape=(16, 24, 24))
    job = job_of(f"finetune-{choice}", project)
    job = replace(job, steps=1, settings={**job.settings, "multiplanar": known})
    _, learned, _ = load_network(project.run(run(job)["run"]).checkpoint)
    assert learned.multiplanar == known


def test_a_network_that_saw_thick_slices_only_looks_from_their_side() -> None:
    scans = replace(half_painted(), spacing_mm=(THICK, CUBES))
    assert tuning("self_training", scans).plan.multiplanar is False, (
        "the painted scan is the one of thick slices"
    )


def test_a_slab_of_a_large_scan_is_guessed_from_its_own_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medssl.tasks.segment.pseudo_labels.VOXELS_A_ROUND", {"cpu": 1})
    large = noise((40, 12, 12))
    painted = torch.full(large.shape, IGNORE, dtype=torch.uint8)
    painted[20], painted[20, 2:8, 2:8] = 0, 1
    task = tuning("self_training", dataset(large, targets=[painted]), rounds=(0.0, 0.5))
    generator = seeded()
    for fraction in (0.1, 0.6):
        task.loss(generator, fraction)
    assert task.rounds is not None
    assert task.plan.multiplanar
    labelled = (task.rounds.pseudo_labels.dataset.targets[0] != IGNORE).any(dim=(1, 2)).sum()
    assert labelled in (16, 17), "16 slices, and perhaps the painted one"
