"""Learning from partial labels: which voxels count, and where patches are cut."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from medssl.core.errors import UserError
from medssl.nn.data.crops import cut_targets
from medssl.nn.data.device_dataset import DeviceDataset
from medssl.tasks.segment.annotated_crops import AnnotatedVoxels, partial_loss, sample_annotated
from small import dataset, noise, plan, seeded
from torch import Tensor

IGNORE = 255
SCAN = (20, 40, 30)


def partly(share: float, classes: int = 3, shape: tuple[int, ...] = (2, 6, 7)) -> Tensor:
    """Random targets with about so much of them annotated."""
    target = torch.randint(0, classes, shape, generator=seeded())
    hidden = torch.rand(shape, generator=seeded(1)) >= share
    return target.masked_fill(hidden, IGNORE)


def scores(classes: int = 3, shape: tuple[int, ...] = (2, 6, 7), seed: int = 2) -> Tensor:
    drawn = torch.randn(shape[0], classes, *shape[1:], generator=seeded(seed))
    return drawn.requires_grad_()


def test_unannotated_voxels_give_no_gradient_and_annotated_ones_do() -> None:
    given, target = scores(), partly(0.4)
    partial_loss(given, target).backward()
    assert given.grad is not None
    touched = given.grad.abs().sum(1) > 0
    assert torch.equal(touched, target != IGNORE)


def test_unannotated_voxels_give_no_value() -> None:
    target = partly(0.4)
    one, two = scores(), scores(seed=9)
    mixed = torch.where((target != IGNORE)[:, None], one, two)
    assert torch.equal(partial_loss(one, target), partial_loss(mixed, target))


def test_a_batch_without_annotation_gives_zero_and_zero_gradient() -> None:
    given = scores()
    loss = partial_loss(given, torch.full((2, 6, 7), IGNORE))
    loss.backward()
    assert loss == 0
    assert given.grad is not None
    assert (given.grad == 0).all()


@pytest.mark.parametrize("shape", [(2, 6, 7), (2, 3, 6, 7)])
def test_a_fully_annotated_batch_gives_cross_entropy_plus_soft_dice_by_hand(shape: tuple[int, ...]) -> None:
    given, target = scores(shape=shape), partly(1.0, shape=shape)
    probability = np.moveaxis(given.detach().softmax(1).numpy().astype(np.float64), 1, -1)
    truth = target.numpy()
    entropy = -np.log(np.take_along_axis(probability, truth[..., None], -1)).mean()
    losses = []
    for label in (1, 2):
        chance, there = probability[..., label], truth == label
        losses.append(1 - (2 * (chance * there).sum() + 1) / (chance.sum() + there.sum() + 1))
    assert partial_loss(given, target).item() == pytest.approx(entropy + np.mean(losses), rel=1e-5)


def test_the_same_voxels_as_in_monai() -> None:
    from monai.losses import DiceCELoss

    given, target = scores(), partly(1.0)
    monai = DiceCELoss(
        to_onehot_y=True, softmax=True, include_background=False, batch=True, smooth_nr=1, smooth_dr=1
    )
    assert partial_loss(given, target).item() == pytest.approx(monai(given, target[:, None]).item(), rel=1e-4)


def test_classes_that_are_not_annotated_in_the_batch_are_left_out_of_dice() -> None:
    target = partly(1.0, classes=2)
    given = scores(classes=2)
    wider = torch.cat([given, torch.full((2, 1, 6, 7), -100.0)], dim=1)
    assert torch.allclose(partial_loss(given, target), partial_loss(wider, target), atol=1e-6)


def test_background_alone_leaves_the_cross_entropy() -> None:
    given = scores()
    target = torch.zeros(2, 6, 7, dtype=torch.long)
    expected = torch.nn.functional.cross_entropy(given, target)
    assert torch.equal(partial_loss(given, target), expected)


def test_a_perfect_answer_gives_nearly_nothing() -> None:
    target = partly(1.0)
    given = 50 * torch.nn.functional.one_hot(target, 3).movedim(-1, 1).float()
    assert partial_loss(given, target).item() == pytest.approx(0, abs=1e-4)


def test_half_precision_scores_give_a_finite_loss() -> None:
    given = (100 * scores()).bfloat16()
    assert partial_loss(given, partly(0.3)).isfinite()


def planes(*indices: int, label: int = 1) -> DeviceDataset:
    """A scan whose slices `indices` are complete: a block of the class, background around."""
    target = torch.full(SCAN, IGNORE, dtype=torch.uint8)
    for index in indices:
        target[index] = 0
        target[index, 15:25, 10:20] = label
    return dataset(noise(SCAN), targets=[target])


def test_annotated_planes_visit_every_patch_position_in_3d() -> None:
    """Always in the middle, a 3D network learns where the plane lies instead of what it shows."""
    scans = planes(0, 10, 19)
    wide = plan(3, patch_vox=(8, 16, 16), batch=400)
    views = sample_annotated(
        scans, wide, AnnotatedVoxels.of(scans), seeded(), zoom=(1, 1), rotation=0, reach=1.0, foreground=0.5
    )
    known = cut_targets(scans, views, wide) != IGNORE
    counts = known.flatten(2).any(2).sum(0)
    assert (counts > 400 / 8 * 0.5).all(), counts.tolist()


@pytest.mark.parametrize("dims", [2, 3])
def test_nearly_every_patch_holds_an_annotated_voxel(dims: int) -> None:
    scans = planes(0, 10, 19)
    many = plan(dims, batch=300)
    views = sample_annotated(scans, many, AnnotatedVoxels.of(scans), seeded())
    known = (cut_targets(scans, views, many) != IGNORE).flatten(1).any(1)
    assert known.float().mean() > 0.9


def test_2_5d_patches_lie_on_annotated_slices() -> None:
    scans = planes(3, 11)
    views = sample_annotated(scans, plan(2, batch=200), AnnotatedVoxels.of(scans), seeded())
    assert set(views.centre[:, 0].tolist()) == {3, 11}


def test_classes_are_drawn_evenly_however_small() -> None:
    target = torch.zeros(SCAN, dtype=torch.uint8)
    target[2, 3, 4] = 2
    target[5:15] = 1
    scans = dataset(noise(SCAN), targets=[target])
    drawn = AnnotatedVoxels.of(scans).draw(3000, seeded(), foreground=2 / 3)
    labels = target[tuple(drawn[:, 1:].T)]
    shares = [(labels == label).float().mean().item() for label in range(3)]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.04)


def test_drawn_voxels_are_annotated_and_of_their_scan() -> None:
    first, second = planes(3), planes(15, label=1)
    scans = dataset(*first.images, *second.images, targets=[*first.targets, *second.targets])
    drawn = AnnotatedVoxels.of(scans).draw(500, seeded(), foreground=0.5)
    assert set(map(tuple, drawn[:, :2].tolist())) == {(0, 3), (1, 15)}


@pytest.mark.parametrize(("labels", "sentence"), [((0,), "Only background"), ((1,), "No background")])
def test_a_single_class_is_refused(labels: tuple[int, ...], sentence: str) -> None:
    target = torch.full(SCAN, IGNORE, dtype=torch.uint8)
    for label in labels:
        target[4] = label
    with pytest.raises(UserError, match=sentence) as caught:
        AnnotatedVoxels.of(dataset(noise(SCAN), targets=[target]))
    assert caught.value.code == "one-class"


@pytest.mark.parametrize("dims", [2, 3])
def test_nothing_is_mirrored_so_that_left_and_right_can_be_told_apart(dims: int) -> None:
    scans = planes(3, 11)
    views = sample_annotated(scans, plan(dims, batch=300), AnnotatedVoxels.of(scans), seeded())
    assert not views.flip.any()


@pytest.mark.parametrize("dims", [2, 3])
def test_zoom_turn_and_step_stay_in_their_ranges(dims: int) -> None:
    scans = replace(planes(3, 11), spacing_mm=((4.0, 0.5, 0.5),))
    views = sample_annotated(
        scans, plan(dims, batch=500), AnnotatedVoxels.of(scans), seeded(), zoom=(0.8, 1.25), rotation=0.3
    )
    assert views.angle.abs().max() <= 0.3
    assert views.angle.std().item() == pytest.approx(0.3 / math.sqrt(3), rel=0.1)
    assert views.step[:, 1].min() >= 2 * 0.8 - 1e-5
    assert views.step[:, 1].max() <= 2 * 1.25 + 1e-5
    if dims == 2:
        assert (views.step[:, 0] == 1).all()


@pytest.mark.parametrize("shape", [SCAN, (20, 9, 100)])
def test_2_5d_patches_hardly_leave_the_scan(shape: tuple[int, int, int]) -> None:
    target = torch.zeros(shape, dtype=torch.uint8)
    target[:, 2:4, 2:4] = 1
    scans = dataset(noise(shape), targets=[target])
    views = sample_annotated(scans, plan(2, batch=300), AnnotatedVoxels.of(scans), seeded(), overshoot=0.1)
    low, high = views.extent()
    width = high - low
    over = torch.maximum(-0.5 - low, high - (torch.tensor(shape) - 0.5)) / width
    room = (width - torch.tensor(shape)).clamp(min=0) / width
    assert (over[:, 1:] <= room[:, 1:] + 0.1 + 1e-4).all()


def test_2_5d_patches_leave_the_scan_by_a_tenth_on_either_side() -> None:
    scans = dataset(noise(SCAN), targets=[torch.arange(2).repeat(SCAN[0], SCAN[1], SCAN[2] // 2).byte()])
    views = sample_annotated(scans, plan(2, batch=500), AnnotatedVoxels.of(scans), seeded(), overshoot=0.1)
    low, high = views.extent()
    over = torch.stack([-0.5 - low, high - (torch.tensor(SCAN) - 0.5)]) / (high - low)
    assert (over[:, :, 1:].amax(1) > 0.09).all()


def test_by_default_two_thirds_of_the_patches_lie_around_a_structure_turned_by_up_to_20_degrees() -> None:
    scans = planes(3, 11)
    views = sample_annotated(scans, plan(2, batch=2000), AnnotatedVoxels.of(scans), seeded(), reach=0.0)
    middle = views.centre.long()  # with no reach, the annotated voxel
    labels = scans.targets[0][tuple(middle.T)]
    assert (labels == 1).float().mean().item() == pytest.approx(0.67, abs=0.03)
    assert math.radians(19) < views.angle.abs().max() < math.radians(20.1)
