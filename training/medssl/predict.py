"""Segmenting whole scans without ever holding a full-resolution float softmax."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from torch import Tensor
from torch.nn import functional as F

from medssl import devices
from medssl.config import Plan, PredictJob
from medssl.errors import UserError
from medssl.events import Emit, Preview, Progress, Started
from medssl.loop import autocast
from medssl.networks import Network, load_network
from medssl.project import Project, Run

MARGIN = 8
"""Working voxels repeated around a slice, so that no tissue lies at the zero padding of the convolutions."""
PIXELS_AT_ONCE = 1 << 20


def predict(
    project: Project, run: Run, job: PredictJob, emit: Emit, should_stop: Callable[[], bool]
) -> dict[str, object]:
    """Segment scans with the run's weights; each prediction is saved in the run's folder as it is done."""
    scans = job.scans or tuple(project.scans)
    emit(Started(run.id))
    done = predict_scans(project, run, scans, job.device, emit, should_stop)
    return {"run": run.id, "scans": done, "stopped": len(done) < len(scans)}


def predict_scans(
    project: Project,
    run: Run,
    scans: Sequence[str],
    device_name: str,
    emit: Emit,
    should_stop: Callable[[], bool],
) -> list[str]:
    """Segment `scans` one after the other until asked to stop; returns those that are done."""
    device = devices.choose(device_name)
    network, plan, card = load_network(run.checkpoint)
    if card["kind"] != "finetune":
        raise UserError(
            f"{run.id} is a pre-training and knows no classes; fine-tune it first, then predict.",
            code="not-finetuned",
        )
    network.to(device)
    ids = np.array([0, *(each["id"] for each in card["classes"])], np.uint8)
    done = []
    for number, scan in enumerate(scans):
        if should_stop():
            break
        geometry = project.scans[scan].geometry
        labels = segment(network, plan, project.image(scan), geometry.spacing_mm, device)
        path = project.save_prediction(run.id, scan, ids[labels])
        emit(Preview(scan, str(path)))
        emit(Progress("prediction", (number + 1) / len(scans), number + 1))
        done.append(scan)
    return done


@torch.inference_mode()
def segment(
    network: Network,
    plan: Plan,
    image: np.ndarray,
    spacing_mm: Sequence[float],
    device: torch.device,
) -> np.ndarray:
    """Class numbers 0..K of every voxel, uint8 (Z, Y, X).

    image: normalised (Z, Y, X), may be a memory map. Works slab by slab; scores of one slab at a time are
    in memory. The image is seen once more mirrored left to right where that is plausible anatomy.
    """
    work = np.transpose(image, plan.work_axes)
    spacing = [spacing_mm[axis] for axis in plan.work_axes]
    slabs = (
        _slices_2d(network, plan, work, spacing, device)
        if plan.dims == 2
        else _slabs_3d(network, plan, work, spacing, device)
    )
    labels = np.concatenate([slab.cpu().numpy() for slab in slabs])
    return np.ascontiguousarray(np.transpose(labels, np.argsort(plan.work_axes)))


def _scores(network: Network, plan: Plan, image: Tensor) -> Tensor:
    """Softmax scores, averaged over the image and its mirror image."""
    with autocast(image.device, plan.precision):
        scores = network(image).float().softmax(1)
        axis = plan.left_right_axis
        if axis is not None:
            mirrored = network(image.flip(axis - 3)).float().softmax(1).flip(axis - 3)
            scores = (scores + mirrored) / 2
    return scores


def neighbouring_slices(work: np.ndarray, first: int, last: int, context: int) -> Tensor:
    """Slices first..last - 1 with their neighbours as channels, (n, context, rows, columns) float32."""
    offsets = np.arange(context) - context // 2
    chosen = (np.arange(first, last)[:, None] + offsets).clip(0, len(work) - 1)
    low, high = int(chosen.min()), int(chosen.max()) + 1
    part = torch.from_numpy(np.ascontiguousarray(work[low:high], dtype=np.float32))
    return part[torch.from_numpy(chosen - low)]


def working_size(shape: Sequence[int], spacing: Sequence[float], wanted: Sequence[float]) -> tuple[int, ...]:
    """Voxels along each axis on the plan's grid; sizes that differ by under 5 % are left alone."""
    return tuple(
        length if not target or abs(own / target - 1) < 0.05 else max(1, round(length * own / target))
        for length, own, target in zip(shape, spacing, wanted, strict=True)
    )


def _slices_2d(
    network: Network, plan: Plan, work: np.ndarray, spacing: Sequence[float], device: torch.device
) -> Iterator[Tensor]:
    rows, columns = work.shape[1:]
    size = working_size((rows, columns), spacing[1:], plan.spacing_mm[1:])
    at_once = max(1, PIXELS_AT_ONCE // (size[0] * size[1]))
    for first in range(0, len(work), at_once):
        image = neighbouring_slices(work, first, min(first + at_once, len(work)), plan.patch_vox[0]).to(
            device
        )
        if size != (rows, columns):
            image = F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)
        scores = _scores(network, plan, F.pad(image, (MARGIN,) * 4, mode="replicate"))
        scores = scores[..., MARGIN:-MARGIN, MARGIN:-MARGIN]
        if size != (rows, columns):
            scores = F.interpolate(scores, (rows, columns), mode="bilinear", align_corners=False)
        yield scores.argmax(1).to(torch.uint8)


def _slabs_3d(
    network: Network, plan: Plan, work: np.ndarray, spacing: Sequence[float], device: torch.device
) -> Iterator[Tensor]:
    """Slabs of slices with half a patch more on both sides, which is cut off again."""
    ratio = spacing[0] / plan.spacing_mm[0]
    thick = max(1, round(plan.patch_vox[0] / ratio))
    halo = max(1, thick // 2)
    for first in range(0, len(work), thick):
        last = min(first + thick, len(work))
        low, high = max(0, first - halo), min(len(work), last + halo)
        slab = torch.from_numpy(np.ascontiguousarray(work[low:high], dtype=np.float32)).to(device)[None, None]
        size = working_size(slab.shape[2:], spacing, plan.spacing_mm)
        seen = slab if size == slab.shape[2:] else F.interpolate(slab, size, mode="trilinear")
        scores = sliding_window_inference(
            seen,
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
        yield scores[0, :, first - low : last - low].argmax(0).to(torch.uint8)
