"""Dense features: where they are taken, one basis for all scans of a run, and finding tissue again."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from medssl import engine
from medssl.core import shipped
from medssl.core.errors import UserError
from medssl.core.events import Preview
from medssl.core.features.retrieval import Point, best_match, query_of
from medssl.core.features.similarity import any_features, has_features, open_features, write_features
from medssl.core.jobs import FeaturesJob, PretrainJob
from medssl.core.project.project import Project
from medssl.core.shipped import SHAPES
from medssl.core.temporary_files import temporary_file
from medssl.nn import devices
from medssl.nn.models import checkpoint
from medssl.nn.models.anatomical_embedding import AnatomicalEmbedding
from medssl.nn.models.unet import build
from medssl.tasks.inference.feature_grid import feature_slabs, grid_step
from medssl.tasks.inference.feature_smoothing import SMOOTHING, smoothed
from medssl.tasks.inference.features import WIDTH, embedding_of
from small import (
    CPU,
    SHAPE,
    Events,
    Shape,
    Spacing,
    block_phantom,
    job_of,
    make_project,
    never,
    plan,
    scan_of,
    write_nifti,
)
from torch import Tensor
from torch.nn import functional as F


def whole(slab: Tensor) -> Tensor:
    return slab


class Coordinates:
    """An encoder that tells what it sees: its levels are the image, and its means over cells of 4 voxels."""

    map_weights = (1.0, 1.0)

    def pad(self, image: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        return build(plan(image.ndim - 2), 2, 0).pad(image)

    def describe(self, image: Tensor) -> list[Tensor]:
        seen = image[:, image.shape[1] // 2, None]
        pooled = F.avg_pool2d(seen, 4) if seen.ndim == 4 else F.avg_pool3d(seen, (2, 4, 4))
        return [torch.cat([level, torch.full_like(level, 10.0)], 1) for level in (seen, pooled)]


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 0.5, 0.8)])
@pytest.mark.parametrize("step", [(1, 2, 2), (2, 2, 2), (4, 4, 4)])
@pytest.mark.parametrize(("dims", "slice_axis"), [(2, 0), (2, 2), (3, 0)])
def test_cells_are_read_at_their_centres(dims: int, slice_axis: int, step: Shape, spacing: Spacing) -> None:
    """On an image of a coordinate, a cell's feature says where its centre lies."""
    shape = (12, 24, 32)
    turned = plan(dims, slice_axis=slice_axis)
    coordinates = np.meshgrid(*(np.arange(length, dtype=np.float32) for length in shape), indexing="ij")
    for axis, image in enumerate(coordinates):
        slabs = feature_slabs(scan_of(image, spacing), "only", Coordinates(), turned, step, CPU, whole)  # type: ignore[arg-type]
        features = torch.cat(list(slabs)).permute(*np.argsort(turned.work_axes).tolist(), 3)
        cells = [length // each for length, each in zip(shape, step, strict=True)]
        assert list(features.shape) == [*cells, 4]
        fine, coarse = (10 * features[..., at] / features[..., at + 1] for at in (0, 2))
        centre = (torch.arange(cells[axis]) + 0.5) * step[axis] - 0.5
        # A slice has no neighbours to blend with, and beyond the outermost cells there is nothing.
        nearest_slice = 0.5 if dims == 2 and axis == slice_axis else 0.0
        assert ((fine.movedim(axis, -1) - centre).abs() <= 0.51 + nearest_slice).all(), axis
        if axis != slice_axis:
            inner = (centre >= 4) & (centre <= shape[axis] - 5)
            assert ((coarse.movedim(axis, -1) - centre)[..., inner].abs() <= 0.6).all(), axis


def test_levels_have_unit_length_side_by_side() -> None:
    small = plan(2)
    network = build(small, 2, 0).eval()
    image = np.random.default_rng(0).normal(size=(4, 16, 16)).astype(np.float32)
    raw = torch.cat(
        list(feature_slabs(scan_of(image, (1.0, 1.0, 1.0)), "only", network, small, (1, 2, 2), CPU, whole))
    )
    assert raw.shape == (4, 8, 8, sum(small.channels))
    for level in raw.split(list(small.channels), dim=-1):
        assert torch.allclose(level.norm(dim=-1), torch.ones(4, 8, 8), atol=1e-4)


def test_smoothing_is_isotropic_in_millimetres() -> None:
    """One cell that differs shows as far across thick slices, in mm, as within a slice."""
    cell_mm = (3.0, 1.0, 1.0)
    features = np.zeros((5, 17, 17, 2), np.float32)
    features[..., 0], features[2, 8, 8] = 1.0, (1.0, 1.0)
    unit = smoothed(features, cell_mm)
    assert unit.dtype == np.float16
    assert np.allclose(np.linalg.norm(unit.astype(np.float32), axis=-1), 1, atol=2e-3)
    share = unit[..., 1].astype(np.float32) / unit[..., 0].astype(np.float32)
    assert share[2, 8, 8] == share.max() < 1
    # A Gaussian as wide as SMOOTHING says, where the cells are fine enough to sample it.
    fall = np.log(share[2, 8, 8] / share[2, 8, 10])
    assert fall == pytest.approx(2**2 / 2 / SMOOTHING**2, rel=0.05)
    assert 0 <= share[1, 8, 8] < share[2, 8, 10]
    assert not share[2, 8, 13:].any()


def test_smoothing_keeps_constant_features() -> None:
    features = np.tile(np.float32([0.6, -0.8]), (3, 4, 5, 1))
    assert np.allclose(smoothed(features, (1.0, 1.0, 1.0)), (0.6, -0.8), atol=1e-3)


def test_the_grid_is_the_finest_that_keeps_a_map_small() -> None:
    assert grid_step((40, 50, 30)) == (1, 1, 1)
    assert grid_step((100, 512, 512)) == (2, 4, 4)
    with pytest.raises(UserError) as caught:
        grid_step((5000, 5000, 5000))
    assert caught.value.code == "too-large"


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Project, str]:
    """A project of three scans and a pre-training of a few steps."""
    project = make_project(tmp_path, seeds=(0, 1, 2), shape=(8, 24, 24))
    return project, engine.run(job_of("pgl", project, steps=3), Events(), never)["run"]


