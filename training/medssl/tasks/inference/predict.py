"""Segmentation of whole scans slab by slab, without a full-resolution float softmax in memory."""

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
from medssl.core.project.cards import need
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
"""Border voxels replicated around a slice, so that tissue keeps away from the convolutions' zero padding."""
PIXELS_AT_ONCE = 1 << 19
"""Pixels per batch of slices in 2.5D."""
VOXELS_AT_ONCE = 1 << 21
"""Voxels per slab of a scan that is predicted in several orientations."""
HALO = 16
"""Additional slices on both sides of such a slab, whose cut is a border in the other orientations."""


def predict(
    project: Project, run: Run, job: PredictJob, emit: Emit, should_stop: Callable[[], bool]
) -> dict[str, object]:
    """Segment scans with a run's weights; each prediction is saved in the run's folder when it is complete.

    Args:
        project: The project with the scans.
        run: A fine-tuning run.
        job: Which scans; all if it names none.
        emit: Receives Preview and Progress events.
        should_stop: Called before each scan.

    Returns:
        {"run", "scans", "stopped"}.

    Raises:
        UserError: "not-finetuned" for a pre-training, "no-checkpoint" and others.
    """
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
    """Segment scans one after the other until a stop is requested.

    Args:
        project: The project with the scans.
        run: A fine-tuning run.
        scans: Ids of the scans.
        device_name: "auto", "cpu", "cuda" or "mps".
        emit: Receives Preview and Progress events.
        should_stop: Called before each scan.
        probabilities: Whether to also save the class probabilities from the same pass.

    Returns:
        Ids of the segmented scans.
    """
    trained = Trained.of(run.checkpoint, run.id, device_name)
    done = []
    for number, scan in enumerate(scans):
        if should_stop():
            break
        segment_scan = partial(trained.labels, project, scan)
        classes, axes = trained.ids[1:].tolist(), trained.plan.work_axes
        with_probabilities = partial(
            write_probabilities, project, run, scan, classes, axes, segment_scan, emit
        )
        path = project.save_prediction(
            run.id, scan, with_probabilities() if probabilities else segment_scan()
        )
        emit(Preview(scan, str(path)))
        emit(Progress("prediction", (number + 1) / len(scans), number + 1))
        done.append(scan)
    return done


@dataclass(frozen=True)
class Trained:
    """A fine-tuned network on its device, with everything that its checkpoint stores for inference.

    Example:
        >>> trained = Trained.of(run.checkpoint, run.id, "auto")
        >>> labels = trained.labels(project, "liver-1")  # class ids, uint8 (Z, Y, X)
    """

    network: Network
    plan: Plan
    card: dict[str, Any]
    location_prior: LocationPrior | None
    ids: np.ndarray
    """Class ids by class number, uint8 (1 + K,), 0 for the background first."""
    device: torch.device

    @classmethod
    def of(cls, path: Path, name: str, device_name: str) -> Trained:
        """Load a checkpoint or a snapshot.

        Args:
            path: The file.
            name: Name of the weights in error messages.
            device_name: "auto", "cpu", "cuda" or "mps".

        Raises:
            UserError: "not-finetuned" if the checkpoint is not that of a fine-tuning.
        """
        device = devices.choose(device_name)
        network, plan, card = load_network(path)
        if card["kind"] != "finetune":
            raise UserError(
                f"{name} is a pre-training and has no classes; fine-tune it first, then predict.",
                code="not-finetuned",
            )
        need(card, "classes", where=str(path))
        ids = np.array([0, *(label["id"] for label in card["classes"])], np.uint8)
        return cls(network.to(device), plan, card, read_location_prior(path, device), ids, device)

    def labels(
        self, project: Project, scan: str, keep: Callable[[np.ndarray], None] | None = None
    ) -> np.ndarray:
        """Segment a scan.

        Args:
            project: The project with the scan.
            scan: Id of the scan.
            keep: Called with the softmax scores of each slab, float32 (n, 1 + K, rows, columns), work order.

        Returns:
            Class ids, uint8 (Z, Y, X) in canonical order.
        """
        image, spacing = project.image(scan), project.scans[scan].geometry.spacing_mm
        return self.ids[
            segment(self.network, self.plan, image, spacing, self.device, keep, self.location_prior)
        ]


