"""The calls of 3D Slicer's MONAI Label module, one by one, with the fields that it reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote_plus

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from medssl.core.project.annotation import Annotation
from served import COMMAND, Client, add_network, served_project, serving
from small import write_nifti

SPACING = (2.0, 1.0, 1.0)
INFO = [{"name": "kidney", "idx": 1}, {"name": "liver", "idx": 2}]


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    """A client that neither trains nor predicts."""
    served_project(tmp_path)
    with serving(tmp_path / "project") as client:
        yield client


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Client]:
    """A client whose server has engines."""
    served_project(tmp_path)
    with serving(tmp_path / "project", command=COMMAND) as client:
        yield client


def painted(value: int = 2, slices: slice = slice(3, 5)) -> np.ndarray:
    labels = np.zeros((8, 10, 12), np.uint8)
    labels[slices, 3:7, 4:8] = value
    return labels


def label_file(folder: Path, labels: np.ndarray) -> Path:
    return write_nifti(folder / "submitted.nii.gz", labels, SPACING)


def read(folder: Path, content: bytes, ending: str) -> sitk.Image:
    path = folder / f"received{ending}"
    path.write_bytes(content)
    return sitk.ReadImage(str(path))


def test_its_first_call_is_for_authentication_which_the_key_in_the_address_replaces(client: Client) -> None:
    assert client.get("/auth/").status == 404


def test_what_it_asks_first(client: Client) -> None:
    info = client.get("/info/").json
    assert not info.get("config")  # it takes a server with that field for one that is too old
    assert info["labels"] == ["kidney", "liver"]
    assert (info["datastore"]["total"], info["datastore"]["completed"]) == (2, 0)
    assert info["models"] == {} and list(info["trainers"]) == ["finetune"]
    assert next(iter(info["strategies"])) == "suggest" and info["train_stats"] == {}


def test_the_next_sample_is_downloaded_and_its_checksum_fits(client: Client) -> None:
    sample = client.call("POST", "/activelearning/first", {"client_id": "user-xyz"}).json
    assert sample["id"] == "scan-0" and sample["name"] == "scan-0.nii.gz" and "path" not in sample
    image = client.get(f"/datastore/image?image={quote_plus(sample['id'])}")
    assert sample["checksum"] == f"SHA256:{hashlib.sha256(image.body).hexdigest()}"
    source = Path(client.project.scans["scan-0"].source)
    assert image.body == source.read_bytes()


def test_labels_go_into_the_annotation_and_come_back(client: Client, tmp_path: Path) -> None:
    reply = client.save_label("scan-0", label_file(tmp_path, painted()), INFO)
    assert reply.status == 200 and reply.json["image"] == "scan-0" and reply.json["slices"] == [3, 4]
    annotation = client.project.annotation("scan-0")
    assert annotation is not None and (annotation.labels == painted()).all()
    assert annotation.complete == ((0, 3), (0, 4))
    objects = client.get("/datastore/?output=all").json["objects"]
    assert objects["scan-0"]["labels"]["original"]["info"]["params"]["label_names"] == {
        "kidney": 1,
        "liver": 2,
    }
    assert objects["scan-1"]["labels"] == {}
    label = client.get("/datastore/label?label=scan-0&tag=original")
    assert 'filename="scan-0.nii.gz"' in label.headers["content-disposition"]
    assert (sitk.GetArrayFromImage(read(tmp_path, label.body, ".nii.gz")) == painted()).all()
    assert client.get("/info/").json["datastore"]["completed"] == 1
    assert client.call("POST", "/activelearning/first", {}).json["id"] == "scan-1"


def test_new_segments_become_classes_whatever_their_numbers_are(client: Client, tmp_path: Path) -> None:
    info = [{"name": "tumor", "idx": 1}, {"name": "Liver", "idx": 2}]
    labels = painted(2) + painted(1, slice(1, 3))
    assert client.save_label("scan-0", label_file(tmp_path, labels), info).status == 200
    ids = {item.name: item.id for item in client.project.classes}
    assert ids == {"kidney": 1, "liver": 2, "tumor": 3}
    annotation = client.project.annotation("scan-0")
    assert annotation is not None and set(np.unique(annotation.labels[1:3])) == {0, 3}


def test_a_segmentation_of_slicer_has_its_own_names_and_is_cropped(client: Client, tmp_path: Path) -> None:
    cropped = sitk.GetImageFromArray(np.ones((2, 4, 4), np.uint8))
    cropped.SetSpacing((1.0, 1.0, 2.0))
    cropped.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    cropped.SetOrigin((-4.0, -3.0, 6.0))
    for name, value in {"Name": "liver", "LabelValue": "1", "Layer": "0", "ID": "x"}.items():
        cropped.SetMetaData(f"Segment0_{name}", value)
    path = tmp_path / "any.seg.nrrd"
    sitk.WriteImage(cropped, str(path))
    assert client.save_label("scan-0", path, [{"name": "kidney", "idx": 1}]).status == 200
    annotation = client.project.annotation("scan-0")
    assert annotation is not None and (annotation.labels == painted(2)).all()


def test_it_trains_watches_and_stops(user: Client) -> None:
    assert user.get("/train/?check_if_running=true").status == 404
    assert user.get("/train/").status == 404
    started = user.call("POST", "/train/finetune", {"minutes": 600.0, "client_id": "user-xyz"}).json
    assert started["status"] == "RUNNING" and started["id"] and started["start_ts"]
    assert user.get("/train/?check_if_running=true").json["status"] == "RUNNING"
    assert user.call("POST", "/train/", {"client_id": "user-xyz"}).status == 409
    user.wait_for_run()
    stopped = user.call("DELETE", "/train/")
    assert stopped.status == 200 and stopped.json["details"][-1]
    assert user.trained() == "STOPPED"
    stats = user.get("/info/").json["train_stats"]["finetune"]
    assert stats["total_epochs"] == 100 and stats["best_metric"] == 0.75 and stats["total_time"] >= 0
    assert user.call("DELETE", "/train/").status == 404


def test_it_segments_after_a_training(user: Client, tmp_path: Path) -> None:
    assert user.infer("newest", "scan-1").status == 404
    assert user.train() == "DONE"
    models = user.get("/info/").json["models"]
    assert list(models) == ["newest", "0001-finetune-made"]
    assert models["newest"]["type"] == "segmentation" and models["newest"]["description"]
    reply = user.infer("newest", "scan-1", result_extension=".nrrd", result_dtype="uint8", client_id="me")
    assert reply.headers["content-type"].startswith("multipart/form-data; boundary=")
    assert int(reply.headers["content-length"]) == len(
        reply.body
    )  # it reads past the end of a chunked answer
    params = json.loads(reply.parts["params"][1])
    assert params["label_names"] == {"kidney": 1, "liver": 2}
    name, content = reply.parts["image"]
    image = read(tmp_path, content, ".nrrd")
    assert name.endswith(".nrrd") and image.GetPixelID() == sitk.sitkUInt8
    assert (sitk.GetArrayFromImage(image) == painted(2, slice(2, 6))).all()
    source = sitk.ReadImage(user.project.scans["scan-1"].source)
    assert np.allclose(image.GetOrigin(), source.GetOrigin())
    assert np.allclose(image.GetDirection(), source.GetDirection())


def test_the_next_sample_is_the_suggested_one_and_each_time_another(user: Client) -> None:
    assert user.call("POST", "/activelearning/suggest", {}).json["id"] == "scan-0"  # there is no network yet
    add_network(user.project)
    samples = [user.call("POST", "/activelearning/suggest", {}).json for _ in range(2)]
    assert [sample["id"] for sample in samples] == ["scan-1", "scan-0"]
    assert samples[0]["slice"]["index"] == 3


def test_an_own_image_is_segmented_in_a_session(user: Client, tmp_path: Path) -> None:
    add_network(user.project)
    own = np.random.default_rng(9).normal(0, 0.1, (5, 6, 7)).astype(np.float32)
    own[2:4, 2:4, 2:4] += 3
    path = write_nifti(tmp_path / "own.nii.gz", own, SPACING)
    created = user.multipart("PUT", "/session/", {"client_id": "user-xyz"}, {"files": path}).json
    session = created["session_id"]
    assert user.get(f"/session/{session}").json["expiry"] == 3600
    reply = user.infer("newest", "own", f"&session_id={session}", result_extension=".nrrd")
    segmented = sitk.GetArrayFromImage(read(tmp_path, reply.parts["image"][1], ".nrrd"))
    assert (segmented[2:4, 2:4, 2:4] == 2).all() and segmented.sum() == 2 * 8
    assert set(user.project.scans) == {"scan-0", "scan-1"}
    assert user.call("DELETE", f"/session/{session}").status == 200
    assert user.get(f"/session/{session}").status == 404
    assert user.infer("newest", "own", f"&session_id={session}").status == 404


def test_an_expired_session_is_gone_with_its_files(client: Client, tmp_path: Path) -> None:
    path = Path(client.project.scans["scan-0"].source)
    created = client.multipart("PUT", "/session/?expiry=5", {}, {"files": path}).json
    session = client.server.sessions.get(created["session_id"])
    session.used -= 6
    assert client.get(f"/session/{session.id}").status == 404
    assert not session.folder.exists()


def test_an_image_is_added_to_the_project_under_the_name_of_its_node(client: Client, tmp_path: Path) -> None:
    values = np.random.default_rng(7).normal(0, 1, (8, 10, 12)).astype(np.float32)
    path = write_nifti(tmp_path / "tmp.nii.gz", values, SPACING)
    node = "MR head (left)"
    reply = client.multipart("PUT", f"/datastore/?image={quote_plus(node)}", {}, {"file": path})
    assert reply.json == {"image": "MR-head-left"}
    path.unlink()
    scan = client.project.scans["MR-head-left"]
    assert scan.title == node and Path(scan.source).parent == client.project.root / "uploads"
    assert client.save_label(node, label_file(tmp_path, painted()), INFO).json["image"] == "MR-head-left"


def test_an_image_that_the_project_has_is_not_added_twice(client: Client) -> None:
    path = Path(client.project.scans["scan-1"].source)
    reply = client.multipart("PUT", "/datastore/?image=again", {}, {"file": path})
    assert reply.json == {"image": "scan-1"}
    assert not list((client.project.root / "uploads").iterdir())
    assert client.get("/datastore/image?image=again").status == 200


def test_what_was_painted_in_the_viewer_stays(client: Client, tmp_path: Path) -> None:
    labels = painted(1, slice(0, 2))
    labels[6, 0, 0], labels[3, 0, 0] = 1, 255
    client.server.project.save_annotation("scan-0", Annotation(labels, ((0, 0), (1, 4))))
    assert client.save_label("scan-0", label_file(tmp_path, painted(2)), INFO).json["slices"] == [3, 4]
    annotation = client.project.annotation("scan-0")
    assert annotation is not None and annotation.complete == ((0, 0), (0, 3), (0, 4), (1, 4))
    assert annotation.labels[0:2].any() and annotation.labels[6, 0, 0] == 1


def test_what_was_sent_back_as_it_was_stays_incomplete(client: Client, tmp_path: Path) -> None:
    labels = painted(1, slice(0, 2))
    labels[1, 0, 0] = 255
    client.server.project.save_annotation("scan-0", Annotation(labels))
    sent = painted(1, slice(0, 2)) + painted(2, slice(4, 5))
    assert client.save_label("scan-0", label_file(tmp_path, sent), INFO).json["slices"] == [4]
    annotation = client.project.annotation("scan-0")
    assert annotation is not None and annotation.complete == ((0, 4),) and annotation.labels[1, 0, 0] == 255


def test_classes_with_other_ids_are_numbered_by_their_place(tmp_path: Path) -> None:
    served_project(tmp_path, class_ids=(2, 7))
    with serving(tmp_path / "project", command=COMMAND) as client:
        add_network(client.project)
        reply = client.infer("newest", "scan-0", result_extension=".nrrd")
        assert json.loads(reply.parts["params"][1])["label_names"] == {"kidney": 1, "liver": 2}
        content = reply.parts["image"][1]
        assert set(np.unique(sitk.GetArrayFromImage(read(tmp_path, content, ".nrrd")))) == {0, 2}
        assert client.save_label("scan-0", ("x.nrrd", content)).status == 200
        annotation = client.project.annotation("scan-0")
        assert annotation is not None and set(np.unique(annotation.labels)) == {0, 7}


def test_a_scan_that_slicer_cannot_read_is_converted(tmp_path: Path) -> None:
    project = served_project(tmp_path, scans=0)
    image = np.random.default_rng(3).normal(0, 1, (8, 10, 12)).astype(np.float32)
    path = tmp_path / "brain.mgz"
    nibabel.save(nibabel.MGHImage(image.T, np.diag([1.0, 1.0, 2.0, 1.0])), path)
    project.add_scan(path)
    with serving(project.root) as client:
        name = client.call("POST", "/activelearning/first", {}).json["name"]
        assert name == "brain.nii.gz"
        received = read(tmp_path, client.get("/datastore/image?image=brain").body, ".nii.gz")
    assert (sitk.GetArrayFromImage(received) == image).all()
    assert received.GetSpacing() == (1.0, 1.0, 2.0)
