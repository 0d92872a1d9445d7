"""The job that writes the network of a run for other programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from medssl.core.errors import UserError
from medssl.core.events import Emit, Notice, Progress, Started
from medssl.core.export.portable import check_portable
from medssl.core.jobs import ExportWeightsJob
from medssl.core.project.elsewhere import need_here
from medssl.core.project.project import Project, Run
from medssl.core.project.run_state import need_not_trained
from medssl.tasks.inference.predict import Trained
from medssl.tasks.weights_out.agreement import sample_inputs
from medssl.tasks.weights_out.bundle import write_bundle
from medssl.tasks.weights_out.description import description
from medssl.tasks.weights_out.onnx_file import write_onnx


def export_weights(
    project: Project, run: Run, job: ExportWeightsJob, emit: Emit, should_stop: Callable[[], bool]
) -> dict[str, Any]:
    """Write the network of a fine-tuning as an ONNX file or a MONAI bundle.

    Args:
        project: The project.
        run: A fine-tuning run.
        job: Where to write.
        emit: Receives Progress events, and a Notice with the largest difference of a score.
        should_stop: Called before anything is written.

    Returns:
        {"run", "path", "difference", "stopped"}.

    Raises:
        UserError: "not-finetuned" for a pre-training, "no-checkpoint", "locked" or "elsewhere" while it is
            being trained, "disagree", and those of `check_portable`.
    """
    path = Path(job.path)
    emit(Started(run.id))
    need_here(run)
    try:
        need_not_trained(run)
    except UserError as error:
        if error.code != "not-writable":  # as in a project that may only be read
            raise
    target = check_portable(path)
    trained = Trained.of(run.checkpoint, run.id, "cpu")
    emit(Progress("export", 0.2))
    facts, inputs = description(trained, project), sample_inputs(trained, project)
    modalities = facts["trained_on"].get("modalities", [])
    if "ct" in modalities[:-1]:
        emit(
            Notice(f"{run.id} was trained on CT and other scans; what is written normalises all scans as CT.")
        )
    if should_stop():
        return {"run": run.id, "stopped": True}
    write = write_onnx if target == "onnx" else write_bundle
    difference = write(path, trained, facts, inputs)
    emit(Progress("export", 1.0))
    emit(Notice(f"{path} has the network of {run.id}; its scores are within {difference:.1g} of those here."))
    return {"run": run.id, "path": str(path), "difference": difference, "stopped": False}
