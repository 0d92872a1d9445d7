"""What fine-tuning makes of voxels that nobody annotated: the choices, and what each adds to a step."""

from __future__ import annotations

import torch
from torch import nn

from medssl.core.errors import UserError
from medssl.core.events import Emit, Notice
from medssl.core.jobs import FinetuneJob, Plan, SemiSupervised
from medssl.core.project.project import Project
from medssl.nn.data.device_dataset import DeviceDataset, join, load_device_dataset
from medssl.nn.models.unet import Network
from medssl.tasks.inference.location_prior import LocationPrior
from medssl.tasks.segment import annotated_crops, pseudo_contrast, pseudo_labels
from medssl.tasks.segment.annotated_crops import AnnotatedVoxels
from medssl.tasks.segment.pseudo_labels import PseudoLabelLoss, PseudoLabels, PseudoLabelSchedule
from medssl.tasks.segment.smoothing_width import SmoothingWidth

CHOICES: dict[str, tuple[str, type[annotated_crops.Settings]]] = {
    "self_training": ("finetune", pseudo_labels.Settings),
    "pseudo_contrast": ("pseudo_contrast", pseudo_contrast.Settings),
    "both": ("pseudo_contrast", pseudo_contrast.Settings),
    "none": ("finetune", annotated_crops.Settings),
}
"""Of every choice the name of its recipes (before "-quick", "-paper"), and its settings."""


def find(name: str) -> tuple[str, type[annotated_crops.Settings]]:
    """Recipe and settings of a choice.

    Raises UserError ("bad-job") that lists those there are.
    """
    if name not in CHOICES:
        raise UserError(f"There is no semi {name!r}; choose one of {', '.join(CHOICES)}.", code="bad-job")
    return CHOICES[name]


def terms(
    job: FinetuneJob,
    plan: Plan,
    settings: annotated_crops.Settings,
    voxels: AnnotatedVoxels,
    classes: int,
    emit: Emit,
) -> dict[str, nn.Module]:
    """What the job wants made of guesses, by the names of the curves; `classes` counts the background too.

    Raises UserError ("one-class", "bad-job") for a contrast that would be none.
    """
    made: dict[str, nn.Module] = {}
    if isinstance(settings, pseudo_labels.Settings) and job.semi_supervised != "pseudo_contrast":
        made["pseudo_labels"] = PseudoLabelLoss(settings.pseudo_label_weight)
    if isinstance(settings, pseudo_contrast.Settings):
        if not settings.rounds:
            raise UserError(
                f"Without rounds there is nothing for {job.semi_supervised} to learn from; give rounds as "
                "shares of the "
                "training, e.g. [0.35, 0.65], or choose none instead.",
                code="bad-job",
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(job.seed)  # layers draw from the global generator when they are made
            painted = len(voxels.by_class) - 1
            made["contrast"] = pseudo_contrast.PseudoContrast(plan, settings, classes, painted)
        if painted == 1:
            emit(Notice("One class is painted, so the contrast is that between it and the background."))
    return made


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
    """Rounds of guessing over all scans that are not held out; None where the choice has none.

    pool: the annotated scans; layout: theirs.
    """
    if not isinstance(settings, pseudo_labels.Settings) or not settings.rounds:
        return None
    # Annotated scans too: most of their voxels are unpainted, and what is painted stays as it is.
    others = [scan.id for scan in project.scans.values() if not scan.held_out and scan.id not in dataset.ids]
    scans = join(dataset, load_device_dataset(project, others, plan, dataset.device)) if others else dataset
    names = [each.name for each in project.classes]
    return PseudoLabelSchedule(
        network, PseudoLabels(scans, settings, names, emit, location_prior, smoothing_width), settings
    )
