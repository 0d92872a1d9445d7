"""The properties of PGL: its loss, its views, its teacher. Each test is named after the property."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from medssl.nn.data.correspondence import align
from medssl.nn.data.crops import CropBatch, cut, shown
from medssl.nn.data.device_dataset import DeviceDataset
from medssl.nn.methods.common import feature_std, momentum, update_ema, view_size
from medssl.nn.methods.pgl import PGL, PGLSettings, local_consistency
from medssl.nn.models.unet import build
from small import box, dataset, noise, plan, ramps, seeded, stacked
from torch import Tensor, nn
from torch.nn import functional as F

SCAN = (16, 48, 40)
SMALL = PGLSettings(hidden=16, dimension=8)
CELLS = (2, 3, 3)


def method(dims: int, settings: PGLSettings = SMALL, seed: int = 0) -> PGL:
    torch.manual_seed(seed)
    small = plan(dims)
    return PGL(build(small, small.patch_vox[0] if dims == 2 else 1, seed), small, settings)


def size(dims: int) -> tuple[int, int, int]:
    return (3, 16, 16) if dims == 2 else (8, 16, 16)


def overlapping(flip: bool = True) -> tuple[CropBatch, CropBatch]:
    """Two pairs of 3D boxes with different shifts and flips."""
    first = stacked([box((8, 20, 20), size(3)), box((8, 24, 18), size(3), step=(1, 1.2, 1.2))])
    second = stacked(
        [
            box((9, 26, 17), size(3), flip=(flip, flip, False)),
            box((7, 20, 20), size(3), flip=(False, flip, flip)),
        ]
    )
    return first, second


def maps(count: int = 2, channels: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(count, channels, 4, 4, 4, generator=seeded(seed))


def stay_put(pgl: PGL, first: CropBatch, second: CropBatch, scans: DeviceDataset) -> None:
    """Make the method see this pair, without any change of grey values."""
    pair = cut(scans, first, pgl.plan), cut(scans, second, pgl.plan)
    pgl.views = lambda dataset, generator: pair  # type: ignore[method-assign]


@pytest.mark.parametrize("dims", [2, 3])
def test_identity(dims: int) -> None:
    """The same view twice, teacher equal to student and no predictor: nothing to learn."""
    pgl, scans = method(dims), dataset(noise(SCAN))
    pgl.modules["predictor"] = nn.Identity()
    views = stacked([box((8, 20, 20), size(dims)), box((5, 30, 15), size(dims))])
    stay_put(pgl, views, views, scans)
    loss, _ = pgl.loss(scans, seeded(), 0.0)
    assert loss.item() == pytest.approx(0, abs=1e-5)


def test_swap_symmetry() -> None:
    pgl, scans = method(3), dataset(noise(SCAN))
    first, second = overlapping()
    stay_put(pgl, first, second, scans)
    one, _ = pgl.loss(scans, seeded(), 0.0)
    stay_put(pgl, second, first, scans)
    two, _ = pgl.loss(scans, seeded(), 0.0)
    assert one.item() == pytest.approx(two.item(), rel=1e-5)
    assert one.item() > 0.01


@pytest.mark.parametrize("factor", [1e-3, 7.0, 1e4])
def test_scale_invariance(factor: float) -> None:
    first, second = overlapping()
    predicted, wanted = maps(seed=1), maps(seed=2)
    plain = local_consistency(predicted, first, wanted, second, CELLS)
    assert torch.allclose(local_consistency(factor * predicted, first, wanted, second, CELLS), plain)
    assert torch.allclose(local_consistency(predicted, first, factor * wanted, second, CELLS), plain)


def test_turning_the_sign_gives_four_minus_the_loss() -> None:
    first, second = overlapping()
    predicted, wanted = maps(seed=1), maps(seed=2)
    plain = local_consistency(predicted, first, wanted, second, CELLS)
    assert torch.allclose(local_consistency(-predicted, first, wanted, second, CELLS), 4 - plain)


@pytest.mark.parametrize("seed", range(5))
def test_bounds(seed: int) -> None:
    first, second = overlapping()
    value = local_consistency(maps(seed=seed), first, maps(seed=seed + 50), second, CELLS)
    assert 0 <= value <= 4
    opposite = torch.ones(2, 8, 4, 4, 4)
    assert local_consistency(opposite, first, -opposite, second, CELLS).item() == pytest.approx(4)
    assert local_consistency(opposite, first, opposite, second, CELLS).item() == pytest.approx(0)


def test_random_features_of_many_dimensions_give_about_two() -> None:
    first, second = overlapping()
    value = local_consistency(maps(channels=4096, seed=1), first, maps(channels=4096, seed=2), second, CELLS)
    assert value.item() == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize("dims", [2, 3])
def test_no_gradient_reaches_the_teacher(dims: int) -> None:
    pgl, scans = method(dims), dataset(noise(SCAN), noise(SCAN, 1))
    loss, _ = pgl.loss(scans, seeded(), 0.0)
    loss.backward()
    assert all(each.grad is None and not each.requires_grad for each in pgl.modules["teacher"].parameters())
    trained = [*pgl.modules["network"].encoder.parameters(), *pgl.modules["projector"].parameters()]
    trained += [*pgl.modules["predictor"].parameters()]
    assert all(each.grad is not None and each.grad.isfinite().all() for each in trained)
    assert pgl.modules["network"].encoder[0].conv1.conv.weight.grad.abs().sum() > 0


def test_the_gradient_is_orthogonal_to_the_unnormalised_features() -> None:
    # The common grid is the map's own, so that alignment leaves every vector as it is.
    views = stacked([box((8, 20, 20), size(3)), box((8, 20, 20), size(3))])
    predicted = maps(seed=1).requires_grad_()
    local_consistency(predicted, views, maps(seed=2), views, (4, 4, 4)).backward()
    assert predicted.grad is not None
    along = (predicted.grad * predicted).sum(1)
    assert predicted.grad.abs().max() > 1e-4
    assert along.abs().max() < 1e-7


@pytest.mark.parametrize("dims", [2, 3])
def test_translation_on_a_periodic_image(dims: int) -> None:
    """The image repeats itself every 8 x 16 x 16 voxels: both boxes moved by that see the same."""
    scans = dataset(noise((8, 16, 16)).repeat(4, 4, 4))
    first = stacked([box((11, 22, 22), size(dims), (1, 1.1, 1.1)), box((10, 28, 20), size(dims))])
    second = stacked(
        [box((11, 27, 19), size(dims), flip=(False, True, False)), box((10, 22, 22), size(dims))]
    )
    offset = torch.tensor([8.0, 16, 16])
    losses = []
    for moved in (0, 1):
        pgl = method(dims)
        pair = (replace(each, centre=each.centre + moved * offset) for each in (first, second))
        stay_put(pgl, *pair, scans)
        losses.append(pgl.loss(scans, seeded(), 0.0)[0].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0] > 0.01


def test_forced_disjoint_boxes_give_no_loss_and_no_gradient() -> None:
    predicted = maps(1).requires_grad_()
    loss = local_consistency(
        predicted, box((8, 8, 8), size(3)), maps(1, seed=1), box((8, 40, 8), size(3)), CELLS
    )
    loss.backward()
    assert loss.item() == 0
    assert predicted.grad is not None
    assert (predicted.grad == 0).all()


def test_a_disjoint_pair_does_not_dilute_the_others() -> None:
    near = box((8, 8, 8), size(3)), box((9, 12, 10), size(3))
    far = box((8, 8, 8), size(3)), box((8, 40, 8), size(3))
    first, second = (stacked([near[which], far[which]]) for which in (0, 1))
    predicted, wanted = maps(seed=1), maps(seed=2)
    both = local_consistency(predicted, first, wanted, second, CELLS)
    alone = local_consistency(predicted[:1], near[0], wanted[:1], near[1], CELLS)
    assert torch.allclose(both, alone)


def test_an_overlap_of_one_cell_gives_a_loss_and_a_gradient() -> None:
    predicted = maps(1).requires_grad_()
    first, second = box((8, 8, 8), size(3)), box((14, 20, 20), size(3))
    loss = local_consistency(predicted, first, maps(1, seed=1), second, CELLS)
    loss.backward()
    assert 0 < loss.item() <= 4
    assert predicted.grad is not None
    assert predicted.grad.abs().sum() > 0


@pytest.mark.parametrize("dims", [2, 3])
def test_a_constant_image_gives_a_finite_loss_and_finite_gradients(dims: int) -> None:
    scans = dataset(torch.full(SCAN, 0.7))
    pgl = method(dims)
    for seed in range(3):
        loss, numbers = pgl.loss(scans, seeded(seed), 0.0)
        loss.backward()
        assert loss.isfinite()
        assert numbers["feature_std"].isfinite()
    grads = [each.grad for each in pgl.modules.parameters() if each.grad is not None]
    assert grads
    assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_scan_smaller_than_the_patch_gives_a_finite_loss(dims: int) -> None:
    loss, _ = method(dims).loss(dataset(noise((3, 9, 7))), seeded(), 0.0)
    assert loss.isfinite()


def pairs(
    dims: int, scan: tuple[int, int, int], settings: PGLSettings = SMALL, count: int = 10_000, **changes: Any
) -> tuple[CropBatch, CropBatch]:
    """So many pairs as the method draws them in a scan of that shape."""
    pgl = method(dims, settings)
    pgl.plan = plan(dims, batch=count, **changes)
    return pgl.pair(dataset(torch.zeros(1, 1, 1).expand(scan)), seeded())


@pytest.mark.parametrize("level", [-1, -2])
@pytest.mark.parametrize(("dims", "scan"), [(2, (9, 60, 44)), (3, (30, 60, 44)), (3, (60, 200, 200))])
def test_overlap_statistics(dims: int, scan: tuple[int, int, int], level: int) -> None:
    """10 000 pairs as the method draws them: IoU at least 0.1, a whole cell shared, inside the scan."""
    first, second = pairs(dims, scan, replace(SMALL, level=level))  # type: ignore[arg-type]
    (low, high), (other_low, other_high) = first.extent(), second.extent()
    axes = slice(3 - dims, 3)
    shared = (torch.minimum(high, other_high) - torch.maximum(low, other_low))[:, axes]
    both = shared.clamp(min=0).prod(1)
    union = (high - low)[:, axes].prod(1) + (other_high - other_low)[:, axes].prod(1) - both
    assert len(both) == 10_000
    assert (both / union).min() >= 0.1 - 1e-5
    cell = torch.tensor({-1: [2.0, 4, 4], -2: [1.0, 2, 2]}[level]) * 1.4
    assert (shared >= cell[axes] - 1e-3).all()
    for edge in (low, other_low):
        assert (edge[:, axes] >= -0.5 - 1e-3).all()
    for edge in (high, other_high):
        assert (edge[:, axes] <= torch.tensor(scan)[axes] - 0.5 + 1e-3).all()


@pytest.mark.parametrize("dims", [2, 3])
def test_boxes_of_a_volume_smaller_than_the_patch_stay_inside_the_padded_frame(dims: int) -> None:
    """The frame is as large as the larger of two boxes, and around the scan's middle."""
    scan = (3, 9, 7)
    for views in pairs(dims, scan, count=200):
        low, high = views.extent()
        half = torch.tensor([4.0, 5.6, 5.6])
        middle = (torch.tensor(scan) - 1) / 2
        assert (low >= middle - half - 1e-3)[:, 3 - dims :].all()
        assert (high <= middle + half + 1e-3)[:, 3 - dims :].all()


