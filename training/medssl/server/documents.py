"""The documents that say what there is: project, models, trainer, strategies, scans and labels."""

from __future__ import annotations

from typing import Any

from medssl import __version__
from medssl.core.jobs import MINUTES
from medssl.core.project.contents import LabelClass
from medssl.core.project.damage import survey
from medssl.core.project.project import Run
from medssl.server import class_numbers
from medssl.server.inference import NEWEST, usable_runs
from medssl.server.next_sample import STRATEGIES
from medssl.server.state import Server
from medssl.server.training import TRAINER

BACKGROUND = "background"
TAGS = ("final", "original")
"""Tags of the labels of a scan: clients know them by the first, and 3D Slicer loads the second."""


def info(server: Server, with_background: bool = False) -> dict[str, Any]:
    """What a client asks first.

    A field "config" is left out: for 3D Slicer it is the mark of a server that is too old.

    Args:
        server: The server.
        with_background: Put the background in front of the labels. OHIF takes the first label away, whatever
            it is; in 3D Slicer it would become a segment and shift the numbers of the others.
    """
    server.project.refresh()
    classes = server.project.classes
    names = list(class_numbers.names(classes))
    return {
        "name": f"medssl: {server.project.root.name}",
        "description": "Fine-tuned networks of a medssl project",
        "version": __version__,
        "labels": [BACKGROUND, *names] if with_background else names,
        "models": {name: _model(name, run, classes) for name, run in usable_runs(server).items()},
        "trainers": {
            TRAINER: {
                "description": "Fine-tune the shipped weights on all annotated slices",
                "config": {"minutes": MINUTES},
            }
        },
        "strategies": {name: {"description": text, "config": {}} for name, text in STRATEGIES.items()},
        "scoring": {},
        "train_stats": server.training.stats(),
        "datastore": status(server),
    }


def _model(name: str, run: Run, classes: tuple[LabelClass, ...]) -> dict[str, Any]:
    known = {item["id"] for item in run.card["classes"]}
    labels = class_numbers.names(classes)
    return {
        "type": "segmentation",
        "labels": {item.name: labels[item.name] for item in classes if item.id in known},
        "dimension": 3,
        "description": f"Fine-tuned network {run.id}" + (", the newest one" if name == NEWEST else ""),
        "config": {},
    }


def status(server: Server) -> dict[str, Any]:
    """How many scans there are, and how many are annotated."""
    done = len(survey(server.project, quick=True).annotated)
    return {"total": len(server.project.scans), "completed": done, "label_tags": {TAGS[0]: done}, "train": []}


def datastore(server: Server) -> dict[str, Any]:
    """All scans and the labels that there are."""
    server.project.refresh()
    annotated = survey(server.project, quick=True).annotated
    params = {"label_names": class_numbers.names(server.project.classes)}
    label = {"ext": ".nii.gz", "info": {"params": params}}
    return {
        "name": server.project.root.name,
        "description": "",
        "objects": {
            scan.id: {
                "image": {"ext": ".nii.gz", "info": {"name": scan.title}},
                "labels": dict.fromkeys(TAGS, label) if scan.id in annotated else {},
            }
            for scan in server.project.scans.values()
        },
    }
