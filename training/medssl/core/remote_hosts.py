"""The hosts of the user's ssh configuration, and which Python has medssl there."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from platformdirs import user_config_path

from medssl.core.errors import UserError
from medssl.core.files import make_folder
from medssl.core.json_files import read_json, write_json
from medssl.core.typed import convert

FILE = user_config_path("medssl", appauthor=False) / "hosts.json"
"""{host: its Python}, as `medssl hosts HOST --python PATH` has written it."""
DEFAULT_PYTHON = "python3"
MAX_DEPTH = 8
"""Files that include files; ssh allows 16."""
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@:%-]*")


def ssh_hosts(config: Path | None = None) -> tuple[str, ...]:
    """Names under `Host` in an ssh configuration, without patterns, in its order.

    Args:
        config: The file; by default that of the user. One that cannot be read has none.
    """
    if config is None and shutil.which("ssh") is None:
        return ()
    names = _hosts_in(config or Path.home() / ".ssh" / "config", MAX_DEPTH)
    return tuple(dict.fromkeys(name for name in names if _WORD.fullmatch(name)))


def _hosts_in(path: Path, depth: int) -> Iterator[str]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        keyword, _, value = re.sub(r"^\s*(\w+)(\s*=\s*|\s+)", r"\1 ", line).partition(" ")
        # A quote that nobody closes, the home of an unknown user, a pattern of no file.
        with suppress(ValueError, RuntimeError, IndexError):
            words = shlex.split(value, comments=True)
            if keyword.lower() == "host":
                yield from words
            elif keyword.lower() == "include" and depth:
                for word in words:
                    # ssh reads them from its own folder, wherever the file that names them is.
                    pattern = Path.home() / ".ssh" / Path(word).expanduser()
                    inside = str(pattern.relative_to(pattern.anchor))
                    for included in sorted(Path(pattern.anchor).glob(inside)):
                        yield from _hosts_in(included, depth - 1)


def check_host(host: str) -> str:
    """A name that ssh takes for a host, and not for an option.

    Raises:
        UserError: "bad-host".
    """
    if not _WORD.fullmatch(host):
        raise UserError(
            f"{host!r} is no name of a host; give one of your ssh configuration, or user@computer.",
            code="bad-host",
        )
    return host


def python_of(host: str) -> str:
    """The Python that has medssl on a host."""
    return _known().get(host, DEFAULT_PYTHON)


def set_python(host: str, python: str) -> None:
    """Keep which Python has medssl on a host.

    Raises:
        UserError: "disk-full", "not-writable".
    """
    make_folder(FILE.parent)
    write_json(FILE, {**_known(), host: python})


def remote_command(python: str) -> str:
    """The command that starts the agent, for the shell of a host.

    Args:
        python: A program, or a path, which may begin with ~/.
    """
    home, _, rest = python.partition("~/")
    program = f'"$HOME"/{shlex.quote(rest)}' if not home and rest else shlex.quote(python)
    return f"{program} -u -m medssl agent"


def _known() -> dict[str, str]:
    try:
        return convert(dict[str, str], read_json(FILE), FILE.name)
    except UserError:
        return {}
