"""Random parameters of the person that a phantom shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medssl.core.phantom.canvas import rotation_about


@dataclass(frozen=True)
class Person:
    """Parameters of a person: lengths in mm, densities in HU.

    The anatomy is defined for an average person of `size` (1, 1, 1).
    """

    size: np.ndarray  # (3,) scale of the patient along x, y, z
    rotation: np.ndarray  # (3, 3) position of the patient on the table
    shift_mm: np.ndarray  # (3,) along x, y, z
    fat_mm: float  # mean thickness of the subcutaneous fat
    visceral_fat: float  # 0 lean .. 1 much fat around the organs
    breath_mm: float  # height of the diaphragm above the average
    kyphosis_mm: float
    scoliosis_mm: float
    enhancement: float  # 0 native .. 1 full portal-venous phase
    liver_hu: float
    bone_hu: float  # spongy bone
    calcified: bool  # plaques in the aorta
    oral_contrast: bool

    def hu(self, native: float, venous: float) -> float:
        """Density of a tissue in the contrast phase of this person, from its native and venous densities."""
        return native + self.enhancement * (venous - native)

    def spine_x(self, z: np.ndarray | float) -> np.ndarray:
        """Left-right position of the spine.

        Args:
            z: Height in mm, scalar or array (any shape).

        Returns:
            x in mm (same shape as `z`).
        """
        return self.scoliosis_mm * np.sin(np.asarray(z) / 75)

    def spine_y(self, z: np.ndarray | float) -> np.ndarray:
        """Front-back position of the centre of the vertebral bodies.

        Args:
            z: Height in mm, scalar or array (any shape).

        Returns:
            y in mm (same shape as `z`).
        """
        return -35 - self.kyphosis_mm * np.sin((np.asarray(z) + 45) / 90)


def draw_person(rng: np.random.Generator) -> Person:
    """Draw a random person; about two in three have received contrast agent."""
    venous = rng.random() < 0.68
    enhancement = float(rng.uniform(0.75, 1.15)) if venous else 0.0
    fatty_liver = rng.random() < 0.15
    native_liver = rng.normal(47, 3) if fatty_liver else rng.normal(60, 3)
    build = rng.normal(0, 1)
    return Person(
        size=np.array([1 + 0.022 * build, 1 + 0.022 * build, 1.0]) * (1 + 0.022 * rng.normal(size=3)),
        rotation=rotation_about("z", rng.normal(0, 1.6)) @ rotation_about("y", rng.normal(0, 1.0)),
        shift_mm=np.array([rng.normal(0, 3), rng.normal(0, 2), rng.normal(0, 7)]),
        fat_mm=float(np.clip(13 + 5 * build + rng.normal(0, 2.5), 6, 27)),
        visceral_fat=float(np.clip(0.5 + 0.25 * build + rng.normal(0, 0.15), 0, 1)),
        breath_mm=float(rng.normal(0, 8)),
        kyphosis_mm=float(rng.uniform(3, 10)),
        scoliosis_mm=float(rng.normal(0, 3.5)),
        enhancement=enhancement,
        liver_hu=float(np.clip(native_liver + 46 * enhancement, 55, 112)),
        bone_hu=float(rng.uniform(125, 225)),
        calcified=bool(rng.random() < 0.4),
        oral_contrast=bool(rng.random() < 0.3),
    )
