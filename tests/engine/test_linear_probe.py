"""The linear probe: what a classifier finds on slices it was not fitted on, and where painted voxels lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from medssl.core.project.project import Annotation, Project
from medssl.tasks.pretrain import linear_probe
from medssl.tasks.pretrain.linear_probe import (
    AnnotatedSample,
    compare_slices,
    draw_annotated,
    probe,
    voxel_features,
)
from small import CPU, make_project, plan, seeded
from torch import Tensor

SLICES = 8


def drawn(count: int = 400) -> tuple[Tensor, Tensor, Tensor]:
    """Noise (N, 12), two classes, eight slices."""
    generator = seeded()
    label = torch.randint(2, (count,), generator=generator)
    return torch.randn(count, 12, generator=generator), label, torch.arange(count) % SLICES


def worth(vectors: Tensor, label: Tensor, place: Tensor) -> float:
    found = probe(vectors, label, place)
    assert found is not None
    assert len(found) == len(place.unique())
    return float(found.sum())


def test_features_that_tell_the_classes_apart_find_all_and_noise_finds_half() -> None:
    noise, label, place = drawn()
    assert worth(noise, label, place) == pytest.approx(0.5, abs=0.08)
    told = torch.cat([noise, 10.0 * label[:, None]], dim=1)
    assert worth(told, label, place) == pytest.approx(1)


def test_what_only_the_slice_tells_is_worth_nothing() -> None:
    """Within a slice all is one class: who had seen the slice would know it, who had not cannot."""
    _, _, place = drawn()
    label = torch.tensor([0, 1, 1, 0, 0, 1, 0, 1])[place]
    vectors = torch.nn.functional.one_hot(place, SLICES).float()
    assert worth(vectors, label, place) <= 0.5 + 1e-9


def test_classes_count_the_same_however_rare() -> None:
    noise, label, place = drawn(2000)
    rare = (label == 1) & (torch.arange(2000) % 20 == 0)
    assert worth(noise, rare.long(), place) == pytest.approx(0.5, abs=0.12)
    told = torch.cat([noise, 10.0 * rare[:, None]], dim=1)
    assert worth(told, rare.long(), place) == pytest.approx(1)


def test_the_names_of_classes_and_slices_do_not_matter() -> None:
    noise, label, place = drawn()
    told = noise + label[:, None]
    assert worth(told, 7 * label + 3, 1000 * place) == pytest.approx(worth(told, label, place))


def test_a_class_of_one_slice_is_not_asked_for() -> None:
    noise, label, place = drawn()
    told = torch.cat([noise, 10.0 * label[:, None]], dim=1)
    third = torch.where((place == 3) & (label == 1), 2, label)
    assert worth(told, third, place) == pytest.approx(1)


def test_nothing_to_tell_apart_is_no_number() -> None:
    noise, label, place = drawn()
    assert probe(noise, torch.zeros_like(label), place) is None
    assert probe(noise, label, torch.zeros_like(place)) is None


def test_what_most_slices_say_is_sure_and_what_one_says_is_not() -> None:
    base = torch.full((10,), 0.06)
    steady = 0.01 + 0.001 * torch.randn(10, generator=seeded())
    assert compare_slices(base + steady, base) == 1
    assert compare_slices(base, base + steady) == -1
    assert compare_slices(base, base) == 0
    assert compare_slices(base + 0.1 * torch.eye(10)[0], base) == 0


@pytest.mark.parametrize(("dims", "axis"), [(2, 0), (2, 2), (3, 0)])
def test_voxels_are_where_their_class_was_painted(tmp_path: Path, dims: int, axis: int) -> None:
    """In the block phantom the class is bright: the image under each voxel says which it is."""
    project = make_project(tmp_path, slices=5, axis=axis)
    painted = draw_annotated(project, plan(dims, slice_axis=axis), CPU, seeded())
    assert painted is not None
    shown = painted.images[:, 1] if dims == 2 else painted.images[:, 0]
    at = painted.index.reshape(len(shown), -1, dims)
    values = torch.stack([image[tuple(index.T)] for image, index in zip(shown, at, strict=True)])
    right = (values.flatten() > values.mean()).long() == painted.label
    assert right.float().mean() > 0.99
    assert 0.3 < painted.label.float().mean() < 0.7
    annotation = project.annotation(project.annotated()[0])
    assert annotation is not None
    assert set(painted.slice_id.tolist()) <= {index for _, index in annotation.complete}
    assert len(painted.slice_id.unique()) > 1


def test_voxels_are_drawn_by_the_seed(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    first, again, other = (draw_annotated(project, plan(), CPU, seeded(seed)) for seed in (1, 1, 2))
    assert first is not None and again is not None and other is not None
    assert torch.equal(first.images, again.images) and torch.equal(first.index, again.index)
    assert not torch.equal(first.index, other.index)


def test_where_nothing_can_be_told_apart_there_is_no_probe(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    (scan,) = project.annotated()
    labels = np.zeros(project.scans[scan].geometry.shape_zyx, np.uint8)
    project.save_annotation(scan, Annotation(labels, ((0, 3), (0, 5))))  # background only
    assert draw_annotated(project, plan(), CPU, seeded()) is None
    project.save_annotation(scan, Annotation(labels))
    assert draw_annotated(project, plan(), CPU, seeded()) is None
    assert draw_annotated(Project.create(tmp_path / "empty"), plan(), CPU, seeded()) is None


class Looking:
    """A network whose levels are the image itself and its mean over 2 x 2 (x 2) voxels, beside a one."""

    def pad(self, image: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        return image, tuple(image.shape[2:])

    def encode(self, image: Tensor) -> list[Tensor]:
        shrink = torch.nn.functional.avg_pool2d if image.ndim == 4 else torch.nn.functional.avg_pool3d
        levels = [image[:, :1], shrink(image[:, :1], 2)]
        return [torch.cat([level, torch.ones_like(level)], dim=1) for level in levels]


@pytest.mark.parametrize("size", [(10, 16), (6, 10, 16)])
def test_features_are_read_where_the_voxel_lies(size: tuple[int, ...]) -> None:
    image = torch.rand(3, 1, *size, generator=seeded())
    index = torch.stack([torch.randint(length, (3, 20), generator=seeded(1)) for length in size], dim=-1)
    painted = AnnotatedSample(image, index, torch.zeros(60), torch.zeros(60))
    vectors = voxel_features(Looking(), painted, batch=2)  # type: ignore[arg-type]
    values = torch.stack([each[0][tuple(at.T)] for each, at in zip(image, index, strict=True)]).flatten()
    assert vectors.shape == (60, 4)
    assert torch.allclose(vectors[:, 0] / vectors[:, 1], values, atol=1e-5)
    assert torch.allclose(vectors[:, :2].norm(dim=1), torch.ones(60))
    assert not torch.allclose(vectors[:, 2] / vectors[:, 3], values, atol=0.05)


def test_a_weaker_ridge_fits_few_voxels_and_finds_less_on_other_slices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As with ten painted slices: nearly as many features as voxels, and all of them say a little."""
    _, label, place = drawn(80)
    vectors = torch.randn(80, 60, generator=seeded(1)) + 0.3 * label[:, None]
    ours = worth(vectors, label, place)
    monkeypatch.setattr(linear_probe, "RIDGE", 1e-3)
    assert ours > worth(vectors, label, place) + 0.1
