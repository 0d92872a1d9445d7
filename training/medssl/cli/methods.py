"""medssl methods: what can be pre-trained, and what each is for."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperCommand

from medssl.cli.options import RecipeOption
from medssl.core import recipes, settings
from medssl.core.methods import ALL


def methods(
    method: Annotated[
        str | None,
        typer.Argument(
            metavar="METHOD", show_default=False, help="List the settings of this method, or of finetune."
        ),
    ] = None,
    recipe: RecipeOption = "quick",
) -> None:
    """List the methods and recipes of pre-training, and the recipes of fine-tuning, with what each is for.

    With a METHOD: what --set can change, with the recipe's values.
    """
    if method is not None:
        _settings(method, recipe)
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("--method", "--recipe", "for", "time"):
        table.add_column(title, no_wrap=title.startswith("--"))
    offered = recipes.pretrainings()
    for name, which, read in offered:
        table.add_row(name, which, escape(read.purpose), read.time)
    taken = {read.name for _, _, read in offered}
    rest = [recipes.read(name) for name in recipes.names() if name not in taken]
    for read in rest:
        what, _, which = read.name.rpartition("-")
        name = what if what in ALL else f"({what})"
        table.add_row(name, which, escape(read.purpose), read.time)
    Console().print(table)
    typer.echo("\nWhat the viewer calls them:")
    for kind, purposes in (("pretrain", recipes.PRETRAINING), ("finetune", recipes.FINETUNING)):
        for each in purposes:
            options = f"--recipe {each.recipe} --minutes {each.minutes:g}"
            semi_supervised = (
                ""
                if each.semi_supervised == recipes.Preset.semi_supervised
                else f" --semi-supervised {each.semi_supervised}"
            )
            typer.echo(f"  medssl {kind} PROJECT {options}{semi_supervised}  {each.name}. {each.about}")
    typer.echo("\nUse: medssl pretrain PROJECT --method METHOD --recipe RECIPE")


def _settings(method: str, recipe: str) -> None:
    """The settings of a method, or of fine-tuning, in the groups of the viewer's forms."""
    if method == "finetune":
        groups = settings.of_finetuning("self_training", recipe)
    else:
        groups = settings.of_pretraining(method, recipe)
    groups.pop(settings.COMPUTER)  # options of their own on the command line
    for title, group in groups.items():
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
        for each in group:
            value = "auto" if each.default is None else each.default
            table.add_row(f"{each.name}={value}", escape(each.help))
        Console(highlight=False).print(f"[bold]{title}", table, sep="\n")


class WithRecipes(TyperCommand):
    """A command whose help ends with the methods; read when help is asked for, not at every start."""

    # Newer typers carry a click of their own, so its types have no name that holds everywhere.
    def format_help(self, ctx: Any, formatter: Any) -> None:
        lines = [
            f"[bold]--method {method} --recipe {which}[/]  {escape(recipe.purpose)} ({recipe.time})"
            for method, which, recipe in recipes.pretrainings()
        ]
        self.epilog = "\n\n".join(lines)
        super().format_help(ctx, formatter)
