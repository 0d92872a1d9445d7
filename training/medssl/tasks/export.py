"""Export: predict missing segmentations, then write labels, provenance and a table of volumes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from medssl.core.errors import UserError
from medssl.core.events import Emit, Notice, Progress, Started
from medssl.core.export.files import (
    FATAL,
    TABLE,
    ClassVolume,
    check_ending,
    export_scan,
    needs_prediction,
    write_table,
)
from medssl.core.export.provenance import check_target
from medssl.core.export.stl import export_surfaces
from medssl.core.export.targets import usable_targets
from medssl.core.jobs import ExportJob
from medssl.core.labels.postprocess import Postprocessing
from medssl.core.project.damage import survey
from medssl.core.project.project import Project, Run
from medssl.tasks.inference.predict import predict_scans
from medssl.tasks.plan.channels import channels_of


def export_scans(
    project: Project, job: ExportJob, emit: Emit, should_stop: Callable[[], bool]
) -> dict[str, Any]:
    """Export the segmentations of scans into a folder, with a table of their volumes.

    Missing predictions are computed first. A scan that cannot be written is reported in a Notice, and the
    export continues with the others.

    Args:
        project: The project.
        job: Folder, format, run and scans.
        emit: Receives Progress and Notice events.
        should_stop: Called before each scan.

    Returns:
        {"run", "written": file names, "refused": messages by scan, "stopped"}.

    Raises:
        UserError: "bad-job", "unsupported", "no-run", "disk-full", "not-writable", or "nothing-yet" if no
            scan could be written.
    """
    if not job.folder:
        raise UserError('The export has no "folder"; say into which one to write.', code="bad-job")
    ending, folder = check_ending(job.ending), Path(job.folder)
    run = project.run(job.weights) if job.weights else None
    if run is not None:
        run.card  # noqa: B018 - a damaged card is reported before anything is computed
    postprocessing = Postprocessing(job.largest, job.drop_ml, job.fill_holes)
    scans = job.scans or _exportable(project, run)
    refused: dict[str, str] = {}
    volumes: list[ClassVolume] = []
    written: list[str] = []
    surfaces: list[str] = []

    def notify(text: str) -> None:
        emit(Notice(text))

    def refuse(error: UserError, *scan_ids: str) -> None:
        if error.code in FATAL or len(scan_ids) == len(scans):
            raise error
        refused.update(dict.fromkeys(scan_ids, str(error)))
        notify(str(error))

    emit(Started(run.id if run else ""))
    targets = usable_targets(project, scans, folder, ending, job.overwrite, refuse)
    table_refused = _refusal(lambda: check_target(folder / TABLE, job.overwrite), notify)
    to_predict: list[str] = []
    for scan_id in targets:
        try:
            if run is not None and _lacks_prediction(project, run, scan_id):
                to_predict.append(scan_id)
        except UserError as error:
            refuse(error, scan_id)
    remaining = [scan_id for scan_id in scans if scan_id not in refused]
    if run is not None and to_predict:
        predict_scans(project, run, to_predict, job.device, emit, should_stop)
    for number, scan_id in enumerate(remaining):
        if should_stop():
            break
        try:
            volumes += export_scan(
                project,
                scan_id,
                run.id if run else None,
                targets[scan_id],
                postprocessing,
                overwrite=job.overwrite,
                with_names=job.with_names,
                notify=notify,
            )
            written.append(str(targets[scan_id]))
            if job.stl:
                surfaces += _surfaces(project, job, scan_id, postprocessing)
        except UserError as error:
            refuse(error, scan_id)
        emit(Progress("export", (number + 1) / len(remaining), number + 1))
    stopped = len(written) + len(refused) < len(scans)
    if len(refused) == len(scans):
        raise UserError(
            f"None of the {len(scans)} scans was exported; put right what the messages above name.",
            code="nothing-yet",
        )
    if written and not table_refused:
        table_refused = _refusal(lambda: write_table(folder / TABLE, volumes, job.overwrite), notify)
    if table_refused:
        refused[TABLE] = table_refused
    notify(_summary(folder, written, refused))
    return {"run": job.weights, "written": [*written, *surfaces], "refused": refused, "stopped": stopped}


def _surfaces(project: Project, job: ExportJob, scan_id: str, postprocessing: Postprocessing) -> list[str]:
    """Write the surfaces of a scan beside its segmentation."""
    paths = export_surfaces(
        project,
        scan_id,
        job.weights,
        Path(job.folder),
        postprocessing,
        overwrite=job.overwrite,
        with_names=job.with_names,
    )
    return [str(path) for path in paths]


def _refusal(action: Callable[[], object], notify: Callable[[str], object]) -> str:
    """Why an action was refused, which is said at once; empty if it was not."""
    try:
        action()
    except UserError as error:
        notify(str(error))
        return str(error)
    return ""


def _lacks_prediction(project: Project, run: Run, scan_id: str) -> bool:
    """Whether a scan has to be segmented first; raises UserError if its image cannot be read."""
    if project.has_prediction(run.id, scan_id) or not needs_prediction(project.annotation(scan_id)):
        return False
    project.images(scan_id, channels_of(run))
    return True


def _exportable(project: Project, run: Run | None) -> tuple[str, ...]:
    """All scans or, without a run that predicts the remaining voxels, those with an annotation file."""
    if run is not None:
        return tuple(project.scans)
    state = survey(project)
    annotated = tuple(scan for scan in project.scans if scan in state.annotated or scan in state.damaged)
    if not annotated:
        raise UserError(
            f"{project.root} has no annotation to export; annotate some slices or choose a fine-tuning run.",
            code="nothing-yet",
        )
    return annotated


def _summary(folder: Path, written: Sequence[str], refused: dict[str, str]) -> str:
    """The result in one sentence."""
    skipped = f"; skipped: {', '.join(refused)}" if refused else ""
    scans = "1 scan" if len(written) == 1 else f"{len(written)} scans"
    table = "" if TABLE in refused else f" and {TABLE}"
    return f"Exported {scans}{table} to {folder}{skipped}."
