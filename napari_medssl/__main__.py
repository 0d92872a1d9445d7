"""`python -m napari_medssl [PATHS]`: what `medssl view` starts."""

from __future__ import annotations

import sys

from medssl.core.library_output import silence_libraries


def main() -> None:
    """Open the viewer and return when its window is closed."""
    silence_libraries()
    import napari

    from napari_medssl import view

    view(*sys.argv[1:])
    napari.run()


if __name__ == "__main__":
    main()
