"""Dense features of scans, cached on disk for similarity: float16 unit vectors on a regular grid."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medssl.core.errors import UserError
from medssl.core.events import Emit, Preview, Progress, Started
from medssl.core.features.similarity import open_features, write_features
from medssl.core.files import read_array, write_array
from medssl.core.jobs import FeaturesJob, Plan
from medssl.core.project.project import Project, Run
from medssl.nn import devices
from medssl.nn.models.anatomical_embedding import (
    FINE,
    AnatomicalEmbedding,
    load_matcher,
    on_grid,
    side_by_side,
)
from medssl.nn.models.unet import Network
from medssl.tasks.inference.feature_smoothing import smoothed
from medssl.tasks.inference.predict import neighbouring_slices, slab_of, working_size
from medssl.tasks.loop import autocast
from medssl.tasks.start import load_for

WIDTH = 32
"""Numbers a voxel: what is left of all encoder levels after a projection common to all scans of a run."""
CELLS = 2_000_000
"""Most cells a scan: keeps a similarity map of a whole scan under a second."""
BASIS_SCANS, BASIS_SLABS, BASIS_CELLS = 8, 8, 1500
"""Scans, slabs of each and cells of each slab from which the projection is computed."""
MOST_THREADS = 8
"""Slabs at a time on a CPU; each takes some 100 MB."""
STEPS = ((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 4, 4), (4, 4, 4), (4, 8, 8), (8, 8, 8))
T = TypeVar("T")


def features(
    project: Project, run: Run, job: FeaturesJob, emit: Emit, should_stop: Callable[[], bool]
) -> dict[str, object]:
    """Compute and cache the features of scans with the run's weights, in place of those already there.

    Where no scans are named these are all whose features are not there or do not hold any more.
    """
    scans = job.scans or tuple(scan for scan in project.scans if not _hold(project, scan, run.id))
    emit(Started(run.id))
    device = devices.choose(job.device)
    network, plan, card = load_for(project, run, device)
    matcher = load_matcher(run.checkpoint)
    if not scans:
        return {"run": run.id, "scans": [], "stopped": False}
    if matcher is None:
        mean, basis = _basis(project, run, network, plan, device, scans, step=card["step"])
    else:
        matcher.to(device)
    done = []
    for number, scan in enumerate(scans):
        if should_stop():
            break
        image = project.image(scan)
        step = grid_step(image.shape)
        if matcher is None:
            project_slab = partial(_project, mean=mean, basis=basis)
            slabs = _slabs(project, scan, network, plan, step, device, then=project_slab)
            spacing = project.scans[scan].geometry.spacing_mm
            array = smoothed(_joined(slabs, plan), [a * b for a, b in zip(step, spacing, strict=True)])
        else:  # trained to find places in other scans: features for nothing else would do that worse
            array = _joined(matched_features(project, scan, matcher, plan, step, device), plan)
        path = write_features(project, scan, run.id, array, step)
        emit(Preview(scan, str(path)))
        emit(Progress("features", (number + 1) / len(scans), number + 1))
        done.append(scan)
    return {"run": run.id, "scans": done, "stopped": len(done) < len(scans)}


def _hold(project: Project, scan: str, run: str) -> bool:
    """Whether a scan has features of these weights as they are now."""
    try:
        open_features(project, scan, run)
    except UserError:
        return False
    return True


def grid_step(shape_zyx: Sequence[int]) -> tuple[int, int, int]:
    """The finest grid (canonical voxels a cell) whose cells stay below CELLS."""
    for step in STEPS:
        if np.prod([-(-length // each) for length, each in zip(shape_zyx, step, strict=True)]) <= CELLS:
            return step
    raise UserError(
        f"A scan of {' x '.join(map(str, shape_zyx))} voxels is too large for a feature map; crop it.",
        code="too-large",
    )


def raw_features(
    project: Project, scan: str, network: Network, plan: Plan, step: Sequence[int], device: torch.device
) -> Iterator[Tensor]:
    """All encoder levels, each of unit length, side by side on the grid: slabs (cells, rows, columns, F).

    Slabs follow the plan's slice axis; the last two axes are the plan's rows and columns.
    """
    return _slabs(project, scan, network, plan, step, device, then=lambda slab: slab)


def _slabs(
    project: Project,
    scan: str,
    network: Network,
    plan: Plan,
    step: Sequence[int],
    device: torch.device,
    then: Callable[[Tensor], T],
    most: int | None = None,
) -> Iterator[T]:
    """`then` of the raw features of all slabs in order, or of `most` slabs, evenly spaced."""
    work = np.transpose(project.image(scan), plan.work_axes)
    spacing = [project.scans[scan].geometry.spacing_mm[axis] for axis in plan.work_axes]
    stride = [step[axis] for axis in plan.work_axes]
    cells = [-(-length // each) for length, each in zip(work.shape, stride, strict=True)]
    thick = 1 if plan.dims == 2 else max(1, plan.patch_vox[0] // stride[0])
    count = -(-cells[0] // thick)

    @torch.inference_mode()
    def slab(number: int) -> T:
        if plan.dims == 2:
            middle = min(number * stride[0] + stride[0] // 2, len(work) - 1)
            image = neighbouring_slices(work, middle, middle + 1, plan.patch_vox[0], device)
            levels = _levels(network, plan, image, spacing[1:], stride[1:], cells[1:])
            return then(levels[0].movedim(0, -1)[None])
        first, last = number * thick, min((number + 1) * thick, cells[0])
        image = slab_of(work, first * stride[0], min(last * stride[0], len(work)), device)[None, None]
        levels = _levels(network, plan, image, spacing, stride, [last - first, *cells[1:]])
        return then(levels[0].movedim(0, -1))

    chosen = range(count) if most is None else np.unique(np.linspace(0, count - 1, most).round().astype(int))
    # Slabs of 3D networks are large: one at a time.
    return _in_order(slab, chosen, device, threads=MOST_THREADS if plan.dims == 2 else 1)


def _in_order(
    work: Callable[[int], T], numbers: Iterable[int], device: torch.device, threads: int
) -> Iterator[T]:
    """`work` of each number. A CPU takes several at once, each on one thread.

    Faster than several threads on one slice: these wait for each other after every layer, and where another
    program wants a core for a moment, as the viewer does, that costs a multiple.
    """
    threads = min(threads, devices.THREADS) if device.type == "cpu" else 1
    if threads == 1:
        yield from map(work, numbers)
        return
    with (
        _one_thread(),
        ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as dataset,
    ):
        yield from dataset.map(work, numbers)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@torch.inference_mode()
def matched_features(
    project: Project,
    scan: str,
    matcher: AnatomicalEmbedding,
    plan: Plan,
    step: Sequence[int],
    device: torch.device,
) -> Iterator[np.ndarray]:
    """A matcher's embedding on the grid: float16 slabs (1, rows, columns, 2C) of unit vectors.

    Slabs follow the plan's slice axis. Fine and coarse vectors lie side by side: products of two such vectors
    are the mean of both cosines.
    """
    work = np.transpose(project.image(scan), plan.work_axes)
    spacing = [project.scans[scan].geometry.spacing_mm[axis] for axis in plan.work_axes]
    volume = on_grid(torch.from_numpy(np.array(work)).to(device), spacing, float(matcher.cell_mm))
    both = matcher.embed(volume)[None]
    axes = []
    for axis, length in enumerate(work.shape):
        stride = step[plan.work_axes[axis]]
        centre = (torch.arange(-(-length // stride), device=device) + 0.5) * stride  # edges of the scan
        cells = centre.clamp(max=length) / length * volume.shape[axis] / FINE
        axes.append(2 * cells / both.shape[2 + axis] - 1)
    for slab in axes[0]:
        grid = torch.stack(torch.meshgrid(slab[None], *axes[1:], indexing="ij"), dim=-1).flip(-1)
        found = F.grid_sample(both, grid[None], padding_mode="border", align_corners=False)
        yield side_by_side(found)[0].movedim(0, -1).half().cpu().numpy()


def _levels(
    network: Network,
    plan: Plan,
    image: Tensor,
    spacing: Sequence[float],
    stride: Sequence[int],
    cells: Sequence[int],
) -> Tensor:
    """(B, F, *cells) features of one image, sampled at the grid's cell centres."""
    levels, size, padded = encoded(network, plan, image, spacing)
    axes = []
    for length, each, count, small, big in zip(image.shape[2:], stride, cells, size, padded, strict=True):
        centre = (torch.arange(count, device=image.device) + 0.5) * each  # edge coordinates of the scan
        axes.append(2 * centre.clamp(max=length) * (small / length) / big - 1)
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flip(-1)
    grid = grid.expand(len(image), *grid.shape)
    return unit_levels(levels, grid, network.map_weights)


