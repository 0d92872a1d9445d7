"""Width of the posterior smoothing, chosen by the predictions of the network on scans.

After five annotated slices an eighth of the predicted foreground has the wrong class, after ten a thirtieth
(docs/benchmarks/LOG.md). The width is therefore chosen in every round of pseudo-labels, and at the end for
predictions.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import torch

from medssl.core.jobs import Plan
from medssl.core.project.channels import having
from medssl.core.project.project import Project
from medssl.nn.data.device_dataset import DeviceDataset, load_device_dataset
from medssl.nn.models.unet import Network
from medssl.tasks.inference.posterior_smoothing import smooth_posteriors
from medssl.tasks.inference.scores import scores_of_slabs
from medssl.tasks.segment.allowed_widths import Width, allowed_widths, best

SCANS, SLICES, VOXELS = 4, 16, 100_000
"""Number of scans, minimum number of adjacent slices in each, and number of voxels in each."""


class SmoothingWidth:
    """Chooses one of the widths that the annotated slices allow.

    Args:
        allowed: At least one width, the widest first.
        scans: Scans to predict for the choice; of large ones a random slab.
        seed: Determines the slabs.
    """

    def __init__(self, allowed: Sequence[Width], scans: DeviceDataset, seed: int) -> None:
        self.allowed, self.scans = allowed, scans
        rng = random.Random(seed)
        self.slabs: list[tuple[int, int]] = []
        """First slice, and last slice + 1, per scan."""
        for slices, rows, columns in (image.shape for image in scans.images):
            count = min(slices, max(SLICES, VOXELS // (rows * columns)))
            first = rng.randint(0, slices - count)
            self.slabs.append((first, first + count))

    @classmethod
    def of(cls, project: Project, annotated: DeviceDataset, plan: Plan, seed: int) -> SmoothingWidth | None:
        """Use unannotated scans, or annotated ones if there are no others.

        Args:
            project: The project with all scans.
            annotated: The annotated scans.
            plan: Plan of the network.
            seed: Determines scans and slabs.

        Returns:
            None if the annotated slices allow no smoothing.
        """
        allowed = allowed_widths(annotated, len(project.classes))
        if not allowed:
            return None
        unpainted = [scan for scan in project.scans.values() if scan.id not in annotated.ids]
        candidates = having((scan for scan in unpainted if not scan.held_out), plan.channel_names)
        rng = random.Random(seed)
        if candidates:
            drawn = rng.sample(candidates, min(SCANS, len(candidates)))
            return cls(allowed, load_device_dataset(project, drawn, plan, annotated.device), seed)
        chosen = rng.sample(range(len(annotated)), min(SCANS, len(annotated)))
        return cls(allowed, annotated.part(chosen), seed)

    @property
    def widest_mm(self) -> float:
        """The width to use before the network has made predictions, sigma in mm."""
        return self.allowed[0].sigma_mm

    @torch.inference_mode()
    def width_mm(self, network: Network, plan: Plan) -> float:
        """The best sigma in mm for a network; the widest if it predicts no foreground."""
        scans, n_foreground = self.scans, 0
        changed = [0] * len(self.allowed)
        network.eval()
        for number, (spacing, (first, last)) in enumerate(zip(scans.spacing_mm, self.slabs, strict=True)):
            # A slab is too thin for the other orientations, and is smoothed as if it were a scan.
            is_whole = last - first == len(scans.images[number])
            slab_plan = plan if is_whole else replace(plan, multiplanar=False)
            slab = scans.slices(number, first, last)
            scores = torch.cat(list(scores_of_slabs(network, slab_plan, slab, spacing, scans.device)))
            foreground, label = scores[:, 0] < 0.5, scores[:, 1:].argmax(1)
            n_foreground += int(foreground.sum())
            for index, width in enumerate(self.allowed):
                smoothed = smooth_posteriors(scores, width.sigma_mm, spacing)[:, 1:].argmax(1)
                changed[index] += int(((smoothed != label) & foreground).sum())
        if not n_foreground:
            return self.widest_mm
        return best(self.allowed, [count / n_foreground for count in changed])
