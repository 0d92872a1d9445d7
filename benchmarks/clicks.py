"""Precision of similarity maps by kind of features: python benchmarks/clicks.py --data FOLDER --work FOLDER

For each data set and kind of features: a click on the innermost voxel of a structure, and the average
precision of the similarity map with the structure's mask as reference, in the same scan and in the next one;
and a click on the structure's most central voxel, and the distance of the best match from that voxel in every
other scan. Test scans are clicked; the pre-training uses all other scans. The table is written to --out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
from few_slices_data import DATASETS, open_dataset
from landmarks import random_run
from medssl import engine
from medssl.benchmarking.protocol import Material
from medssl.benchmarking.report import markdown_table
from medssl.benchmarking.surroundings import surroundings
from medssl.core.features.similarity import FeatureCache, open_features, query_at
from medssl.core.files import write_whole
from medssl.core.jobs import FeaturesJob, PretrainJob
from medssl.core.labels.evaluate import reference_labels
from medssl.core.shipped import SHAPES
from scipy.ndimage import distance_transform_edt
from sklearn.metrics import average_precision_score

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "clicks.md"
GREY, RANDOM, OWN = "intensity only", "random weights", "shapes, then supervoxels"
NEAR_MM = (5.0, 10.0)

Voxel = tuple[int, ...]
Map = Callable[[str, Voxel, str], np.ndarray]
"""(clicked scan, voxel, searched scan) -> similarity of all voxels of the latter, (Z, Y, X)."""


def grey_map(material: Material) -> Map:
    """Similarity of grey values."""
    image = material.project.image
    return lambda here, voxel, there: -np.abs(np.float32(image(there)) - np.float32(image(here)[voxel]))


def feature_map(material: Material, run: str, scans: list[str]) -> Map:
    """Cosine similarity of the features of a run, upsampled to voxels."""
    root = str(material.project.root)
    engine.run(
        FeaturesJob(root, device="cpu", weights=run, scans=tuple(scans)), lambda event: None, lambda: False
    )
    caches = {scan: open_features(material.project, scan, run) for scan in scans}

    def cosine_map(here: str, voxel: Voxel, there: str) -> np.ndarray:
        cosines = np.float32(caches[there].array) @ query_at(caches[here], voxel)
        return _to_voxels(cosines, caches[there])

    return cosine_map


def _to_voxels(cells: np.ndarray, cache: FeatureCache) -> np.ndarray:
    for axis, (step, length) in enumerate(zip(cache.step_vox, cache.shape_zyx, strict=True)):
        cells = np.repeat(cells, step, axis=axis).take(range(length), axis=axis)
    return cells


def innermost(mask: np.ndarray) -> Voxel:
    """The voxel farthest from the mask's edge."""
    depth = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1, 1:-1]
    return tuple(int(each) for each in np.unravel_index(int(depth.argmax()), mask.shape))


def central(mask: np.ndarray) -> Voxel:
    """The voxel of the mask nearest to its centre."""
    voxels = np.argwhere(mask)
    nearest = ((voxels - voxels.mean(0)) ** 2).sum(1).argmin()
    return tuple(int(each) for each in voxels[nearest])


def measure(material: Material, scans: list[str], similarity_map: Map, landmarks: bool) -> list[str]:
    """A line of the table."""
    project = material.project
    labels = {scan: reference_labels(project.scans[scan], material.references[scan]) for scan in scans}
    same, other, errors = [], [], []
    for number, here in enumerate(scans):
        there = scans[(number + 1) % len(scans)]
        for each in project.classes:
            masks = {scan: labels[scan] == each.id for scan in scans}
            if not masks[here].any():
                continue
            click = innermost(masks[here])
            for scan, values in ((here, same), (there, other)):
                if masks[scan].any():
                    values.append(
                        average_precision_score(
                            masks[scan].ravel(), similarity_map(here, click, scan).ravel()
                        )
                    )
            for scan in (scan for scan in scans if landmarks and scan != here and masks[scan].any()):
                scores = similarity_map(here, central(masks[here]), scan)
                match = np.array(np.unravel_index(int(scores.argmax()), scores.shape))
                away = (match - central(masks[scan])) * np.array(project.scans[scan].geometry.spacing_mm)
                errors.append(float(np.linalg.norm(away)))
    near = [f"{np.mean(np.array(errors) <= limit):.0%}" if errors else "–" for limit in NEAR_MM]
    median = f"{np.median(errors):.1f}" if errors else "–"
    return [f"{np.mean(same):.3f}", f"{np.mean(other):.3f}", *near, median]


def run(options: argparse.Namespace) -> str:
    """Measure all data sets; returns the page."""
    machine = surroundings("cpu")
    parts = [
        "# Similarity maps of single clicks\n",
        "Average precision of the similarity map of the innermost voxel of a structure, with the "
        "structure's mask as reference, in the same scan and in the next one. Fraction of best matches of "
        f"the structure's most central voxel within {NEAR_MM[0]:g} and {NEAR_MM[1]:g} mm of "
        "the corresponding voxel in every other scan, and the median distance in mm. Mean over classes and "
        "scans.\n",
        f"`{options.command}`, {date.today():%d %B %Y}, {machine['cpu']}, torch {machine['torch']}, commit "
        f"{machine['commit']}, seed 0.\n",
    ]
    for name in options.datasets.split(","):
        material = open_dataset(options.data, name, options.work, lambda event: None)
        scans = list(material.references)[: options.scans]
        own = PretrainJob(
            str(material.project.root),
            device="cpu",
            minutes=options.minutes,
            method="supervoxels",
            weights=SHAPES,
        )
        kinds: dict[str, Callable[[], Map]] = {
            GREY: lambda material=material: grey_map(material),  # type: ignore[misc]
            RANDOM: lambda m=material, s=scans: feature_map(m, random_run(m.project, 0), s),  # type: ignore[misc]
            SHAPES: lambda m=material, s=scans: feature_map(m, SHAPES, s),  # type: ignore[misc]
            OWN: lambda m=material, s=scans, own=own: feature_map(  # type: ignore[misc]
                m, str(engine.run(own, lambda event: None, lambda: False)["run"]), s
            ),
        }
        rows = []
        for kind, make in kinds.items():
            cells = measure(material, scans, make(), landmarks=kind != GREY)
            rows.append([kind, *cells])
            print(name, *rows[-1], flush=True)
        heading = ["features", "same scan", "another scan", "5 mm", "10 mm", "median"]
        parts.append(
            f"## {name}\n\n{len(scans)} test scans; supervoxels: {options.minutes:g} minutes.\n\n"
            f"{markdown_table(heading, rows)}\n"
        )
    return "\n".join(parts)


def main() -> None:
    """Read the command line and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of data sets in MSD layout")
    add("--work", type=Path, required=True, help="scratch folder for projects")
    add("--datasets", default="hippocampus,ct", help=f"of {', '.join(DATASETS)}")
    add("--scans", type=int, default=12, help="number of test scans per data set")
    add("--minutes", type=float, default=5.0, help="minutes of pre-training on the scans")
    add("--out", type=Path, default=PAGE)
    options = parser.parse_args()
    given = " ".join(f"--{name} {getattr(options, name)}" for name in ("datasets", "scans", "minutes"))
    options.command = f"python benchmarks/clicks.py {given}"
    page = run(options)
    write_whole(options.out, lambda file: file.write(page.encode()))


if __name__ == "__main__":
    main()
