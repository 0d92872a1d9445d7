"""How far another program's probabilities are from those of the network here."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from medssl.core.errors import UserError
from medssl.core.project.project import Project
from medssl.tasks.inference.predict import Trained
from medssl.tasks.inference.slabs import neighbouring_slices, slab_of, work_of
from medssl.tasks.weights_out.description import total_strides

TOLERANCE = 1e-3
"""Largest difference of a probability; what differs more is not written."""
SIDE_VOX, SLICES = 128, 2


def sample_inputs(trained: Trained, project: Project) -> list[Tensor]:
    """Inputs to compare on: noise of two sizes, and the middle of a scan where there is one.

    Args:
        trained: The network.
        project: Its project.

    Returns:
        Batches of images (B, C S, H, W) or (B, C, D, H, W), whose sides the strides divide.
    """
    plan, steps = trained.plan, [2 * stride for stride in total_strides(trained.plan)]
    generator = Generator().manual_seed(0)
    shapes = ((1, *steps), (2, *(2 * step for step in steps)))
    inputs = [torch.randn(batch, plan.in_channels, *size, generator=generator) for batch, *size in shapes]
    for scan in project.scans:
        try:
            work = work_of(project, scan, plan)
        except UserError:
            continue  # it lacks a channel, or its image is damaged
        slices, context = len(work[0]), plan.patch_vox[0]
        if plan.dims == 2:
            first = max(0, slices // 2 - SLICES)
            last = min(first + SLICES, slices)
            image = neighbouring_slices(work, first, last, context, trained.device)
        else:
            image = slab_of(work, 0, min(slices, context), trained.device)[None]
        inputs.append(_cut(image, steps))
        break
    return inputs


def _cut(image: Tensor, steps: Sequence[int]) -> Tensor:
    """The middle of images (B, C, ...), or the whole repeated at its ends, on sides that `steps` divide."""
    for axis, step in enumerate(steps, 2):
        wanted = max(step, min(image.shape[axis], SIDE_VOX) // step * step)
        first = (image.shape[axis] - wanted) // 2
        index = torch.arange(first, first + wanted).clamp(0, image.shape[axis] - 1)
        image = image.index_select(axis, index.to(image.device))
    return image


@torch.inference_mode()
def largest_difference(
    trained: Trained, inputs: Sequence[Tensor], probabilities: Callable[[Tensor], Tensor], where: str
) -> float:
    """Compare probabilities with those of the network.

    Args:
        trained: The network.
        inputs: Batches of images, each (B, C, ...).
        probabilities: Computes the other ones, (B, 1 + K, ...).
        where: What the error message calls the other program.

    Returns:
        The largest difference of a probability.

    Raises:
        UserError: "disagree" if it is above TOLERANCE.
    """
    differences = []
    for image in inputs:
        expected = trained.network(image).float().softmax(1)
        differences.append((probabilities(image) - expected).abs().max())
    largest = float(torch.stack(differences).max())  # NaN if one is
    if not largest <= TOLERANCE:
        raise UserError(
            f"{where} computes other scores than the network, by {largest:.2g}, and was not written; report "
            "this with the output of medssl doctor.",
            code="disagree",
        )
    return largest
