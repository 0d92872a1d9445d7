"""The calls of MONAI Label's clients.

Endpoints are plain functions, which FastAPI runs in threads: they read files and wait for engines.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, File, Form, Request, UploadFile
from fastapi.responses import FileResponse
from starlette.types import Receive, Scope, Send

from medssl.core.errors import UserError
from medssl.core.files import make_folder
from medssl.core.io.volume import suffix_of
from medssl.core.project.contents import Scan
from medssl.server import documents
from medssl.server.image_uploads import add_image
from medssl.server.inference import Answer, Wish, answer, predict, prediction, run_of, wish_of
from medssl.server.label_uploads import submit_labels
from medssl.server.next_sample import NextSample
from medssl.server.scans import image_file, scan_of
from medssl.server.sessions import Session
from medssl.server.state import Server
from medssl.server.training import TRAINER
from medssl.server.uploads import save_upload

Params = Annotated[dict[str, Any] | None, Body()]
Upload = Annotated[UploadFile, File()]


def routes(server: Server) -> APIRouter:
    """All routes of a server."""
    router = APIRouter()
    for part in (_information, _datastore, _inference, _training, _sessions):
        part(router, server)
    return router


def _information(router: APIRouter, server: Server) -> None:
    samples = NextSample(server)

    @router.get("/info/")
    def info(request: Request) -> dict[str, Any]:
        is_browser = request.headers.get("user-agent", "").startswith("Mozilla/")
        return documents.info(server, with_background=is_browser)

    @router.post("/activelearning/{strategy}")
    def next_sample(strategy: str, params: Params = None) -> dict[str, Any]:
        return samples.choose(strategy)


def _datastore(router: APIRouter, server: Server) -> None:
    @router.get("/datastore/")
    def datastore(output: str = "stats") -> dict[str, Any]:
        if output == "all":
            return documents.datastore(server)
        server.project.refresh()
        return documents.status(server)

    @router.put("/datastore/")
    def put_image(file: Upload, image: str = "") -> dict[str, Any]:
        scan = add_image(server, image or Path(file.filename or "").name, file.filename or "", file.file)
        return {"image": scan.id}

    @router.get("/datastore/image")
    def get_image(image: str) -> FileResponse:
        scan = scan_of(server, image)
        path = image_file(server, scan)
        return FileResponse(path, filename=f"{scan.title}{suffix_of(path)}")

    @router.get("/datastore/label")
    def get_label(label: str, tag: str = "") -> FileResponse:
        scan = scan_of(server, label)
        if tag not in ("", *documents.TAGS):
            raise UserError(f"There are no labels {tag[:80]!r}.", code="nothing-yet")
        return _sent(server.with_volumes(lambda: _labels(server, scan)))

    @router.put("/datastore/label")
    def put_label(label: Upload, image: str, params: Annotated[str, Form()] = "{}") -> dict[str, Any]:
        scan = scan_of(server, image)
        with _received(server, label) as path:
            changed = submit_labels(server, scan, path, _params(params).get("label_info"))
        return {"image": scan.id, "label": scan.id, "slices": list(changed)}


def _labels(server: Server, scan: Scan) -> Answer:
    """The labels of a scan that people have painted."""
    annotation = server.project.annotation(scan.id)
    if annotation is None:
        raise UserError(f"{scan.title} has no labels yet.", code="nothing-yet")
    classes = server.project.classes
    return answer(server.scratch, scan.id, annotation.labels, scan.geometry, classes, Wish("image"))


def _inference(router: APIRouter, server: Server) -> None:
    @router.post("/infer/{model}")
    def infer(
        model: str,
        image: str = "",
        session_id: str = "",
        output: str | None = None,
        params: Annotated[str, Form()] = "{}",
        file: Annotated[UploadFile | None, File()] = None,
    ) -> FileResponse:
        wish = wish_of(_params(params), output)
        if not file or session_id:
            return _sent(_segmented(server, model, image, session_id, wish))
        session = _begin_session(server, [file], 0)
        try:
            return _sent(_segmented(server, model, "", session.id, wish))
        finally:
            with suppress(UserError):
                server.sessions.remove(session.id)


def _segmented(server: Server, model: str, image: str, session_id: str, wish: Wish) -> Answer:
    """The segmentation of a scan of the project, or of a session's image."""
    server.project.refresh()
    run = run_of(server, model)
    if session_id:
        session = server.sessions.get(session_id)
        project, scan, name = session.project, session.scan, "session"
        session.copy_run(run)
    else:
        project, scan = server.project, scan_of(server, image)
        name = scan.id
    predict(server, project, scan, run)

    def made() -> Answer:
        labels = prediction(project, scan, run)
        return answer(server.scratch, name, labels, scan.geometry, server.project.classes, wish)

    return server.with_volumes(made)


def _training(router: APIRouter, server: Server) -> None:
    @router.get("/train/")
    def train_status(check_if_running: bool = False) -> dict[str, Any]:
        return (server.training.running() if check_if_running else server.training.task()).to_json()

    @router.post("/train/")
    def train_all(params: Params = None) -> dict[str, Any]:
        settings = (params or {}).get(TRAINER)
        return server.training.start(settings if isinstance(settings, dict) else params or {}).to_json()

    @router.post("/train/{model}")
    def train(model: str, params: Params = None) -> dict[str, Any]:
        if model != TRAINER:
            raise UserError(f"There is no trainer {model[:80]!r}; use {TRAINER}.", code="no-run")
        return server.training.start(params or {}).to_json()

    @router.delete("/train/")
    def stop_training() -> dict[str, Any]:
        return server.training.stop().to_json()


def _sessions(router: APIRouter, server: Server) -> None:
    @router.put("/session/")
    def put_session(files: Annotated[list[UploadFile], File()], expiry: int = 0) -> dict[str, Any]:
        session = _begin_session(server, files, expiry)
        return {"session_id": session.id, "session_info": session.to_json()}

    @router.get("/session/{session_id}", response_model=None)
    def get_session(
        session_id: str, update_ts: bool = False, image: bool = False
    ) -> dict[str, Any] | FileResponse:
        session = server.sessions.get(session_id, use=update_ts)
        if image and session.image.is_file():
            return FileResponse(session.image, filename=session.image.name)
        return session.to_json()

    @router.delete("/session/{session_id}")
    def delete_session(session_id: str) -> dict[str, Any]:
        return server.sessions.remove(session_id).to_json()


def _begin_session(server: Server, files: list[UploadFile], expiry: int) -> Session:
    server.sessions.check_free()
    sent = [(file.filename or "", file.file) for file in files]
    return server.with_volumes(lambda: server.sessions.add(sent, server.project, expiry))


def _params(text: str) -> dict[str, Any]:
    """The form field "params" of a request."""
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UserError("The field params is not a JSON object.", code="bad-request")
    return value


@contextmanager
def _received(server: Server, upload: UploadFile) -> Iterator[Path]:
    """A file that a client has sent, in a folder of its own, which is deleted at the end."""
    folder = make_folder(server.scratch / "uploads" / secrets.token_hex(8))
    try:
        yield save_upload(upload.file, upload.filename or "", folder, "label")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _SentOnce(FileResponse):
    """A response that deletes its file when it has been sent, or refused as by a range that there is not."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            Path(self.path).unlink(missing_ok=True)


def _sent(made: Answer) -> FileResponse:
    return _SentOnce(made.path, media_type=made.media_type, filename=made.name or None)
