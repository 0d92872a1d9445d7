"""A view shows exactly the scan positions that its affine says."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from medssl.nn.data.augment import STRONG, change_intensity, draw_displacement
from medssl.nn.data.crops import CropBatch, crop_step, cut, cut_targets, scan_shapes, shown
from medssl.nn.data.device_dataset import DeviceDataset
from small import box, dataset, noise, plan, ramps, seeded, stacked, voxel_positions

SCAN = (20, 40, 30)


def varied_views(dims: int, size: tuple[int, int, int], turned: bool = True) -> CropBatch:
    """All mirrorings, with rotation, zoom and anisotropic steps, over the scan's border too."""
    made = []
    for number in range(8):
        flip = [bool(number >> axis & 1) for axis in range(3)]
        step = (1.0 if dims == 2 else 0.7, 1.3 - 0.1 * number, 0.5 + 0.2 * number)
        centre = (2.0 + 2 * number, 18.0 - 2.5 * number, 14.0 + 2 * number)
        made.append(box(centre, size, step, flip, angle=turned * (0.3 * number - 1)))
    return stacked(made)


def shown_positions(views: CropBatch, dims: int, displacement: torch.Tensor | None = None) -> torch.Tensor:
    """(B, D, H, W, 3) scan positions that the views show, read off images of coordinates."""
    images = [shown(cut(ramp, views, plan(dims), displacement)) for ramp in ramps(SCAN)]
    seen = torch.stack(images, dim=-1)
    return seen if dims == 2 else seen[:, 0]


def inside(positions: torch.Tensor) -> torch.Tensor:
    """Positions pulled to the scan's border, whose last voxel is repeated."""
    return positions.clamp(min=torch.zeros(3), max=torch.tensor(SCAN) - 1)


@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize("dims", [2, 3])
def test_a_view_shows_the_positions_its_affine_says(dims: int, turned: bool) -> None:
    views = varied_views(dims, (3, 14, 12) if dims == 2 else (6, 10, 12), turned)
    assert torch.allclose(shown_positions(views, dims), inside(voxel_positions(views)), atol=1e-3)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_bend_displaces_in_view_voxels(dims: int) -> None:
    size = (3, 14, 12) if dims == 2 else (6, 10, 12)
    views = varied_views(dims, size)
    displacement = draw_displacement(len(views), size[3 - dims :], seeded(), probability=1)
    affine = views.to_scan()[:, 3 - dims :, 3 - dims : 3]
    moved = torch.einsum("bij,bj...->b...i", affine, displacement)
    expected = voxel_positions(views)
    expected[..., 3 - dims :] += moved[:, None] if dims == 2 else moved
    assert torch.allclose(shown_positions(views, dims, displacement), inside(expected), atol=1e-3)


@pytest.mark.parametrize("dims", [2, 3])
def test_labels_are_those_of_the_nearest_voxel_that_the_image_shows(dims: int) -> None:
    size = (3, 14, 12) if dims == 2 else (6, 10, 12)
    views = varied_views(dims, size)
    middle = voxel_positions(views)[:, 1] if dims == 2 else voxel_positions(views)
    for axis, ramp in enumerate(ramps(SCAN)):
        labelled = replace(ramp, targets=(ramp.images[0].to(torch.uint8),))
        labels = cut_targets(labelled, views, plan(dims))
        known = labels != 255
        assert known.any()
        image = shown(cut(ramp, views, plan(dims)))[:, 1 if dims == 2 else 0]
        assert ((labels - image).abs()[known] <= 0.5 + 1e-3).all()
        # Unknown is what lies outside, and nothing else.
        held = ((middle > -0.499) & (middle < torch.tensor(SCAN) - 0.501)).all(-1)
        beyond = ((middle < -0.501) | (middle > torch.tensor(SCAN) - 0.499))[..., 3 - dims :].any(-1)
        assert known[held].all(), axis
        assert not known[beyond].any(), axis


@pytest.mark.parametrize("dims", [2, 3])
def test_half_precision_scans_show_the_same(dims: int) -> None:
    image = noise(SCAN).half()
    views = varied_views(dims, (3, 14, 12) if dims == 2 else (6, 10, 12))
    half, full = (shown(cut(dataset(each), views, plan(dims))) for each in (image, image.float()))
    assert half.dtype == torch.float32
    assert torch.equal(half, full)


@pytest.mark.parametrize("dims", [2, 3])
def test_straight_views_show_what_any_others_show(dims: int) -> None:
    """They are cut axis after axis; a bend of nothing sends them the way of all others."""
    size = (3, 14, 12) if dims == 2 else (6, 10, 12)
    scans, views = dataset(noise(SCAN)), varied_views(dims, size, turned=False)
    nothing = torch.zeros(len(views), dims, *size[3 - dims :])
    one, two = (shown(cut(scans, views, plan(dims), displacement)) for displacement in (None, nothing))
    assert torch.allclose(one, two, atol=1e-4)


def test_beyond_the_border_the_last_voxel_is_repeated() -> None:
    image = noise(SCAN)
    views = box((10, -100, 14.5), (1, 4, 30))
    assert torch.allclose(
        shown(cut(dataset(image), views, plan(3)))[0, 0, 0], image[10, :1].expand(4, 30), atol=1e-5
    )


def test_a_slice_at_the_end_is_its_own_neighbour() -> None:
    first, _, _ = ramps(SCAN)
    seen = shown(cut(first, box((0, 20, 15), (3, 4, 4)), plan(2)))
    assert seen[0, :, 0, 0].tolist() == [0, 0, 1]


def test_the_step_is_the_plans_spacing_over_the_scans() -> None:
    scans = DeviceDataset(("a", "b"), (noise(SCAN), noise(SCAN)), ((4.0, 0.5, 0.5), (1.0, 1.0, 2.0)))
    step = crop_step(scans, plan(2, spacing_mm=(0.0, 1.0, 1.0)), torch.tensor([0, 1]))
    assert step.tolist() == [[1, 2, 2], [1, 1, 0.5]]


def test_views_that_were_not_cut_show_nothing() -> None:
    with pytest.raises(ValueError, match="not been cut"):
        shown(box((0, 0, 0), (3, 4, 4)))


def test_shapes_of_scans_are_those_of_the_chosen_ones() -> None:
    scans = dataset(noise((2, 3, 4)), noise((5, 6, 7)))
    assert scan_shapes(scans, torch.tensor([1, 0])).tolist() == [[5, 6, 7], [2, 3, 4]]


@pytest.mark.parametrize("dims", [2, 3])
def test_mixed_precision_around_it_changes_nothing(dims: int) -> None:
    """In bf16 a coordinate near 300 would be off by a voxel."""
    scans = dataset(noise((400, 40, 30)))
    labelled = replace(scans, targets=(scans.images[0].gt(0).to(torch.uint8),))
    size = (3, 14, 12) if dims == 2 else (6, 10, 12)
    views = stacked([box((301.3, 20, 15), size, (1, 1.3, 0.9), angle=0.2), box((17, 19, 8), size)])
    displacement = draw_displacement(2, size[3 - dims :], seeded(), probability=1)

    def made() -> list[torch.Tensor]:
        image = shown(cut(labelled, views, plan(dims), displacement))
        changed = change_intensity(image, STRONG, seeded())
        return [views.to_scan(), image, changed, cut_targets(labelled, views, plan(dims), displacement)]

    plain = made()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = made()
    assert all(torch.equal(one, two) for one, two in zip(plain, mixed, strict=True))