def compute(project: Project, run: str, *scans: str) -> Events:
    events = Events()
    engine.run(FeaturesJob(project=str(project.root), weights=run, scans=scans), events, never)
    return events


def test_features_of_all_scans_are_kept_as_unit_vectors_of_one_width(trained: tuple[Project, str]) -> None:
    project, run = trained
    events = compute(project, run)
    assert [event.scan for event in events.of(Preview)] == list(project.scans)
    for scan in project.scans:
        array = open_features(project, scan, run).array
        assert array.dtype == np.float16
        assert array.shape == (8, 24, 24, WIDTH)
        assert np.allclose(np.linalg.norm(array.astype(np.float32), axis=-1), 1, atol=0.01)


def test_all_scans_means_those_that_have_none_yet(trained: tuple[Project, str]) -> None:
    project, run = trained
    first, *others = project.scans
    compute(project, run, first)
    assert [event.scan for event in compute(project, run).of(Preview)] == others
    assert not compute(project, run).of(Preview)


def test_a_voxel_is_found_again_where_it_is(trained: tuple[Project, str]) -> None:
    project, run = trained
    scan = next(iter(project.scans))
    compute(project, run, scan)
    cache = open_features(project, scan, run)
    match = best_match(cache, query_of(project, run, [Point(scan, (3, 10, 13))]))
    assert match.voxel_zyx == (3, 10, 13)
    assert match.score > 0.99


def test_scans_share_one_basis_however_they_are_asked_for(trained: tuple[Project, str]) -> None:
    project, run = trained
    first, second, _ = project.scans
    compute(project, run, first)
    alone = np.array(open_features(project, first, run).array)
    compute(project, run, second, first)
    assert np.array_equal(open_features(project, first, run).array, alone)


def test_a_run_that_went_on_makes_its_older_features_void(trained: tuple[Project, str]) -> None:
    """They lie in another basis, and comparing them with the new ones would be wrong in silence."""
    project, run = trained
    first, second, _ = project.scans
    compute(project, run)
    before = np.array(open_features(project, first, run).array)
    engine.run(PretrainJob(project=str(project.root), resume=run, steps=6), Events(), never)
    compute(project, run, first)
    assert not np.array_equal(open_features(project, first, run).array, before)
    with pytest.raises(UserError, match="has no features"):
        open_features(project, second, run)


@pytest.mark.parametrize("slice_axis", [0, 2])
def test_several_threads_give_the_same_features(slice_axis: int, monkeypatch: pytest.MonkeyPatch) -> None:
    turned = plan(2, slice_axis=slice_axis)
    network = build(turned, 2, 0).eval()
    image = np.random.default_rng(0).normal(size=(9, 32, 24)).astype(np.float32)
    scan = scan_of(image, (1.0, 1.0, 1.0))
    found, before = {}, torch.get_num_threads()
    for threads in (1, 3):
        monkeypatch.setattr(devices, "THREADS", threads)
        slabs = feature_slabs(scan, "only", network, turned, (1, 2, 2), CPU, whole)
        found[threads] = torch.cat(list(slabs))
    assert len(found[1]) > 3 and torch.allclose(found[1], found[3], atol=1e-5)
    assert torch.get_num_threads() == before


