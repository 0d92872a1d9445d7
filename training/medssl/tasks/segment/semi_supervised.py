"""Choices for the use of unannotated voxels in fine-tuning, and the loss terms of each."""

from __future__ import annotations

from importlib import import_module

import torch
from torch import nn

from medssl.core.errors import UserError
from medssl.core.events import Emit, Notice
from medssl.core.jobs import FinetuneJob, Plan, SemiSupervised
from medssl.core.project.channels import having
from medssl.core.project.project import Project
from medssl.core.settings import finetuning
from medssl.nn.data.device_dataset import DeviceDataset, join, load_device_dataset
from medssl.nn.models.unet import Network
from medssl.tasks.inference.location_prior import LocationPrior
from medssl.tasks.segment import annotated_crops, pseudo_contrast, pseudo_labels
from medssl.tasks.segment.annotated_crops import AnnotatedVoxels
from medssl.tasks.segment.pseudo_label_schedule import PseudoLabelSchedule
from medssl.tasks.segment.pseudo_labels import PseudoLabelLoss, PseudoLabels
from medssl.tasks.segment.smoothing_width import SmoothingWidth


def find(name: str) -> tuple[str, type[annotated_crops.Settings]]:
    """Name of the recipes and type of the settings of a choice.

    Raises:
        UserError: "bad-job" for an unknown name.
    """
    recipe, path = finetuning(name)
    module, _, settings = path.partition(":")
    return recipe, getattr(import_module(module), settings)


def terms(
    job: FinetuneJob,
    plan: Plan,
    settings: annotated_crops.Settings,
    voxels: AnnotatedVoxels,
    classes: int,
    emit: Emit,
) -> dict[str, nn.Module]:
    """Loss terms on pseudo-labels.

    Args:
        job: Gives the choice and the seed.
        plan: Plan of the network.
        settings: Settings of the choice.
        voxels: Annotated voxels.
        classes: Number of classes including the background.
        emit: Receives a Notice if only one class is annotated.

    Returns:
        The terms by the names of their curves.

    Raises:
        UserError: "one-class" or "bad-job" if the settings leave no contrast.
    """
    modules: dict[str, nn.Module] = {}
    if isinstance(settings, pseudo_labels.Settings) and job.semi_supervised != "pseudo_contrast":
        modules["pseudo_labels"] = PseudoLabelLoss(settings.pseudo_label_weight)
    if isinstance(settings, pseudo_contrast.Settings):
        if not settings.rounds:
            raise UserError(
                f"{job.semi_supervised} needs rounds of pseudo-labels; set rounds to fractions of the "
                'training, e.g. [0.35, 0.65], or set semi_supervised to "none".',
                code="bad-job",
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(job.seed)  # layers draw from the global generator when they are made
            annotated = len(voxels.by_class) - 1
            modules["contrast"] = pseudo_contrast.PseudoContrast(plan, settings, classes, annotated)
        if annotated == 1:
            emit(
                Notice(
                    "Only one class is annotated, so the contrastive loss compares it with the background."
                )
            )
    return modules


def rounds(
    choice: SemiSupervised,
    project: Project,
    dataset: DeviceDataset,
    plan: Plan,
    settings: annotated_crops.Settings,
    network: Network,
    emit: Emit,
    location_prior: LocationPrior | None = None,
    smoothing_width: SmoothingWidth | None = None,
) -> PseudoLabelSchedule | None:
    """Schedule of pseudo-labels over all scans that are not held out.

    Args:
        choice: What to use unannotated voxels for.
        project: The project with all scans.
        dataset: The annotated scans.
        plan: Plan of the network.
        settings: Settings of the choice.
        network: The network; a copy of it makes the pseudo-labels.
        emit: Receives a Notice per round.
        location_prior: That of the annotated scans.
        smoothing_width: Chooses the width of the posterior smoothing in each round.

    Returns:
        The schedule; None if the choice uses no pseudo-labels.
    """
    if not isinstance(settings, pseudo_labels.Settings) or not settings.rounds:
        return None
    # Annotated scans are included: most of their voxels have no annotation, and annotations are kept.
    unannotated = having(
        (scan for scan in project.scans.values() if not scan.held_out and scan.id not in dataset.ids),
        plan.channel_names,
    )
    scans = (
        join(dataset, load_device_dataset(project, unannotated, plan, dataset.device))
        if unannotated
        else dataset
    )
    names = [label.name for label in project.classes]
    return PseudoLabelSchedule(
        network, PseudoLabels(scans, settings, names, emit, location_prior, smoothing_width), settings
    )
