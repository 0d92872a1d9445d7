"""The loop of a user of 3D Slicer, by the client that MONAI publishes: python benchmarks/serve_loop.py

Needs `pip install --no-deps monailabel`, and Python 3.12 or older. `medssl serve` has three synthetic CT
scans. The client lists them, submits two slices of the first, trains, segments the second, submits more
slices, trains again, and segments the second and the third. Printed are the seconds of each call and the mean
Dice of the second scan.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from medssl.benchmarking.simulated_annotator import annotate, choose_slices
from medssl.core.io.labels import read_labels
from medssl.core.io.volume import write_labels
from medssl.core.labels.metrics import dice
from medssl.core.phantom import CLASSES, write_dataset
from medssl.core.project.project import LabelClass, Project

SLICES = (2, 10)
"""Painted slices of the first scan in each round."""


def main() -> None:
    """Run the loop and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=0.5, help="length of each training")
    options = parser.parse_args()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of cgi
        from monailabel.client import MONAILabelClient
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data = write_dataset(folder / "data", range(3))
        classes = [LabelClass(item.id, item.name, item.color) for item in CLASSES]
        project = Project.create(folder / "project", classes)
        for path in sorted((data / "imagesTr").iterdir()):
            project.add_scan(path)
        command = [sys.executable, "-m", "medssl", "serve", str(project.root), "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            try:
                loop(MONAILabelClient(address, scratch, "user"), project, data / "labelsTr", options.minutes)
            finally:
                server.terminate()


def loop(client: Any, project: Project, labels: Path, minutes: float) -> None:
    """List, submit, train, infer; then more slices, and better."""
    first, second, third = (
        (scan, read_labels(labels / f"{scan}.nii.gz", project.scans[scan].geometry).array)
        for scan in project.scans
    )
    ids = [item.id for item in project.classes]
    info = [{"name": item.name, "idx": item.id} for item in project.classes]
    timed("list", client.info)
    timed("next sample", lambda: client.next_sample("suggest", {}))
    for count in SLICES:
        file = labels.parent / f"painted-{count}.nii.gz"
        painted = annotate(first[1], choose_slices(first[1], count)).labels
        write_labels(file, painted, project.scans[first[0]].geometry)
        timed(
            f"submit {count} slices",
            lambda file=file: client.save_label(first[0], str(file), params={"label_info": info}),
        )
        timed(f"train {minutes:g} min", lambda: train(client, minutes))
        result, _ = timed(
            "segment scan 2", lambda: client.infer("newest", second[0], {"result_extension": ".nrrd"})
        )
        found = read_labels(Path(result), project.scans[second[0]].geometry).array
        scores = dice(found, second[1], ids)
        print(f"| mean Dice of scan 2 | {np.mean(list(scores.values())):.3f} |")
    timed("segment scan 2 again", lambda: client.infer("newest", second[0], {"result_extension": ".nrrd"}))
    timed("segment scan 3", lambda: client.infer("newest", third[0], {"result_extension": ".nrrd"}))
    timed("next sample", lambda: client.next_sample("suggest", {}))


def train(client: Any, minutes: float) -> None:
    """Train to the end; the client asks as 3D Slicer does."""
    client.train_start("finetune", {"minutes": minutes})
    while client.train_status(check_if_running=True):
        time.sleep(0.2)
    assert client.train_status()["status"] == "DONE", client.train_status()


def timed(name: str, call: Callable[[], Any]) -> Any:
    """Print the seconds of a call."""
    begin = time.perf_counter()
    result = call()
    print(f"| {name} | {time.perf_counter() - begin:.2f} s |", flush=True)
    return result


if __name__ == "__main__":
    main()
