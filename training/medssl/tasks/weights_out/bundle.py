"""A network as a MONAI bundle: a folder that segments scans with MONAI and without this package.

The folder is that of MONAI's bundle specification, except that weights are safetensors, which cannot hold
code, instead of a pickled model.pt. `scripts/` has copies of the modules of this package that decide the
labels; they import nothing else of it.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from monai.networks.nets import DynUNet
from safetensors.torch import load, save
from torch import Tensor

from medssl.core.files import cannot_write, sync_folder
from medssl.core.io import intensity
from medssl.core.jobs import Plan
from medssl.core.temporary_files import remove_unfinished, temporary_file
from medssl.nn.models.dynunet import dynunet_arguments, dynunet_state
from medssl.tasks.inference import location_prior, posterior_smoothing, threshold
from medssl.tasks.inference.predict import Trained
from medssl.tasks.weights_out import segmenter
from medssl.tasks.weights_out.agreement import largest_difference
from medssl.tasks.weights_out.bundle_texts import license_text, metadata, readme

SCRIPTS: tuple[ModuleType, ...] = (intensity, location_prior, posterior_smoothing, threshold, segmenter)
"""Modules that a bundle gets copies of."""
WEIGHTS, PRIOR = "models/model.safetensors", "models/location_prior.safetensors"
_OURS = re.compile(r"^from medssl(?:\.\w+)*\.(\w+) import", re.MULTILINE)


def write_bundle(path: Path, trained: Trained, facts: dict[str, Any], inputs: Sequence[Tensor]) -> float:
    """Write a network as a MONAI bundle: the whole folder, or nothing.

    Args:
        path: The folder.
        trained: The network, on the CPU.
        facts: Its description.
        inputs: Batches of images to compare on, each (B, C, ...).

    Returns:
        The largest difference of a probability between the network and what the folder holds.

    Raises:
        UserError: "disagree", "disk-full", "not-writable".
    """
    contents = bundle_files(trained, facts)
    difference = largest_difference(trained, inputs, _runner(contents), "The bundle")
    remove_unfinished(path.parent)
    temporary = temporary_file(path)
    try:
        for name, content in contents.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            with (temporary / name).open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        temporary.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return difference


def bundle_files(trained: Trained, facts: dict[str, Any]) -> dict[str, bytes]:
    """{path in the folder: content} of a bundle.

    Args:
        trained: The network.
        facts: Its description.
    """
    files = {
        WEIGHTS: save({name: weight.contiguous() for name, weight in dynunet_state(trained.network).items()})
    }
    prior = trained.location_prior
    if prior is not None:
        files[PRIOR] = save({part.name: getattr(prior, part.name).contiguous() for part in fields(prior)})
    texts = {
        "configs/metadata.json": _json(metadata(trained.plan, facts)),
        "configs/inference.json": _json(inference(trained.plan, facts, prior is not None)),
        "docs/README.md": readme(facts),
        "LICENSE": license_text(),
        "scripts/__init__.py": "",
        **{f"scripts/{module.__name__.split('.')[-1]}.py": _script(module) for module in SCRIPTS},
    }
    return files | {name: text.encode() for name, text in texts.items()}


def inference(plan: Plan, facts: dict[str, Any], has_prior: bool) -> dict[str, Any]:
    """The configuration that `python -m monai.bundle run` runs.

    Args:
        plan: Plan of the network.
        facts: Its description.
        has_prior: Whether there is a location prior.
    """
    work_axes, n_images = list(plan.work_axes), len(facts["images"])
    numbered = f"[i.replace('_0000.', f'_{{c:04d}}.') for c in range({n_images})]" if n_images > 1 else "i"
    pattern = "/*_0000.nii.gz" if n_images > 1 else "/*.nii.gz"
    keys = {"keys": "image"}
    return {
        "imports": ["$import glob", "$import numpy", "$from scripts.segmenter import load_weights"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/scans'",
        "output_dir": "$@bundle_root + '/eval'",
        "datalist": f"$[{{'image': {numbered}}} for i in sorted(glob.glob(@dataset_dir + '{pattern}'))]",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": {"_target_": "DynUNet", **dynunet_arguments(plan, len(facts["classes"]))},
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", **keys},
                {"_target_": "EnsureChannelFirstd", **keys},
                {"_target_": "Orientationd", **keys, "axcodes": "RAS"},
                {
                    "_target_": "scripts.segmenter.Normalised",
                    **keys,
                    "modalities": [image["modality"] for image in facts["images"]],
                },
            ],
        },
        "dataset": {"_target_": "Dataset", "data": "@datalist", "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": {
            "_target_": "scripts.segmenter.ScanInferer",
            "dimensions": plan.dims,
            "work_axes": work_axes,
            "spacing_mm": facts["spacing_mm"],
            "patch_vox": facts["patch_vox"],
            "strides": facts["strides"],
            "margin_vox": facts["margin_vox"],
            "overlap": facts["window_overlap"],
            "orders": facts["orders"],
            "max_anisotropy": facts["max_anisotropy_of_orders"],
            "sigma_mm": facts["smoothing_sigma_mm"],
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {
                    "_target_": "scripts.segmenter.Decided",
                    "keys": "pred",
                    "image_key": "image",
                    "work_axes": work_axes,
                    "ids": [item["id"] for item in facts["classes"]],
                    "location_prior": f"$@bundle_root + '/{PRIOR}'" if has_prior else None,
                },
                {
                    "_target_": "Invertd",
                    "keys": "pred",
                    "transform": "@preprocessing",
                    "orig_keys": "image",
                    "nearest_interp": True,
                },
                {
                    "_target_": "SaveImaged",
                    "keys": "pred",
                    "output_dir": "@output_dir",
                    "output_postfix": "seg",
                    "output_dtype": "$numpy.uint8",
                    "resample": False,
                    "separate_folder": False,
                },
            ],
        },
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
        },
        "initialize": [f"$load_weights(@network, @bundle_root + '/{WEIGHTS}')"],
        "run": ["$@evaluator.run()"],
    }


def _json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"


def _script(module: ModuleType) -> str:
    """The source of a module, which imports its neighbours from the bundle."""
    return _OURS.sub(r"from scripts.\1 import", inspect.getsource(module))


def _runner(contents: dict[str, bytes]) -> Any:
    """A function that computes the probabilities of images (B, C, ...) with what a bundle holds."""
    arguments = dict(json.loads(contents["configs/inference.json"])["network_def"])
    del arguments["_target_"]
    network = DynUNet(**arguments)
    network.load_state_dict(load(contents[WEIGHTS]), strict=False)
    network.eval()
    return lambda image: torch.softmax(network(image), 1)
