"""The scan that a client is given next."""

from __future__ import annotations

import random
from typing import Any

from medssl.core.errors import UserError
from medssl.core.files import cached_sha256
from medssl.core.io.volume import suffix_of
from medssl.core.jobs import SuggestJob
from medssl.core.project.contents import Scan
from medssl.core.project.damage import survey
from medssl.core.project.runs import Run
from medssl.server.inference import NEWEST, usable_runs
from medssl.server.scans import dicom_uids, image_file
from medssl.server.state import Server

STRATEGIES = {
    "suggest": "The scan with the slice that teaches the newest network most; before a training, the first "
    "scan without annotation",
    "first": "The first scan without annotation",
    "random": "Any scan without annotation",
}
COUNT = 10
"""Slices that are suggested at once; the list is used until there is a newer network."""


class NextSample:
    """Chooses scans, and remembers the slices that are suggested."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._suggested: list[dict[str, Any]] = []
        self._weights = ""

    def choose(self, strategy: str) -> dict[str, Any]:
        """The document of the next scan; empty if none is left.

        Args:
            strategy: One of `STRATEGIES`.

        Raises:
            UserError: "no-strategy", BUSY, those of `image_file`, and of the job that suggests slices.
        """
        if strategy not in STRATEGIES:
            raise UserError(
                f"There is no strategy {strategy[:80]!r}; choose one of {', '.join(STRATEGIES)}.",
                code="no-strategy",
            )
        self._server.project.refresh()
        if strategy == "suggest" and NEWEST in usable_runs(self._server):
            suggestion = self._next_suggestion()
            if suggestion is not None:
                scan = self._server.project.scan(suggestion["scan"])
                return {**self._document(scan), "slice": suggestion}
        open_scans = self._not_annotated()
        if not open_scans:
            return {}
        return self._document(random.choice(open_scans) if strategy == "random" else open_scans[0])

    def _not_annotated(self) -> list[Scan]:
        project = self._server.project
        state = survey(project, quick=True)
        done = state.annotated | state.damaged.keys()
        return [scan for scan in project.scans.values() if not scan.held_out and scan.id not in done]

    def _next_suggestion(self) -> dict[str, Any] | None:
        """The next suggested slice, each of another scan; None if there is nothing left to annotate."""
        run = usable_runs(self._server)[NEWEST]
        with self._server.engines.turn():
            if self._weights != run.weights_sha256 or not self._suggested:
                self._suggested, self._weights = self._suggestions(run), run.weights_sha256
            while self._suggested:
                suggestion = self._suggested.pop(0)
                if suggestion["scan"] in self._server.project.scans:
                    return suggestion
        return None

    def _suggestions(self, run: Run) -> list[dict[str, Any]]:
        """The best slice of each scan of which slices are suggested, the best first."""
        root, device = str(self._server.project.root), self._server.device
        try:
            result = self._server.engines.run(SuggestJob(root, device=device, count=COUNT, weights=run.id))
        except UserError as error:
            if error.code == "nothing-left":
                return []
            raise
        best: dict[str, dict[str, Any]] = {}
        for suggestion in result["suggestions"]:
            best.setdefault(suggestion["scan"], suggestion)
        return list(best.values())

    def _document(self, scan: Scan) -> dict[str, Any]:
        """What a client needs to get a scan; of a DICOM header, only what OHIF finds it by."""
        path = image_file(self._server, scan)
        return {
            "id": scan.id,
            "name": f"{scan.title}{suffix_of(path)}",
            "checksum": f"SHA256:{cached_sha256(path)}",
            **dicom_uids(scan),
        }
