"""Segmentation of whole scans slab by slab, without a full-resolution float softmax in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medssl.core.errors import UserError
from medssl.core.events import Emit, Notice, Preview, Progress, Started
from medssl.core.files import check_writable
from medssl.core.jobs import Plan, PredictJob
from medssl.core.project.cards import need
from medssl.core.project.probabilities import write_probabilities
from medssl.core.project.project import Project, Run
from medssl.core.project.training_data import unlike_training
from medssl.nn import devices
from medssl.nn.models.network_weights import load_network
from medssl.nn.models.unet import Network
from medssl.tasks.inference.location_prior import LocationPrior
from medssl.tasks.inference.scores import posterior_slabs
from medssl.tasks.inference.slabs import Work
from medssl.tasks.inference.stored_location_prior import read_location_prior
from medssl.tasks.inference.threshold import LEVELS, DiceOptimalLabels
from medssl.tasks.plan.channels import channels_of, reasons, with_channels


def predict(
    project: Project, run: Run, job: PredictJob, emit: Emit, should_stop: Callable[[], bool]
) -> dict[str, Any]:
    """Segment scans with a run's weights; each prediction is saved in the run's folder when it is complete.

    Args:
        project: The project with the scans.
        run: A fine-tuning run.
        job: Which scans; all if it names none.
        emit: Receives Preview and Progress events.
        should_stop: Called before each scan.

    Returns:
        {"run", "scans", "stopped"}, and "left_out" with the reason for each scan that lacks a channel.

    Raises:
        UserError: "not-finetuned" for a pre-training, "no-checkpoint", "no-channel" if each of the scans
            lacks one, and others.
    """
    asked = job.scans or tuple(project.scans)
    if job.only_missing:
        asked = tuple(scan for scan in asked if project.expected_dice(run.id, scan) is None)
    emit(Started(run.id))
    names = channels_of(run)
    scans = with_channels(project, asked, names, emit)
    done = predict_scans(project, run, scans, job.device, emit, should_stop, job.probabilities)
    result = {"run": run.id, "scans": done, "stopped": len(done) < len(scans)}
    return {**result, "left_out": reasons(project, asked, names)}


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
        emit: Receives Preview and Progress events, and a Notice for a scan unlike those of the training.
        should_stop: Called before each scan.
        probabilities: Whether to also save the class probabilities from the same pass.

    Returns:
        Ids of the segmented scans: without those that lack a channel of the network, which a Notice names.
    """
    weights_sha256 = run.weights_sha256  # before they are loaded, see origin.py
    trained = Trained.of(run.checkpoint, run.id, device_name)
    scans = with_channels(project, scans, trained.plan.channel_names, emit, required=False)
    done: list[str] = []
    begin = time.monotonic()
    if scans:
        project.make_folder("runs", run.id, "predictions")
        check_writable(project.prediction_file(run.id, scans[0]))
        emit(Progress("prediction", 0.0))
    for number, scan in enumerate(scans, 1):
        if should_stop():
            break
        if difference := unlike_training(trained.card, project.scans[scan]):
            emit(Notice(difference))
        segment_scan = partial(trained.segmentation, project, scan)
        classes, axes = trained.ids[1:].tolist(), trained.plan.work_axes
        with_probabilities = partial(
            write_probabilities, project, run, scan, weights_sha256, classes, axes, segment_scan, emit
        )
        labels, expected_dice = with_probabilities() if probabilities else segment_scan()
        path = project.save_prediction(run.id, scan, labels, weights_sha256, expected_dice)
        emit(Preview(scan, str(path)))
        eta_s = (time.monotonic() - begin) / number * (len(scans) - number)
        emit(Progress("prediction", number / len(scans), number, eta_s))
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
        """Segment a scan: the labels of `segmentation`, uint8 (Z, Y, X) in canonical order."""
        return self.segmentation(project, scan, keep)[0]

    def segmentation(
        self, project: Project, scan: str, keep: Callable[[np.ndarray], None] | None = None
    ) -> tuple[np.ndarray, dict[int, float]]:
        """Segment a scan.

        Args:
            project: The project with the scan.
            scan: Id of the scan.
            keep: Called with the softmax scores of each slab, float32 (n, 1 + K, rows, columns), work order.

        Returns:
            Class ids, uint8 (Z, Y, X) in canonical order, and {class id: expected Dice}, see
            `DiceOptimalLabels.expected_dice`.
        """
        images = project.images(scan, self.plan.channel_names)
        spacing = project.scans[scan].geometry.spacing_mm
        labels, expected_dice = segment(
            self.network, self.plan, images, spacing, self.device, keep, self.location_prior
        )
        for plane in labels:  # in place, because labels of a large scan take 200 MB
            plane[:] = self.ids[plane]
        return labels, dict(zip(self.ids[1:].tolist(), expected_dice, strict=True))


