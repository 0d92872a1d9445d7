"""The calls of OHIF's MONAI Label extension, one by one, and its way to read the answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from dicom_files import SHAPE, write_series
from medssl.core.project.project import LabelClass, Project
from served import COMMAND, KEY, Client, add_network, serving

SERIES = "1.2.826.0.1.3680043.8.498.1"
BROWSER = {"user-agent": "Mozilla/5.0 (X11; Linux x86_64)", "origin": "http://localhost:3000"}
BOX = (slice(2, 4), slice(1, 6), slice(2, 7))


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    """A browser with a page of OHIF; the project has the DICOM series that the page shows."""
    pixels = np.full(SHAPE, 900, np.int16) + np.random.default_rng(0).integers(0, 50, SHAPE, np.int16)
    pixels[BOX] = 1500
    write_series(tmp_path / "series", pixels, series=SERIES)
    classes = (LabelClass(1, "liver", "#e41a1c"), LabelClass(2, "spleen", "#377eb8"))
    project = Project.create(tmp_path / "project", classes)
    project.add_scan(tmp_path / "series", modality="ct")
    with serving(project.root, command=COMMAND) as client:
        client.headers = dict(BROWSER)
        yield client


def parse(content_type: str, body: bytes) -> tuple[bytes, dict[str, list[int]]]:
    """File and centroids of an answer, found as the extension finds them: in the text of the whole body."""
    boundary = content_type.split("boundary=")[1].split(";")[0]
    parts = [part for part in body.decode("utf-8", "replace").split(f"--{boundary}") if part.strip()]
    text = next(part for part in parts if "Content-Type: application/json" in part)
    nrrd = next(part for part in parts if "Content-Type: application/octet-stream" in part)
    values = json.loads(text[text.index("{") : text.rindex("}") + 1])
    content = nrrd.split("\r\n\r\n")[1]
    return bytes(ord(letter) & 0xFF for letter in content[: content.rindex("\r\n")]), values["centroids"]


def test_a_page_of_another_origin_may_ask(client: Client) -> None:
    ask = {"access_control_request_method": "PUT", "access_control_request_headers": "content-type"}
    preflight = client.call("OPTIONS", "/datastore/label", **ask)
    assert preflight.status == 200
    assert preflight.headers["access-control-allow-origin"] == "*"
    assert "PUT" in preflight.headers["access-control-allow-methods"]
    assert client.get("/info/").headers["access-control-allow-origin"] == "*"


def test_the_label_that_it_takes_away_is_the_background(client: Client) -> None:
    assert client.get("/info/").json["labels"] == ["background", "liver", "spleen"]
    client.headers = {}
    assert client.get("/info/").json["labels"] == ["liver", "spleen"]  # 3D Slicer would make a segment of it


def test_an_address_without_the_last_slash_is_led_on_with_the_key(client: Client) -> None:
    reply = client.get("/info")
    assert reply.status == 307 and reply.headers["location"].endswith(f"/{KEY}/info/")


def test_the_next_sample_says_which_study_it_is_and_nothing_of_the_patient(client: Client) -> None:
    sample = client.call("POST", "/activelearning/random", {}).json
    assert (sample["StudyInstanceUID"], sample["SeriesInstanceUID"]) == (SERIES, SERIES)
    assert sample["Modality"] == "CT" and "test" not in json.dumps(sample)


def test_it_trains_and_segments_a_series(client: Client) -> None:
    assert client.get("/train/?check_if_running=true").status == 404
    assert client.call("POST", "/train/", {"finetune": {"minutes": 1.0}}).json["status"] == "RUNNING"
    assert client.trained() == "DONE"
    labels = client.get("/info/").json["models"]["newest"]["labels"]
    assert labels == {"liver": 1, "spleen": 2}  # the numbers of its segments
    params = {"result_extension": ".nrrd", "result_dtype": "uint16", "result_compress": False}
    reply = client.infer("newest", SERIES, "&output=all", **params, restore_label_idx=False)
    content, centroids = parse(reply.headers["content-type"], reply.body)
    header, _, data = content.partition(b"\n\n")
    assert b"encoding: raw" in header and b"type: uint16" in header and b"endian: little" in header
    expected = np.zeros(SHAPE, np.uint16)
    expected[BOX] = 2
    assert (np.frombuffer(data, "<u2").reshape(SHAPE) == expected).all()
    assert centroids == {"label_2": [2, 4, 3, 2]}


def test_the_image_or_the_parameters_alone(client: Client) -> None:
    add_network(client.project)
    image = client.infer("newest", SERIES, "&output=image", result_extension=".nrrd")
    assert image.body.startswith(b"NRRD") and ".nrrd" in image.headers["content-disposition"]
    parameters = client.infer("newest", SERIES, "&output=json").json
    assert parameters["label_names"] == {"liver": 1, "spleen": 2}
