"""Many requests at once to a served project: python benchmarks/serve.py

A project of noisy scans is served by `medssl serve`, a process of its own. 200 requests are sent at the same
time: downloads, label files, questions, sessions, predictions, and among them bad ones: unknown scans, other
grids, damaged and huge files, no key. Printed are the statuses, the seconds, the memory of the server process
before and at most (its engines have their own), and whether the project is intact.
"""

from __future__ import annotations

import argparse
import gzip
import http.client
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import nibabel
import numpy as np
import psutil
from medssl.core.project.annotation import Annotation
from medssl.core.project.project import LabelClass, Project

REQUESTS = 200
SCANS = 4
BOUNDARY = "a-boundary-of-the-benchmark"
INFO = json.dumps({"label_info": [{"name": "box", "idx": 1}]}).encode()


@dataclass(frozen=True)
class Request:
    """One request; `expected` are the statuses that are right for it."""

    kind: str
    method: str
    path: str
    expected: tuple[int, ...]
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


def main() -> None:
    """Serve, send, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=256, help="rows and columns of the scans")
    parser.add_argument("--slices", type=int, default=100, help="slices of the scans")
    options = parser.parse_args()
    shape = (options.slices, options.side, options.side)
    with tempfile.TemporaryDirectory() as folder:
        project = make_project(Path(folder), shape)
        command = [sys.executable, "-m", "medssl", "serve", str(project.root), "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            try:
                report(project.root, address, psutil.Process(server.pid), requests(project, shape))
            finally:
                server.terminate()


def make_project(folder: Path, shape: tuple[int, int, int]) -> Project:
    """Noise with a box in it; the first scan is annotated."""
    project = Project.create(folder / "project", (LabelClass(1, "box", "#e41a1c"),))
    for number in range(SCANS):
        values = np.random.default_rng(number).normal(0, 100, shape).astype(np.float32)
        path = folder / f"scan-{number}.nii.gz"
        path.write_bytes(nifti(values))
        project.add_scan(path)
    project.save_annotation("scan-0", Annotation(box(shape), ((0, shape[0] // 2),)))
    return project


def box(shape: tuple[int, int, int]) -> np.ndarray:
    """Labels with a box in the middle, uint8 (Z, Y, X)."""
    labels = np.zeros(shape, np.uint8)
    labels[tuple(slice(length // 3, 2 * length // 3) for length in shape)] = 1
    return labels


def nifti(array_zyx: np.ndarray) -> bytes:
    """Content of a file with an array (Z, Y, X)."""
    image = nibabel.Nifti1Image(np.ascontiguousarray(array_zyx.T), np.eye(4))
    return gzip.compress(image.to_bytes(), compresslevel=1)


def multipart(name: str, file_name: str, content: bytes, params: bytes = INFO) -> tuple[bytes, str]:
    """A form with params and a file; its body and its content type."""
    mark = f"--{BOUNDARY}\r\n".encode()
    field = b'Content-Disposition: form-data; name="params"\r\n\r\n' + params + b"\r\n"
    head = f'Content-Disposition: form-data; name="{name}"; filename="{file_name}"\r\n\r\n'.encode()
    end = f"\r\n--{BOUNDARY}--\r\n".encode()
    return mark + field + mark + head + content + end, f"multipart/form-data; boundary={BOUNDARY}"


def requests(project: Project, shape: tuple[int, int, int]) -> list[Request]:
    """200 requests, in a random order that is always the same."""
    labels, image = nifti(box(shape)), Path(project.scans["scan-1"].source).read_bytes()
    other = nifti(box((shape[0], shape[1], shape[2] + 1)))

    def upload(kind: str, path: str, name: str, file: str, content: bytes, *expected: int) -> Request:
        body, content_type = multipart(name, file, content)
        return Request(kind, "PUT", path, expected, body, (("content-type", content_type),))

    kinds: list[Callable[[int], Request]] = [
        lambda n: Request("info", "GET", "info/", (200,)),
        lambda n: Request("next scan", "POST", "activelearning/first", (200,)),
        lambda n: Request("image", "GET", f"datastore/image?image=scan-{n % SCANS}", (200,)),
        lambda n: Request("label", "GET", "datastore/label?label=scan-0", (200,)),
        lambda n: upload(
            "submit", f"datastore/label?image=scan-{n % SCANS}", "label", "l.nii.gz", labels, 200
        ),
        lambda n: upload("session", "session/", "files", "i.nii.gz", image, 200, 503),
        lambda n: Request("no network yet", "POST", f"infer/newest?image=scan-{n % SCANS}", (404,)),
        lambda n: Request("unknown scan", "GET", f"datastore/image?image=x{n}", (404,)),
        lambda n: upload("other grid", "datastore/label?image=scan-0", "label", "l.nii.gz", other, 400),
        lambda n: upload(
            "damaged", "datastore/label?image=scan-0", "label", "l.nii.gz", labels[: n * 9], 400
        ),
        lambda n: upload("no image", "session/", "files", "i.exe", b"MZ", 415, 503),
        lambda n: Request("no form", "PUT", "datastore/label?image=scan-0", (400, 422), b"\xff" * 1000),
        lambda n: Request("huge", "POST", "train/finetune", (413,), b" " * (2 << 20)),
        lambda n: Request("no key", "GET", "../info/", (401,)),
    ]
    chosen = [kinds[number % len(kinds)](number) for number in range(REQUESTS)]
    random.Random(0).shuffle(chosen)
    return chosen


def send(address: str, request: Request) -> tuple[Request, int]:
    """Send one request; its status, 0 if the connection broke."""
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=600)
    path = "/" + request.path[3:] if request.path.startswith("../") else parts.path + request.path
    try:
        connection.request(request.method, path, request.body or None, dict(request.headers))
        reply = connection.getresponse()
        while reply.read(1 << 20):
            pass
        return request, reply.status
    except OSError:
        return request, 0  # refused while the body was still being sent
    finally:
        connection.close()


def report(root: Path, address: str, process: psutil.Process, sent: list[Request]) -> None:
    """Send all at once, and print what came of it."""
    send(address, Request("info", "GET", "info/", (200,)))
    before, peak, ended = process.memory_info().rss, 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.02):
            peak = max(peak, process.memory_info().rss)

    watching = threading.Thread(target=watch)
    watching.start()
    begin = time.perf_counter()
    with ThreadPoolExecutor(len(sent)) as pool:
        replies = list(pool.map(lambda request: send(address, request), sent))
    seconds = time.perf_counter() - begin
    ended.set()
    watching.join()
    counts = Counter((request.kind, status) for request, status in replies)
    for (kind, status), count in sorted(counts.items()):
        print(f"| {kind} | {status} | {count} |")
    wrong = [(request.kind, status) for request, status in replies if status not in (*request.expected, 0)]
    submitted = {
        request.path[-6:] for request, status in replies if request.kind == "submit" and status == 200
    }
    print(
        f"{len(sent)} requests in {seconds:.1f} s; answers that are not the expected ones: {wrong or 'none'}."
    )
    print(f"Memory before: {before / 2**20:.0f} MiB, at most {peak / 2**20:.0f} MiB.")
    print("Project intact." if intact(Project.open(root), submitted) else "The project is damaged.")


def intact(project: Project, submitted: set[str]) -> bool:
    """Whether the project has its scans and its class, and the labels of what was submitted."""
    labels = box(project.scans["scan-0"].geometry.shape_zyx)
    annotations = {scan: project.annotation(scan) for scan in project.scans}
    known = {scan for scan, each in annotations.items() if each and (each.labels == labels).all()}
    others = {scan for scan in project.scans if scan not in known and annotations[scan] is not None}
    names = [item.name for item in project.classes]
    return submitted <= known and not others and len(project.scans) == SCANS and names == ["box"]


if __name__ == "__main__":
    main()
