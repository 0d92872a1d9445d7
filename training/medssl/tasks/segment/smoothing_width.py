"""How far around neighbours are asked which class a voxel is: by what the network finds in scans.

After five painted slices an eighth of what it finds has the wrong name, after ten a thirtieth
(docs/benchmarks/LOG.md). So the width is chosen anew in every round of guesses, and at the end for
predictions.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import torch

from medssl.core.jobs import Plan
from medssl.core.project.project import Project
from medssl.nn.data.device_dataset import DeviceDataset, load_device_dataset
from medssl.nn.models.unet import Network
from medssl.tasks.inference.posterior_smoothing import Width, allowed_widths, best, smooth_posteriors
from medssl.tasks.inference.predict import scores_of_slabs

SCANS, SLICES, VOXELS = 4, 16, 100_000
"""What is looked at: of so many scans that many voxels of neighbouring slices, at least so many slices."""


class SmoothingWidth:
    """The widths that painted slices allow, and scans to choose one of them by."""

    def __init__(self, allowed: Sequence[Width], scans: DeviceDataset, seed: int) -> None:
        """allowed: at least one, the widest first; scans: to look at, slices of the larger are drawn."""
        self.allowed, self.scans = allowed, scans
        chance = random.Random(seed)
        self.parts: list[tuple[int, int]] = []
        """First slice and last + 1 of each scan."""
        for slices, rows, columns in (image.shape for image in scans.images):
            count = min(slices, max(SLICES, VOXELS // (rows * columns)))
            first = chance.randint(0, slices - count)
            self.parts.append((first, first + count))

    @classmethod
    def of(cls, project: Project, painted: DeviceDataset, plan: Plan, seed: int) -> SmoothingWidth | None:
        """Looks at scans that nobody painted, at painted ones where there are no others.

        None where neighbours have nothing to say.
        """
        allowed = allowed_widths(painted, len(project.classes))
        if not allowed:
            return None
        unpainted = [scan for scan in project.scans.values() if scan.id not in painted.ids]
        others = [scan.id for scan in unpainted if not scan.held_out]
        chance = random.Random(seed)
        if others:
            drawn = chance.sample(others, min(SCANS, len(others)))
            return cls(allowed, load_device_dataset(project, drawn, plan, painted.device), seed)
        few = chance.sample(range(len(painted)), min(SCANS, len(painted)))
        return cls(allowed, painted.part(few), seed)

    @property
    def widest_mm(self) -> float:
        """What is asked before the network has been looked at."""
        return self.allowed[0].sigma_mm

    @torch.inference_mode()
    def width_mm(self, network: Network, plan: Plan) -> float:
        """The best sigma for a network; the widest where it finds no class."""
        scans, found = self.scans, 0
        renamed = [0] * len(self.allowed)
        network.eval()
        for image, spacing, (first, last) in zip(scans.images, scans.spacing_mm, self.parts, strict=True):
            # A slab is too thin to be looked at from its edges.
            look = plan if last - first == len(image) else replace(plan, multiplanar=False)
            for own in scores_of_slabs(network, look, image[first:last], spacing, scans.device):
                inside, named = own[:, 0] < 0.5, own[:, 1:].argmax(1)
                found += int(inside.sum())
                for number, width in enumerate(self.allowed):
                    asked = smooth_posteriors(own, width.sigma_mm, spacing)[:, 1:].argmax(1)
                    renamed[number] += int(((asked != named) & inside).sum())
        return best(self.allowed, [count / found for count in renamed]) if found else self.widest_mm
