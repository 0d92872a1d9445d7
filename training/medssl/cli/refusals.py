"""What a command could not use among several scans or paths: it is named, and the others are processed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from medssl.core.errors import UserError

if TYPE_CHECKING:
    from medssl.core.project.contents import Scan

S = TypeVar("S", str, Path)
T = TypeVar("T")


class Refusals:
    """Prints what is skipped and remarks on the rest; exit code 1 if anything besides masks was skipped."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, path: Path, error: UserError) -> None:
        """Print why a scan is skipped."""
        from medssl.core.io.masks import MASK

        self._print(str(error) if str(path) in str(error) else f"{path}: {error}")
        self.count += error.code != MASK

    def resolve(self, names: Sequence[S], find: Callable[[S], T]) -> tuple[T, ...]:
        """Find what arguments name; a name that is unknown is printed, and the others are used.

        Args:
            names: Arguments.
            find: Returns what a name stands for, or raises a UserError.

        Returns:
            What the known names stand for, each once; empty without names.

        Raises:
            UserError: That of the last name, if all of them are unknown.
        """
        known: dict[T, None] = {}
        for number, name in enumerate(names, 1):
            try:
                known[find(name)] = None
            except UserError as error:
                if number == len(names) and not known:
                    raise
                self._print(str(error))
                self.count += 1
        return tuple(known)

    def _print(self, text: str) -> None:
        from medssl.cli.terminal import console, warn

        warn(console(), text)

    def remark(self, path: Path, scan: Scan) -> None:
        """Print what was tolerated in the file of a scan, and which modality was assumed."""
        from medssl.core.project.modality import assumption

        for note in (*scan.notes, *filter(None, [assumption(scan)])):
            self._print(f"{path}: {note}")

    def end(self) -> None:
        """End the command.

        Raises:
            typer.Exit: with code 1 if scans were skipped.
        """
        from medssl.cli.terminal import console

        if self.count:
            console().print(f"Skipped {self.count}; see the messages above.", style="red")
            raise typer.Exit(1)
