"""The film of docs/remote.md: `python -m docs.remote_film`.

A simulated user trains and predicts on another computer in the real window, by mouse and keyboard alone. The
other computer is a real sshd on loopback; its connection is killed during the training. It quotes the page
before it does what the page says (docs/tour/another_computer.py), and fails where the window answers
otherwise. Without a display it runs itself under xvfb-run.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import loopback_sshd

from docs.tour.screen import ROOT, live_in, need_screen


def main() -> None:
    """Make the film; exit with an error if the page is not true."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--minutes", type=float, default=1.0, help="of the training")
    given = parser.parse_args()
    if reason := loopback_sshd.missing():
        sys.exit(reason)
    need_screen("docs.remote_film")
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        server = loopback_sshd.make_server(Path(scratch) / "server")
        live_in(server.home)
        os.environ.update(loopback_sshd.environment(server))
        server.start()
        try:
            from docs.tour.another_computer import make_film  # napari looks for the home folder when imported

            make_film(server, given.out, given.minutes)
        finally:
            server.end()


if __name__ == "__main__":
    main()
