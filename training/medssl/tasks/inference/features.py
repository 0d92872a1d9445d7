"""Feature maps of scans, cached on disk for similarity: float16 unit vectors on a regular grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medssl.core.errors import UserError
from medssl.core.events import Emit, Preview, Progress, Started
from medssl.core.features.similarity import open_features, remove_features, write_features
from medssl.core.files import check_writable, exists, read_array, write_array
from medssl.core.jobs import FeaturesJob, Plan
from medssl.core.project.locks import change_lock
from medssl.core.project.project import Project, Run
from medssl.nn import devices
from medssl.nn.methods import method_of
from medssl.nn.models import checkpoint
from medssl.nn.models.anatomical_embedding import AnatomicalEmbedding
from medssl.nn.models.unet import Network
from medssl.tasks.inference.feature_grid import feature_slabs, grid_step, matched_features
from medssl.tasks.inference.feature_smoothing import smoothed
from medssl.tasks.inference.threads import one_thread
from medssl.tasks.plan.channels import channels_of, reasons, with_channels
from medssl.tasks.start import for_scan, load_for

WIDTH = 32
"""Channels of a feature map: the encoder levels after a projection shared by all scans of a run."""
BASIS_SCANS, BASIS_SLABS, BASIS_CELLS = 8, 8, 1500
"""Number of scans, slabs per scan and cells per slab that the projection is computed from."""


def features(
    project: Project, run: Run, job: FeaturesJob, emit: Emit, should_stop: Callable[[], bool]
) -> dict[str, Any]:
    """Compute and cache the feature maps of scans with a run's weights.

    Args:
        project: The project with the scans.
        run: The run with the weights.
        job: Which scans; if it names none, all without an up-to-date feature map.
        emit: Receives Preview and Progress events.
        should_stop: Called before each scan.

    Returns:
        {"run", "scans", "stopped"}, and "left_out" with the reason for each scan that lacks a channel.

    Raises:
        UserError: "too-large" for a scan, "no-channel" if each of them lacks one, "no-checkpoint" and others
            for the run.
    """
    scans = job.scans or tuple(scan for scan in project.scans if not _hold(project, scan, run.id))
    emit(Started(run.id))
    device = devices.choose(job.device)
    weights_sha256 = run.weights_sha256  # before they are loaded, see origin.py
    network, plan, card = load_for(project, run, device)
    matcher = embedding_of(run, card)
    if not scans:
        return {"run": run.id, "scans": [], "stopped": False}
    check_writable(project.make_folder("features") / f"{scans[0]}.npy")
    left_out = reasons(project, scans, channels_of(run))
    scans = tuple(with_channels(project, scans, channels_of(run), emit))
    if matcher is None:
        mean, basis = _basis(project, run, network, plan, device, scans, weights_sha256)
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
            fitted, its_plan = for_scan(network, plan, project.scans[scan])
            slabs = feature_slabs(project, scan, fitted, its_plan, step, device, then=project_slab)
            spacing = project.scans[scan].geometry.spacing_mm
            cell_mm = [count * edge for count, edge in zip(step, spacing, strict=True)]
            array = smoothed(_joined(slabs, plan), cell_mm)
        else:  # trained for correspondence between scans, which other features do worse
            array = _joined(matched_features(project, scan, matcher, plan, step, device), plan)
        path = write_features(project, scan, run.id, array, step, weights_sha256)
        emit(Preview(scan, str(path)))
        emit(Progress("features", (number + 1) / len(scans), number + 1))
        done.append(scan)
    return {"run": run.id, "scans": done, "stopped": len(done) < len(scans), "left_out": left_out}


def embedding_of(run: Run, card: dict[str, Any]) -> AnatomicalEmbedding | None:
    """The network that a run's method has trained to compare places by, if it is another than the run's."""
    method = method_of(card)
    return method.embedding(checkpoint.load(run.checkpoint, under="modules.")[0]) if method else None


def _hold(project: Project, scan: str, run: str) -> bool:
    """Whether a scan has a feature map of the run's current weights."""
    try:
        open_features(project, scan, run)
    except UserError:
        return False
    return True


def _basis(
    project: Project,
    run: Run,
    network: Network,
    plan: Plan,
    device: torch.device,
    scans: Sequence[str],
    weights_sha256: str,
) -> tuple[Tensor, Tensor]:
    """Mean and principal directions of a run's features, computed once on up to eight scans and cached.

    All scans of a run share the basis, so that their feature maps are comparable. A run that was resumed gets
    a new basis, and the feature maps of its older weights are removed.
    """
    path = run.folder / f"feature-basis-{weights_sha256[:12]}.npy"
    if not exists(path):
        rows: list[Tensor] = []
        for scan in list(scans)[:: max(1, len(scans) // BASIS_SCANS)][:BASIS_SCANS]:
            grid = grid_step(project.image(scan).shape)
            fitted, its_plan = for_scan(network, plan, project.scans[scan])
            rows += feature_slabs(project, scan, fitted, its_plan, grid, device, _random_cells, BASIS_SLABS)
        sample = torch.cat(rows)
        mean = sample.mean(0)
        with one_thread():  # for such a small matrix several threads take a hundred times as long
            directions = torch.linalg.eigh((sample - mean).T @ (sample - mean))[1].flip(1).T
        project.make_folder("runs", run.id)
        with change_lock(project.root):
            if not exists(path):  # maps by the basis of another process must stay comparable
                remove_features(project, run.id)
                write_array(path, torch.cat([mean[None], directions[:WIDTH]]).numpy())
    stored = torch.from_numpy(read_array(path)).to(device)
    return stored[0], stored[1:]


def _random_cells(slab: Tensor) -> Tensor:
    flat = slab.flatten(0, 2).cpu()
    return flat[torch.randint(len(flat), (BASIS_CELLS,), generator=torch.Generator().manual_seed(0))]


def _project(slab: Tensor, mean: Tensor, basis: Tensor) -> np.ndarray:
    # With the mean subtracted, two arbitrary voxels are not similar merely for being tissue.
    return ((slab - mean) @ basis.T).cpu().numpy()


def _joined(slabs: Iterator[np.ndarray], plan: Plan) -> np.ndarray:
    """Feature map (Z', Y', X', F) in canonical order from slabs along the plan's slice axis."""
    joined = np.concatenate(list(slabs))
    canonical = [*np.argsort(plan.work_axes).tolist(), 3]
    return np.ascontiguousarray(np.transpose(joined, canonical))