def test_boxes_differ_across_slices_wherever_the_volume_is_deeper_than_the_patch() -> None:
    """The z offset, with the same overlap rule; thick slices, thin volumes and 2.5D keep z common."""
    first, second = pairs(3, (30, 60, 44), count=500)
    away = (first.centre - second.centre)[:, 0].abs()
    assert away.median() > 0.5
    assert away.max() <= 8 - 3, "boxes of eight slices share a cell, which two slices and a half are"
    for positive_mask in (
        pairs(3, (8, 60, 44), count=500),
        pairs(3, (30, 60, 44), count=500, spacing_mm=(4.0, 1.0, 1.0)),
        pairs(2, (30, 60, 44), count=500),
    ):
        assert torch.allclose(positive_mask[0].centre[:, 0], positive_mask[1].centre[:, 0])


@pytest.mark.parametrize("dims", [2, 3])
def test_each_view_is_flipped_along_each_axis_half_of_the_time_by_itself(dims: int) -> None:
    first, second = pairs(dims, (30, 60, 44))
    flips = torch.cat([first.flip, second.flip], dim=1).float()
    assert (flips.mean(0) - 0.5).abs().max() < 0.03
    assert (flips.T.corrcoef() - torch.eye(6)).abs().max() < 0.05


@pytest.mark.parametrize("level", [-1, -2])
@pytest.mark.parametrize("dims", [2, 3])
def test_flip_equivariance_of_alignment(dims: int, level: int) -> None:
    """Features that say where in the scan their cell lies agree in both views to within half a cell."""
    scan = (16, 64, 56)
    settings = replace(SMALL, level=level)  # type: ignore[arg-type]
    pgl = method(dims, settings)
    pgl.plan = plan(dims, batch=64)
    cells, stride = ((4, 4, 4), (2, 4, 4)) if level == -1 else ((8, 8, 8), (1, 2, 2))
    first, second = pgl.pair(dataset(noise(scan)), seeded())
    assert len({tuple(flip) for flip in first.flip.tolist()}) == 8
    maps = []
    for views in (first, second):
        images = [shown(cut(ramp, views, pgl.plan)) for ramp in ramps(scan)]
        if dims == 2:
            maps.append(torch.cat([F.avg_pool2d(image[:, 1:2], stride[1:]) for image in images], dim=1))
        else:
            maps.append(torch.cat([F.avg_pool3d(image, stride) for image in images], dim=1))
    one, two, valid = align(maps[0], first, maps[1], second, (1, *cells[1:]) if dims == 2 else cells)
    assert valid.all()
    half_cell = 1.4 * torch.tensor(stride) / 2
    apart = (one - two).abs().flatten(2).amax(2).amax(0)
    assert (apart[3 - dims :] <= 2 * half_cell[3 - dims :]).all(), "each to within half a cell of the truth"
    assert ((one - two).flatten(2).abs().mean((0, 2))[3 - dims :] < half_cell[3 - dims :] / 4).all()


