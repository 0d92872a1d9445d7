"""The commands medssl hosts and medssl agent: other computers that jobs run on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def hosts(
    host: Annotated[
        str | None,
        typer.Argument(
            metavar="[HOST]", show_default=False, help="Connect to this host of your ssh configuration."
        ),
    ] = None,
    python: Annotated[
        str,
        typer.Option(
            metavar="PATH",
            show_default=False,
            help="The Python there that has medssl, such as /opt/medssl/bin/python or ~/venv/bin/python; it "
            "is kept for this host (default: python3).",
        ),
    ] = "",
    clear: Annotated[
        bool,
        typer.Option(
            "--clear",
            help="Delete the scans and weights that were sent there; the next job sends its own again.",
        ),
    ] = False,
) -> None:
    """List the hosts of the ssh configuration, or connect to one of them.

    Training and prediction run there with --on HOST, and from the viewer.
    """
    from medssl.cli.terminal import console, plain_table
    from medssl.core.errors import UserError
    from medssl.core.remote_hosts import python_of, set_python, ssh_hosts
    from medssl.remote.connection import Connection

    screen = console(stderr=False)
    if host is None and (python or clear):
        option = "--python" if python else "--clear"
        raise UserError(
            f"{option} is for one host; name it, as in medssl hosts gpu1 {option}.", code="bad-option"
        )
    if host is None:
        table = plain_table("Host", "Python")
        for name in ssh_hosts():
            table.add_row(name, python_of(name))
        screen.print(table)
        return
    connection = Connection(host, python)
    try:
        hello = connection.hello
        if python:
            set_python(host, python)
        screen.print(f"{host}: medssl {hello['version']}, {hello['python']}", soft_wrap=True)
        screen.print(f"GPU: {hello['gpu'] or 'none'}", soft_wrap=True)
        free, jobs = hello["free"] / 1e9, hello["jobs"]
        screen.print(f"{hello['folder']}: {free:.1f} GB free, {jobs} jobs", soft_wrap=True)
        if clear:
            screen.print(f"Deleted {connection.ask('clear')[0]['size'] / 1e9:.1f} GB.")
    finally:
        connection.close()


def agent(
    job: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Run the job of this folder, whoever listens.")
    ] = None,
) -> None:
    """Answer the medssl of another computer on standard input and output."""
    from medssl.remote.agent import serve
    from medssl.remote.supervisor import supervise

    raise typer.Exit(serve() if job is None else supervise(job))
