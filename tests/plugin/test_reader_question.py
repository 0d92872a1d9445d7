"""napari's question for a reader, answered by Enter: the scan opens with our reader, and napari goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from napari_start import open_as_napari_does, press_enter
from reading_room import ct, write

from napari_medssl import layers

pytestmark = pytest.mark.viewer


def test_enter_opens_the_scan_with_our_reader(make_napari_viewer, tmp_path: Path) -> None:
    viewer = make_napari_viewer(show=True)
    for number, name in enumerate(("first.nii.gz", "second.nii"), 1):
        path = write(tmp_path / name, ct())
        assert open_as_napari_does(viewer, path, press_enter) == 1, "napari asks, as for any file"
        assert len(viewer.layers) == number
        entry = layers.entry_of(viewer.layers[-1])
        assert entry["role"] == layers.SCAN and Path(entry["path"]) == path
        assert np.isclose(viewer.layers[-1].scale, (1.924, 0.990, 0.906), atol=0.01).all(), "in mm"