def encoded(
    network: Network, plan: Plan, image: Tensor, spacing: Sequence[float]
) -> tuple[list[Tensor], tuple[int, ...], tuple[int, ...]]:
    """Maps that describe an image's places, at the plan's spacing; its size there, and with padding."""
    size = working_size(image.shape[2:], spacing, plan.spacing_mm[3 - plan.dims :])
    if size != tuple(image.shape[2:]):
        image = F.interpolate(image, size, mode="bilinear" if plan.dims == 2 else "trilinear")
    padded, _ = network.pad(image)
    with autocast(image.device, plan.precision):
        return network.describe(padded), size, tuple(padded.shape[2:])


def unit_levels(levels: Sequence[Tensor], grid: Tensor, weights: Sequence[float] = ()) -> Tensor:
    """(B, F, ...) maps at the points of `grid` (grid_sample's), each of length 1 or as `weights` says."""
    points = [
        F.grid_sample(level.float(), grid, padding_mode="border", align_corners=False) for level in levels
    ]
    # What F.normalize does; its norm over the channels takes five times as long on a CPU.
    sizes = [each.square().sum(1, keepdim=True).clamp_min(1e-12) for each in points]
    weights = weights or [1.0] * len(points)
    return torch.cat(
        [each * (weight * size.rsqrt()) for weight, each, size in zip(weights, points, sizes, strict=True)],
        dim=1,
    )


