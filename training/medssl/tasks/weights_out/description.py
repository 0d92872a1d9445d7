"""What somebody who runs a network without this package has to know of it, as JSON values.

Nothing in it tells of scans or people: no name, path or date. Classes and channels have the names that the
user gave them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from medssl import __version__
from medssl.core.io.intensity import AIR_HU, CENTRE_HU, LINEAR_HU, MAX_HU, MODALITIES
from medssl.core.jobs import Plan
from medssl.core.project.project import Project
from medssl.nn.data.multiplanar import MAX_ANISOTROPY, axis_orders
from medssl.tasks.inference.predict import Trained
from medssl.tasks.inference.scores import MARGIN
from medssl.tasks.inference.windows_3d import OVERLAP

DIRECTIONS = ("superior", "anterior", "right")
"""Where the canonical axes of arrays (Z, Y, X) grow to."""
NORMALISATION = {
    "ct": f"arcsinh((HU - {CENTRE_HU:g}) / {LINEAR_HU:g}) of Hounsfield units clipped to {AIR_HU:g} .. "
    f"{MAX_HU:g}",
    "other": "clip to the 0.5 and 99.5 percentiles of the voxels above the 1 percentile, scale to 0 .. 1, "
    "subtract the mean of the scan and divide by its standard deviation",
}
"""How grey values become the network's input (core/io/intensity.py)."""


def description(trained: Trained, project: Project) -> dict[str, Any]:
    """Describe a network, its input and its output.

    Args:
        trained: The network.
        project: Its project, whose scans say which modality each channel has.
    """
    plan, names = trained.plan, {item.id: item.name for item in project.classes}
    images = [
        {
            "name": name,
            "modality": modality,
            "normalisation": NORMALISATION["ct" if modality == "ct" else "other"],
        }
        for name, modality in zip(plan.channel_names or ("",), _modalities(trained, project), strict=True)
    ]
    return {
        "written_by": f"medssl {__version__}",
        "classes": [
            {"channel": 0, "id": 0, "name": "background"},
            # A class may have got another name since; one that was removed has that of its training.
            *(
                {"channel": number, **item, "name": names.get(item["id"], item["name"])}
                for number, item in enumerate(trained.card["classes"], 1)
            ),
        ],
        "dimensions": plan.dims,
        "images": images,
        "input_channels": _input_channels(plan),
        "axes": ["across slices", "rows", "columns"],
        "axes_grow_towards": [DIRECTIONS[axis] for axis in plan.work_axes],
        "spacing_mm": list(plan.spacing_mm),
        "patch_vox": list(plan.patch_vox),
        "strides": total_strides(plan),
        "margin_vox": MARGIN if plan.dims == 2 else 0,
        "window_overlap": OVERLAP if plan.dims == 3 else 0.0,
        "orders": [list(order) for order in axis_orders(plan, (1.0, 1.0, 1.0))],
        "max_anisotropy_of_orders": MAX_ANISOTROPY,
        "smoothing_sigma_mm": plan.smoothing_sigma_mm,
        "trained_on": trained.card.get("training_data", {}),
        "steps": trained.card.get("step", 0),
    }


def total_strides(plan: Plan) -> list[int]:
    """Pixels that a cell of the deepest level is wide; a side has at least two of these cells."""
    return [math.prod(strides) for strides in zip(*plan.strides, strict=True)]


def _input_channels(plan: Plan) -> list[str]:
    """What each input channel of the network is."""
    names = [name or "image" for name in plan.channel_names or ("",)]
    if plan.dims == 3:
        return names
    middle = plan.patch_vox[0] // 2
    offsets = range(-middle, plan.patch_vox[0] - middle)
    return [
        f"{name}, slice {offset:+d}" if offset else f"{name}, the slice"
        for name in names
        for offset in offsets
    ]


def _modalities(trained: Trained, project: Project) -> Sequence[str]:
    """The modality of each channel: by the card for the first, by the project's scans for others."""
    stated = trained.card.get("training_data", {}).get("modalities", [])
    first = [scan.modality for scan in project.scans.values()]
    modalities = [str((stated or first or ["mr"])[0])]
    parts = [part for scan in project.scans.values() for part in scan.parts]
    for name in trained.plan.channel_names[1:]:
        modalities.append(next((part.modality for part in parts if part.channel == name), modalities[0]))
    return [modality if modality in MODALITIES else "other" for modality in modalities]
