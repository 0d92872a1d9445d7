"""Segmentations for clients: by which network, of which scan, and the files that carry them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medssl.core.errors import UserError
from medssl.core.files import write_whole
from medssl.core.io.geometry import Geometry
from medssl.core.io.itk import nrrd_bytes
from medssl.core.io.volume import label_bytes
from medssl.core.jobs import PredictJob
from medssl.core.labels.class_ids import map_values
from medssl.core.project.contents import LabelClass, Scan
from medssl.core.project.project import Project, Run
from medssl.core.temporary_files import temporary_file
from medssl.server import class_numbers
from medssl.server.state import Server
from medssl.server.uploads import FILES, SEGMENTATION_FILE

NEWEST = "newest"
"""Model that is always the newest network, so that nothing has to be chosen after a training."""
OUTPUTS = ("all", "image", "json")
BINARY = "application/octet-stream"


@dataclass(frozen=True)
class Wish:
    """The file that a client wants of a segmentation.

    Attributes:
        output: One of `OUTPUTS`: parameters and file, the file, or the parameters.
        ending: One of `uploads.FILES`.
        dtype: Type of its voxels.
        compress: Compress an NRRD file. OHIF decodes it as text, in which only an uncompressed one survives.
    """

    output: str = "all"
    ending: str = ".nii.gz"
    dtype: type[np.uint8] | type[np.uint16] = np.uint8
    compress: bool = True


@dataclass(frozen=True)
class Answer:
    """A file to send, which is deleted after that; `name` is what the client shall call it, or empty."""

    path: Path
    media_type: str
    name: str = ""


def wish_of(params: dict[str, Any], output: str | None) -> Wish:
    """What the parameters of a request ask for.

    Raises:
        UserError: "bad-request", "unsupported".
    """
    output = output or "all"
    if output not in OUTPUTS:
        raise UserError(
            f"The output {output[:80]!r} is not offered; choose one of {', '.join(OUTPUTS)}.",
            code="bad-request",
        )
    ending = params.get("result_extension") or ".nii.gz"
    ending = ".nrrd" if ending == SEGMENTATION_FILE else ending
    if ending not in FILES:
        raise UserError(
            f"Segmentations are not sent as {str(ending)[:80]!r}; choose one of {', '.join(FILES)}.",
            code="unsupported",
        )
    dtype = np.uint16 if params.get("result_dtype") == "uint16" else np.uint8
    return Wish(output, ending, dtype, params.get("result_compress") is not False)


def usable_runs(server: Server) -> dict[str, Run]:
    """{model: run} of the networks that can segment, the newest first; that one is also `NEWEST`."""
    in_training = server.training.run_id
    runs: dict[str, Run] = {}
    for run in reversed(server.project.runs("finetune")):
        try:
            usable = run.checkpoint.exists() and bool(run.card.get("classes"))
        except UserError:
            continue  # damaged
        if usable and run.id != in_training:
            runs[run.id] = run
    newest = next(iter(runs.values()), None)
    return {} if newest is None else {NEWEST: newest, **runs}


def run_of(server: Server, model: str) -> Run:
    """The run of a model.

    Raises:
        UserError: "no-run".
    """
    runs = usable_runs(server)
    if model not in runs:
        known = ", ".join(runs) or "none yet; submit labels, then train"
        raise UserError(f"There is no model {model[:80]!r}; there are: {known}.", code="no-run")
    return runs[model]


def predict(server: Server, project: Project, scan: Scan, run: Run) -> None:
    """Have an engine segment a scan, unless it is segmented with these weights.

    Args:
        server: The server.
        project: The server's project, or that of a session.
        scan: A scan of it.
        run: A run of it.

    Raises:
        UserError: BUSY, ENGINE, those of the job, and "nothing-yet" for a scan that the network cannot
            segment.
    """
    if project.has_prediction(run.id, scan.id):
        return
    job = PredictJob(project=str(project.root), device=server.device, weights=run.id, scans=(scan.id,))
    with server.engines.turn():
        if project.has_prediction(run.id, scan.id):
            return  # another request has had the same wish
        left_out = server.engines.run(job).get("left_out", {})
    if scan.id in left_out:
        raise UserError(str(left_out[scan.id]), code="nothing-yet")


def prediction(project: Project, scan: Scan, run: Run) -> np.ndarray:
    """The segmentation of a scan, class ids, uint8 (Z, Y, X).

    Raises:
        UserError: "outdated" if the weights have changed since, "nothing-yet" if there is none.
    """
    labels = project.prediction(run.id, scan.id)
    if labels is None:
        raise UserError(f"{scan.title} was not segmented; try again.", code="nothing-yet")
    return labels


def answer(
    folder: Path, name: str, labels: np.ndarray, geometry: Geometry, classes: Sequence[LabelClass], wish: Wish
) -> Answer:
    """Write a segmentation as the client wants it.

    Args:
        folder: Folder for the file.
        name: Name of the scan.
        labels: Class ids, uint8 (Z, Y, X).
        geometry: Grid of the scan.
        classes: Classes of the project.
        wish: What the client wants.
    """
    numbered = map_values(labels, class_numbers.numbers(classes))
    path = temporary_file(folder / f"answer{wish.ending}").with_suffix(wish.ending)
    file_name = f"{name}{wish.ending}"
    content = b"" if wish.output == "json" else _content(path, numbered, geometry, wish)
    if wish.output == "image":
        write_whole(path, lambda file: file.write(content))
        return Answer(path, BINARY, file_name)
    params = {
        "label_names": class_numbers.names(classes),
        "centroids": centroids(geometry.to_source(numbered)),
    }
    if wish.output == "json":
        write_whole(path, lambda file: file.write(json.dumps(params).encode()))
        return Answer(path, "application/json")
    boundary = secrets.token_hex(16)
    head, tail = _multipart(boundary, params, file_name)
    write_whole(path, lambda file: file.writelines((head, content, tail)))
    return Answer(path, f"multipart/form-data; boundary={boundary}")


def centroids(numbered: np.ndarray) -> dict[str, list[int]]:
    """Centres of the classes, for OHIF's table of segments.

    Args:
        numbered: Numbers of the classes in file order, uint8 (I, J, K).

    Returns:
        {"label_1": [1, i, j, k]}, of the classes that occur.
    """
    found = {}
    for number in np.flatnonzero(np.bincount(numbered.ravel(), minlength=256)[1:]) + 1:
        mask = numbered == number
        sums = [mask.sum(axis=tuple(other for other in range(3) if other != axis)) for axis in range(3)]
        centre = [int(np.average(np.arange(len(each)), weights=each)) for each in sums]
        found[f"label_{number}"] = [int(number), *centre]
    return found


def _content(path: Path, numbered: np.ndarray, geometry: Geometry, wish: Wish) -> bytes:
    if wish.ending == ".nrrd":
        array = geometry.to_source(numbered).astype(wish.dtype, copy=False)
        return nrrd_bytes(array, geometry, wish.compress)
    return label_bytes(path, numbered.astype(wish.dtype, copy=False), geometry)


def _multipart(boundary: str, params: dict[str, Any], file_name: str) -> tuple[bytes, bytes]:
    """What precedes and follows the file in a multipart answer; OHIF compares headers letter by letter."""
    head = (
        f"--{boundary}\r\n"
        'Content-Disposition: form-data; name="params"\r\n'
        "Content-Type: application/json\r\n"
        "\r\n"
        f"{json.dumps(params)}\r\n"
        f"--{boundary}\r\n"
        f'Content-Disposition: form-data; name="image"; filename="{file_name}"\r\n'
        f"Content-Type: {BINARY}\r\n"
        "\r\n"
    )
    return head.encode(), f"\r\n--{boundary}--\r\n".encode()
