"""A scan is predicted in parts, and gets the labels of the whole scan at once."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import full_size
import numpy as np
import pytest
import torch
from medssl.core.errors import UserError
from medssl.core.jobs import Plan
from medssl.nn.data.multiplanar import ORDERS
from medssl.nn.models.unet import build
from medssl.tasks.active_learning.uncertainty import uncertainty
from medssl.tasks.inference import (
    location_prior,
    posterior_smoothing,
    score_volume,
    scores,
    threads,
    windows_3d,
)
from medssl.tasks.inference.location_prior import FAR_FACTOR, MARGIN, LocationPrior
from medssl.tasks.inference.posterior_smoothing import smooth_posteriors, smooth_slab
from medssl.tasks.inference.predict import Trained, segment, top1_posterior
from medssl.tasks.inference.score_volume import ONE, ScoreVolume
from medssl.tasks.inference.slabs import neighbouring_slices, working_size
from monai.inferers import sliding_window_inference
from small import CPU, noise, plan
from torch import Tensor
from torch.nn import functional as F

MM = (1.0, 1.0, 1.0)
SHAPE = (21, 30, 26)


def prior(classes: int) -> LocationPrior:
    """Class 1 above, class 2 below; the others anywhere."""
    maps = torch.zeros(classes, 10, 10, 10)
    maps[0, 5:], maps[1, :5] = 1, 1
    factors = torch.ones(classes, *(10 + 2 * MARGIN,) * 3)
    factors[0, : 5 + MARGIN], factors[1, 5 + MARGIN :] = FAR_FACTOR, FAR_FACTOR
    return LocationPrior(maps, factors, torch.ones(classes), torch.tensor(3.0))


def trained(sigma_mm: float = 1.5, **changes: Any) -> Trained:
    small = plan(2, multiplanar=True, smoothing_sigma_mm=sigma_mm, **changes)
    network = build(small, 4, seed=9).eval()
    head = network.head.conv.conv
    with torch.no_grad():  # so that scores differ, and each class is somewhere
        head.weight.mul_(20)
        head.bias.sub_(network(noise((8, 30, 26))[:6].view(2, 3, 30, 26)).mean((0, 2, 3)))
    return Trained(network, small, {}, prior(3), np.arange(4, dtype=np.uint8), CPU)


@pytest.fixture(params=["in memory", "in a file"])
def small_parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two slices at a time, and blocks of three; their scores in memory or in a file."""
    monkeypatch.setattr(scores, "PIXELS_AT_ONCE", 2 * 30 * 26)
    monkeypatch.setattr(scores, "BLOCK_VOXELS", 3 * 30 * 26)
    monkeypatch.setattr(posterior_smoothing, "SLICES_AT_ONCE", 4)
    monkeypatch.setattr(posterior_smoothing, "BAND", 7)
    if request.param == "in a file":
        monkeypatch.setattr(score_volume, "MEMORY_BYTES", 0)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("spacing", [MM, (1.04, 1.0, 1.0)])
@pytest.mark.parametrize("sigma_mm", [0.0, 1.5, 30.0])
def test_labels_are_those_of_the_whole_scan_at_once(sigma_mm: float, spacing: tuple[float, ...]) -> None:
    """By the plainest program, with every option: two sides, smoothing, location prior, thresholds."""
    network = trained(sigma_mm, spacing_mm=(0.0, *spacing[1:]))
    image = noise(SHAPE).numpy()
    image[..., :13] *= 0.15  # so that a wide Gaussian leaves more than one class, too
    image *= 2
    found, _ = segment(
        network.network, network.plan, [image], spacing, CPU, location_prior=network.location_prior
    )
    whole = full_size.whole_at_once(network, image, spacing)
    assert len(np.unique(whole)) > 2
    assert np.array_equal(found, whole)


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_the_room_for_scores_makes_no_difference(slice_axis: int, monkeypatch: pytest.MonkeyPatch) -> None:
    network, image = trained(slice_axis=slice_axis), noise(SHAPE).numpy()
    given = (network.network, network.plan, [image], MM, CPU)
    kept: dict[int, list[np.ndarray]] = {}
    found = {}
    for room in (1 << 30, 0):
        monkeypatch.setattr(score_volume, "MEMORY_BYTES", room)
        kept[room] = []
        found[room] = segment(*given, kept[room].append, network.location_prior)
    assert np.array_equal(found[0][0], found[1 << 30][0])
    assert found[0][1] == found[1 << 30][1], "the expected Dice"
    assert np.array_equal(np.concatenate(kept[0]), np.concatenate(kept[1 << 30])), "the probabilities"


def test_pseudo_labels_come_from_the_whole_scan_too(monkeypatch: pytest.MonkeyPatch) -> None:
    network, image = trained(), noise(SHAPE)
    given = (network.network, network.plan, [image], MM, CPU)
    before = top1_posterior(*given)
    monkeypatch.setattr(score_volume, "MEMORY_BYTES", 0)
    monkeypatch.setattr(scores, "BLOCK_VOXELS", 1)
    after = top1_posterior(*given)
    for name in ("best", "probability", "background"):
        assert torch.equal(getattr(before, name), getattr(after, name))


