"""The command medssl serve: a project for 3D Slicer and OHIF."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from medssl.cli.options import DeviceOption, ProjectArgument

if TYPE_CHECKING:
    import socket

NO_KEY = "none"


def serve(
    project: ProjectArgument,
    host: Annotated[
        str,
        typer.Option(metavar="HOST", help="Address to listen on; 0.0.0.0 lets other machines in."),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="PORT", help="Port; 0 chooses a free one.")
    ] = 8000,
    key: Annotated[
        str,
        typer.Option(
            metavar="KEY",
            envvar="MEDSSL_SERVE_KEY",
            show_default=False,
            help="Access key of 16 or more letters and digits, which keeps the address the same (default: a "
            'new one each time); "none" for no key, only on this machine.',
        ),
    ] = "",
    max_upload: Annotated[
        int, typer.Option(min=1, metavar="MIB", help="Largest file that is accepted, in MiB.")
    ] = 2048,
    device: DeviceOption = "auto",
) -> None:
    """Serve a project to 3D Slicer and OHIF, which annotate its scans and use its networks.

    They connect with their MONAI Label modules, to the address that is printed. Ctrl-C ends the server.
    """
    from medssl.cli.terminal import console
    from medssl.core.errors import UserError

    try:
        import uvicorn

        from medssl.server.app import build_app
        from medssl.server.gate import Limits
        from medssl.server.state import Server
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("fastapi", "uvicorn", "starlette"):
            raise
        raise UserError(
            'medssl serve needs more packages; install them: pip install "napari-medssl[server]".',
            code="no-server",
        ) from error
    key = _checked_key(key, host)
    listening = _listen(host, port)
    server = Server(project, device)
    app = build_app(server, key, Limits(upload_bytes=max_upload << 20))
    config = uvicorn.Config(
        app,
        access_log=False,  # it would write the key
        log_level="warning",
        timeout_graceful_shutdown=5,
        lifespan="on",
    )
    listening.listen()
    address, own_port = listening.getsockname()[:2]
    screen = console()
    shown = f"[{address}]" if ":" in address else address
    typer.echo(f"http://{shown}:{own_port}/{key}{'/' if key else ''}")
    screen.print(
        "Server address for the MONAI Label modules of 3D Slicer and OHIF. Whoever has it may read and "
        "annotate this project. Ctrl-C ends the server.",
        soft_wrap=True,
    )
    try:
        with suppress(KeyboardInterrupt):  # uvicorn has closed the server by then, and raises it again
            uvicorn.Server(config).run(sockets=[listening])
    finally:
        server.close()


def _checked_key(key: str, host: str) -> str:
    """The key to use, empty for none.

    Raises:
        UserError: "bad-key".
    """
    import secrets

    from medssl.core.errors import UserError
    from medssl.server.gate import KEY, LOOPBACK

    if key == NO_KEY:
        if host not in LOOPBACK:
            raise UserError(
                f"Without a key, whoever reaches {host} could read and change the project; leave out --key, "
                "or listen on 127.0.0.1.",
                code="bad-key",
            )
        return ""
    if key and not KEY.fullmatch(key):
        raise UserError(
            "The key needs 16 to 128 letters, digits, - or _; write a longer one, or leave out --key.",
            code="bad-key",
        )
    return key or secrets.token_urlsafe(24)


def _listen(host: str, port: int) -> socket.socket:
    """A socket that is bound to an address.

    Raises:
        UserError: "no-port" if that is not possible.
    """
    import socket

    from medssl.core.errors import UserError

    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        raise UserError(
            f"The server cannot listen on {host}, port {port} ({error.strerror or error}); choose another "
            "--port, or 0 for a free one.",
            code="no-port",
        ) from error
    return listening
