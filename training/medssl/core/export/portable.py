"""Files of weights for other programs: which format a name stands for, and whether it can be written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from medssl.core.errors import UserError
from medssl.core.files import check_writable

Format = Literal["onnx", "bundle"]
ONNX_ENDING = ".onnx"
OTHER_ENDINGS = (".pt", ".pth", ".ts", ".zip", ".safetensors", ".json", ".yaml", ".trt", ".engine", ".h5")
"""Endings of names that nobody gives to the folder of a bundle."""


def format_of(path: Path) -> Format:
    """The format that a name stands for: .onnx an ONNX file, any other the folder of a MONAI bundle.

    Raises:
        UserError: "unsupported" for the ending of another format.
    """
    ending = path.suffix.lower()
    if ending in OTHER_ENDINGS:
        raise UserError(
            f"{path} is no name for an ONNX file ({ONNX_ENDING}) or for the folder of a MONAI bundle; choose "
            "another one.",
            code="unsupported",
        )
    return "onnx" if ending == ONNX_ENDING else "bundle"


def check_portable(path: Path) -> Format:
    """Require that weights can be written under a name; creates the folder above.

    Returns:
        The format that the name stands for.

    Raises:
        UserError: "unsupported", "exists", "no-onnx" if its packages are not installed, "disk-full",
            "not-writable".
    """
    target = format_of(path)
    if os.path.lexists(path):
        raise UserError(f"{path} exists; choose another name, or delete it first.", code="exists")
    if target == "onnx":
        need_onnx()
    check_writable(path)
    return target


def need_onnx() -> None:
    """Raises UserError ("no-onnx") unless the packages of the extra "onnx" are installed."""
    from importlib.util import find_spec

    if missing := [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]:
        raise UserError(
            f"Writing ONNX needs {' and '.join(missing)}; install what is missing: "
            'pip install "napari-medssl[onnx]".',
            code="no-onnx",
        )
