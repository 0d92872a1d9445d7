"""Superpixels: small homogeneous regions of slices, by Felzenszwalb's segmentation (scikit-image).

They replace labels where a method needs regions of one tissue (LRC, arXiv 2304.03406). A region ends where
the difference between neighbouring pixels is large compared with those inside it; `scale` sets how large.

The parameters mean the same for every scan because intensities are first scaled to [0, 1] over the scan, and
slices resampled to one size. Only slices are segmented: scikit-image would take a volume's last axis for
colour channels and return a single slice.
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
from medssl.nn.shards import Shard

IGNORE = -1
"""Label of pixels without a region: air, table, regions below the minimum size."""

AIR = 0.1
"""Intensity in [0, 1] of its scan below which a pixel is air: far below fat in CT, noise in MR."""

REFERENCE = 256
"""Side of the grid that `min_size` refers to."""

MAX_SCALE_FACTOR = 32.0
"""Largest factor between the requested scale and the one that halving and doubling arrives at."""

SAMPLE = 1_000_000
"""Approximate number of voxels that the intensity range of a scan is estimated from."""


@dataclass(frozen=True)
class SuperpixelParams:
    """Parameters of the segmentation, found by experiment; the paper does not give its own."""

    side: int = 256
    """Pixels along the longer side of the grid that slices are resampled to."""
    scale: float = 50.0
    """Felzenszwalb's initial scale; halved or doubled until `n_regions` is met."""
    sigma: float = 0.8
    """Gaussian smoothing before the segmentation, in grid pixels."""
    min_size: int = 50
    """Pixels of the smallest region on a grid of 256; scaled with the grid's area."""
    n_regions: tuple[int, int] = (30, 150)
    """Fewest and most regions in the body."""

    @property
    def min_pixels(self) -> int:
        """Pixels of the smallest region on this grid."""
        return max(2, round(self.min_size * (self.side / REFERENCE) ** 2))


@dataclass(frozen=True)
class SuperPixels:
    """Superpixel label maps of some slices of some scans, on the scans' device."""

    dataset: DeviceDataset
    """The segmented scans; targets are label maps (n, H, W) int16, IGNORE where there is no region."""
    slices: tuple[Tensor, ...]
    """Slice numbers (n,) of each scan's label maps."""
    regions: int
    """Number of labels; all labels are below it."""
    median_regions: float
    """Median number of regions per slice."""


