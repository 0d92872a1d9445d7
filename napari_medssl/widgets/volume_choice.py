"""Asks which volumes of 4D files are used: each is a channel of one scan, a single one is the scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from medssl.core.errors import UserError
from medssl.core.io.channel_files import choose_volumes, volume_numbers
from qtpy.QtWidgets import QInputDialog, QWidget

from napari_medssl.error_handling import catch_errors, report_error
from napari_medssl.io.scan_adder import ScanAdder, Source, count
from napari_medssl.model.session import Session


class VolumeChoice:
    """Asks once for all 4D files that were opened together."""

    def __init__(self, adder: ScanAdder, session: Session, parent: QWidget) -> None:
        self._adder, self._session, self._parent = adder, session, parent
        adder.several_volumes.connect(self.ask)

    def ask(self, refused: Mapping[Source, UserError]) -> None:
        """Ask for the numbers of volumes, and add them; without an answer, say why the files are not added.

        Args:
            refused: The 4D files, and why none of them is one scan.
        """
        sources = list(refused)
        name = sources[0].file.path.name if sources[0].file else ""
        more = f" and {count(len(sources) - 1, 'more file')}" if len(sources) > 1 else ""
        text, chosen = QInputDialog.getText(
            self._parent,
            "Volumes of a 4D file",
            f"{name}{more}: which volumes, numbered from 0? Several, as in 0,1, are channels of one scan.",
            text="0",
        )
        if chosen:
            catch_errors(self._session, lambda: self.take(sources, text))
        else:
            for error in refused.values():
                report_error(self._session, error)

    def take(self, sources: Sequence[Source], text: str) -> None:
        """Add volumes of 4D files.

        Args:
            sources: The files.
            text: Numbers of the volumes, e.g. "0,1".

        Raises:
            UserError: "bad-volumes".
        """
        numbers = volume_numbers(text)
        files = [choose_volumes(source.file, numbers, []) for source in sources if source.file is not None]
        self._adder.add([replace(source, file=file) for source, file in zip(sources, files, strict=True)])
