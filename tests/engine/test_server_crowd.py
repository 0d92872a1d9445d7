"""Many requests at once, bad ones among them."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from medssl.core.project.project import Project
from medssl.server.gate import Limits
from served import Client, served_project, serving
from small import write_nifti
from test_server_refusals import BAD, is_expected

INFO = [{"name": "kidney", "idx": 1}, {"name": "liver", "idx": 2}]
SCANS = 3


def test_no_request_harms_another(tmp_path: Path) -> None:
    project = served_project(tmp_path, SCANS)
    files = []
    for index in range(8):
        labels = np.zeros((8, 10, 12), np.uint8)
        labels[index, 2:5, 2:5] = 1 + index % 2
        files.append(write_nifti(tmp_path / f"labels-{index}.nii.gz", labels, (2.0, 1.0, 1.0)))

    def submit(client: Client, number: int) -> int:
        scan, index = divmod(number, 8)
        return client.save_label(f"scan-{scan}", files[index], INFO).status

    def bad(client: Client, name: str) -> bool:
        status, send = BAD[name]
        return is_expected(send(client), status)

    # A label file of nobody's name is unknown only as long as no scan is annotated.
    names = [name for name in BAD if "has none" not in name]
    with serving(project.root, limits=Limits(upload_bytes=1 << 20)) as client, ThreadPoolExecutor(40) as pool:
        good = [pool.submit(submit, client, number) for number in range(8 * SCANS)]
        wrong = {name: pool.submit(bad, client, name) for name in names}
        asked = [pool.submit(client.get, "/info/") for _ in range(20)]
        assert [each.result() for each in good] == [200] * 8 * SCANS
        assert [name for name, each in wrong.items() if not each.result()] == []
        assert {each.result().status for each in asked} == {200}
    after = Project.open(project.root)
    assert [item.name for item in after.classes] == ["kidney", "liver"]
    for scan in after.scans:  # all eight slices of each, none lost to another request
        annotation = after.annotation(scan)
        assert annotation is not None and annotation.complete == tuple((0, index) for index in range(8))
        assert annotation.labels.any((1, 2)).all()


def test_clients_that_do_not_read_their_answers_lose_their_places(tmp_path: Path) -> None:
    project = served_project(tmp_path)
    noise = np.random.default_rng(0).normal(size=(64, 400, 400)).astype(np.float32)
    project.add_scan(write_nifti(tmp_path / "large.nii", noise))
    with serving(project.root, limits=Limits(at_once=2, silence_s=1.0)) as client:
        stalled = [socket.create_connection(("127.0.0.1", client.port)) for _ in range(2)]
        try:
            for connection in stalled:
                request = (
                    f"GET {client.prefix}/datastore/image?image=large HTTP/1.1\r\nHost: localhost\r\n\r\n"
                )
                connection.sendall(request.encode())
                assert connection.recv(12) == b"HTTP/1.1 200"
            assert client.get("/info/").status == 200
        finally:
            for connection in stalled:
                connection.close()