def segment_dataset(
    dataset: DeviceDataset,
    params: SuperpixelParams,
    slices: int,
    progress: Callable[[float], None] = lambda fraction: None,
) -> SuperPixels | None:
    """Segment slices into superpixels, evenly spaced over the scans and along each scan. Deterministic.

    Args:
        dataset: Scans.
        params: Parameters of the segmentation.
        slices: Approximate number of slices; with more scans than that, some scans are left out.
        progress: Called with the completed fraction after each scan.

    Returns:
        Label maps of the slices with at least two regions; None if there are none.
    """
    scans = evenly_spaced(len(dataset), slices)
    segmented: dict[int, tuple[Tensor, Tensor]] = {}
    counts: list[int] = []
    for number, scan in enumerate(scans):
        image = dataset.images[scan]
        chosen = evenly_spaced(len(image), slices // len(scans))
        planes = image[torch.tensor(chosen, device=image.device)].float().cpu().numpy()
        maps = cut_slices(rescale(planes, *intensity_range(image)), dataset.spacing_mm[scan][1:], params)
        count = np.array([len(np.unique(labels[labels != IGNORE])) for labels in maps])
        usable = np.flatnonzero(count > 1)
        if len(usable):
            counts.extend(count[usable])
            segmented[scan] = torch.tensor(chosen)[usable], torch.from_numpy(maps[usable])
        progress((number + 1) / len(scans))
    if not segmented:
        return None
    label_maps = [maps for _, maps in segmented.values()]
    voxels = sum(maps.numel() for maps in label_maps)
    labelled = replace(
        dataset.part(list(segmented)),
        targets=in_one_storage(label_maps, torch.empty(voxels, dtype=torch.int16, device=dataset.device)),
    )
    regions = 1 + max(int(maps.max()) for maps in label_maps)
    numbers = tuple(numbers for numbers, _ in segmented.values())
    return SuperPixels(labelled, numbers, regions, float(np.median(counts)))


def cut_slices(images: np.ndarray, spacing_mm: tuple[float, float], params: SuperpixelParams) -> np.ndarray:
    """Segment neighbouring slices one by one; each starts with the scale of the one before.

    Args:
        images: Slices in [0, 1], float (n, H, W).
        spacing_mm: Spacing of rows and columns in mm.
        params: Parameters of the segmentation.

    Returns:
        Label maps (n, H, W) int16.
    """
    maps = np.empty(images.shape, np.int16)
    scale = params.scale
    for image, labels in zip(images, maps, strict=True):
        labels[...], scale = cut_slice(image, spacing_mm, params, scale)
    return maps


def cut_slice(
    image: np.ndarray, spacing_mm: tuple[float, float], params: SuperpixelParams, scale: float | None = None
) -> tuple[np.ndarray, float]:
    """Segment a slice. A constant slice is one region.

    Args:
        image: Slice in [0, 1], float (H, W).
        spacing_mm: Spacing of rows and columns in mm.
        params: Parameters of the segmentation.
        scale: Initial scale instead of the parameters' one.

    Returns:
        Label map (H, W) int16, regions numbered from 0, IGNORE outside the body and where less than the
        smallest region lies within it; and the scale that was used.

    Raises:
        ValueError: If the image is not two-dimensional.
    """
    if image.ndim != 2:
        raise ValueError(f"superpixels need one slice (H, W), not {image.shape}")
    scale = params.scale if scale is None else scale
    if image.min() == image.max():
        return np.zeros(image.shape, np.int16), scale
    grid = resize(image.astype(np.float64), _grid_shape(image.shape, spacing_mm, params.side), order=1)
    maps, scale = _adapt_scale(grid, body(grid), params, scale)
    # Back by nearest neighbour: labels cannot be interpolated.
    rows, columns = (
        ((np.arange(length) + 0.5) * fine / length).astype(int)
        for length, fine in zip(image.shape, grid.shape, strict=True)
    )
    return maps[rows[:, None], columns], scale


def regions_of(grid: np.ndarray, inside: np.ndarray, params: SuperpixelParams, scale: float) -> np.ndarray:
    """Segment a grid with one scale.

    Args:
        grid: Slice in [0, 1], float (H, W).
        inside: Body mask, bool (H, W).
        params: Parameters of the segmentation; `scale` is not used.
        scale: Felzenszwalb's scale.

    Returns:
        Label map (H, W) int16; IGNORE outside the body, and where less than the smallest region lies within.
    """
    regions = felzenszwalb(grid, scale=scale, sigma=params.sigma, min_size=params.min_pixels)
    enough = np.bincount(regions[inside], minlength=regions.max() + 1) >= params.min_pixels
    numbers = np.where(enough, np.cumsum(enough) - 1, IGNORE).astype(np.int16)
    return np.where(inside, numbers[regions], np.int16(IGNORE))


def _adapt_scale(
    grid: np.ndarray, inside: np.ndarray, params: SuperpixelParams, scale: float
) -> tuple[np.ndarray, float]:
    """Halve or double the scale until the number of regions is in range; the closest label map, its scale."""
    if not inside.any():
        return np.full(grid.shape, IGNORE, np.int16), scale
    fewest, most = params.n_regions
    tried: dict[float, tuple[float, np.ndarray]] = {}
    lowest, highest = params.scale / MAX_SCALE_FACTOR, params.scale * MAX_SCALE_FACTOR
    while scale not in tried and lowest <= scale <= highest:
        maps = regions_of(grid, inside, params, scale)
        count = max(1, int(maps.max()) + 1)
        tried[scale] = max(fewest / count, count / most), maps
        if tried[scale][0] <= 1:
            break
        scale = scale / 2 if count < fewest else scale * 2
    best = min(tried, key=lambda scale: tried[scale][0])
    return tried[best][1], best


def body(image: np.ndarray) -> np.ndarray:
    """Body mask of a slice: the largest component above air, with holes (lungs) filled.

    Args:
        image: Slice in [0, 1], float (H, W).

    Returns:
        Mask, bool (H, W).
    """
    components = label(image > AIR, connectivity=1)
    sizes = np.bincount(components.ravel())[1:]
    if not sizes.size:
        return np.zeros(image.shape, bool)
    return binary_fill_holes(components == 1 + sizes.argmax())


def intensity_range(scan: Tensor) -> tuple[float, float]:
    """The 0.5th and 99.5th percentile of a scan's intensities, which `rescale` maps to 0 and 1.

    Args:
        scan: Scan of any shape.
    """
    sample = scan.flatten()[:: max(1, scan.numel() // SAMPLE)].float().cpu().numpy()
    low, high = np.percentile(sample, [0.5, 99.5])
    return float(low), float(high)


def rescale(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Scale intensities to [0, 1] and clip them.

    Args:
        values: Intensities, float, of any shape.
        low: Intensity that becomes 0.
        high: Intensity that becomes 1; if it is not above `low`, all values become 0.

    Returns:
        Scaled intensities, same shape.
    """
    return np.clip((values - low) / (high - low), 0, 1) if high > low else np.zeros_like(values)


def draw_pixels(
    labels: Tensor,
    n_labels: int,
    regions: int,
    samples: int,
    generator: Generator,
    shard: Shard | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw regions of label maps, each with the same probability whatever its size, and pixels of each.

    Args:
        labels: Label maps, integers (B, H, W) below `n_labels`; IGNORE is never drawn.
        n_labels: Number of labels.
        regions: Number of regions to draw; N = min(regions, n_labels).
        samples: Number K of pixels per region; pixels repeat only in regions with fewer.
        generator: CPU generator of all draws.
        shard: Which rows of a whole batch the maps are, as draws are made for all of it; None for all.

    Returns:
        Indices of the pixels in the flattened label maps (B, N, K), and which of the N regions exist (B, N)
        bool, as some maps have fewer.
    """
    flat = labels.flatten(1).long()
    shard = shard or Shard.whole(len(labels))
    keys = torch.randint(2**24, (shard.count, flat.shape[1]), generator=generator)
    keys = shard.of(keys).to(flat.device)
    # Sorted by region, in random order within each; ignored pixels come first.
    order = (((flat + 1) << 24) + keys).argsort(1)
    counts = torch.zeros(len(flat), n_labels + 1, dtype=torch.long, device=flat.device)
    counts = counts.scatter_add(1, flat + 1, torch.ones_like(flat))
    starts = counts.cumsum(1) - counts
    counts, starts = counts[:, 1:], starts[:, 1:]
    keys = shard.of(torch.rand(shard.count, n_labels, generator=generator)).to(flat.device)
    keys, chosen = torch.where(counts > 0, keys, -1.0).topk(min(regions, n_labels), dim=1)
    sizes = counts.gather(1, chosen).clamp(min=1)[..., None]
    nth = starts.gather(1, chosen)[..., None] + torch.arange(samples, device=flat.device) % sizes
    pixels = order.gather(1, nth.flatten(1).clamp(max=flat.shape[1] - 1))
    return pixels.reshape(nth.shape), keys >= 0


def evenly_spaced(count: int, n: int) -> list[int]:
    """`n` evenly spaced numbers below `count`; at least one, at most all of them."""
    n = min(count, max(1, n))
    return [int((number + 0.5) * count / n) for number in range(n)]


def _grid_shape(shape: tuple[int, ...], spacing_mm: tuple[float, float], side: int) -> tuple[int, int]:
    """Shape of a grid of square pixels with `side` of them along the slice's longer side."""
    lengths = [count * spacing for count, spacing in zip(shape, spacing_mm, strict=True)]
    rows, columns = (max(2, round(side * length / max(lengths))) for length in lengths)
    return rows, columns
