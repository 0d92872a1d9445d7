"""DICOM series from a DICOMweb store, DICOM-SEG back, with Orthanc where it is installed; and refusals."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from click.testing import Result
from dicom_files import SHAPE, numbered, write_series
from medssl.cli import app
from medssl.core.errors import UserError
from medssl.core.io.dicomweb import NO_STORE, fetch_series, list_series
from medssl.core.project.annotation import Annotation
from medssl.core.project.project import Project
from typer.testing import CliRunner

SERIES = "1.2.826.0.1.3680043.8.498.77"
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
ORTHANC = shutil.which("Orthanc")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as chosen:
        return int(chosen.getsockname()[1])


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an Orthanc that runs for these tests, in a folder of its own."""
    if ORTHANC is None or not PLUGIN.exists():
        pytest.skip("Orthanc and its DICOMweb plugin are not installed (Debian: orthanc, orthanc-dicomweb)")
    folder, port = tmp_path_factory.mktemp("orthanc"), free_port()
    settings = {
        "StorageDirectory": str(folder),
        "IndexDirectory": str(folder),
        "HttpPort": port,
        "DicomServerEnabled": False,
        "AuthenticationEnabled": False,
        "RemoteAccessAllowed": False,
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    child = subprocess.Popen(
        [ORTHANC, str(folder / "orthanc.json")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert child.stdout is not None
    for line in child.stdout:
        if "Orthanc has started" in line:
            break
    draining = threading.Thread(target=child.stdout.read, daemon=True)
    draining.start()
    yield f"http://127.0.0.1:{port}/dicom-web"
    child.terminate()
    child.wait(30)
    draining.join()
    child.stdout.close()


def command(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_a_series_comes_in_and_its_segmentation_goes_back(orthanc: str, tmp_path: Path) -> None:
    write_series(tmp_path / "series", series=SERIES, SeriesDescription="abdomen")
    assert command("send", orthanc, tmp_path / "series").exit_code == 0
    listed = command("fetch", orthanc).stdout
    assert SERIES in listed and "abdomen" in listed and str(SHAPE[0]) in listed
    assert "test" not in listed  # the patient
    fetched = command("fetch", orthanc, SERIES, "--out", tmp_path / "dicom")
    assert fetched.exit_code == 0 and fetched.stdout.strip() == str(tmp_path / "dicom" / SERIES)
    root = tmp_path / "project"
    assert command("init", root, tmp_path / "dicom", "--classes", "liver", "--modality", "ct").exit_code == 0
    project = Project.open(root)
    (scan,) = project.scans.values()
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:4, 1:5, 3:8] = 1
    project.save_annotation(scan.id, Annotation(labels, tuple((0, index) for index in range(SHAPE[0]))))
    assert command("export", root, "--out", tmp_path / "out", "--format", "dcm").exit_code == 0
    sent = command("send", orthanc, tmp_path / "out")
    assert sent.exit_code == 0, sent.output
    (series,) = [each for each in list_series(orthanc) if each.modality == "SEG"]
    (file,) = fetch_series(orthanc, series.uid, tmp_path / "back").iterdir()
    segmentation = highdicom.seg.segread(file)
    assert segmentation.get_segment_description(1).segment_label == "liver"
    referenced = segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID
    assert referenced == SERIES
    frames = sitk.GetArrayFromImage(sitk.ReadImage(str(file)))
    assert int((frames > 0).sum()) == int(labels.sum())


def test_what_is_fetched_is_what_was_sent(orthanc: str, tmp_path: Path) -> None:
    uid = f"{SERIES}.2"
    write_series(tmp_path / "series", series=uid)
    assert command("send", orthanc, *sorted((tmp_path / "series").iterdir())).exit_code == 0
    counts: list[int] = []
    folder = fetch_series(orthanc, uid, tmp_path, counts.append)
    images = [pydicom.dcmread(path) for path in folder.iterdir()]
    images.sort(key=lambda image: float(image.ImagePositionPatient[2]))
    assert (np.stack([image.pixel_array for image in images]) == numbered()).all()
    assert counts == list(range(1, SHAPE[0] + 1))
    assert fetch_series(orthanc, uid, tmp_path) == folder  # it is there already


def test_a_series_that_the_store_does_not_have(orthanc: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        fetch_series(orthanc, "1.2.3", tmp_path)
    assert caught.value.code == "missing" and not list(tmp_path.iterdir())


class Refuses(BaseHTTPRequestHandler):
    """A store that answers nothing but what the path says."""

    def do_GET(self) -> None:
        if "/html/" in self.path:
            self.send_response(200)
            self.send_header("content-type", "application/dicom+json")
            self.end_headers()
            self.wfile.write(b"<html>")
            return
        self.send_error(int(self.path.split("/")[1]))

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def refusing() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("path", "words"), [("401", "netrc"), ("404", "status 404"), ("html", "no DICOMweb")]
)
def test_a_store_that_refuses(refusing: str, path: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        fetch_series(f"{refusing}/{path}", SERIES, tmp_path)
    assert caught.value.code == NO_STORE and words in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/dicom-web", "no address", "ftp://127.0.0.1/x"])
def test_a_store_that_is_not_there(url: str) -> None:
    result = command("fetch", url)
    assert isinstance(result.exception, UserError) and result.exception.code == NO_STORE


def test_what_is_no_dicom_is_not_sent(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"x" * 200)
    result = command("send", "http://127.0.0.1:1/dicom-web", tmp_path)
    assert isinstance(result.exception, UserError) and result.exception.code == "not-dicom"
    result = command("send", "http://127.0.0.1:1/dicom-web", tmp_path / "missing.dcm")
    assert isinstance(result.exception, UserError)
    (tmp_path / "empty").mkdir()
    result = command("send", "http://127.0.0.1:1/dicom-web", tmp_path / "empty")
    assert isinstance(result.exception, UserError) and result.exception.code == "missing"


def test_a_number_that_leads_elsewhere(tmp_path: Path) -> None:
    for uid in ("../../x", "", "1.2/3"):
        with pytest.raises(UserError) as caught:
            fetch_series("http://127.0.0.1:1/dicom-web", uid, tmp_path)
        assert caught.value.code == "bad-uid"
