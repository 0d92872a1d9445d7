"""Features as colours: what the network takes for the same has the same colour, in all scans of a run.

Three principal components of the cached features (Hotelling, 1933; for dense features of a network: Oquab et
al., "DINOv2", arXiv 2304.07193, figure 1) become red, green and blue. They are found once per run, on some of
its scans, and kept: a colour means the same in every scan, also in those that are added later.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medssl.core.errors import UserError
from medssl.core.features.similarity import CELLS_AT_ONCE, FeatureCache, has_features, open_features
from medssl.core.files import read_array, read_json, write_array, write_json
from medssl.core.project.project import Project

MOST_SCANS, CELLS_A_SCAN = 8, 4000
"""What the components are found on; more changes no colour that one could see."""
DARK, BRIGHT = 2.0, 98.0
"""Percentiles of a component that become 0 and 255: a few odd cells must not take all of the contrast."""


@dataclass(frozen=True)
class Axes:
    """origin (F,), directions (3, F), low and high (3,): what is black and what is full in each colour."""

    origin: np.ndarray
    directions: np.ndarray
    low: np.ndarray
    high: np.ndarray


def colors_of(project: Project, scan: str, run: str) -> tuple[np.ndarray, tuple[int, int, int]]:
    """A scan's colours on the grid of its features, uint8 (Z', Y', X', 3), and the voxels a cell has.

    Computed at the first call and then read from the run's folder, until scan, weights or features change.

    Raises UserError ("no-features", "disk-full", "not-writable").
    """
    cache = open_features(project, scan, run)
    axes = _axes(project, run, cache)
    path = _file(project, cache, axes)
    try:
        kept = read_array(path)
        if kept.dtype == np.uint8 and kept.shape == (*cache.array.shape[:3], 3):
            return kept, cache.step_vox
    except UserError:
        pass  # not there yet, or of no use
    colors = paint(cache.array, axes)
    for old in path.parent.glob(f"{scan}-{'?' * 16}.npy"):
        old.unlink()
    write_array(path, colors)
    return colors, cache.step_vox


def paint(vectors: np.ndarray, axes: Axes) -> np.ndarray:
    """uint8 (..., 3) of unit vectors (..., F)."""
    flat = vectors.reshape(-1, vectors.shape[-1])
    result = np.empty((len(flat), 3), np.uint8)
    scale = 255 / np.maximum(axes.high - axes.low, 1e-6)
    for first in range(0, len(flat), CELLS_AT_ONCE):
        part = slice(first, first + CELLS_AT_ONCE)
        along = (flat[part].astype(np.float32) - axes.origin) @ axes.directions.T
        result[part] = ((along - axes.low) * scale).clip(0, 255)
    return result.reshape(*vectors.shape[:-1], 3)


def find_axes(samples: Sequence[np.ndarray]) -> Axes:
    """The three components of vectors (N, F); each grows towards its largest loading, to be repeatable."""
    rows = np.concatenate(list(samples)).astype(np.float32)
    origin = rows.mean(0)
    _, _, found = np.linalg.svd(rows - origin, full_matrices=False)
    directions = np.zeros((3, rows.shape[1]), np.float32)
    directions[: min(3, len(found))] = found[:3]
    largest = np.abs(directions).argmax(1)
    directions *= np.where(directions[np.arange(3), largest] < 0, -1, 1)[:, None]
    low, high = np.percentile((rows - origin) @ directions.T, (DARK, BRIGHT), axis=0).astype(np.float32)
    return Axes(origin, directions, low, high)


def _axes(project: Project, run: str, cache: FeatureCache) -> Axes:
    """The run's axes: kept ones as long as its weights are the same, else new ones."""
    path, width = project.run(run).folder / "colors" / "axes.json", cache.array.shape[-1]
    weights = project.run(run).weights_sha256
    try:
        known = read_json(path)
        if known["weights"] != weights:
            raise ValueError
        names = ("origin", "directions", "low", "high")
        axes = Axes(*(np.array(known[name], np.float32) for name in names))
        if axes.directions.shape != (3, width) or axes.origin.shape != (width,):
            raise ValueError
        if axes.low.shape != (3,) or axes.high.shape != (3,):
            raise ValueError
        return axes
    except (UserError, KeyError, TypeError, ValueError):
        axes = find_axes(_samples(project, run, cache))
    values = {name: value.tolist() for name, value in vars(axes).items()}
    write_json(path, {"weights": weights, **values})
    return axes


def _samples(project: Project, run: str, cache: FeatureCache) -> list[np.ndarray]:
    """Cells of this scan and of some others that have features."""
    random = np.random.default_rng(0)
    others = [scan for scan in project.scans if scan != cache.scan and has_features(project, scan, run)]
    caches = [cache]
    for scan in others[:: max(1, len(others) // (MOST_SCANS - 1))][: MOST_SCANS - 1]:
        try:
            caches.append(open_features(project, scan, run))
        except UserError:
            continue  # outdated or damaged: it has no say
    samples = []
    for each in caches:
        flat = each.array.reshape(-1, each.array.shape[-1])
        chosen = np.sort(random.integers(0, len(flat), CELLS_A_SCAN))
        samples.append(flat[chosen])
    return samples


def _file(project: Project, cache: FeatureCache, axes: Axes) -> Path:
    """A file whose name changes with whatever the colours are made from."""
    made_from = hashlib.sha256(project.run(cache.run).weights_sha256.encode())
    made_from.update(project.scans[cache.scan].sha256.encode())
    for value in vars(axes).values():
        made_from.update(np.ascontiguousarray(value, np.float32).tobytes())
    made_from.update(repr((cache.array.shape, cache.step_vox)).encode())
    return project.run(cache.run).folder / "colors" / f"{cache.scan}-{made_from.hexdigest()[:16]}.npy"
