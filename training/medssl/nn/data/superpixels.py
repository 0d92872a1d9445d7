"""Super-pixels: slices cut into small regions of even grey, by Felzenszwalb's graph method (scikit-image).

They stand in for labels where a method needs "the same piece of tissue" (LRC, arXiv 2304.03406). A region
ends where the step between neighbours is large against the steps inside it; `scale` is how large, in grey
values.

The settings mean the same for every scan because each slice is first brought to grey values in [0, 1] of its
whole scan, and onto a grid of one size. Only slices are cut: handed a volume, scikit-image would take its
last axis for colours and return a single slice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.ndimage import binary_fill_holes
from skimage.measure import label
from skimage.segmentation import felzenszwalb
from skimage.transform import resize
from torch import Generator, Tensor

from medssl.nn.data.device_dataset import DeviceDataset, in_one_storage

IGNORE = -1
"""Where a label map has no region: air, bed, slivers."""

AIR = 0.1
"""Grey value in [0, 1] of its scan below which there is no body: far below fat in CT, noise in MR."""

REFERENCE = 256
"""Side of the grid that `min_size` is meant for."""

REACH = 32.0
"""The scale is halved and doubled until it is so many times smaller or larger than asked for at most."""

SAMPLE = 1_000_000
"""About how many voxels of a scan are looked at for its range of grey values."""


@dataclass(frozen=True)
class SuperpixelParams:
    """How fine slices are cut; the paper's numbers are not known, these come from trying them out."""

    side: int = 256
    """Pixels along the longer side of the grid that slices are brought onto."""
    scale: float = 50.0
    """Felzenszwalb's, to begin with; halved and doubled towards `wanted`."""
    sigma: float = 0.8
    """Smoothing beforehand, in grid pixels."""
    min_size: int = 50
    """Pixels of the smallest region on a grid of 256; on others as much of the area."""
    wanted: tuple[int, int] = (30, 150)
    """Fewest and most regions in the body."""

    @property
    def least(self) -> int:
        """Pixels of the smallest region on the grid used."""
        return max(2, round(self.min_size * (self.side / REFERENCE) ** 2))


@dataclass(frozen=True)
class SuperPixels:
    """Label maps of some slices of some scans, on the scans' device.

    `dataset` holds the scans that have any; its `targets[i]` (n, H, W) int16 are the label maps of the slices
    `slices[i]` (n,) of scan i, IGNORE where there is no region.
    """

    dataset: DeviceDataset
    slices: tuple[Tensor, ...]
    regions: int
    """Labels are below this."""
    typical: float
    """Regions of a slice, the median."""


