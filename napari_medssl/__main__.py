"""`python -m napari_medssl [FOLDER]`: open the viewer with the dock, optionally on a project folder."""

from __future__ import annotations

import sys


def main() -> None:
    """Open the viewer and return when its window is closed."""
    import napari

    from napari_medssl import open_project

    open_project(sys.argv[1] if len(sys.argv) > 1 else None)
    napari.run()


if __name__ == "__main__":
    main()
