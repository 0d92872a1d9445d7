"""A served project for tests: real HTTP, and engines whose networks are a threshold."""

from __future__ import annotations

import email
import email.policy
import http.client
import json
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import anyio
import numpy as np
import uvicorn
from medssl.core.json_files import write_json
from medssl.core.project.project import LabelClass, Project
from medssl.server.app import build_app
from medssl.server.gate import Limits
from medssl.server.state import Server
from small import write_nifti

# Its modules are loaded when they are first used. Here that is in the main thread: pytest rewrites what is
# imported, which CPython 3.11 at times cannot do in a thread beside others.
anyio.open_file  # noqa: B018

KEY = "a-key-that-nobody-guesses"
ANSWER_S = 240
"""Longest time for an answer: an engine that has to load torch on a busy machine takes most of a minute."""
BOUNDARY = "----------lImIt_of_THE_fIle_eW_$"
"""As 3D Slicer's client writes it."""
THRESHOLD_ENGINE = """
import sys, time, types
from pathlib import Path
import numpy as np
from medssl import worker
from medssl.core.events import Metric, Progress, Started
from medssl.core.json_files import write_json
from medssl.core.jobs import FinetuneJob, PredictJob, to_json
from medssl.core.project.project import Project

def run(job, emit, should_stop, in_view):
    project = Project.open(Path(job.project))
    if isinstance(job, FinetuneJob):
        made = project.new_run("finetune", to_json(job), "made")
        classes = [{"id": item.id, "name": item.name} for item in project.classes]
        write_json(made.folder / "card.json", {"kind": "finetune", "classes": classes, "step": 1})
        (made.folder / "checkpoint.safetensors").write_bytes(made.id.encode())
        emit(Started(made.id, reasons=["A threshold."]))
        emit(Metric(1, {"dice": 0.75}))
        emit(Progress("training", 0.5))
        while job.minutes > 60 and not should_stop():
            time.sleep(0.01)
        return {"run": made.id, "stopped": should_stop()}
    if isinstance(job, PredictJob):
        emit(Started(job.weights))
        for scan in job.scans:
            labels = np.where(np.asarray(project.image(scan), np.float32) > 0.5, project.classes[-1].id, 0)
            project.save_prediction(job.weights, scan, labels.astype(np.uint8))
        return {"run": job.weights, "scans": list(job.scans), "stopped": False}
    emit(Started(""))
    scans = sorted(project.scans, reverse=True)
    found = [{"scan": scan, "axis": 0, "index": 3, "reason": "unsure"} for scan in scans for _ in range(2)]
    return {"run": job.weights, "suggestions": found, "stopped": False}

engine = types.ModuleType("medssl.engine")
engine.run, engine.load = run, lambda has_job: None
sys.modules["medssl.engine"] = engine
import medssl
medssl.engine = engine
sys.exit(worker.run(worker.LATER))
"""
COMMAND = (sys.executable, "-u", "-c", THRESHOLD_ENGINE)
NO_ENGINE = (sys.executable, "-S", "-c", "")
"""Ends at once: for tests that neither train nor predict."""


@dataclass
class Reply:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def parts(self) -> dict[str, tuple[str, bytes]]:
        """Of a multipart answer, {name: (file name, content)}."""
        head = f"Content-Type: {self.headers['content-type']}\r\n\r\n".encode()
        message = email.message_from_bytes(head + self.body, policy=email.policy.HTTP)
        return {
            str(part.get_param("name", header="content-disposition")): (
                part.get_filename() or "",
                part.get_payload(decode=True),  # type: ignore[dict-item]
            )
            for part in message.iter_parts()  # type: ignore[attr-defined]
        }


