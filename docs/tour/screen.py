"""A screen and a home folder for a tour; nothing here imports napari, which looks for both when imported."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SIZE = "1400x1000"


def need_screen(module: str) -> None:
    """Without a display, run a module again under xvfb-run, and exit as it does.

    Args:
        module: Name of the module that was started by `python -m`.
    """
    if os.environ.get("DISPLAY") or sys.platform != "linux":
        return
    if not shutil.which("xvfb-run"):
        sys.exit("There is no display; install Debian's xvfb, or run this on a desktop.")
    screen = ["xvfb-run", "-a", "-s", f"-screen 0 {SIZE}x24"]
    sys.exit(subprocess.call([*screen, sys.executable, "-m", module, *sys.argv[1:]], cwd=ROOT))


def live_in(home: Path) -> None:
    """Make a folder the home folder of all that is imported and started from now on.

    Args:
        home: The folder.
    """
    os.environ.update({"HOME": str(home), "USERPROFILE": str(home)})
    os.environ.update({f"XDG_{kind}_HOME": str(home / kind.lower()) for kind in ("CONFIG", "CACHE", "DATA")})