def _basis(
    project: Project,
    run: Run,
    network: Network,
    plan: Plan,
    device: torch.device,
    scans: Sequence[str],
    step: int,
) -> tuple[Tensor, Tensor]:
    """Mean and principal directions of the run's features, found once on up to eight scans and kept.

    One basis for all scans of a run: only then can a voxel of one scan be looked for in another. A run that
    went on since gets a new one, and the features under its older weights are removed.
    """
    # The program's own weights change with the program, a run's with its steps.
    version = run.weights_sha256[:12] if run.shipped else step
    path = run.folder / f"feature-basis-{version}.npy"
    if not path.exists():
        for old in (project.root / "features").glob(f"*-{run.id}.json"):
            old.unlink()
        rows: list[Tensor] = []
        for scan in list(scans)[:: max(1, len(scans) // BASIS_SCANS)][:BASIS_SCANS]:
            grid = grid_step(project.image(scan).shape)
            rows += _slabs(project, scan, network, plan, grid, device, _some_cells, BASIS_SLABS)
        sample = torch.cat(rows)
        mean = sample.mean(0)
        with _one_thread():  # of so small a matrix several would cost a hundred times as much
            directions = torch.linalg.eigh((sample - mean).T @ (sample - mean))[1].flip(1).T
        write_array(path, torch.cat([mean[None], directions[:WIDTH]]).numpy())
    stored = torch.from_numpy(read_array(path)).to(device)
    return stored[0], stored[1:]


def _some_cells(slab: Tensor) -> Tensor:
    flat = slab.flatten(0, 2).cpu()
    return flat[torch.randint(len(flat), (BASIS_CELLS,), generator=torch.Generator().manual_seed(0))]


def _project(slab: Tensor, mean: Tensor, basis: Tensor) -> np.ndarray:
    # Without the mean, two arbitrary voxels are no longer "similar" just for being tissue.
    return ((slab - mean) @ basis.T).cpu().numpy()


def _joined(slabs: Iterator[np.ndarray], plan: Plan) -> np.ndarray:
    """(Z', Y', X', F) in canonical axes from slabs along the plan's slice axis."""
    joined = np.concatenate(list(slabs))
    back = [*np.argsort(plan.work_axes).tolist(), 3]
    return np.ascontiguousarray(np.transpose(joined, back))