@dataclass
class Client:
    """Sends what the clients of MONAI Label send, byte by byte."""

    port: int
    server: Server
    prefix: str = f"/{KEY}"
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def project(self) -> Project:
        """The project as it is on the disk."""
        return Project.open(self.server.project.root)

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """One request; a dict is sent as JSON."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if isinstance(body, dict):
            body, named = json.dumps(body).encode(), {"content-type": "application/json", **named}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_S)
        try:
            connection.request(method, self.prefix + path, body, {**self.headers, **named})
            reply = connection.getresponse()
            return Reply(reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read())
        finally:
            connection.close()

    def get(self, path: str) -> Reply:
        return self.call("GET", path)

    def multipart(
        self, method: str, path: str, fields: Mapping[str, str], files: Mapping[str, Path | tuple[str, bytes]]
    ) -> Reply:
        """A form with files, as 3D Slicer's client encodes it: with the whole path as a file's name."""
        lines: list[bytes] = []
        for name, value in fields.items():
            lines += [
                f"--{BOUNDARY}".encode(),
                f'Content-Disposition: form-data; name="{name}"'.encode(),
                b"",
            ]
            lines.append(value.encode())
        for name, file in files.items():
            file_name, content = file if isinstance(file, tuple) else (str(file), file.read_bytes())
            lines.append(f"--{BOUNDARY}".encode())
            lines.append(f'Content-Disposition: form-data; name="{name}"; filename="{file_name}"'.encode())
            lines += [b"Content-Type: application/octet-stream", b"", content]
        lines += [f"--{BOUNDARY}--".encode(), b""]
        body = b"".join(line + b"\r\n" for line in lines)
        return self.call(method, path, body, content_type=f"multipart/form-data; boundary={BOUNDARY}")

    def save_label(self, image: str, label: Any, label_info: Any = None, **params: Any) -> Reply:
        fields = {"params": json.dumps({"label_info": label_info, "client_id": "user-xyz", **params})}
        path = f"/datastore/label?image={quote_plus(image)}"
        return self.multipart("PUT", path, fields, {"label": label})

    def infer(self, model: str, image: str = "", query: str = "", **params: Any) -> Reply:
        path = f"/infer/{quote_plus(model)}?image={quote_plus(image)}{query}"
        return self.multipart("POST", path, {"params": json.dumps(params)}, {})

    def train(self, minutes: float = 1.0) -> str:
        """Train to the end; returns the status."""
        assert self.call("POST", "/train/finetune", {"minutes": minutes, "client_id": "me"}).status == 200
        return self.trained()

    def wait_for_run(self) -> None:
        """Wait until the training has begun its run."""
        while not self.get("/train/").json["run"]:
            assert self.server.training.thread is not None and self.server.training.thread.is_alive()

    def trained(self) -> str:
        """Wait for the end of the training; returns the status."""
        thread = self.server.training.thread
        assert thread is not None
        thread.join(240)
        return self.get("/train/").json["status"]


@contextmanager
def serving(
    root: Path, key: str = KEY, limits: Limits = Limits(), command: tuple[str, ...] = NO_ENGINE
) -> Iterator[Client]:
    """A project, served at a free port."""
    server = Server(root, "cpu", command)
    listening = socket.create_server(("127.0.0.1", 0))
    app = build_app(server, key, limits)
    config = uvicorn.Config(app, access_log=False, log_level="warning", timeout_graceful_shutdown=5)
    http_server = uvicorn.Server(config)
    thread = threading.Thread(target=http_server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield Client(listening.getsockname()[1], server, f"/{key}" if key else "")
    finally:
        http_server.should_exit = True
        thread.join(30)
        listening.close()


def add_network(project: Project) -> str:
    """A run like those of the engines here; returns its id."""
    run = project.new_run("finetune", {"job": "finetune"}, "made")
    classes = [{"id": item.id, "name": item.name} for item in project.classes]
    write_json(run.folder / "card.json", {"kind": "finetune", "classes": classes, "step": 1})
    run.checkpoint.write_bytes(b"weights")
    return run.id


def served_project(folder: Path, scans: int = 2, class_ids: tuple[int, ...] = (1, 2)) -> Project:
    """A project of small scans with a bright box each, none annotated."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("kidney", "liver", "spleen")
    classes = tuple(LabelClass(number, names[n], "#e41a1c") for n, number in enumerate(class_ids))
    project = Project.create(folder / "project", classes)
    for number in range(scans):
        image = np.random.default_rng(number).normal(0, 0.1, (8, 10, 12)).astype(np.float32)
        image[2:6, 3:7, 4:8] += 3
        project.add_scan(write_nifti(folder / f"scan-{number}.nii.gz", image, (2.0, 1.0, 1.0)))
    return project
