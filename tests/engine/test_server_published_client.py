"""The client package that MONAI publishes, unchanged: pip install --no-deps monailabel.

It needs Python's module cgi, which version 3.13 no longer has; elsewhere these tests are skipped without it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from served import COMMAND, Client, served_project, serving
from small import write_nifti

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of cgi
    published = pytest.importorskip("monailabel.client", exc_type=ImportError)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Client]:
    served_project(tmp_path)
    with serving(tmp_path / "project", command=COMMAND) as client:
        yield client


def test_it_lists_submits_trains_segments_and_has_sessions(served: Client, tmp_path: Path) -> None:
    address = f"http://127.0.0.1:{served.port}{served.prefix}/"  # as it is printed
    client: Any = published.MONAILabelClient(address, str(tmp_path), "user-xyz")
    assert client.auth_enabled() is False
    assert client.info()["labels"] == ["kidney", "liver"]
    sample = client.next_sample("suggest", {})
    labels = np.zeros((8, 10, 12), np.uint8)
    labels[3, 3:7, 4:8] = 2
    label = write_nifti(tmp_path / "label.nii.gz", labels, (2.0, 1.0, 1.0))
    info = [{"name": "kidney", "idx": 1}, {"name": "liver", "idx": 2}]
    assert client.save_label(sample["id"], str(label), params={"label_info": info})["slices"] == [3]
    assert client.datastore()["objects"][sample["id"]]["labels"]
    assert Path(client.download_label(sample["id"], "final")).name.endswith(".nii.gz")
    assert client.train_status(check_if_running=True) is False
    assert client.train_start("finetune", {"minutes": 1.0})["status"] == "RUNNING"
    assert served.trained() == "DONE" and client.train_status()["status"] == "DONE"
    file, params = client.infer("newest", "scan-1", {"result_extension": ".nrrd"})
    assert params["label_names"] == {"kidney": 1, "liver": 2}
    assert (sitk.GetArrayFromImage(sitk.ReadImage(file))[2:6, 3:7, 4:8] == 2).all()
    source = served.project.scans["scan-1"].source
    session = client.create_session(source)["session_id"]
    file, _ = client.infer("newest", "mine", {"result_extension": ".nrrd"}, session_id=session)
    assert (sitk.GetArrayFromImage(sitk.ReadImage(file))[2:6, 3:7, 4:8] == 2).all()
    assert client.remove_session(session)["image"] == "image.nii.gz"
    assert client.upload_image(source, "again")["image"] == "scan-1"


def test_its_error_has_the_sentence(served: Client, tmp_path: Path) -> None:
    client: Any = published.MONAILabelClient(f"http://127.0.0.1:{served.port}{served.prefix}", str(tmp_path))
    with pytest.raises(published.client.MONAILabelClientException) as caught:
        client.infer("newest", "scan-0", {})
    assert "There is no model" in caught.value.msg
