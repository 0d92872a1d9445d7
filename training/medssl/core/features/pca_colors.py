"""Features as colours: similar features have similar colours in all scans of a run.

Three principal components of the cached features (Hotelling, 1933; for dense features of a network: Oquab et
al., "DINOv2", arXiv 2304.07193, figure 1) become red, green and blue. They are computed once per run on some
of its scans and saved, so that a colour has the same meaning in every scan, including scans that are added
later.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medssl.core.errors import UserError
from medssl.core.features.similarity import CELLS_AT_ONCE, FeatureCache, has_features, open_features
from medssl.core.files import read_array, write_array
from medssl.core.json_files import read_json, write_json
from medssl.core.project.project import Project

MAX_SCANS, CELLS_PER_SCAN = 8, 4000
"""Sample on which the components are computed; a larger one does not change the colours visibly."""
LOW_PERCENTILE, HIGH_PERCENTILE = 2.0, 98.0
"""Percentiles of a component that become 0 and 255, so that outliers do not determine the contrast."""


@dataclass(frozen=True)
class Axes:
    """Principal axes of the features and their range.

    Attributes:
        origin: Mean feature vector, float32 (F,).
        directions: Unit vectors of the three components, float32 (3, F).
        low: Value of each component that becomes 0, float32 (3,).
        high: Value of each component that becomes 255, float32 (3,).
    """

    origin: np.ndarray
    directions: np.ndarray
    low: np.ndarray
    high: np.ndarray


def colors_of(project: Project, scan: str, run: str) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Colours of a scan on the grid of its features.

    Computed by the first call, then read from the folder of the run until scan, weights or features change.

    Returns:
        RGB, uint8 (Z', Y', X', 3), and the size of a cell in voxels along (z, y, x).

    Raises:
        UserError: "no-features", "disk-full", "not-writable".
    """
    cache = open_features(project, scan, run)
    axes = _axes(project, run, cache)
    path = _file(project, cache, axes)
    try:
        saved = read_array(path)
        if saved.dtype == np.uint8 and saved.shape == (*cache.array.shape[:3], 3):
            return saved, cache.step_vox
    except UserError:
        pass  # not computed yet, or damaged
    colors = to_rgb(cache.array, axes)
    if project.read_only:
        return colors, cache.step_vox
    for old in path.parent.glob(f"{scan}-{'?' * 16}.npy"):
        old.unlink(missing_ok=True)  # another process may do the same
    project.make_folder("runs", run, "colors")
    write_array(path, colors)
    return colors, cache.step_vox


def to_rgb(vectors: np.ndarray, axes: Axes) -> np.ndarray:
    """Map feature vectors to colours.

    Args:
        vectors: Unit feature vectors, float16 or float32 (..., F).

    Returns:
        RGB, uint8 (..., 3).
    """
    flat = vectors.reshape(-1, vectors.shape[-1])
    result = np.empty((len(flat), 3), np.uint8)
    scale = 255 / np.maximum(axes.high - axes.low, 1e-6)
    for first in range(0, len(flat), CELLS_AT_ONCE):
        chunk = slice(first, first + CELLS_AT_ONCE)
        components = (flat[chunk].astype(np.float32) - axes.origin) @ axes.directions.T
        result[chunk] = ((components - axes.low) * scale).clip(0, 255)
    return result.reshape(*vectors.shape[:-1], 3)


def fit_axes(samples: Sequence[np.ndarray]) -> Axes:
    """Fit three principal components.

    Args:
        samples: Feature vectors of each scan, float16 or float32 (N, F).

    Returns:
        The components, each with a positive largest loading, which makes the sign reproducible.
    """
    rows = np.concatenate(list(samples)).astype(np.float32)
    origin = rows.mean(0)
    _, _, components = np.linalg.svd(rows - origin, full_matrices=False)
    directions = np.zeros((3, rows.shape[1]), np.float32)
    directions[: min(3, len(components))] = components[:3]
    largest = np.abs(directions).argmax(1)
    directions *= np.where(directions[np.arange(3), largest] < 0, -1, 1)[:, None]
    low, high = np.percentile(
        (rows - origin) @ directions.T, (LOW_PERCENTILE, HIGH_PERCENTILE), axis=0
    ).astype(np.float32)
    return Axes(origin, directions, low, high)


def _axes(project: Project, run: str, cache: FeatureCache) -> Axes:
    """Axes of a run: the saved ones if its weights are unchanged, otherwise new ones."""
    path, width = project.run(run).folder / "colors" / "axes.json", cache.array.shape[-1]
    weights = project.run(run).weights_sha256
    try:
        fields = read_json(path)
        if fields["weights"] != weights:
            raise ValueError
        names = ("origin", "directions", "low", "high")
        axes = Axes(*(np.array(fields[name], np.float32) for name in names))
        if axes.directions.shape != (3, width) or axes.origin.shape != (width,):
            raise ValueError
        if axes.low.shape != (3,) or axes.high.shape != (3,):
            raise ValueError
        return axes
    except (UserError, KeyError, TypeError, ValueError):
        axes = fit_axes(_samples(project, run, cache))
    values = {name: value.tolist() for name, value in vars(axes).items()}
    if not project.read_only:
        project.make_folder("runs", run, "colors")
        write_json(path, {"weights": weights, **values})
    return axes


def _samples(project: Project, run: str, cache: FeatureCache) -> list[np.ndarray]:
    """Feature vectors of random cells of this scan and of some other scans with features, (N, F) each."""
    generator = np.random.default_rng(0)
    scans = [scan for scan in project.scans if scan != cache.scan and has_features(project, scan, run)]
    caches = [cache]
    for scan in scans[:: max(1, len(scans) // (MAX_SCANS - 1))][: MAX_SCANS - 1]:
        try:
            caches.append(open_features(project, scan, run))
        except UserError:
            continue  # outdated or damaged
    samples = []
    for item in caches:
        flat = item.array.reshape(-1, item.array.shape[-1])
        indices = np.sort(generator.integers(0, len(flat), CELLS_PER_SCAN))
        samples.append(flat[indices])
    return samples


def _file(project: Project, cache: FeatureCache, axes: Axes) -> Path:
    """File of the colours; its name contains a hash of everything from which they are computed."""
    digest = hashlib.sha256(project.run(cache.run).weights_sha256.encode())
    digest.update(project.scans[cache.scan].image_fingerprint.encode())
    for value in vars(axes).values():
        digest.update(np.ascontiguousarray(value, np.float32).tobytes())
    digest.update(repr((cache.array.shape, cache.step_vox)).encode())
    return project.run(cache.run).folder / "colors" / f"{cache.scan}-{digest.hexdigest()[:16]}.npy"