def test_the_teacher_starts_as_an_exact_copy_and_not_as_the_same_tensors() -> None:
    pgl = method(2)
    teacher = pgl.modules["teacher"].state_dict()
    student = {
        **{f"encoder.{name}": each for name, each in pgl.modules["network"].encoder.state_dict().items()},
        **{f"projector.{name}": each for name, each in pgl.modules["projector"].state_dict().items()},
    }
    assert teacher.keys() == student.keys()
    for name, tensor in teacher.items():
        assert torch.equal(tensor, student[name])
        assert tensor.data_ptr() != student[name].data_ptr()


@pytest.mark.parametrize("fraction", [0.0, 0.4])
def test_the_teacher_follows_by_its_momentum_exactly(fraction: float) -> None:
    pgl, scans = method(2), dataset(noise(SCAN))
    teacher = pgl.modules["teacher"]["projector"][0].weight
    student = pgl.modules["projector"][0].weight
    before = teacher.detach().clone()
    optimizer = torch.optim.SGD([student], lr=1.0)
    pgl.loss(scans, seeded(), fraction)[0].backward()
    optimizer.step()
    pgl.after_step(fraction)
    keep = momentum(0.99, fraction)
    assert not torch.equal(student, before)
    assert torch.allclose(teacher, keep * before + (1 - keep) * student.detach(), rtol=0, atol=1e-7)


