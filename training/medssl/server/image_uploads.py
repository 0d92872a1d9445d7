"""Images that clients add to the project: their files lie in its folder "uploads"."""

from __future__ import annotations

import secrets
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from medssl.core.errors import UserError
from medssl.core.io.volume import fingerprint, stem_of
from medssl.core.project.contents import Scan
from medssl.core.project.scans import read_checked
from medssl.server.scans import scan_of
from medssl.server.state import Server
from medssl.server.uploads import check_voxels, save_upload

FOLDER = "uploads"


def add_image(server: Server, name: str, file_name: str, content: BinaryIO) -> Scan:
    """Add an image to the project; one that the project has already stays as it is.

    Args:
        server: The server.
        name: What the client calls it; it finds the scan by this name, too.
        file_name: Name of its file on the client.
        content: Content of the file.

    Raises:
        UserError: "same-name" if another scan is called so, and those of `save_upload`, `check_voxels` and
            `Project.add_scan`.
    """
    project = server.project
    path = save_upload(content, file_name, project.make_folder(FOLDER), secrets.token_hex(8))
    kept = False
    try:
        check_voxels(path)
        server.with_volumes(lambda: _check_name(server, name, path))
        scan = server.with_volumes(lambda: project.add_scan(path, name=stem_of(Path(name))))
        kept = Path(scan.source) == path
    finally:
        if not kept:
            path.unlink(missing_ok=True)
    if kept and scan.id != name:
        with suppress(UserError):  # a name that no scan may have, or that another one has
            project.rename_scan(scan.id, name)
    server.uploaded.setdefault(name, scan.id)
    return project.scan(scan.id)


def _check_name(server: Server, name: str, path: Path) -> None:
    """Refuse an image under the name of another one, whose labels it would get."""
    try:
        known = scan_of(server, name)
    except UserError:
        return
    if fingerprint(read_checked(path, None, False)) != known.sha256:
        raise UserError(
            f"The project has another scan that is called {name[:80]!r}; send the image under another name.",
            code="same-name",
        )
