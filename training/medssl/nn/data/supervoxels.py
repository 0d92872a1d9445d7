"""Super-voxels: scans cut into small 3D regions of even grey, by SLIC (Achanta et al., in scikit-image).

They stand in for labels where a method needs "the same piece of tissue" in neighbouring slices
(methods/supervoxels.py).
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
from medssl.nn.data.superpixels import grey_range, spread_evenly, to_unit

SLAB = 24
"""Slices of a scan that are cut into regions, at most; a thick scan gives several slabs."""


def cut_volumes(
    dataset: DeviceDataset,
    plan: Plan,
    edges_px: tuple[float, ...],
    voxels: int,
    progress: Callable[[float], None] = lambda fraction: None,
) -> DeviceDataset:
    """The scans (or slabs of them) with regions as targets, int32 (slices, rows, columns) numbered from 1.

    edges_px: typical lengths of a region's edge in working pixels, one after the other. voxels: of all slabs
    together, at most; scans are spread evenly. The same pool gives the same result.
    """
    slabs = _slabs(dataset)
    typical = int(np.median([dataset.images[scan][low:high].numel() for scan, low, high in slabs]))
    chosen = [slabs[number] for number in spread_evenly(len(slabs), max(1, voxels // max(1, typical)))]
    images, targets, ids, spacings = [], [], [], []
    for number, (scan, low, high) in enumerate(chosen):
        image = dataset.images[scan][low:high]
        spacing = dataset.spacing_mm[scan]
        pixel_mm = plan.spacing_mm[2] or spacing[2]
        edge_mm = edges_px[number % len(edges_px)] * pixel_mm
        unit = to_unit(image.float().cpu().numpy(), *grey_range(dataset.images[scan]))
        # Regions are about as deep as wide, but a slice at least.
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
        images.append(image)
        targets.append(torch.from_numpy(regions.astype(np.int32)).to(dataset.device))
        ids.append(dataset.ids[scan])
        spacings.append(spacing)
        progress((number + 1) / len(chosen))
    return replace(
        dataset, ids=tuple(ids), images=tuple(images), spacing_mm=tuple(spacings), targets=tuple(targets)
    )


def _slabs(dataset: DeviceDataset) -> list[tuple[int, int, int]]:
    """(scan, first slice, end) of pieces of at most SLAB slices."""
    found = []
    for scan, image in enumerate(dataset.images):
        parts = -(-len(image) // SLAB)
        edges = [len(image) * part // parts for part in range(parts + 1)]
        found += [(scan, low, high) for low, high in pairwise(edges)]
    return found
