"""Learning from labels interpolated between complete slices: they are guesses, so they weigh less."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import torch

from medssl.core.errors import UserError
from medssl.core.jobs import Plan
from medssl.core.project.project import IGNORE, Project
from medssl.nn.data.device_dataset import DeviceDataset, numbered
from medssl.tasks.segment.annotated_crops import AnnotatedVoxels


@dataclass(frozen=True)
class InterpolatedLabels:
    """The scans with guesses, their targets holding nothing but these, and where these lie."""

    dataset: DeviceDataset
    voxels: AnnotatedVoxels

    @classmethod
    def of(
        cls, project: Project, dataset: DeviceDataset, plan: Plan, class_ids: Sequence[int]
    ) -> InterpolatedLabels | None:
        """What was filled in on the pool's scans; None where nothing was.

        A scan of which a slice is held back (its targets know fewer voxels than its annotation) gives none: a
        fill would tell what that slice shows.
        """
        scans, targets = [], []
        for number, scan in enumerate(dataset.ids):
            annotation = project.annotation(scan)
            pseudo_labels = annotation.interpolated_target() if annotation else None
            if annotation is None or pseudo_labels is None:
                continue
            known = int((dataset.targets[number] != IGNORE).sum())
            if known == np.count_nonzero(annotation.target() != IGNORE):
                work = np.array(np.transpose(numbered(pseudo_labels, class_ids), plan.work_axes), order="C")
                scans.append(number)
                targets.append(torch.from_numpy(work).to(dataset.device))
        if scans:
            filled = replace(dataset.part(scans), targets=tuple(targets))
            with suppress(UserError):  # nothing but background was filled in
                return cls(filled, AnnotatedVoxels.of(filled))
        return None