def test_features_need_no_training_and_follow_the_weights_that_ship(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer version of the program brings others: the older ones' features and basis are void."""
    project = make_project(tmp_path, seeds=(0, 1), shape=(8, 24, 24))
    compute(project, SHAPES)
    assert not project.runs()
    before = {scan: np.array(open_features(project, scan, SHAPES).array) for scan in project.scans}
    first, second = project.scans
    assert before[first].shape[-1] == WIDTH
    tensors, card = checkpoint.load(shipped.weights_file())
    newer = tmp_path / "newer.safetensors"
    changed = {name: each + 0.01 * torch.ones_like(each) for name, each in tensors.items()}
    checkpoint.save(newer, changed, card)
    monkeypatch.setattr(shipped, "weights_file", lambda: newer)
    with pytest.raises(UserError, match="outdated"):
        open_features(project, first, SHAPES)
    compute(project, SHAPES, first)
    assert not np.allclose(open_features(project, first, SHAPES).array, before[first], atol=0.01)
    with pytest.raises(UserError, match="no features"):
        open_features(project, second, SHAPES)
    assert len(list(project.run(SHAPES).folder.glob("feature-basis-*.npy"))) == 2


def test_names_that_begin_or_end_alike_are_kept_apart(tmp_path: Path) -> None:
    """Scan "knee" beside "knee-2", and the program's weights, "shapes", beside a run of that method."""
    project = Project.create(tmp_path / "project")
    for seed, name in enumerate(("knee.nii", "knee-2.nii")):
        project.add_scan(write_nifti(tmp_path / name, block_phantom(seed, (8, 24, 24))[0]))
    assert list(project.scans) == ["knee", "knee-2"]
    made = project.new_run("pretrain", {"job": "pretrain", "method": "shapes"}, "shapes").id
    assert made.endswith("-shapes")
    array = np.zeros((8, 24, 24, 2), np.float16)
    write_features(project, "knee-2", made, array, (1, 1, 1))
    assert any_features(project, "knee-2")
    assert not any_features(project, "knee")
    compute(project, SHAPES, "knee")
    assert any_features(project, "knee")
    assert has_features(project, "knee-2", made), "removed with those of the program's weights"


def test_what_a_killed_engine_left_is_cleared_away(tmp_path: Path) -> None:
    project = make_project(tmp_path, seeds=(0,), shape=(8, 24, 24))
    (scan,) = project.scans
    folder = project.root / "features"
    folder.mkdir(exist_ok=True)
    other = temporary_file(folder / f"{scan}-0001-pretrain-pgl.npy")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = other.with_name(other.name.replace(f"-{os.getpid()}-", f"-{ended.pid}-"))
    left.touch()
    other.touch()
    compute(project, SHAPES)
    assert not left.exists() and other.exists(), "another engine may be writing that one"


def test_a_stop_ends_after_the_running_scan(trained: tuple[Project, str]) -> None:
    project, run = trained
    events = Events()
    result = engine.run(
        FeaturesJob(project=str(project.root), weights=run), events, lambda: bool(events.of(Preview))
    )
    assert result["stopped"]
    assert result["scans"] == list(project.scans)[:1]


@pytest.mark.parametrize(("dims", "slice_axis"), [(2, 1), (3, 0)])
def test_features_lie_on_the_scans_own_axes(tmp_path: Path, dims: int, slice_axis: int) -> None:
    project = make_project(tmp_path, seeds=(0,), shape=(9, 16, 20), spacing_zyx=(2.0, 1.0, 0.7))
    job = job_of("pgl", project, steps=1)
    patch = [3, 16, 16] if dims == 2 else [8, 16, 16]
    job = replace(job, settings={**job.settings, "dims": dims, "slice_axis": slice_axis, "patch": patch})
    run = engine.run(job, Events(), never)["run"]
    compute(project, run)
    assert open_features(project, next(iter(project.scans)), run).array.shape == (9, 16, 20, WIDTH)


def test_only_the_network_that_a_method_trained_to_compare_places_is_used_for_it(tmp_path: Path) -> None:
    project = make_project(tmp_path, shape=SHAPE)
    for method, network in (("alice", AnatomicalEmbedding), ("pgl", type(None))):
        run = project.run(engine.run(job_of(method, project, steps=1), Events(), never)["run"])
        assert type(embedding_of(run, checkpoint.load(run.checkpoint)[1])) is network