def segment_dataset(
    dataset: DeviceDataset,
    grain: SuperpixelParams,
    slices: int,
    progress: Callable[[float], None] = lambda fraction: None,
) -> SuperPixels | None:
    """Super-pixels of about `slices` slices, evenly spread over all scans and along each of them.

    Where there are more scans than that, scans are left out. So are slices with fewer than two regions; None
    if that leaves nothing. The same pool gives the same result. `progress` is told what share is done.
    """
    scans = spread_evenly(len(dataset), slices)
    found: dict[int, tuple[Tensor, Tensor]] = {}
    counts: list[int] = []
    for number, scan in enumerate(scans):
        image = dataset.images[scan]
        chosen = spread_evenly(len(image), slices // len(scans))
        planes = image[torch.tensor(chosen, device=image.device)].float().cpu().numpy()
        maps = cut_slices(to_unit(planes, *grey_range(image)), dataset.spacing_mm[scan][1:], grain)
        count = np.array([len(np.unique(each[each != IGNORE])) for each in maps])
        kept = np.flatnonzero(count > 1)
        if len(kept):
            counts.extend(count[kept])
            found[scan] = torch.tensor(chosen)[kept], torch.from_numpy(maps[kept])
        progress((number + 1) / len(scans))
    if not found:
        return None
    labels = [maps for _, maps in found.values()]
    room = torch.empty(sum(each.numel() for each in labels), dtype=torch.int16, device=dataset.device)
    labelled = replace(
        dataset,
        ids=tuple(dataset.ids[scan] for scan in found),
        images=tuple(dataset.images[scan] for scan in found),
        spacing_mm=tuple(dataset.spacing_mm[scan] for scan in found),
        targets=in_one_storage(labels, room),
    )
    regions = 1 + max(int(each.max()) for each in labels)
    numbers = tuple(numbers for numbers, _ in found.values())
    return SuperPixels(labelled, numbers, regions, float(np.median(counts)))


def cut_slices(images: np.ndarray, spacing_mm: tuple[float, float], grain: SuperpixelParams) -> np.ndarray:
    """Label maps (n, H, W) int16 of neighbouring slices (n, H, W) in [0, 1], one by one.

    Each begins with the scale that was right for the one before.
    """
    maps = np.empty(images.shape, np.int16)
    scale = grain.scale
    for image, result in zip(images, maps, strict=True):
        result[...], scale = cut_slice(image, spacing_mm, grain, scale)
    return maps


def cut_slice(
    image: np.ndarray, spacing_mm: tuple[float, float], grain: SuperpixelParams, scale: float | None = None
) -> tuple[np.ndarray, float]:
    """The label map (H, W) int16 of a slice (H, W) in [0, 1], and the scale that made it.

    Regions are numbered from 0; IGNORE lies outside the body, and where the body's edge leaves less than the
    smallest region. `spacing_mm` is that of rows and columns. A constant slice is one region.
    """
    if image.ndim != 2:
        raise ValueError(f"super-pixels are cut in one slice (H, W), not in {image.shape}")
    scale = grain.scale if scale is None else scale
    if image.min() == image.max():
        return np.zeros(image.shape, np.int16), scale
    grid = resize(image.astype(np.float64), _grid_shape(image.shape, spacing_mm, grain.side), order=1)
    maps, scale = _adapted(grid, body(grid), grain, scale)
    # Back by nearest neighbour: between two labels lies no third.
    rows, columns = (
        ((np.arange(length) + 0.5) * fine / length).astype(int)
        for length, fine in zip(image.shape, grid.shape, strict=True)
    )
    return maps[rows[:, None], columns], scale


def regions_of(grid: np.ndarray, inside: np.ndarray, grain: SuperpixelParams, scale: float) -> np.ndarray:
    """Label map int16 of a grid (H, W) with one scale; IGNORE where not `inside`, and where too little is."""
    found = felzenszwalb(grid, scale=scale, sigma=grain.sigma, min_size=grain.least)
    enough = np.bincount(found[inside], minlength=found.max() + 1) >= grain.least
    numbers = np.where(enough, np.cumsum(enough) - 1, IGNORE).astype(np.int16)
    return np.where(inside, numbers[found], np.int16(IGNORE))


def _adapted(
    grid: np.ndarray, inside: np.ndarray, grain: SuperpixelParams, scale: float
) -> tuple[np.ndarray, float]:
    """Label map with about the wanted number of regions, as near as halving and doubling comes; its scale."""
    if not inside.any():
        return np.full(grid.shape, IGNORE, np.int16), scale
    fewest, most = grain.wanted
    tried: dict[float, tuple[float, np.ndarray]] = {}
    while scale not in tried and grain.scale / REACH <= scale <= grain.scale * REACH:
        maps = regions_of(grid, inside, grain, scale)
        count = max(1, int(maps.max()) + 1)
        tried[scale] = max(fewest / count, count / most), maps
        if tried[scale][0] <= 1:
            break
        scale = scale / 2 if count < fewest else scale * 2
    best = min(tried, key=lambda each: tried[each][0])
    return tried[best][1], best


def body(image: np.ndarray) -> np.ndarray:
    """Where in a slice (H, W) in [0, 1] the body is: the largest piece above air, holes (lungs) filled."""
    pieces = label(image > AIR, connectivity=1)
    sizes = np.bincount(pieces.ravel())[1:]
    if not sizes.size:
        return np.zeros(image.shape, bool)
    return binary_fill_holes(pieces == 1 + sizes.argmax())


def grey_range(scan: Tensor) -> tuple[float, float]:
    """Grey values that become 0 and 1: all but the extreme half percent at either end, of the whole scan."""
    sample = scan.flatten()[:: max(1, scan.numel() // SAMPLE)].float().cpu().numpy()
    low, high = np.percentile(sample, [0.5, 99.5])
    return float(low), float(high)


def to_unit(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Grey values in [0, 1], clipped; all 0 where the range is none."""
    return np.clip((values - low) / (high - low), 0, 1) if high > low else np.zeros_like(values)


def draw_pixels(
    labels: Tensor, most: int, regions: int, samples: int, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Places (B, N, K) of `samples` pixels in each of `regions` regions, in flattened label maps (B, H, W).

    Each region of a map is as likely as any other, however large. Pixels repeat only where a region has fewer
    than K. Labels are below `most`, and N = min(regions, most); the second result (B, N) bool says which of
    the regions there are, as some maps have fewer. IGNORE is never drawn.
    """
    flat = labels.flatten(1).long()
    lots = torch.randint(2**24, flat.shape, generator=generator).to(flat.device)
    # Region by region, in random order within each; what is ignored comes first.
    order = (((flat + 1) << 24) + lots).argsort(1)
    counts = torch.zeros(len(flat), most + 1, dtype=torch.long, device=flat.device)
    counts = counts.scatter_add(1, flat + 1, torch.ones_like(flat))
    starts = counts.cumsum(1) - counts
    counts, starts = counts[:, 1:], starts[:, 1:]
    lots = torch.rand(counts.shape, generator=generator).to(flat.device)
    lots, chosen = torch.where(counts > 0, lots, -1.0).topk(min(regions, most), dim=1)
    sizes = counts.gather(1, chosen).clamp(min=1)[..., None]
    nth = starts.gather(1, chosen)[..., None] + torch.arange(samples, device=flat.device) % sizes
    places = order.gather(1, nth.flatten(1).clamp(max=flat.shape[1] - 1))
    return places.reshape(nth.shape), lots >= 0


def spread_evenly(count: int, wanted: int) -> list[int]:
    """`wanted` of the numbers below `count` at even distances, at least one and at most all of them."""
    wanted = min(count, max(1, wanted))
    return [int((number + 0.5) * count / wanted) for number in range(wanted)]


def _grid_shape(shape: tuple[int, ...], spacing_mm: tuple[float, float], side: int) -> tuple[int, int]:
    """Square pixels, `side` of them along the longer side."""
    lengths = [count * spacing for count, spacing in zip(shape, spacing_mm, strict=True)]
    rows, columns = (max(2, round(side * length / max(lengths))) for length in lengths)
    return rows, columns
