"""Bad requests: a status, one sentence, and nothing half-written."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from medssl.core.project.stroke_log import journal_file
from medssl.core.project.window_lock import window_lease
from medssl.server.gate import Limits
from medssl.server.sessions import MAX_SESSIONS
from served import BOUNDARY, Client, Reply, served_project, serving

SMALL = Limits(upload_bytes=1 << 20)
INFO = [{"name": "kidney", "idx": 1}]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("served")
    served_project(folder)
    with serving(folder / "project", limits=SMALL) as client:
        yield client


def nifti(shape: tuple[int, ...] = (8, 10, 12), value: float = 1, spacing: float = 2.0) -> bytes:
    image = nibabel.Nifti1Image(np.full(shape[::-1], value, np.float32), np.diag([1.0, 1.0, spacing, 1.0]))
    return gzip.compress(image.to_bytes())


def huge() -> bytes:
    """A small file that declares 10^12 voxels."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape((10_000, 10_000, 10_000))
    header.set_sform(np.eye(4), code=1)
    header["magic"], header["vox_offset"] = b"n+1", 352
    return gzip.compress(header.binaryblock + bytes(10_000))


def label(name: str, content: bytes, info: object = INFO) -> Callable[[Client], Reply]:
    return lambda client: client.save_label("scan-0", (name, content), info)


def form(method: str, path: str, body: bytes) -> Callable[[Client], Reply]:
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    return lambda client: client.call(method, path, body, content_type=kind)


UNCLEAR = (400, 422)
"""Versions of python-multipart differ in what they take for an empty form."""
BAD: dict[str, tuple[int | tuple[int, ...], Callable[[Client], Reply]]] = {
    "an unknown scan": (404, lambda client: client.get("/datastore/image?image=../../etc/passwd")),
    "no scan": (422, lambda client: client.get("/datastore/image")),
    "labels of a scan that has none": (404, lambda client: client.get("/datastore/label?label=scan-0")),
    "labels under another tag": (404, lambda client: client.get("/datastore/label?label=scan-0&tag=v2")),
    "labels for an unknown scan": (404, lambda client: client.save_label("x", ("a.nii.gz", nifti()), INFO)),
    "another grid": (400, label("a.nii.gz", nifti((8, 10, 13)))),
    "another spacing": (400, label("a.nii.gz", nifti(spacing=3.0))),
    "an empty label file": (400, label("a.nii.gz", nifti(value=0))),
    "fractions": (400, label("a.nii.gz", nifti(value=0.5))),
    "a value without a name": (400, label("a.nii.gz", nifti(value=2))),
    "names without numbers": (400, label("a.nii.gz", nifti(), [{"name": "liver"}])),
    "one number for two names": (400, label("a.nii.gz", nifti(), [*INFO, {"name": "b", "idx": 1}])),
    "names that are no list": (400, label("a.nii.gz", nifti(), {"kidney": 1})),
    "numbers shifted by a background": (400, label("a.nii.gz", nifti(), [*INFO, {"name": "b", "idx": 3}])),
    "no NIfTI": (400, label("a.nii.gz", b"not even gzip")),
    "a NIfTI that is cut off": (400, label("a.nii.gz", nifti()[:-50])),
    "OHIF's raw labels": (415, label("label.bin", b"\0" * 960)),
    "a program": (415, label("../../x.exe", b"MZ")),
    "a bomb": (413, label("a.nii.gz", huge())),
    "a huge body": (413, label("a.nii.gz", bytes(2 << 20))),
    "parameters that are no JSON": (400, lambda client: client.multipart(
        "PUT", "/datastore/label?image=scan-0", {"params": "{"}, {"label": ("a.nii.gz", nifti())})),
    "parameters that are a list": (400, lambda client: client.multipart(
        "PUT", "/datastore/label?image=scan-0", {"params": "[1]"}, {"label": ("a.nii.gz", nifti())})),
    "deep JSON": (400, lambda client: client.multipart(
        "POST", "/infer/newest?image=scan-0", {"params": "[" * 100_000}, {})),
    "no labels": (UNCLEAR, lambda client: client.multipart("PUT", "/datastore/label?image=scan-0", {}, {})),
    "a form cut off": (UNCLEAR, form("PUT", "/datastore/label?image=scan-0", b"--" + BOUNDARY.encode())),
    "no form at all": (UNCLEAR, form("PUT", "/datastore/label?image=scan-0", b"\xff" * 100)),
    "an unknown model": (404, lambda client: client.infer("gpt", "scan-0")),
    "a model by a path": (404, lambda client: client.infer("..%2f..%2fx", "scan-0")),
    "another output": (400, lambda client: client.infer("newest", "scan-0", "&output=dicom_seg")),
    "another format": (415, lambda client: client.infer("newest", "scan-0", result_extension=".exe")),
    "a format that is no text": (415, lambda client: client.infer("newest", "scan-0", result_extension=[1])),
    "an unknown strategy": (404, lambda client: client.call("POST", "/activelearning/tta", {})),
    "an unknown trainer": (404, lambda client: client.call("POST", "/train/vista", {})),
    "minutes in words": (400, lambda client: client.call("POST", "/train/finetune", {"minutes": "x"})),
    "no minutes": (400, lambda client: client.call("POST", "/train/finetune", {"minutes": -1})),
    "endless minutes": (400, lambda client: client.call("POST", "/train/finetune", {"minutes": 1e300})),
    "a body that is no JSON": (422, lambda client: client.call(
        "POST", "/train/finetune", b"{", content_type="application/json")),
    "a body that is no object": (422, lambda client: client.call(
        "POST", "/train/finetune", b"[]", content_type="application/json")),
    "a large body that is no file": (413, lambda client: client.call(
        "POST", "/activelearning/first", b" " * (2 << 20), content_type="application/json")),
    "an unknown session": (404, lambda client: client.get("/session/0000")),
    "a session without a file": (UNCLEAR, lambda client: client.multipart("PUT", "/session/", {}, {})),
    "a session with a text": (415, lambda client: client.multipart(
        "PUT", "/session/", {}, {"files": ("a.txt", b"hello")})),
    "a session with a constant image": (400, lambda client: client.multipart(
        "PUT", "/session/", {}, {"files": ("a.nii.gz", nifti())})),
    "an image that is damaged": (400, lambda client: client.multipart(
        "PUT", "/datastore/?image=new", {}, {"file": ("a.nrrd", b"NRRD0004\ndimension: 99\n\n")})),
    "an unknown call": (404, lambda client: client.get("/wsi/")),
    "a call that deletes": (405, lambda client: client.call("DELETE", "/datastore/?id=scan-0&type=image")),
}  # fmt: skip