class Counting(torch.nn.Module):
    """Counts the slices that it sees."""

    slices = 0

    def forward(self, image: Tensor) -> Tensor:
        self.slices += len(image)
        return torch.cat([-image[:, 1:2], image[:, 1:2]], 1)


def test_every_slice_is_computed_once_along_each_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "PIXELS_AT_ONCE", 1)
    network = Counting()
    segment(network, plan(2, multiplanar=True), [noise(SHAPE).numpy()], MM, CPU)  # type: ignore[arg-type]
    assert network.slices == SHAPE[0] + SHAPE[1]


# --- where scores are kept ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("room", "mapped"), [(1 << 30, 1 << 26), (0, 1 << 26), (0, 2 * 2 * 3 * 6 * 7), (0, 1)]
)
def test_scores_of_all_sides_are_added_up(room: int, mapped: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_volume, "MEMORY_BYTES", room)
    monkeypatch.setattr(score_volume, "MAPPED_BYTES", mapped)
    own = torch.rand((5, 3, 6, 7), generator=torch.Generator().manual_seed(0))
    with ScoreVolume((5, 3, 6, 7), 3, CPU) as volume:
        for order in ORDERS:
            turned = own.movedim(1, 3).permute(*order, 3).movedim(3, 1)
            volume.add(order, 0, turned[:2])
            volume.add(order, 2, turned[2:])
        assert (volume.read(0, 5) - own).abs().max() < 2 / ONE
        assert torch.equal(volume.read_class(2, 1, 4), volume.read(1, 4)[:, 2])


def test_no_more_than_a_part_of_the_file_is_mapped_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """All pages that are mapped count as memory of the process, also across the slices."""
    monkeypatch.setattr(score_volume, "MEMORY_BYTES", 0)
    monkeypatch.setattr(score_volume, "MAPPED_BYTES", 3 * 2 * 3 * 6 * 7)
    sizes: list[int] = []

    def memmap(*given: object, **named: object) -> np.ndarray:
        mapped = real(*given, **named)  # type: ignore[call-overload]
        sizes.append(len(mapped))
        return mapped

    real = np.memmap
    monkeypatch.setattr(np, "memmap", memmap)
    with ScoreVolume((8, 3, 6, 7), 2, CPU) as volume:
        for order in ORDERS[:2]:
            volume.add(order, 1, torch.ones(*((2, 3, 6, 7) if order[0] == 0 else (2, 3, 8, 7))))
        assert max(sizes) == 3
        assert torch.equal(
            volume.read_class(1, 0, 8).mean((1, 2)) > 0.4, torch.tensor([False] + [True] * 2 + [False] * 5)
        )


