"""Segmenting whole scans without ever holding a full-resolution float softmax."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from torch import Tensor
from torch.nn import functional as F

from medssl.core.errors import UserError
from medssl.core.events import Emit, Preview, Progress, Started
from medssl.core.jobs import Plan, PredictJob
from medssl.core.project.probabilities import write_probabilities
from medssl.core.project.project import Project, Run
from medssl.nn import devices
from medssl.nn.data.multiplanar import axis_orders
from medssl.nn.models.unet import Network, load_network
from medssl.tasks.inference.location_prior import LocationPrior, read_location_prior
from medssl.tasks.inference.posterior_smoothing import smooth_posteriors
from medssl.tasks.inference.slabs import neighbouring_slices, slab_of, working_size
from medssl.tasks.inference.threshold import LEVELS, DiceOptimalLabels
from medssl.tasks.loop import autocast

MARGIN = 8
"""Working voxels repeated around a slice, so that no tissue lies at the zero padding of the convolutions."""
PIXELS_AT_ONCE = 1 << 19
VOXELS_AT_ONCE = 1 << 21
"""Of a scan that is seen from several sides."""
HALO = 16
"""Slices more on both sides of such a slab: from the other sides its cut is a border."""


def predict(
    project: Project, run: Run, job: PredictJob, emit: Emit, should_stop: Callable[[], bool]
) -> dict[str, object]:
    """Segment scans with the run's weights; each prediction is saved in the run's folder as it is done."""
    scans = job.scans or tuple(project.scans)
    emit(Started(run.id))
    done = predict_scans(project, run, scans, job.device, emit, should_stop, job.probabilities)
    return {"run": run.id, "scans": done, "stopped": len(done) < len(scans)}


def predict_scans(
    project: Project,
    run: Run,
    scans: Sequence[str],
    device_name: str,
    emit: Emit,
    should_stop: Callable[[], bool],
    probabilities: bool = False,
) -> list[str]:
    """Segment `scans` one after the other until asked to stop; returns those that are done.

    probabilities: keep these, too, from the same pass.
    """
    trained = Trained.of(run.checkpoint, run.id, device_name)
    done = []
    for number, scan in enumerate(scans):
        if should_stop():
            break
        look = partial(trained.labels, project, scan)
        classes, axes = trained.ids[1:].tolist(), trained.plan.work_axes
        kept = partial(write_probabilities, project, run, scan, classes, axes, look, emit)
        path = project.save_prediction(run.id, scan, kept() if probabilities else look())
        emit(Preview(scan, str(path)))
        emit(Progress("prediction", (number + 1) / len(scans), number + 1))
        done.append(scan)
    return done


@dataclass(frozen=True)
class Trained:
    """A fine-tuned network on its device, with all that its checkpoint says of how to use it."""

    network: Network
    plan: Plan
    card: dict[str, Any]
    location_prior: LocationPrior | None
    ids: np.ndarray
    """Ids of its classes, the background's 0 first."""
    device: torch.device

    @classmethod
    def of(cls, path: Path, name: str, device_name: str) -> Trained:
        """From a checkpoint, or what a training kept on its way.

        Raises UserError ("not-finetuned") where it is none of a fine-tuning; it calls the weights `name`.
        """
        device = devices.choose(device_name)
        network, plan, card = load_network(path)
        if card["kind"] != "finetune":
            raise UserError(
                f"{name} is a pre-training and knows no classes; fine-tune it first, then predict.",
                code="not-finetuned",
            )
        ids = np.array([0, *(each["id"] for each in card["classes"])], np.uint8)
        return cls(network.to(device), plan, card, read_location_prior(path, device), ids, device)

    def labels(
        self, project: Project, scan: str, keep: Callable[[np.ndarray], None] | None = None
    ) -> np.ndarray:
        """Class ids (Z, Y, X) of a scan; `keep` as `segment` has it."""
        own, spacing = (self.network, self.plan), project.scans[scan].geometry.spacing_mm
        return self.ids[segment(*own, project.image(scan), spacing, self.device, keep, self.location_prior)]