def is_expected(reply: Reply, status: int | tuple[int, ...]) -> bool:
    return reply.status in (status if isinstance(status, tuple) else (status,))


def contents(root: Path) -> dict[str, str]:
    """{file: hash} of a project, without what processes hold or say."""
    files = [path for path in root.rglob("*") if path.is_file() and path.suffix not in (".lock", ".log")]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_gets_a_status_and_a_sentence_and_changes_nothing(client: Client, name: str) -> None:
    status, send = BAD[name]
    root = client.server.project.root
    before, held = contents(root), sorted(client.server.scratch.rglob("*.*"))
    reply = send(client)
    assert is_expected(reply, status), reply.body
    detail = reply.json["detail"]
    assert isinstance(detail, str) and detail.endswith(".") and "\n" not in detail
    assert str(root.parent) not in detail and str(client.server.scratch) not in detail
    assert contents(root) == before
    assert sorted(client.server.scratch.rglob("*.*")) == held


def test_without_the_key_nothing_is_told_and_nothing_read(client: Client) -> None:
    for prefix in ("", "/", "/a-key-that-somebody-guesses", "/%D0%BA%FF", "//"):
        reply = replace(client, prefix=prefix).get("/info/")
        assert reply.status == 401 and "key" in reply.json["detail"]
    assert replace(client, prefix="").call("PUT", "/session/", b"x" * 10_000).status == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "localhost:8000"}, 200),
        ({"origin": "http://localhost:3000"}, 200),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"host": "evil.example"}, 403),
    ],
)
def test_without_a_key_pages_from_elsewhere_are_refused(
    tmp_path: Path, headers: dict[str, str], status: int
) -> None:
    served_project(tmp_path, scans=1)
    with serving(tmp_path / "project", key="") as client:
        client.headers = headers
        assert client.get("/info/").status == status


def test_a_window_that_has_the_project_open_keeps_its_annotation(client: Client) -> None:
    root = client.server.project.root
    before = contents(root)
    lease = window_lease(root)
    lease.acquire(timeout=0)
    try:
        reply = client.save_label("scan-0", ("a.nii.gz", nifti()), INFO)
    finally:
        lease.release()
    assert reply.status == 409 and "is open in a window" in reply.json["detail"]
    assert contents(root) == before


def test_strokes_that_a_crash_has_left_are_not_painted_over(client: Client) -> None:
    journal = journal_file(client.server.project.root, "scan-1")
    journal.parent.mkdir(exist_ok=True)
    journal.write_bytes(b"strokes")
    reply = client.save_label("scan-1", ("a.nii.gz", nifti()), INFO)
    journal.unlink()
    assert reply.status == 409 and "not saved yet" in reply.json["detail"]


def test_more_sessions_than_there_may_be(client: Client) -> None:
    image = Path(client.server.project.scans["scan-0"].source)
    replies = [client.multipart("PUT", "/session/", {}, {"files": image}) for _ in range(MAX_SESSIONS + 1)]
    assert [reply.status for reply in replies] == [200] * MAX_SESSIONS + [503]
    for reply in replies[:-1]:
        assert client.call("DELETE", f"/session/{reply.json['session_id']}").status == 200


def test_a_project_that_was_moved_away_is_missed_and_not_made_anew(tmp_path: Path) -> None:
    served_project(tmp_path)
    with serving(tmp_path / "project") as client:
        (tmp_path / "project").rename(tmp_path / "elsewhere")
        reply = client.save_label("scan-0", ("a.nii.gz", nifti()), INFO)
        assert reply.status == 503 and "no longer there" in reply.json["detail"]
        assert not (tmp_path / "project").exists()


def test_a_body_that_stops_coming_ends_its_request(tmp_path: Path) -> None:
    served_project(tmp_path, scans=1)
    with serving(tmp_path / "project", limits=Limits(silence_s=0.05)) as client:
        kind = f"multipart/form-data; boundary={BOUNDARY}"
        reply = client.call("PUT", "/session/", b"--", content_type=kind, content_length="1000")
        assert reply.status == 408
        assert client.get("/info/").status == 200


def test_requests_beyond_those_that_wait_are_refused(tmp_path: Path) -> None:
    served_project(tmp_path, scans=1)
    with serving(tmp_path / "project", limits=Limits(at_once=0, waiting=0)) as client:
        assert client.get("/info/").status == 503