def test_following_is_linear_interpolation() -> None:
    teacher, student = nn.Parameter(torch.tensor([0.0, 8.0])), nn.Parameter(torch.tensor([4.0, 0.0]))
    update_ema([teacher], [student], 0.75)
    assert teacher.tolist() == [1.0, 6.0]
    assert student.tolist() == [4.0, 0.0]


def test_the_momentum_rises_from_its_start_to_one() -> None:
    values = [momentum(0.99, step / 100) for step in range(101)]
    assert values[0] == pytest.approx(0.99)
    assert values[-1] == 1
    assert all(later >= earlier for earlier, later in pairwise(values))


def test_the_teacher_keeps_running_statistics_of_its_own() -> None:
    pgl, scans = method(2), dataset(noise(SCAN))
    teacher, student = pgl.modules["teacher"]["projector"][1], pgl.modules["projector"][1]
    before = teacher.running_mean.clone()
    pgl.loss(scans, seeded(), 0.0)
    assert not torch.equal(teacher.running_mean, before)
    update_ema(list(pgl.modules["teacher"].parameters()), list(pgl.modules["teacher"].parameters()), 0.5)
    assert teacher.running_mean.data_ptr() != student.running_mean.data_ptr()


def test_the_collapse_monitor_is_one_for_spread_and_zero_for_collapsed_features() -> None:
    assert feature_std(torch.randn(4, 64, 8, 8, generator=seeded())).item() == pytest.approx(1, abs=0.05)
    same = torch.randn(1, 64, 1, 1, generator=seeded()).expand(4, 64, 8, 8)
    assert feature_std(same).item() == pytest.approx(0, abs=1e-4)
    assert feature_std(3 * same).item() == pytest.approx(0, abs=1e-4)


