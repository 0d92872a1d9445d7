"""Supervoxels: small homogeneous 3D regions of scans, by SLIC (Achanta et al., in scikit-image).

They replace labels where a method needs regions of one tissue across slices (methods/supervoxels.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from skimage.segmentation import slic

from medssl.core.jobs import Plan
from medssl.nn.data.device_dataset import DeviceDataset
from medssl.nn.data.superpixels import evenly_spaced, intensity_range, rescale

SLAB = 24
"""Most slices that are segmented together; a scan with more gives several slabs."""


def cut_volumes(
    dataset: DeviceDataset,
    plan: Plan,
    edges_px: tuple[float, ...],
    voxels: int,
    progress: Callable[[float], None] = lambda fraction: None,
) -> DeviceDataset:
    """Segment scans, or slabs of them, into supervoxels. Deterministic.

    Args:
        dataset: Scans.
        plan: Gives the working spacing.
        edges_px: Typical edge lengths of a region in working pixels, used by one slab after the other.
        voxels: Most voxels to segment; with more, slabs evenly spaced over the scans are taken.
        progress: Called with the completed fraction after each slab.

    Returns:
        Slabs with regions of the first channel as targets, int32 (slices, rows, columns) numbered from 1.
    """
    slabs = _slabs(dataset)
    slab_voxels = int(np.median([dataset.images[scan][low:high].numel() for scan, low, high in slabs]))
    chosen = [slabs[number] for number in evenly_spaced(len(slabs), max(1, voxels // max(1, slab_voxels)))]
    images, targets = [], []
    for number, (scan, low, high) in enumerate(chosen):
        image = dataset.images[scan][low:high]
        spacing = dataset.spacing_mm[scan]
        pixel_mm = plan.spacing_mm[2] or spacing[2]
        edge_mm = edges_px[number % len(edges_px)] * pixel_mm
        unit = rescale(image.float().cpu().numpy(), *intensity_range(dataset.images[scan]))
        # Regions are about as deep as wide, and at least one slice deep.
        depth_mm = max(edge_mm, spacing[0])
        count = image.numel() * spacing[0] * spacing[1] * spacing[2] / (edge_mm * edge_mm * depth_mm)
        regions = slic(
            unit,
            n_segments=max(2, int(count)),
            compactness=0.05,
            sigma=0.5,
            spacing=spacing,
            max_num_iter=5,
            channel_axis=None,
        )
        images.append(dataset.slices(scan, low, high))
        targets.append(torch.from_numpy(regions.astype(np.int32)).to(dataset.device))
        progress((number + 1) / len(chosen))
    first, *further = zip(*images, strict=True)
    slabs_of = dataset.part([scan for scan, _, _ in chosen])
    return replace(slabs_of, images=first, further=tuple(further), targets=tuple(targets))


def _slabs(dataset: DeviceDataset) -> list[tuple[int, int, int]]:
    """(scan, first slice, end) of slabs of at most SLAB slices."""
    slabs = []
    for scan, image in enumerate(dataset.images):
        count = -(-len(image) // SLAB)
        edges = [len(image) * number // count for number in range(count + 1)]
        slabs += [(scan, low, high) for low, high in pairwise(edges)]
    return slabs
