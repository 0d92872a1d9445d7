"""Synthetic CT scans of the trunk, different for every seed, for demonstrations without data and for tests.

They model neither a disease nor a real person: the shapes follow proportions from anatomy textbooks and are
shifted, deformed and textured at random. Five classes are labelled, exactly as the noise-free shapes. The
label of the spine contains vertebrae, discs and arches but not the spinal canal; vessels inside liver and
lungs belong to these organs.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from pathlib import Path

import nibabel as nib
import numpy as np

from medssl.core.errors import UserError
from medssl.core.files import make_folder, write_whole
from medssl.core.io.geometry import Geometry
from medssl.core.json_files import write_json
from medssl.core.palette import class_color
from medssl.core.phantom import abdomen, bowel, chest, trunk
from medssl.core.phantom.canvas import Canvas, smooth_field
from medssl.core.phantom.noise import scan
from medssl.core.phantom.person import Person, draw_person
from medssl.core.project.project import LabelClass

CLASSES = tuple(
    LabelClass(id=number, name=name, color=class_color(number))
    for number, name in enumerate(("liver", "spleen", "kidneys", "spine", "lungs"), start=1)
)
LIVER, SPLEEN, KIDNEYS, SPINE, LUNGS = (c.id for c in CLASSES)


def make_phantom(
    seed: int,
    shape_zyx: tuple[int, int, int] = (64, 112, 112),
    spacing_mm: tuple[float, float, float] = (5.0, 3.2, 3.2),
) -> tuple[np.ndarray, np.ndarray, Geometry]:
    """Generate one scan, in about a second on one core.

    The scan is centred just below the diaphragm; at its default size it extends from the hila of the lungs to
    the iliac crests. The same seed gives the same scan, and on another grid the same person.

    Args:
        seed: Non-negative seed of person and noise.
        shape_zyx: Number of voxels along (z, y, x).
        spacing_mm: Voxel spacing along (z, y, x).

    Returns:
        Grey values in HU, int16 (Z, Y, X), class ids, uint8 (Z, Y, X), and the geometry.

    Example:
        >>> hu, labels, geometry = make_phantom(seed=0)
    """
    anatomy, scanner = (np.random.default_rng([seed, stream]) for stream in range(2))
    person = draw_person(anatomy)
    canvas = _blank(person, shape_zyx, spacing_mm, anatomy)
    inside = _draw(canvas, person, anatomy)
    affine = np.diag([spacing_mm[2], spacing_mm[1], spacing_mm[0], 1.0])
    affine[:3, 3] = [float(axis[0]) for axis in canvas.axes_mm[::-1]]
    hu = scan(canvas.hu, inside, scanner)
    shape_xyz = shape_zyx[::-1]
    return hu, canvas.labels, Geometry.of(affine, shape_xyz)


def _blank(
    person: Person,
    shape_zyx: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    rng: np.random.Generator,
) -> Canvas:
    """A canvas of air, with the patient coordinates of each voxel."""
    axes = tuple(
        ((np.arange(count) - (count - 1) / 2) * step).astype(np.float32)
        for count, step in zip(shape_zyx, spacing_mm, strict=True)
    )
    transform = person.rotation * person.size  # patient to scanner
    origin = person.shift_mm + np.array([0.0, 12.0, 0.0])
    inverse = np.linalg.inv(transform)
    z, y, x = np.meshgrid(*axes, indexing="ij", copy=False)
    coordinates = []
    for row in range(3):
        a, b, c = inverse[row].astype(np.float32)
        offset = np.float32(inverse[row] @ origin)
        displacement = 3.2 * smooth_field(rng, axes, 90) + 1.1 * smooth_field(rng, axes, 40)
        coordinates.append(a * x + b * y + c * z - offset + displacement)
    return Canvas(
        axes_mm=axes,  # type: ignore[arg-type]
        x=coordinates[0],
        y=coordinates[1],
        z=coordinates[2],
        hu=np.full(shape_zyx, trunk.AIR, np.float32),
        labels=np.zeros(shape_zyx, np.uint8),
        edge_mm=float(spacing_mm[1] + spacing_mm[2]) / 2,
        transform=transform,
        origin=origin,
        slack_mm=13.0,
    )


def _draw(canvas: Canvas, person: Person, rng: np.random.Generator) -> np.ndarray:
    """Draw a person from the outside to the inside; returns the mask of the body, bool (Z, Y, X)."""
    depth = trunk.depth_below_skin(canvas, person, rng)
    inner = trunk.draw_walls(canvas, person, depth, rng)
    diaphragm = chest.diaphragm_height(canvas, person, rng)
    bowel.draw_bowel(canvas, person, inner, rng)
    trunk.draw_pelvis(canvas, person)
    abdomen.draw_liver(canvas, person, inner, diaphragm, LIVER, rng)
    bowel.draw_stomach(canvas, person, inner, diaphragm, rng)
    bowel.draw_pancreas(canvas, person, rng)
    abdomen.draw_spleen(canvas, person, inner, diaphragm, SPLEEN, rng)
    trunk.draw_back_muscles(canvas, person)
    abdomen.draw_kidneys(canvas, person, KIDNEYS, rng)
    chest.draw_lungs(canvas, person, inner, diaphragm, LUNGS, rng)
    chest.draw_great_vessels(canvas, person, rng)
    chest.draw_heart(canvas, person, diaphragm, rng)
    trunk.draw_ribs(canvas, person, inner)
    trunk.draw_spine(canvas, person, SPINE, rng)
    trunk.draw_table(canvas, depth)
    outside = depth <= 0
    canvas.labels[outside] = 0
    return ~outside


def write_dataset(folder: Path, seeds: Iterable[int]) -> Path:
    """Write one labelled scan per seed in the layout of the Medical Segmentation Decathlon.

    The files are folder/imagesTr/phantom_000.nii.gz, folder/labelsTr/phantom_000.nii.gz, ... and
    folder/dataset.json.

    Returns:
        The folder.

    Raises:
        UserError: "bad-input" for no seeds or a negative seed, "not-writable", "disk-full".
    """
    folder, seeds = Path(folder), sorted(set(seeds))
    if not seeds or seeds[0] < 0:
        raise UserError(f"{folder} was not written; give at least one seed, each 0 or more.")
    pairs = []
    for seed in seeds:
        hu, labels, geometry = make_phantom(seed)
        name = f"phantom_{seed:03d}.nii.gz"
        for subfolder, array in (("imagesTr", hu), ("labelsTr", labels)):
            _write_nifti(make_folder(folder / subfolder) / name, geometry.to_source(array), geometry.matrix)
        pairs.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    write_json(
        folder / "dataset.json",
        {
            "name": "Phantom",
            "description": "Synthetic CT of the trunk with five labelled organs; nobody's data",
            "licence": "CC0 1.0",
            "tensorImageSize": "3D",
            "modality": {"0": "CT"},
            "labels": {"0": "background", **{str(c.id): c.name for c in CLASSES}},
            "numTraining": len(pairs),
            "numTest": 0,
            "training": pairs,
            "test": [],
        },
    )
    return folder


def _write_nifti(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    content = gzip.compress(image.to_bytes(), compresslevel=4, mtime=0)
    write_whole(path, lambda file: file.write(content))
