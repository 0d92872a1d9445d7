"""medssl methods: what can be pre-trained, and what each is for."""

from __future__ import annotations

from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperCommand

from medssl.core import recipes
from medssl.core.methods import WITHOUT_SCANS


def methods() -> None:
    """List the methods and recipes of pre-training, and the recipes of fine-tuning, with what each is for."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("--method", "--recipe", "for", "time"):
        table.add_column(title, no_wrap=title.startswith("--"))
    offered = recipes.pretrainings()
    for method, which, recipe in offered:
        table.add_row(method, which, escape(recipe.purpose), recipe.time)
    taken = {recipe.name for _, _, recipe in offered}
    rest = [recipes.read(name) for name in recipes.names() if name not in taken]
    for recipe in rest:
        what, _, which = recipe.name.rpartition("-")
        name = what if what in WITHOUT_SCANS else f"({what})"
        table.add_row(name, which, escape(recipe.purpose), recipe.time)
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