def segment(
    network: Network,
    plan: Plan,
    images: Sequence[np.ndarray],
    spacing_mm: Sequence[float],
    device: torch.device,
    keep: Callable[[np.ndarray], None] | None = None,
    location_prior: LocationPrior | None = None,
) -> tuple[np.ndarray, list[float]]:
    """Segment a scan in parts, with the labels of the whole scan at once (see `scores`).

    Args:
        network: A network with a segmentation head.
        plan: Its plan.
        images: Its normalized channels in canonical order, each (Z, Y, X) float, possibly memory-mapped.
        spacing_mm: Voxel spacing in mm along Z, Y, X.
        device: Where the network is.
        keep: Called with the softmax scores of each slab, float32 (n, 1 + K, rows, columns) in work order.
        location_prior: Prior of the network's classes.

    Returns:
        Class numbers 0..K, uint8 (Z, Y, X), and the expected Dice of each class 1..K.
    """
    work = [np.transpose(image, plan.work_axes) for image in images]
    spacing = [spacing_mm[axis] for axis in plan.work_axes]
    decision = _decide(network, plan, work, spacing, device, keep, location_prior)
    labels = decision.labels().cpu().numpy()
    canonical = np.ascontiguousarray(np.transpose(labels, np.argsort(plan.work_axes)))
    return canonical, decision.expected_dice()


def segment_work(
    network: Network, plan: Plan, work: Work, spacing: Sequence[float], device: torch.device
) -> Tensor:
    """Segment a scan in work order, without a location prior.

    Args:
        network: A network with a segmentation head.
        plan: Its plan.
        work: Channels of the normalized scan in work order, each (slices, rows, columns) float.
        spacing: Voxel spacing in mm in work order.
        device: Where the network is.

    Returns:
        Class numbers 0..K, uint8 (slices, rows, columns) on the device.
    """
    return _decide(network, plan, work, spacing, device).labels()


@torch.inference_mode()
def _decide(
    network: Network,
    plan: Plan,
    work: Work,
    spacing: Sequence[float],
    device: torch.device,
    keep: Callable[[np.ndarray], None] | None = None,
    location_prior: LocationPrior | None = None,
) -> DiceOptimalLabels:
    """Collect the scores of a scan in work order, see `segment`."""
    decision = DiceOptimalLabels(len(work[0]))
    for _, scores in posterior_slabs(network, plan, work, spacing, device):
        decision.add(scores)
        if keep is not None:
            keep(scores.cpu().numpy())
    if location_prior is not None:
        decision.apply_prior(location_prior, spacing)
    return decision


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
    network: Network, plan: Plan, work: Work, spacing: Sequence[float], device: torch.device
) -> Top1Posterior:
    """Posterior of a scan as the basis of pseudo-labels, before any decision.

    The probability of a class is the minimum of the raw and the smoothed one. Smoothing alone shifts borders
    slightly towards the smaller class, which would accumulate over rounds; raw scores often have the wrong
    class.

    Args:
        network: A network with a segmentation head.
        plan: Its plan.
        work: Channels of the normalized scan in work order, each (slices, rows, columns) float.
        spacing: Voxel spacing in mm in work order.
        device: Where the network is.
    """
    slabs = []
    for raw, smoothed in posterior_slabs(network, plan, work, spacing, device):
        scores = torch.minimum(raw, smoothed)
        probability, best = scores[:, 1:].max(1)
        levels = ((values * (LEVELS - 1)).round() for values in (probability, scores[:, 0]))
        slabs.append([values.to(torch.uint8) for values in (best + 1, *levels)])
    return Top1Posterior(*map(torch.cat, zip(*slabs, strict=True)))
