"""Files that clients send: they name no other file, take no name of another scan, leave nothing behind."""

from __future__ import annotations

import gzip
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from dicom_files import write_slice
from medssl.core.errors import UserError
from medssl.core.io.geometry import Geometry
from medssl.core.io.itk import mha_bytes, nrrd_bytes
from medssl.server.gate import Limits
from medssl.server.uploads import need_attached
from served import BOUNDARY, Client, served_project, serving
from test_server_refusals import INFO, nifti

SECRET = b"machine orthanc login doe password hunter2 "


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    served_project(tmp_path)
    with serving(tmp_path / "project", limits=Limits(upload_bytes=4 << 20)) as client:
        yield client


def grid(client: Client) -> Geometry:
    return client.project.scan("scan-0").geometry


def painted() -> np.ndarray:
    labels = np.zeros((12, 10, 8), np.uint8)
    labels[4:8, 3:7, 3] = 1
    return labels


def with_fields(content: bytes, *fields: str) -> bytes:
    """An NRRD file with more lines in its header."""
    header, _, voxels = content.partition(b"\n\n")
    return b"\n".join([header, *(field.encode() for field in fields)]) + b"\n\n" + voxels


def detached(client: Client, secret: Path) -> dict[str, bytes]:
    """Headers that name another file, by file name."""
    nrrd = nrrd_bytes(painted(), grid(client), compress=False).partition(b"\n\n")[0] + b"\n\n"
    mha = mha_bytes(painted(), grid(client)).partition(b"ElementDataFile = LOCAL")[0]
    mha = mha.replace(b"CompressedData = True", b"CompressedData = False")
    return {
        "a.nrrd": with_fields(nrrd, f"data file: {secret}"),
        "b.seg.nrrd": with_fields(nrrd, f"DataFile:{secret}"),
        "c.nrrd": with_fields(nrrd, "data file: LIST", str(secret)),
        "d.mha": mha + f"ElementDataFile = {secret}\n".encode(),
        "e.mha": mha + f"ElementDataFile : {secret}\nElementDataFile = LOCAL\n".encode(),
        "f.mha": mha + b"Comment = " + bytes([32]) * (1 << 18) + f"\nElementDataFile = {secret}\n".encode(),
    }


def test_a_file_of_this_machine_is_not_read_through_a_header_that_names_it(
    client: Client, tmp_path: Path
) -> None:
    secret = tmp_path / "netrc"
    secret.write_bytes((SECRET * 40)[:960])
    for name, content in detached(client, secret).items():
        image = client.multipart("PUT", "/datastore/?image=leak", {}, {"file": (name, content)})
        label = client.save_label("scan-0", (name, content), [{"name": "a", "idx": 109}])
        session = client.multipart("PUT", "/session/", {}, {"files": (name, content)})
        assert [reply.status for reply in (image, label, session)] == [415] * 3, name
    assert list(client.project.scans) == ["scan-0", "scan-1"] and not client.project.annotated()


def test_files_that_hold_their_voxels_are_taken(client: Client) -> None:
    for content in (nrrd_bytes(painted(), grid(client)), mha_bytes(painted(), grid(client))):
        need_attached(content)
    with pytest.raises(UserError):
        need_attached(b"NRRD0004\ntype: uint8\n")  # has no end
    sent = client.save_label("scan-0", ("a.mha", mha_bytes(painted(), grid(client))), INFO)
    assert (sent.status, sent.json["slices"]) == (200, [3])


def test_an_image_does_not_take_the_name_of_another_scan(client: Client, tmp_path: Path) -> None:
    def send(name: str, seed: int) -> int:
        voxels = np.random.default_rng(seed).normal(size=(12, 10, 8)).astype(np.float32)
        file = ("x.nrrd", nrrd_bytes(voxels, grid(client)))
        return client.multipart("PUT", f"/datastore/?image={name}", {}, {"file": file}).status

    assert send("scan-1", seed=7) == 409
    assert [send("Volume", seed=8), send("Volume", seed=9), send("Volume", seed=8)] == [200, 409, 200]
    assert client.save_label("scan-1", ("a.nii.gz", nifti()), INFO).status == 200
    assert client.project.annotated() == ("scan-1",)
    assert len(client.project.scans) == 3 and len(list((tmp_path / "project" / "uploads").iterdir())) == 1


def test_only_calls_that_receive_files_take_large_bodies(client: Client) -> None:
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    for path in ("/activelearning/first", "/train/", "/train/finetune", "/info/"):
        assert client.call("POST", path, bytes(2 << 20), content_type=kind).status == 413


def test_nifti_is_known_by_its_content(client: Client) -> None:
    assert client.save_label("scan-0", ("a.nii", nifti()), INFO).status == 200
    assert client.save_label("scan-1", ("a.nii.gz", gzip.decompress(nifti())), INFO).status == 200


def test_a_segmentation_names_all_of_its_values(client: Client) -> None:
    labels = painted()
    labels[5, 4, 3] = 7
    content = with_fields(
        nrrd_bytes(labels, grid(client)),
        *("Segment0_ID:=one", "Segment0_Name:=kidney", "Segment0_LabelValue:=1", "Segment0_Layer:=0"),
    )
    assert client.save_label("scan-0", ("a.seg.nrrd", content)).status == 400
    assert [item.name for item in client.project.classes] == ["kidney", "liver"]


@pytest.mark.parametrize("wanted", ["", "bytes=abc", "bytes=99999999-", "items=0-1", "bytes=0-3"])
def test_an_answer_leaves_no_file_whatever_part_of_it_is_asked_for(client: Client, wanted: str) -> None:
    assert client.save_label("scan-0", ("a.nii.gz", nifti()), INFO).status == 200
    client.call("GET", "/datastore/label?label=scan-0", range=wanted)
    deadline = time.monotonic() + 30  # it is deleted after the last byte has come
    while left := [path for path in client.server.scratch.rglob("*") if path.is_file()]:
        assert time.monotonic() < deadline, left


def test_the_folder_of_temporary_files_comes_back(client: Client) -> None:
    assert client.save_label("scan-0", ("a.nii.gz", nifti()), INFO).status == 200
    shutil.rmtree(client.server.scratch)
    assert client.get("/datastore/label?label=scan-0").status == 200
    assert client.server.scratch.stat().st_mode & 0o777 == 0o700


def test_a_series_that_declares_too_many_pixels_is_not_read(client: Client, tmp_path: Path) -> None:
    pixels = np.zeros((4, 4), np.int16)
    for frames, status in ((1, 400), (1 << 16, 413)):  # one slice is no volume either
        declared = {"Rows": 4096, "Columns": 4096, "NumberOfFrames": frames}
        write_slice(tmp_path / "a.dcm", pixels, (0, 0, 0), "1.2.3", **declared)
        assert client.multipart("PUT", "/session/", {}, {"files": tmp_path / "a.dcm"}).status == status
