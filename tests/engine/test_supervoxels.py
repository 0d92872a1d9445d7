"""Supervoxels and the prototype task on them: regions, pairs, grey-value curves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from medssl.core.errors import UserError
from medssl.core.jobs import Plan
from medssl.nn.data.device_dataset import DeviceDataset
from medssl.nn.data.supervoxels import SLAB, cut_volumes
from medssl.nn.methods.supervoxels import SuperVoxels, SuperVoxelsSettings, map_random_curves, renumber_pairs
from medssl.nn.models.unet import build
from small import Events, dataset, noise, plan, seeded

SHAPE = (12, 40, 40)


def blocks() -> DeviceDataset:
    """Two scans with a bright half and some noise."""
    images = []
    for seed in (0, 1):
        image = noise(SHAPE, seed) * 0.1
        image[:, :, 20:] += 3
        images.append(image)
    return dataset(*images)


def prepared(small: Plan | None = None, **own: object) -> SuperVoxels:
    small = small or plan()
    torch.manual_seed(0)
    method = SuperVoxels(build(small, 3, 0), small, replace(SuperVoxelsSettings(edges_px=(8.0,)), **own))  # type: ignore[arg-type]
    method.prepare(blocks(), Events())
    return method


def test_regions_cover_every_voxel_and_end_where_the_grey_value_changes() -> None:
    found = cut_volumes(blocks(), plan(), (8.0,), 10**6)
    target = found.targets[0].numpy()
    assert target.min() >= 1 and target.shape == SHAPE
    bright = np.zeros(SHAPE, bool)
    bright[:, :, 20:] = True
    shares = [bright[target == name].mean() for name in np.unique(target)]
    assert np.mean([min(share, 1 - share) < 0.1 for share in shares]) > 0.9


def test_regions_go_on_in_neighbouring_slices() -> None:
    target = cut_volumes(blocks(), plan(), (8.0,), 10**6).targets[0]
    assert (target[1:] == target[:-1]).float().mean() > 0.7


def test_larger_edges_give_fewer_regions() -> None:
    counts = [int(cut_volumes(blocks(), plan(), (edge,), 10**6).targets[0].max()) for edge in (5.0, 10.0)]
    assert counts[0] > 3 * counts[1]


def test_the_same_pool_gives_the_same_regions() -> None:
    one, two = (cut_volumes(blocks(), plan(), (8.0,), 10**6) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.targets, two.targets, strict=True))


def test_deep_scans_are_cut_in_slabs_and_no_more_voxels_than_asked_for() -> None:
    deep = dataset(noise((3 * SLAB, 16, 16)))
    whole = cut_volumes(deep, plan(), (8.0,), 10**6)
    assert [len(image) for image in whole.images] == [SLAB] * 3
    part = cut_volumes(deep, plan(), (8.0,), 2 * SLAB * 16 * 16)
    assert len(part) == 2


def test_both_views_of_a_pair_show_the_same_scan_and_share_regions() -> None:
    images, labels, count = prepared().pairs(seeded())
    half = len(images) // 2
    assert images.shape[0] == labels.shape[0] == 4 and images.shape[1] == 3
    for pair in range(half):
        first, second = (set(labels[n].unique().tolist()) - {count} for n in (pair, half + pair))
        assert first & second


def test_pairs_follow_from_the_generator() -> None:
    method = prepared()
    one, two, other = (method.pairs(seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])
    assert not torch.equal(one[0], other[0])


def test_numbers_of_a_pair_start_at_0_and_what_has_no_region_gets_the_count() -> None:
    labels = torch.tensor([[[7, 9]], [[5, 5]], [[9, -1]], [[5, 30]]])
    numbers, count = renumber_pairs(labels)
    assert count == 2
    assert numbers.tolist() == [[[0, 1]], [[0, 0]], [[1, 2]], [[0, 1]]]


def test_curves_keep_the_range_and_equal_values_equal() -> None:
    images = torch.linspace(-2, 3, 60).repeat(4, 1).view(4, 1, 6, 10)
    images[..., -1] = images[..., 0]
    curved = map_random_curves(images, seeded())
    assert curved.min() >= -2 - 1e-5 and curved.max() <= 3 + 1e-5
    assert torch.equal(curved[..., -1], curved[..., 0])
    assert not torch.allclose(curved[0], curved[1])


def test_a_constant_image_goes_through_a_curve_unharmed() -> None:
    assert torch.equal(map_random_curves(torch.ones(1, 1, 4, 4), seeded()), torch.ones(1, 1, 4, 4))


def test_steps_lower_the_loss() -> None:
    method = prepared(curved=0.0)
    parameters = [each for each in method.modules.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(parameters, 3e-3)
    losses = []
    for step in range(30):
        loss, numbers = method.loss(blocks(), seeded(step % 3), 0.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    assert 0 <= numbers["right"] <= 1


def test_3d_is_refused_with_a_way_out() -> None:
    flat = plan(3)
    with pytest.raises(UserError, match="dims=2"):
        SuperVoxels(build(flat, 1, 0), flat, SuperVoxelsSettings())
