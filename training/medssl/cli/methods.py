"""The command medssl methods: methods, recipes and settings."""

from __future__ import annotations

import json
import shlex
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from medssl.cli.command import Command
from medssl.cli.options import AUTO, RecipeOption
from medssl.core import recipes, settings
from medssl.core.methods import ALL


def methods(
    method: Annotated[
        str | None,
        typer.Argument(
            metavar="METHOD",
            show_default=False,
            help="List the settings of a method, of finetune, or of a choice of --semi-supervised.",
        ),
    ] = None,
    recipe: RecipeOption = "quick",
) -> None:
    """List the recipes of pre-training and fine-tuning and their purposes.

    With a METHOD, list the settings that --set can change, with the recipe's values, as --set takes them;
    "auto" leaves the choice to the program.
    """
    from medssl.cli.terminal import console

    if method is not None:
        _settings(method, recipe)
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("--method", "--recipe", "purpose", "time"):
        table.add_column(title, no_wrap=title.startswith("--"))
    pretraining = recipes.pretrainings()
    for name, length, entry in pretraining:
        table.add_row(name, length, entry.purpose, entry.time)
    listed = {entry.name for _, _, entry in pretraining}
    for entry in [recipes.read(name) for name in recipes.names() if name not in listed]:
        task, _, length = entry.name.rpartition("-")
        name = task if task in ALL else f"({task})"
        table.add_row(name, length, entry.purpose, entry.time)
    console(stderr=False).print(table)
    typer.echo("\nPurposes in the viewer and their commands:")
    for kind, purposes in (("pretrain", recipes.PRETRAINING), ("finetune", recipes.FINETUNING)):
        for preset in purposes:
            options = f"--recipe {preset.recipe} --minutes {preset.minutes:g}"
            semi_supervised = (
                ""
                if preset.semi_supervised == recipes.Preset.semi_supervised
                else f" --semi-supervised {preset.semi_supervised}"
            )
            typer.echo(f"  medssl {kind} PROJECT {options}{semi_supervised}  {preset.name}. {preset.about}")
    typer.echo("\nUsage: medssl pretrain PROJECT --method METHOD --recipe RECIPE")


def _settings(method: str, recipe: str) -> None:
    """Print the settings of a method or of fine-tuning, grouped as in the viewer's forms."""
    from medssl.cli.terminal import console

    choice = "self_training" if method == "finetune" else method
    if choice in settings.FINETUNING:
        groups = settings.of_finetuning(choice, recipe)
    else:
        groups = settings.of_pretraining(method, recipe)
    groups.pop(settings.COMPUTER)  # --device and others are options on the command line
    screen = console(stderr=False)
    for title, group in groups.items():
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
        for setting in group:
            table.add_row(assignment(setting.name, setting.default), setting.help)
        screen.print(title, style="bold")
        screen.print(table)


def assignment(name: str, value: Any) -> str:
    """A setting as it is written after --set, quoted for the shell where it needs to be.

    Args:
        name: name of the setting.
        value: its value; None stands for the planner's choice.
    """
    text = (
        AUTO
        if value is None
        else value
        if isinstance(value, str)
        else json.dumps(value, separators=(",", ":"))
    )
    return shlex.quote(f"{name}={text}")


class WithRecipes(Command):
    """A command whose help ends with the list of recipes, which is read only when help is shown."""

    # Newer versions of typer bundle click, so its types have no name that works with all versions.
    def format_help(self, ctx: Any, formatter: Any) -> None:
        lines = [
            f"[bold]--method {method} --recipe {escape(which)}[/]  {escape(recipe.purpose)} ({recipe.time})"
            for method, which, recipe in recipes.pretrainings()
        ]
        self.epilog = "\n\n".join(lines)
        super().format_help(ctx, formatter)
