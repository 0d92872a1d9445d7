"""The commands medssl predict, features, similarity and evaluate, which use trained weights."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from medssl.cli.export import work
from medssl.cli.options import (
    LAST,
    DeviceOption,
    FormatOption,
    ModalityOption,
    OnOption,
    OverwriteOption,
    ProjectArgument,
    SeedOption,
    WeightsOption,
    WithNamesOption,
)
from medssl.core.shell import command

ScansArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="SCAN", show_default=False, help="Scans of the project (default: all)."),
]


def predict(
    project: ProjectArgument,
    scans: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SCAN",
            show_default=False,
            help="Scans of the project, or files and folders anywhere (default: all scans of the project).",
        ),
    ] = None,
    weights: WeightsOption = LAST,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            file_okay=False,
            show_default=False,
            help="Output folder for segmentations and a table of volumes. Without it, segmentations of files "
            "outside the project are written next to them; those of the project's scans stay in the project.",
        ),
    ] = None,
    ending: FormatOption = "nii.gz",
    modality: ModalityOption = "",
    overwrite: OverwriteOption = False,
    with_names: WithNamesOption = False,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    on: OnOption = "",
) -> None:
    """Segment scans with a fine-tuned network.

    A segmentation has the grid of the scan's file: same shape, spacing,
    position and orientation. A record (JSON) next to it lists what produced
    it. Files that cannot be used are reported and skipped. A notice says if a scan
    is unlike those that the network was trained on. --modality is for files
    outside the project.
    """
    from medssl.cli.export import targets_in, write_scans
    from medssl.cli.external import predict_outside
    from medssl.cli.refusals import Refusals
    from medssl.cli.selection import choose_run, split_scans
    from medssl.cli.terminal import console, scans_among, warn
    from medssl.core.errors import UserError
    from medssl.core.export.files import check_ending
    from medssl.core.jobs import ExportJob, PredictJob
    from medssl.core.project.modality import check_modality
    from medssl.core.project.project import Project
    from medssl.tasks.plan.channels import channels_of

    opened, ending = Project.open(project), check_ending(ending)
    run = choose_run(opened, weights, ("finetune",))
    named, refusals = split_scans(opened, scans or []), Refusals()
    for sentence in named.missing:
        warn(console(), sentence)
    refusals.count += len(named.missing)
    inside, outside = named.inside, named.outside
    if modality:
        check_modality(modality)
        if not outside:
            raise UserError(
                f"--modality {modality} is for files outside the project; leave it out (medssl init corrects "
                "the project's own scans).",
                code="bad-option",
            )
    channels = tuple(filter(None, channels_of(run)))
    by_name = channels if len(channels) > 1 else ()
    files = scans_among(outside, console(), by_name, for_network=True).scans if outside else ()
    job = PredictJob(project=str(project), seed=seed, device=device, weights=run.id, scans=inside)
    if inside or not outside:
        if out is not None:
            inside = targets_in(opened, inside, out, ending, overwrite, refusals)
            job = replace(job, scans=inside)
        if inside or out is None:
            refusals.count += len(work(job, on).get("left_out", ()))
        if out is None:
            write = command("export", project, "--out", "DIR")
            typer.echo(f"The segmentations are in the project; {write} writes files.")
        elif inside:
            refusals.count += write_scans(
                ExportJob(
                    project=str(project),
                    device=device,
                    folder=str(out),
                    ending=ending,
                    weights=run.id,
                    scans=inside,
                    overwrite=overwrite,
                    with_names=with_names,
                )
            )
    written = predict_outside(
        opened,
        run,
        files,
        out,
        ending,
        job,
        partial(work, on=on),
        refusals,
        modality,
        overwrite=overwrite,
        with_names=with_names,
        notify=lambda text: warn(console(), text),
    )
    for path in written:
        typer.echo(path)
    refusals.end()


def features(
    project: ProjectArgument,
    scans: ScansArgument = None,
    weights: WeightsOption = LAST,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
) -> None:
    """Compute dense features of scans and store them for similarity maps, here and in the viewer."""
    from medssl.cli.refusals import Refusals
    from medssl.cli.selection import choose_run, scan_in
    from medssl.core.jobs import FeaturesJob
    from medssl.core.project.project import Project

    opened = Project.open(project)
    run = choose_run(opened, weights, ("pretrain", "finetune"))
    refusals = Refusals()
    chosen = refusals.resolve(scans or [], partial(scan_in, opened))
    job = FeaturesJob(project=str(project), seed=seed, device=device, weights=run.id, scans=chosen)
    refusals.count += len(work(job).get("left_out", ()))
    refusals.end()


def similarity(
    project: ProjectArgument,
    scan: Annotated[str, typer.Argument(metavar="SCAN", show_default=False, help="Scan of the project.")],
    z: Annotated[
        int, typer.Argument(metavar="Z", show_default=False, help="Axial slice index, from inferior.")
    ],
    y: Annotated[int, typer.Argument(metavar="Y", show_default=False, help="Row index, from posterior.")],
    x: Annotated[
        int, typer.Argument(metavar="X", show_default=False, help="Column index, from the patient's left.")
    ],
    weights: WeightsOption = LAST,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE", dir_okay=False, help="Output file: a volume (.nii, .nii.gz) or a picture (.png)."
        ),
    ] = Path("similarity.nii.gz"),
    device: DeviceOption = "auto",
) -> None:
    """Write a map of the similarity to one voxel: the cosine similarity of the network's features.

    Voxel indices refer to the scan in canonical orientation. Features that
    are not stored yet are computed first.
    """
    from medssl.cli.selection import choose_run, scan_in
    from medssl.cli.similar import write_similarity
    from medssl.core.project.project import Project

    opened = Project.open(project)
    run = choose_run(opened, weights, ("pretrain", "finetune"))
    write_similarity(opened, scan_in(opened, scan), run, (z, y, x), out, device, work)
    typer.echo(out)


def evaluate(
    project: ProjectArgument,
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", hidden=True, help="Former place of --weights.")
    ] = None,
    weights: WeightsOption = LAST,
    labels: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            show_default=False,
            help="Folder of reference labels. A label file is named like its scan, with or without _seg or "
            "_label.",
        ),
    ] = ...,  # type: ignore[assignment]  # marks a required option in typer
    json: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            dir_okay=False,
            show_default=False,
            help="Also write the scores to this JSON file.",
        ),
    ] = None,
) -> None:
    """Compare a run's predictions with reference labels: Dice per scan and class.

    Scans without a label file do not count. Those that cannot be compared
    are reported, and the exit code is 1.
    """
    from medssl.cli.labels import project_pairs, report_notes, report_pairs
    from medssl.cli.selection import choose_run
    from medssl.cli.tables import scores_json, scores_table
    from medssl.cli.terminal import console, warn
    from medssl.core.files import check_writable
    from medssl.core.json_files import write_json
    from medssl.core.labels.evaluate import evaluate_usable
    from medssl.core.project.project import Project

    opened, screen = Project.open(project), console()
    chosen = choose_run(opened, run or weights, ("finetune",))
    if json is not None:
        check_writable(json)
    pairs = project_pairs(opened, labels)
    report_pairs(pairs, opened.titles, screen)
    scores = evaluate_usable(opened, chosen.id, pairs.files)
    for reason in scores.left_out.values():
        warn(screen, reason)
    report_notes(scores.notes, opened.titles, screen)
    scores.left_out.update(pairs.ambiguous)
    console(stderr=False).print(scores_table(scores, opened.titles, title=f"Dice of {chosen.id}"))
    if json is not None:
        write_json(json, scores_json(scores))
    if scores.left_out:
        screen.print(f"Left out {len(scores.left_out)} scans; see the messages above.", style="red")
        raise typer.Exit(1)
