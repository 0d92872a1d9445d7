"""A small fine-tuning without project, files or loop, for the tests of what its steps do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from medssl.core.jobs import FinetuneJob, Plan
from medssl.nn.data.device_dataset import DeviceDataset
from medssl.nn.models.unet import build
from medssl.tasks.segment import semi_supervised
from medssl.tasks.segment.annotated_crops import orientations
from medssl.tasks.segment.finetune_step import Finetuning
from medssl.tasks.segment.pseudo_label_schedule import PseudoLabelSchedule
from medssl.tasks.segment.pseudo_labels import PseudoLabels
from small import Events, dataset, noise, plan

IGNORE = 255
SCAN = (10, 24, 20)
CLASSES = ("first", "second")


def half_painted(classes: int = 2) -> DeviceDataset:
    """Two scans of noise; in the first, slices 2 and 6 are complete and show every class as a block."""
    target = torch.full(SCAN, IGNORE, dtype=torch.uint8)
    for index in (2, 6):
        target[index] = 0
        for label in range(1, classes + 1):
            target[index, 8 * label - 4 : 8 * label + 3, 4:14] = label
    images = [noise(SCAN), noise(SCAN, 1)]
    shown = target.where(target != IGNORE, torch.zeros_like(target))
    return dataset(images[0] + 3 * shown, images[1], targets=[target, torch.full_like(target, IGNORE)])


def tuning(
    choice: str,
    scans: DeviceDataset | None = None,
    small: Plan | None = None,
    events: Events | None = None,
    **own: Any,
) -> Finetuning:
    """The task of a choice; pseudo-labels are made in the first step, unless `own` says otherwise."""
    scans, small = scans or half_painted(), small or plan()
    early = (
        {}
        if choice == "none"
        else {
            "rounds": (0.0,),
            "max_round_share": 1.0,
            "start_below_loss": 100.0,
            "confidence_threshold": 0.0,
        }
    )
    settings = semi_supervised.find(choice)[1](**{**early, **own})
    painted = list(orientations(scans, replace(small, multiplanar=settings.multiplanar)))
    small = replace(small, multiplanar=len(painted) > 1)
    network = build(small, len(CLASSES) + 1, 0)
    job = FinetuneJob("nowhere", semi_supervised=choice)  # type: ignore[arg-type]
    emit = events if events is not None else Events()
    terms = semi_supervised.terms(job, small, settings, painted[0][1], len(CLASSES) + 1, emit)
    rounds = None
    if choice != "none":
        pseudo_labels = PseudoLabels(scans, settings, CLASSES, emit)  # type: ignore[arg-type]
        rounds = PseudoLabelSchedule(network, pseudo_labels, settings)  # type: ignore[arg-type]
        rounds.remember(torch.tensor(0.0))  # as if it had learned already
    return Finetuning(network, small, settings, painted, set(), rounds, terms)
