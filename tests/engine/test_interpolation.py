"""Gathering a batch at once shows what cutting view by view shows."""

from __future__ import annotations

import pytest
import torch
from medssl.nn.data import interpolation
from medssl.nn.data.crops import CropBatch, _grid, _slices, cut, cut_targets, scan_shapes, shown
from medssl.nn.data.device_dataset import DeviceDataset, in_one_storage
from medssl.nn.data.multiplanar import reoriented
from small import dataset, noise, plan, seeded

SHAPES = ((12, 20, 16), (9, 14, 30), (12, 20, 16))
SIZES = {2: (3, 14, 12), 3: (6, 10, 12)}


def scans(one_storage: bool) -> DeviceDataset:
    """Three scans with labels, of two shapes."""
    images = [noise(shape, seed) for seed, shape in enumerate(SHAPES)]
    labels = [torch.randint(0, 4, shape, generator=seeded(9)).to(torch.uint8) for shape in SHAPES]
    if not one_storage:
        return dataset(*images, targets=labels)
    voxels = sum(image.numel() for image in images)
    return dataset(
        *in_one_storage(images, torch.empty(voxels)),
        targets=in_one_storage(labels, torch.empty(voxels, dtype=torch.uint8)),
    )


def views_of(some: DeviceDataset, dims: int, angle: float) -> CropBatch:
    """Views all over the scans and beyond their borders, some of them mirrored."""
    generator, count = seeded(3), 8
    scan = torch.randint(len(some), (count,), generator=generator)
    return CropBatch(
        SIZES[dims],
        scan,
        torch.rand(count, 3, generator=generator) * scan_shapes(some, scan),
        torch.empty(count, 3).uniform_(0.6, 1.6, generator=generator),
        torch.rand(count, 3, generator=generator) < 0.5,
        torch.empty(count).uniform_(-angle, angle, generator=generator),
    )


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 0, 1)])
@pytest.mark.parametrize("one_storage", [True, False])
@pytest.mark.parametrize("angle", [0.0, 0.5])
@pytest.mark.parametrize("dims", [2, 3])
def test_a_batch_shows_what_its_views_show(
    dims: int, angle: float, one_storage: bool, order: tuple[int, int, int]
) -> None:
    some = reoriented(scans(one_storage), order)
    views = views_of(some, dims, angle)
    points = _grid(views, plan(dims), some.device, None).flip(-1)
    own = [some.images[scan] for scan in views.scan.tolist()]
    found = interpolation.interpolated(own, points, _slices(some, views) if dims == 2 else None)
    assert torch.allclose(found, shown(cut(some, views, plan(dims))), atol=1e-4)


@pytest.mark.parametrize("one_storage", [True, False])
@pytest.mark.parametrize("dims", [2, 3])
def test_a_batch_has_the_labels_of_its_views(dims: int, one_storage: bool) -> None:
    some = scans(one_storage)
    views = views_of(some, dims, 0.5)
    points = _grid(views, plan(dims), some.device, None).flip(-1)
    own = [some.targets[scan] for scan in views.scan.tolist()]
    last = scan_shapes(some, views.scan)[:, :1] - 1
    middle = views.centre[:, :1].round().long().clamp(min=0).minimum(last) if dims == 2 else None
    found = interpolation.nearest(own, points, 255, middle)[:, 0].long()
    expected = cut_targets(some, views, plan(dims))
    assert torch.equal(found, expected)
    assert (expected == 255).any()
    assert (expected < 255).any()


def test_tensors_in_one_storage_are_copies_that_lie_there() -> None:
    given = [noise(shape, seed) for seed, shape in enumerate(SHAPES)]
    room = torch.empty(sum(each.numel() for each in given), dtype=torch.float16)
    kept = in_one_storage(given, room)
    assert len({each.untyped_storage().data_ptr() for each in kept}) == 1
    for each, copy in zip(given, kept, strict=True):
        assert torch.equal(copy, each.half())