def test_nothing_is_left_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(score_volume, "MEMORY_BYTES", 0)
    with ScoreVolume((5, 3, 6, 7), 1, CPU) as volume:
        volume.add((0, 1, 2), 0, torch.ones(5, 3, 6, 7))
        if os.name != "nt":
            assert not list(tmp_path.iterdir()), "not even when the process is killed"
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limit")
def test_a_disk_without_room_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system refuses larger files; nothing has been predicted in vain but the first batch."""
    import resource

    monkeypatch.setattr(score_volume, "MEMORY_BYTES", 0)
    network = trained()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 15, limits[1]))
    try:
        with pytest.raises(UserError, match="TMPDIR") as caught:
            segment(network.network, network.plan, [noise(SHAPE).numpy()], MM, CPU)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.code == "disk-full"


def test_a_system_without_fallocate_writes_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    monkeypatch.setattr(score_volume, "MEMORY_BYTES", 0)
    with ScoreVolume((5, 3, 6, 7), 1, CPU) as volume:
        assert not volume.read(0, 5).any()

    def full(*given: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(score_volume, "bytes", full, raising=False)
    with pytest.raises(UserError) as caught:
        ScoreVolume((5, 3, 6, 7), 1, CPU)
    assert caught.value.code == "disk-full"


# --- halos -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma_mm", [0.8, 2.5, 40.0])
def test_a_slab_is_smoothed_as_in_the_whole_scan(sigma_mm: float) -> None:
    whole = torch.randn(19, 4, 12, 70, generator=torch.Generator().manual_seed(0)).softmax(1)
    after = smooth_posteriors(whole, sigma_mm, (1.0, 0.5, 1.0))
    readers = [lambda first, last, label=label: whole[first:last, label] for label in (1, 2, 3)]
    for first in range(0, 19, 5):
        slab = whole[first : first + 5]
        part = smooth_slab(slab, first, 19, readers, sigma_mm, (1.0, 0.5, 1.0))
        assert torch.equal(part, after[first : first + 5])


def test_the_uncertainty_of_a_slice_does_not_depend_on_the_slices_asked_for_with_it() -> None:
    small = plan(2)
    network, image = build(small, 3, 0).eval(), [noise((12, 16, 16))]
    together = uncertainty(network, small, image, MM, range(12), CPU)
    for index in (0, 5, 11):
        (alone,) = uncertainty(network, small, image, MM, [index], CPU)
        assert alone.between == together[index].between
        assert alone.area_mm2 == pytest.approx(together[index].area_mm2, rel=1e-5)


def test_coarse_maps_are_those_of_one_pooling() -> None:
    labels = torch.randint(0, 3, (23, 17, 9), generator=torch.Generator().manual_seed(0))
    level = torch.rand(23, 17, 9, generator=torch.Generator().manual_seed(1))
    found = location_prior.coarse(labels, MM, 3.0, 2, level)
    pooled = F.adaptive_avg_pool3d(torch.where(labels == 2, level, 0)[None], (8, 6, 3))[0]
    assert torch.equal(found, pooled)


# --- 3D ----------------------------------------------------------------------------------------------------


def in_windows(small: Plan, image: Tensor, spacing: Sequence[float]) -> Tensor:
    """Scores (slices, K, rows, columns) by a prediction that depends on the whole window."""
    slabs = windows_3d.scores_of_windows(window_scores, small, [image], spacing, CPU)
    return torch.cat(list(slabs))


def window_scores(windows: Tensor) -> Tensor:
    seen = windows - windows.mean((2, 3, 4), keepdim=True)
    return torch.cat([-seen, seen], 1).softmax(1)


@pytest.mark.parametrize("shape", [(23, 30, 41), (5, 40, 18), (8, 16, 16), (3, 2, 50)])
def test_windows_are_those_of_monai_over_the_whole_scan(shape: tuple[int, int, int]) -> None:
    small, image = plan(3), noise(shape)
    ours = in_windows(small, image, MM)
    whole = sliding_window_inference(
        image[None, None], small.patch_vox, 1, window_scores, 0.25, "gaussian", padding_mode="replicate"
    )
    assert isinstance(whole, Tensor)
    assert torch.allclose(ours, whole[0].movedim(1, 0), atol=1e-6)


@pytest.mark.parametrize("spacing", [(2.5, 0.8, 1.0), (0.4, 1.0, 1.6), (1.0, 2.0, 1.0)])
def test_resampling_in_parts_is_that_of_the_whole_scan(spacing: tuple[float, float, float]) -> None:
    small, image = plan(3), noise((17, 24, 21))
    ours = in_windows(small, image, spacing)
    size = windows_3d.working_size(image.shape, spacing, small.spacing_mm)
    whole = sliding_window_inference(
        F.interpolate(image[None, None], size, mode="trilinear"),
        small.patch_vox,
        1,
        window_scores,
        0.25,
        "gaussian",
        padding_mode="replicate",
    )
    assert isinstance(whole, Tensor)
    back = F.interpolate(whole, tuple(image.shape), mode="trilinear")
    assert torch.allclose(ours, back[0].movedim(1, 0), atol=1e-5)


# --- threads -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3])
def test_results_come_in_order_and_only_a_few_wait(count: int) -> None:
    started = []

    def work(item: int) -> int:
        started.append(item)
        return item

    taken = []
    for result in threads.in_order(work, range(20), count):
        assert len(started) <= len(taken) + 1 + count
        taken.append(result)
    assert taken == list(range(20))
    assert torch.get_num_threads() >= 1


def test_threads_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "PIXELS_AT_ONCE", 2 * 30 * 26)
    network, image = trained(), noise(SHAPE)
    found = []
    before = torch.get_num_threads()
    for count in (1, 3):
        torch.set_num_threads(count)
        try:
            with torch.inference_mode():
                slabs = scores.scores_of_slabs(network.network, network.plan, [image], MM, CPU)
                found.append(torch.cat(list(slabs)))
        finally:
            torch.set_num_threads(before)
    assert torch.equal(*found)


def test_one_orientation_without_smoothing_keeps_no_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "ScoreVolume", None)
    network = trained()
    alone = replace(network.plan, multiplanar=False, smoothing_sigma_mm=0.0)
    labels, _ = segment(network.network, alone, [noise(SHAPE).numpy()], MM, CPU)
    assert labels.any()


def test_neighbouring_slices_lie_evenly_around_each_slice() -> None:
    volume = np.arange(9, dtype=np.float32).repeat(4).reshape(9, 2, 2)
    stacked = neighbouring_slices([volume], 0, 9, 5, CPU)[:, :, 0, 0].tolist()
    assert stacked[4] == [2, 3, 4, 5, 6]
    assert stacked[0] == [0, 0, 0, 1, 2]
    assert stacked[8] == [6, 7, 8, 8, 8]


def test_spacings_that_differ_by_less_than_5_percent_are_not_resampled() -> None:
    shape, wanted = (40, 40, 40), (2.0, 2.0, 0.0)
    assert working_size(shape, (2.05, 1.95, 7.0), wanted) == shape
    assert working_size(shape, (2.2, 1.0, 7.0), wanted) == (44, 20, 40)
    assert working_size(shape, (0.5, 0.5, 0.5), (2.0, 2.0, 2.0)) == (10, 10, 10)
