"""`medssl serve` as a process of its own, and with the real engine: submit, train, segment the next scan."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import SimpleITK as sitk
from medssl.cli import app
from medssl.core.errors import UserError
from medssl.server.engines import COMMAND
from served import served_project, serving
from small import block_phantom, dice, make_project, write_nifti
from typer.testing import CliRunner


@pytest.mark.slow
def test_a_network_that_learns_from_submitted_labels_segments_the_next_scan(tmp_path: Path) -> None:
    project = make_project(tmp_path, seeds=(0, 1), annotated=0)
    _, truth = block_phantom(0)
    painted = np.zeros_like(truth)
    inside = np.flatnonzero(truth.any((1, 2)))
    painted[inside[::3]] = truth[inside[::3]]
    with serving(project.root, command=COMMAND) as client:
        sample = client.call("POST", "/activelearning/suggest", {}).json
        assert sample["id"] == "block-0"
        assert client.infer("newest", "block-0").status == 404
        label = write_nifti(tmp_path / "label.nii.gz", painted)
        assert client.save_label("block-0", label, [{"name": "block", "idx": 1}]).status == 200
        assert client.train(minutes=0.05) == "DONE", client.get("/train/").json
        reply = client.infer("newest", "block-1", result_extension=".nrrd")
        assert reply.status == 200, reply.body
        received = tmp_path / "received.nrrd"
        received.write_bytes(reply.parts["image"][1])
    assert dice(sitk.GetArrayFromImage(sitk.ReadImage(str(received))), block_phantom(1)[1]) > 0.5


@pytest.mark.skipif(os.name == "nt", reason="Windows has no Ctrl-C for a child")
def test_it_prints_its_address_and_ctrl_c_ends_it(tmp_path: Path) -> None:
    project = served_project(tmp_path, scans=1)
    command = [sys.executable, "-m", "medssl", "serve", str(project.root), "--port", "0"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    address = urlsplit(child.stdout.readline().strip())
    assert address.hostname == "127.0.0.1" and address.path.count("/") == 2
    connection = http.client.HTTPConnection("127.0.0.1", address.port or 0, timeout=60)
    connection.request("GET", f"{address.path}info/")
    assert json.loads(connection.getresponse().read())["labels"] == ["kidney", "liver"]
    connection.close()
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 0 and "Traceback" not in errors
    assert address.path.strip("/") not in errors


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--key", "short"], "The key needs 16"),
        (["--key", "none", "--host", "0.0.0.0"], "Without a key"),
        (["--host", "no-such-host.invalid"], "cannot listen"),
    ],
)
def test_what_it_refuses(tmp_path: Path, options: list[str], words: str) -> None:
    project = served_project(tmp_path, scans=1)
    result = CliRunner().invoke(app, ["serve", str(project.root), *options])
    assert isinstance(result.exception, UserError) and words in str(result.exception)


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    project = served_project(tmp_path, scans=1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(app, ["serve", str(project.root), "--port", port])
    assert isinstance(result.exception, UserError) and result.exception.code == "no-port"


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = CliRunner().invoke(app, ["serve", str(tmp_path)])
    assert isinstance(result.exception, UserError) and "napari-medssl[server]" in str(result.exception)


def test_the_process_of_the_server_loads_no_torch(tmp_path: Path) -> None:
    code = "import medssl.server.app, sys; print(*{'torch', 'monai'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
