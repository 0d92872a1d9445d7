"""The commands medssl fetch and medssl send: series from a DICOMweb store, segmentations back to it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

UrlArgument = Annotated[
    str,
    typer.Argument(
        metavar="URL", show_default=False, help="DICOMweb store: http://localhost:8042/dicom-web."
    ),
]


def fetch(
    url: UrlArgument,
    series: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SERIES",
            show_default=False,
            help="SeriesInstanceUIDs (default: list those of the store).",
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(metavar="FOLDER", file_okay=False, help="Folder in which each series gets its own."),
    ] = Path("dicom"),
) -> None:
    """Copy DICOM series from a DICOMweb store into a folder, for medssl init.

    User and password of the store are read from ~/.netrc.
    """
    from medssl.cli.terminal import console, plain_table
    from medssl.core.io.dicomweb import MAX_LISTED, fetch_series, list_series

    screen = console()
    for uid in series or []:
        with screen.status(f"Fetching {uid} ..."):
            typer.echo(fetch_series(url, uid, out))
    if series:
        return
    found = list_series(url)
    table = plain_table("series", "modality", "description", "images", right=["images"])
    for each in found:
        table.add_row(each.uid, each.modality, each.description, str(each.images))
    console(stderr=False).print(table)
    if len(found) == MAX_LISTED:
        screen.print(f"These are the first {MAX_LISTED} series; the store may have more.")


def send(
    url: UrlArgument,
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATHS",
            show_default=False,
            help="DICOM files, or folders of an export with --format dcm.",
        ),
    ],
) -> None:
    """Send DICOM files, such as exported DICOM-SEG, to a DICOMweb store.

    User and password of the store are read from ~/.netrc.
    """
    from medssl.core.errors import UserError
    from medssl.core.io.dicomweb import store_files

    files = [file for path in paths for file in (sorted(path.glob("*.dcm")) if path.is_dir() else [path])]
    if not files:
        raise UserError(
            f"There is no DICOM file in {', '.join(map(str, paths))}; choose others.", code="missing"
        )
    store_files(url, files, typer.echo)