def segment(
    network: Network,
    plan: Plan,
    image: np.ndarray,
    spacing_mm: Sequence[float],
    device: torch.device,
    keep: Callable[[np.ndarray], None] | None = None,
    location_prior: LocationPrior | None = None,
) -> np.ndarray:
    """Segment an image slab by slab; only the scores of one slab are in memory.

    Args:
        network: A network with a segmentation head.
        plan: Its plan.
        image: Normalized image in canonical order, (Z, Y, X) float, possibly memory-mapped.
        spacing_mm: Voxel spacing in mm along Z, Y, X.
        device: Where the network is.
        keep: Called with the softmax scores of each slab, float32 (n, 1 + K, rows, columns) in work order.
        location_prior: Prior of the network's classes.

    Returns:
        Class numbers 0..K, uint8 (Z, Y, X).
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
    """Segment a scan in work order; like `segment` otherwise.

    Args:
        network: A network with a segmentation head.
        plan: Its plan.
        work: Normalized scan in work order, (slices, rows, columns) float.
        spacing: Voxel spacing in mm in work order.
        device: Where the network is.
        keep: Called with the softmax scores of each slab, float32 (n, 1 + K, rows, columns).
        location_prior: Prior of the network's classes.

    Returns:
        Class numbers 0..K, uint8 (slices, rows, columns) on the device.
    """
    decision = DiceOptimalLabels()
    for raw in scores_of_slabs(network, plan, work, spacing, device):
        scores = smooth_posteriors(raw, plan.smoothing_sigma_mm, spacing)
        decision.add(scores)
        if keep is not None:
            keep(scores.cpu().numpy())
    if location_prior is not None:
        decision.apply_prior(location_prior, spacing)
    return decision.labels()


@dataclass(frozen=True)
class Top1Posterior:
    """Posterior of a scan in three bytes per voxel; all tensors are uint8 (slices, rows, columns)."""

    best: Tensor
    """Most probable foreground class, 1..K."""
    probability: Tensor
    """Probability of that class, 0 .. LEVELS - 1."""
    background: Tensor
    """Probability of the background, 0 .. LEVELS - 1."""


@torch.inference_mode()
def top1_posterior(
    network: Network, plan: Plan, work: Tensor, spacing: Sequence[float], device: torch.device
) -> Top1Posterior:
    """Posterior of a scan as the basis of pseudo-labels, before any decision.

    The probability of a class is the minimum of the raw and the smoothed one. Smoothing alone shifts borders
    slightly towards the smaller class, which would accumulate over rounds; raw scores often have the wrong
    class.

    Args:
        network: A network with a segmentation head.
        plan: Its plan.
        work: Normalized scan in work order, (slices, rows, columns) float.
        spacing: Voxel spacing in mm in work order.
        device: Where the network is.
    """
    slabs = []
    for raw in scores_of_slabs(network, plan, work, spacing, device):
        scores = torch.minimum(raw, smooth_posteriors(raw, plan.smoothing_sigma_mm, spacing))
        probability, best = scores[:, 1:].max(1)
        levels = ((values * (LEVELS - 1)).round() for values in (probability, scores[:, 0]))
        slabs.append([values.to(torch.uint8) for values in (best + 1, *levels)])
    return Top1Posterior(*map(torch.cat, zip(*slabs, strict=True)))


def scores_of_slabs(
    network: Network,
    plan: Plan,
    work: np.ndarray | Tensor,
    spacing: Sequence[float],
    device: torch.device,
) -> Iterator[Tensor]:
    """Predict a scan slab by slab, averaged over the orientations of the plan.

    Args:
        network: A network with a segmentation head.
        plan: Its plan.
        work: Normalized scan in work order, (slices, rows, columns) float.
        spacing: Voxel spacing in mm in work order.
        device: Where the network is.

    Yields:
        Softmax scores of consecutive slabs, float32 (n, 1 + K, rows, columns).
    """
    predict_slabs = _slices_2d if plan.dims == 2 else _slabs_3d
    orders = axis_orders(plan, spacing)
    if len(orders) == 1:
        yield from predict_slabs(network, plan, work, spacing, device)
        return
    slices, rows, columns = work.shape
    thickness = max(MARGIN, VOXELS_AT_ONCE // (rows * columns))
    for first in range(0, slices, thickness):
        last = min(first + thickness, slices)
        low, high = max(0, first - HALO), min(slices, last + HALO)
        slab = slab_of(work, low, high, device)
        total: Tensor | None = None
        for order in orders:
            reoriented = slab.permute(order)
            slabs = predict_slabs(network, plan, reoriented, [spacing[axis] for axis in order], device)
            scores = torch.cat(list(slabs)).movedim(1, -1)
            back = scores.permute(*(order.index(axis) for axis in range(3)), 3)[first - low : last - low]
            total = back.clone() if total is None else total.add_(back)
        assert total is not None
        yield (total / len(orders)).movedim(-1, 1)


@torch.inference_mode()
def scores_of(
    network: Network, plan: Plan, work: np.ndarray | Tensor, spacing: Sequence[float], device: torch.device
) -> Tensor:
    """Predict a few slices in the annotated orientation only, all in memory.

    Args:
        network: A network with a segmentation head.
        plan: Its plan.
        work: Normalized slices in work order, (n, rows, columns) float.
        spacing: Voxel spacing in mm in work order.
        device: Where the network is.

    Returns:
        Softmax scores, float32 (n, 1 + K, rows, columns).
    """
    slabs = scores_of_slabs(network, replace(plan, multiplanar=False), work, spacing, device)
    return smooth_posteriors(torch.cat(list(slabs)), plan.smoothing_sigma_mm, spacing)


def _scores(network: Network, plan: Plan, image: Tensor) -> Tensor:
    """Softmax scores, float32."""
    with autocast(image.device, plan.precision):
        scores = network(image)
    return scores.float().softmax(1)


def _smoothed(scores: Tensor, spacing: Sequence[float]) -> Tensor:
    """Scores (n, K, rows, columns) smoothed across slices.

    A 2.5D network decides each slice separately; adjacent slices add information where tissue hardly changes
    between them. Sigma is 0.7 pixels of the plane, so thick slices remain unchanged.
    """
    sigma = 0.7 * min(spacing[1:]) / spacing[0]
    weight = math.exp(-0.5 / sigma**2)
    before = torch.cat([scores[:1], scores[:-1]])
    after = torch.cat([scores[1:], scores[-1:]])
    return (scores + weight * (before + after)) / (1 + 2 * weight)


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
        low, high = max(0, first - 1), min(len(work), last + 1)  # one more on each side for smoothing
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
    """Softmax scores (n, K, rows, columns) of slabs, predicted with half a patch more on both sides."""
    ratio = spacing[0] / plan.spacing_mm[0]
    thickness = max(1, round(plan.patch_vox[0] / ratio))
    halo = max(1, thickness // 2)
    for first in range(0, len(work), thickness):
        last = min(first + thickness, len(work))
        low, high = max(0, first - halo), min(len(work), last + halo)
        slab = slab_of(work, low, high, device)[None, None]
        size = working_size(slab.shape[2:], spacing, plan.spacing_mm)
        resampled = slab if size == slab.shape[2:] else F.interpolate(slab, size, mode="trilinear")
        scores = sliding_window_inference(
            resampled,
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