def segment(
    network: Network,
    plan: Plan,
    image: np.ndarray,
    spacing_mm: Sequence[float],
    device: torch.device,
    keep: Callable[[np.ndarray], None] | None = None,
    location_prior: LocationPrior | None = None,
) -> np.ndarray:
    """Class numbers 0..K of every voxel, uint8 (Z, Y, X).

    image: normalised (Z, Y, X), may be a memory map. Works slab by slab; scores of one slab at a time are
    in memory. keep: is shown them, (n, 1 + K, rows, columns) in work order. layout: of the network's classes.
    """
    work = np.transpose(image, plan.work_axes)
    spacing = [spacing_mm[axis] for axis in plan.work_axes]
    labels = segment_work(network, plan, work, spacing, device, keep, location_prior).cpu().numpy()
    return np.ascontiguousarray(np.transpose(labels, np.argsort(plan.work_axes)))


@torch.inference_mode()
def segment_work(
    network: Network,
    plan: Plan,
    work: np.ndarray | Tensor,
    spacing: Sequence[float],
    device: torch.device,
    keep: Callable[[np.ndarray], None] | None = None,
    location_prior: LocationPrior | None = None,
) -> Tensor:
    """`segment` in work order: uint8 (slices, rows, columns) on the device, from an array or a tensor."""
    decision = DiceOptimalLabels()
    for own in scores_of_slabs(network, plan, work, spacing, device):
        scores = smooth_posteriors(own, plan.smoothing_sigma_mm, spacing)
        decision.add(scores)
        if keep is not None:
            keep(scores.cpu().numpy())
    if location_prior is not None:
        decision.place(location_prior, spacing)
    return decision.labels()


@dataclass(frozen=True)
class Top1Posterior:
    """What a network makes of voxels, in three bytes each: uint8 (slices, rows, columns)."""

    best: Tensor
    """The most probable class but the background, 1..K."""
    probability: Tensor
    """Of that class, 0 .. LEVELS - 1."""
    background: Tensor
    """The background's probability, likewise."""


@torch.inference_mode()
def top1_posterior(
    network: Network, plan: Plan, work: Tensor, spacing: Sequence[float], device: torch.device
) -> Top1Posterior:
    """What could be learned from a scan in work order: `segment_work` before anything is decided.

    Of a class no more than both the voxel and its neighbours say: these move a border a little towards the
    smaller class, which round after round would add up, and what a voxel alone says is often the wrong name.
    """
    parts = []
    for own in scores_of_slabs(network, plan, work, spacing, device):
        scores = torch.minimum(own, smooth_posteriors(own, plan.smoothing_sigma_mm, spacing))
        probability, best = scores[:, 1:].max(1)
        levels = ((each * (LEVELS - 1)).round() for each in (probability, scores[:, 0]))
        parts.append([each.to(torch.uint8) for each in (best + 1, *levels)])
    return Top1Posterior(*map(torch.cat, zip(*parts, strict=True)))


