"""What all commands of the command line have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

PATHS = ("path", "file", "directory")
"""Names of the types of paths, where typer has types of its own for them."""


class Command(TyperCommand):
    """A command that refuses empty arguments, as of a shell's variable that is not set, and empty paths.

    An empty path would be the current folder: its scans would be segmented, or it would become a project.
    """

    # Newer versions of typer bundle click, so its types have no name that works with all versions.
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = list(args)
        rest: list[str] = super().parse_args(ctx, args)
        if "." in given or not any(not word or word.endswith("=") for word in given):
            return rest
        parameters: list[Any] = [*self.params]
        for parameter in parameters:
            value = ctx.params.get(parameter.name)
            values = value if isinstance(value, list | tuple) else [value]
            own_type = getattr(getattr(parameter, "type", None), "name", "")
            takes_paths = parameter.param_type_name == "argument" or own_type in PATHS
            if Path() in values or (takes_paths and "" in values):
                raise typer.BadParameter("it is empty.", ctx=ctx, param=parameter)
        return rest
