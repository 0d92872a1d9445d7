"""A random forest on multi-scale features, slice by slice: what users of ilastik and APOC do.

scikit-image's trainable segmentation as it comes: intensity, edges and texture at sigmas from 0.5 to 16
pixels, and scikit-learn's forest of 100 trees. Classes weigh alike and leaves hold five pixels: to the
defaults a painted slice is mostly background, and on hippocampus scans that are no test scans this was twice
as good (Dice 0.45 for 0.23 with position, 0.23 for 0.13 without; seed 0). It takes seconds, whatever time it
has.
"""

from __future__ import annotations

import time
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
from medssl.benchmarking.experiment import Outcome
from medssl.benchmarking.protocol import Assignment
from medssl.core.project.project import IGNORE
from medssl.nn import devices
from skimage.feature import multiscale_basic_features
from skimage.future import fit_segmenter, predict_segmenter

FOREST: dict[str, Any] = {"n_estimators": 100, "class_weight": "balanced", "min_samples_leaf": 5}


def random_forest(assignment: Assignment, position: bool = False) -> Outcome:
    """Learn from the painted pixels; `position` adds where in the scan a pixel lies, three more features."""
    from sklearn.ensemble import RandomForestClassifier

    project = assignment.material.project
    begin = time.monotonic()
    features, targets = [], []
    for scan_id, slices in assignment.annotated.items():
        annotation = project.annotation(scan_id)
        assert annotation is not None  # the assignment says so
        image, target = project.image(scan_id), annotation.target()
        for index in slices:
            known = target[index] != IGNORE
            features.append(features_of(image, index, position)[known])
            targets.append(target[index][known])
    classifier = RandomForestClassifier(**FOREST, n_jobs=devices.THREADS, random_state=assignment.seed)
    # To scikit-image 0 is "not labelled".
    fit_segmenter(np.concatenate(targets).astype(int) + 1, np.concatenate(features), classifier)
    seconds = time.monotonic() - begin
    return Outcome(
        prediction=partial(_predict, classifier, assignment, position),
        seconds={"finetune": seconds, "wall": seconds},
        plan={"dims": 2, "threads": devices.THREADS},
        notes={**{name: version(name) for name in ("scikit-image", "scikit-learn")}, **FOREST},
    )


def features_of(image: np.ndarray, index: int, position: bool) -> np.ndarray:
    """Features of the pixels of an axial slice (Y, X, F); positions run from 0 to 1 along each axis."""
    plane = np.asarray(image[index], dtype=np.float32)
    features = multiscale_basic_features(plane)
    if not position:
        return features
    depth = np.full(plane.shape, index / max(len(image) - 1, 1))
    rows, columns = np.meshgrid(*(np.linspace(0, 1, length) for length in plane.shape), indexing="ij")
    return np.concatenate([features, np.stack([depth, rows, columns], axis=-1)], axis=-1)


def _predict(classifier: Any, assignment: Assignment, position: bool, scan_id: str) -> np.ndarray:
    image = assignment.material.project.image(scan_id)
    slices = [
        predict_segmenter(features_of(image, index, position), classifier) for index in range(len(image))
    ]
    return (np.stack(slices) - 1).astype(np.uint8)