def scores_of_slabs(
    network: Network,
    plan: Plan,
    work: np.ndarray | Tensor,
    spacing: Sequence[float],
    device: torch.device,
) -> Iterator[Tensor]:
    """Softmax scores (n, 1 + K, rows, columns) of slab after slab, in the mean of all sides."""
    look = _slices_2d if plan.dims == 2 else _slabs_3d
    orders = axis_orders(plan, spacing)
    if len(orders) == 1:
        yield from look(network, plan, work, spacing, device)
        return
    slices, rows, columns = work.shape
    thick = max(MARGIN, VOXELS_AT_ONCE // (rows * columns))
    for first in range(0, slices, thick):
        last = min(first + thick, slices)
        low, high = max(0, first - HALO), min(slices, last + HALO)
        slab = slab_of(work, low, high, device)
        total: Tensor | None = None
        for order in orders:
            reoriented = slab.permute(order)
            parts = look(network, plan, reoriented, [spacing[axis] for axis in order], device)
            scores = torch.cat(list(parts)).movedim(1, -1)
            back = scores.permute(*(order.index(axis) for axis in range(3)), 3)[first - low : last - low]
            total = back.clone() if total is None else total.add_(back)
        assert total is not None
        yield (total / len(orders)).movedim(-1, 1)


@torch.inference_mode()
def scores_of(
    network: Network, plan: Plan, work: np.ndarray | Tensor, spacing: Sequence[float], device: torch.device
) -> Tensor:
    """Softmax scores (n, K, rows, columns) of n slices from their own side; all of them are in memory."""
    parts = scores_of_slabs(network, replace(plan, multiplanar=False), work, spacing, device)
    return smooth_posteriors(torch.cat(list(parts)), plan.smoothing_sigma_mm, spacing)


def _scores(network: Network, plan: Plan, image: Tensor) -> Tensor:
    """Softmax scores in full precision."""
    with autocast(image.device, plan.precision):
        scores = network(image)
    return scores.float().softmax(1)


def _smoothed(scores: Tensor, spacing: Sequence[float]) -> Tensor:
    """Scores (n, K, rows, columns) blended with those of the slices before and after.

    A 2.5D network decides each slice by itself; its neighbours know better where tissue hardly changes
    between slices. Sigma is 0.7 pixels of the plane, so thick slices are left as they are.
    """
    sigma = 0.7 * min(spacing[1:]) / spacing[0]
    side = math.exp(-0.5 / sigma**2)
    before = torch.cat([scores[:1], scores[:-1]])
    after = torch.cat([scores[1:], scores[-1:]])
    return (scores + side * (before + after)) / (1 + 2 * side)


def _slices_2d(
    network: Network,
    plan: Plan,
    work: np.ndarray | Tensor,
    spacing: Sequence[float],
    device: torch.device,
) -> Iterator[Tensor]:
    """Softmax scores (n, K, rows, columns) of a few slices at a time."""
    rows, columns = work.shape[1:]
    size = working_size((rows, columns), spacing[1:], plan.spacing_mm[1:])
    at_once = max(4, PIXELS_AT_ONCE // (size[0] * size[1]))
    for first in range(0, len(work), at_once):
        last = min(first + at_once, len(work))
        low, high = max(0, first - 1), min(len(work), last + 1)  # one more on each side to smooth with
        image = neighbouring_slices(work, low, high, plan.patch_vox[0], device)
        if size != (rows, columns):
            image = F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)
        scores = _scores(network, plan, F.pad(image, (MARGIN,) * 4, mode="replicate"))
        scores = _smoothed(scores[..., MARGIN:-MARGIN, MARGIN:-MARGIN], spacing)[first - low : last - low]
        if size != (rows, columns):
            scores = F.interpolate(scores, (rows, columns), mode="bilinear", align_corners=False)
        yield scores


def _slabs_3d(
    network: Network,
    plan: Plan,
    work: np.ndarray | Tensor,
    spacing: Sequence[float],
    device: torch.device,
) -> Iterator[Tensor]:
    """Scores (n, K, rows, columns) of slabs, seen with half a patch more on both sides."""
    ratio = spacing[0] / plan.spacing_mm[0]
    thick = max(1, round(plan.patch_vox[0] / ratio))
    halo = max(1, thick // 2)
    for first in range(0, len(work), thick):
        last = min(first + thick, len(work))
        low, high = max(0, first - halo), min(len(work), last + halo)
        slab = slab_of(work, low, high, device)[None, None]
        size = working_size(slab.shape[2:], spacing, plan.spacing_mm)
        seen = slab if size == slab.shape[2:] else F.interpolate(slab, size, mode="trilinear")
        scores = sliding_window_inference(
            seen,
            plan.patch_vox,
            plan.batch,
            lambda window: _scores(network, plan, window),
            overlap=0.25,
            mode="gaussian",
            padding_mode="replicate",
        )
        assert isinstance(scores, Tensor)
        if size != slab.shape[2:]:
            scores = F.interpolate(scores, slab.shape[2:], mode="trilinear")
        yield scores[0, :, first - low : last - low].movedim(1, 0)
