"""The guide as a test, with its pictures and the film of the README: `python -m docs.shots`.

A simulated user goes through docs/guide.md in the real window, by mouse and keyboard alone, with the real
engine, from an empty home folder. It quotes the guide before it does what the guide says (docs/tour), and
fails where the window answers otherwise, or where the guide tells to press what nobody has pressed. Without a
display it runs itself under xvfb-run.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from docs.tour.parts import PARTS, with_needed
from docs.tour.screen import ROOT, live_in, need_screen


def main() -> None:
    """Go through the guide; exit with an error if it is not true."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--minutes", type=float, default=1.5, help="of each training in the pictures")
    parser.add_argument("--themes", default="dark", help="dark, light or dark,light")
    parser.add_argument("--size", default="1280x800", help="of the window")
    parser.add_argument(
        "--parts", default=",".join(PARTS),
        help="only some of these, and those that they need; only with all is it checked that all is done",
    )  # fmt: skip
    given = parser.parse_args()
    try:
        parts = with_needed(given.parts.split(","))
    except ValueError as error:
        parser.error(str(error))
    need_screen("docs.shots")
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch) / "home"
        home.mkdir()
        live_in(home)
        from docs.tour.itinerary import go  # napari and the dock look for the home folder when imported

        width, height = (int(length) for length in given.size.split("x"))
        themes = given.themes.split(",")
        untold = go(Path(scratch), given.out, given.minutes, themes, (width, height), parts)
    sys.exit("\n".join(["The guide tells what this did not do:", *untold]) if untold else 0)


if __name__ == "__main__":
    main()