def test_the_collapse_monitor_is_reported() -> None:
    _, numbers = method(2).loss(dataset(noise(SCAN)), seeded(), 0.0)
    assert 0 < numbers["feature_std"] < 1.5


@pytest.mark.parametrize("level", [-1, -2])
@pytest.mark.parametrize("dims", [2, 3])
def test_either_of_the_two_deepest_levels_can_be_aligned(dims: int, level: int) -> None:
    settings = replace(SMALL, level=level)  # type: ignore[arg-type]
    loss, _ = method(dims, settings).loss(dataset(noise(SCAN)), seeded(), 0.0)
    assert 0 < loss < 8


def test_views_are_made_smaller_where_a_zoomed_patch_does_not_fit() -> None:
    small = plan(2, patch_vox=(3, 32, 32))
    assert view_size(dataset(noise((9, 60, 60))), small, 1.4) == (3, 32, 32)
    assert view_size(dataset(noise((9, 60, 35))), small, 1.4) == (3, 32, 24)
    assert view_size(dataset(noise((9, 5, 60))), small, 1.4) == (3, 8, 32)


def test_views_are_sized_in_working_voxels() -> None:
    """60 voxels of half a millimetre are 30 working voxels."""
    fine = dataset(noise((9, 60, 60)), spacing_mm=(3.0, 0.5, 0.5))
    assert view_size(fine, plan(2, patch_vox=(3, 32, 32)), 1.4) == (3, 20, 20)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_step_is_repeatable_and_differs_between_seeds(dims: int) -> None:
    scans = dataset(noise(SCAN))
    losses = [method(dims).loss(scans, seeded(seed), 0.0)[0].item() for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("dims", [2, 3])
def test_training_brings_the_loss_down(dims: int) -> None:
    pgl, scans = method(dims), dataset(noise(SCAN))
    generator = seeded()
    trained = [each for each in pgl.modules.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-3)
    losses = []
    for _ in range(25):
        loss, _ = pgl.loss(scans, generator, 0.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pgl.after_step(0.0)
        losses.append(loss.item())
    assert math.fsum(losses[-5:]) < 0.8 * math.fsum(losses[:5])
