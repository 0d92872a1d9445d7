"""Training on labels interpolated between complete slices; being estimates, they have a lower weight."""

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
    """Scans whose targets hold nothing but interpolated labels, and the positions of these."""

    dataset: DeviceDataset
    voxels: AnnotatedVoxels

    @classmethod
    def of(
        cls, project: Project, dataset: DeviceDataset, plan: Plan, class_ids: Sequence[int]
    ) -> InterpolatedLabels | None:
        """Load the interpolated labels of the scans of a dataset.

        A scan with the validation slice (its targets have fewer labelled voxels than its annotation) is left
        out: interpolated labels would reveal the content of that slice.

        Args:
            project: The project with the annotations.
            dataset: The annotated scans.
            plan: Plan of the network.
            class_ids: Ids of the network's classes.

        Returns:
            The interpolated labels; None if there are none with foreground.
        """
        scans, targets = [], []
        for number, scan in enumerate(dataset.ids):
            annotation = project.annotation(scan)
            labels = annotation.interpolated_target() if annotation else None
            if annotation is None or labels is None:
                continue
            n_labelled = int((dataset.targets[number] != IGNORE).sum())
            if n_labelled == np.count_nonzero(annotation.target() != IGNORE):
                work = np.array(np.transpose(numbered(labels, class_ids), plan.work_axes), order="C")
                scans.append(number)
                targets.append(torch.from_numpy(work).to(dataset.device))
        if scans:
            interpolated = replace(dataset.part(scans), targets=tuple(targets))
            with suppress(UserError):  # nothing but background was interpolated
                return cls(interpolated, AnnotatedVoxels.of(interpolated))
        return None
