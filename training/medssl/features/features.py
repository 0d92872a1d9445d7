"""Dense features of scans, cached on disk for similarity: float16 unit vectors on a regular grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medssl import devices
from medssl.config import FeaturesJob, Plan
from medssl.errors import UserError
from medssl.events import Emit, Preview, Progress, Started
from medssl.features.similarity import open_features, write_features
from medssl.files import read_array, write_array
from medssl.pretraining.matcher import FINE, Matcher, load_matcher, on_grid, side_by_side
from medssl.projects.project import Project, Run
from medssl.results.predict import neighbouring_slices, slab_of, working_size
from medssl.training.loop import autocast
from medssl.training.networks import Network
from medssl.training.start import load_for

WIDTH = 32
"""Numbers a voxel: what is left of all encoder levels after a projection common to all scans of a run."""
CELLS = 2_000_000
"""Most cells a scan: keeps a similarity map of a whole scan under a second."""
STEPS = ((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 4, 4), (4, 4, 4), (4, 8, 8), (8, 8, 8))


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
            raw = raw_features(project, scan, network, plan, step, device)
            slabs = (_project(slab, mean, basis) for slab in raw)
        else:  # trained to find places in other scans: features for nothing else would do that worse
            slabs = matched_features(project, scan, matcher, plan, step, device)
        path = write_features(project, scan, run.id, _joined(slabs, image.shape, step, plan), step)
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


@torch.inference_mode()
def raw_features(
    project: Project, scan: str, network: Network, plan: Plan, step: Sequence[int], device: torch.device
) -> Iterator[Tensor]:
    """All encoder levels, each of unit length, side by side on the grid: slabs (cells, rows, columns, F).

    Slabs follow the plan's slice axis; the last two axes are the plan's rows and columns.
    """
    work = np.transpose(project.image(scan), plan.work_axes)
    spacing = [project.scans[scan].geometry.spacing_mm[axis] for axis in plan.work_axes]
    stride = [step[axis] for axis in plan.work_axes]
    cells = [-(-length // each) for length, each in zip(work.shape, stride, strict=True)]
    if plan.dims == 2:
        for cell in range(cells[0]):
            middle = min(cell * stride[0] + stride[0] // 2, len(work) - 1)
            image = neighbouring_slices(work, middle, middle + 1, plan.patch_vox[0], device)
            yield _levels(network, plan, image, spacing[1:], stride[1:], cells[1:])[0].movedim(0, -1)[None]
        return
    thick = max(1, plan.patch_vox[0] // stride[0])
    for first in range(0, cells[0], thick):
        last = min(first + thick, cells[0])
        low, high = first * stride[0], min(last * stride[0], len(work))
        slab = slab_of(work, low, high, device)[None, None]
        yield _levels(network, plan, slab, spacing, stride, [last - first, *cells[1:]])[0].movedim(0, -1)


@torch.inference_mode()
def matched_features(
    project: Project, scan: str, matcher: Matcher, plan: Plan, step: Sequence[int], device: torch.device
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
    return unit_levels(levels, grid)


def encoded(
    network: Network, plan: Plan, image: Tensor, spacing: Sequence[float]
) -> tuple[list[Tensor], tuple[int, ...], tuple[int, ...]]:
    """All encoder levels of an image at the plan's spacing; its size there, without and with padding."""
    size = working_size(image.shape[2:], spacing, plan.spacing_mm[3 - plan.dims :])
    if size != tuple(image.shape[2:]):
        image = F.interpolate(image, size, mode="bilinear" if plan.dims == 2 else "trilinear")
    padded, _ = network.pad(image)
    with autocast(image.device, plan.precision):
        return network.encode(padded), size, tuple(padded.shape[2:])


def unit_levels(levels: Sequence[Tensor], grid: Tensor) -> Tensor:
    """(B, F, ...) all encoder levels at the points of `grid` (grid_sample's), each of unit length."""
    return torch.cat(
        [
            F.normalize(
                F.grid_sample(level.float(), grid, padding_mode="border", align_corners=False),
                dim=1,
                eps=1e-6,
            )
            for level in levels
        ],
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
    path = run.folder / f"feature-basis-{step}.npy"
    if not path.exists():
        for old in (project.root / "features").glob(f"*-{run.id}.json"):
            old.unlink()
        chosen = list(scans)[:: max(1, len(scans) // 8)][:8]
        generator = torch.Generator().manual_seed(0)
        rows = []
        for scan in chosen:
            grid = grid_step(project.image(scan).shape)
            for slab in raw_features(project, scan, network, plan, grid, device):
                flat = slab.reshape(-1, slab.shape[-1]).cpu()
                rows.append(flat[torch.randint(len(flat), (200,), generator=generator)])
        sample = torch.cat(rows)
        mean = sample.mean(0)
        _, _, directions = torch.linalg.svd(sample - mean, full_matrices=False)
        write_array(path, torch.cat([mean[None], directions[:WIDTH]]).numpy())
    stored = torch.from_numpy(read_array(path)).to(device)
    return stored[0], stored[1:]


def _project(slab: Tensor, mean: Tensor, basis: Tensor) -> np.ndarray:
    # Without the mean, two arbitrary voxels are no longer "similar" just for being tissue.
    return F.normalize((slab - mean) @ basis.T, dim=-1, eps=1e-6).half().cpu().numpy()


def _joined(
    slabs: Iterator[np.ndarray], shape_zyx: Sequence[int], step: Sequence[int], plan: Plan
) -> np.ndarray:
    """(Z', Y', X', F) float16 in canonical axes from slabs along the plan's slice axis."""
    joined = np.concatenate(list(slabs))
    back = [*np.argsort(plan.work_axes).tolist(), 3]
    return np.ascontiguousarray(np.transpose(joined, back))
