"""The files of a MONAI bundle that people read, and metadata.json."""

from __future__ import annotations

from importlib.metadata import distribution, version
from typing import Any

from medssl.core.io.intensity import MODALITIES
from medssl.core.jobs import Plan

SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
)
"""MONAI's schema of metadata.json, as its model zoo names it."""
VERSION = "0.1.0"
MARKS = ("$", "@", "%")
"""What an expression, a reference and a macro begin with in a configuration of MONAI."""
PACKAGES = ("nibabel", "safetensors", "scipy")
"""What a bundle needs besides MONAI, and this package needs, too."""
RUNNERS = {"fire": "0.7.1", "pytorch-ignite": "0.5.5"}
"""What MONAI needs to run a bundle, in the versions that were tried, and what this package does not need."""


def metadata(plan: Plan, facts: dict[str, Any]) -> dict[str, Any]:
    """metadata.json: what the network takes and gives, in MONAI's terms.

    Args:
        plan: Plan of the network.
        facts: Its description.
    """
    shape = [f"{2 * stride}*n" for stride in facts["strides"]]
    names = [item["name"] for item in facts["classes"]]
    tensor = {
        "type": "image",
        "spatial_shape": shape,
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": True,
    }
    modality = "/".join(dict.fromkeys(_modality(image) for image in facts["images"]))
    fields = {
        "schema": SCHEMA,
        "version": VERSION,
        "changelog": {VERSION: f"written by {facts['written_by']}"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch").partition("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {**{name: version(name) for name in PACKAGES}, **RUNNERS},
        "supported_apps": {},
        "name": f"Segmentation of {', '.join(names[1:])}",
        "task": f"Segmentation of {', '.join(names[1:])}",
        "description": f"DynUNet of {'neighbouring slices' if plan.dims == 2 else 'volumes'}, fine-tuned on "
        "annotated slices",
        "authors": "",
        "copyright": "",
        "intended_use": "Research; not a medical device.",
        "network_data_format": {
            "inputs": {
                "image": {
                    **tensor,
                    "format": "magnitude",
                    "modality": modality,
                    "num_channels": plan.in_channels,
                    "channel_def": {str(number): name for number, name in enumerate(facts["input_channels"])},
                }
            },
            "outputs": {
                "pred": {
                    **tensor,
                    "format": "labels",
                    "modality": "n/a",
                    "num_channels": len(names),
                    "channel_def": {str(number): name for number, name in enumerate(names)},
                }
            },
        },
        "medssl": facts,
    }
    return {name: _literal(value) for name, value in fields.items()}


def _literal(value: Any) -> Any:
    """JSON values whose texts MONAI takes as they are: one that begins with $ would be executed."""
    if isinstance(value, dict):
        return {name: _literal(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_literal(item) for item in value]
    return f" {value}" if isinstance(value, str) and value[:1] in MARKS else value


def _modality(image: dict[str, Any]) -> str:
    return MODALITIES.get(image["modality"], "n/a")


def readme(facts: dict[str, Any]) -> str:
    """docs/README.md.

    Args:
        facts: Description of the network.
    """
    images = facts["images"]
    names = (item["name"].replace("|", r"\|") for item in facts["classes"])
    classes = "\n".join(
        f"| {item['id']} | {name} |" for item, name in zip(facts["classes"], names, strict=True)
    )
    if len(images) > 1:
        listed = ", ".join(f"`_{number:04d}` {image['name']}" for number, image in enumerate(images))
        files = f"Each scan is {len(images)} files on one grid, `NAME_0000.nii.gz` and so on: {listed}."
    else:
        files = "Each scan is one file `NAME.nii.gz`."
    spacing = [" x ".join(f"{mm:.3g}" for mm in row) for row in facts["trained_on"].get("spacing_mm", ())]
    like = f" Trained on voxels of {' to '.join(dict.fromkeys(spacing))} mm (z, y, x)." if spacing else ""
    return f"""# Segmentation of {", ".join(item["name"] for item in facts["classes"][1:])}

A MONAI bundle, written by {facts["written_by"]}. Research only, not a medical device.

| label | class |
| ---: | --- |
{classes}

## Run
```
pip install monai {" ".join((*PACKAGES, *RUNNERS))}
python -m monai.bundle run --config_file configs/inference.json --dataset_dir SCANS --output_dir RESULTS
```

in this folder. {files} Modality: {", ".join(_modality(image) for image in images)}.{like}

A segmentation lies on the grid of its scan. The whole scan and its probabilities are held in memory.

## What is where
- `models/model.safetensors`: weights of the DynUNet in `configs/inference.json`. Safetensors instead of
  MONAI's usual `model.pt`, because nothing in it can be code.
- `models/location_prior.safetensors`, if there is one: coarse maps of where classes lie among each other.
- `scripts/`: how grey values are normalised, slices are stacked and labels are decided.
- `configs/metadata.json`: what the network takes and gives; under `medssl`, what one needs to run it
  without MONAI.

## Before you share it
Fill in `authors` and `copyright` in `configs/metadata.json`. LICENSE is that of `scripts/`; weights get the
one that you choose, and that the data allow.
"""


def license_text() -> str:
    """LICENSE."""
    text = distribution("napari-medssl").read_text("licenses/LICENSE") or ""
    return f"The files in scripts/ are under this license. Weights in models/ are not part of it.\n\n{text}"
