"""A small server with nnInteractive's protocol: what is as bright as the prompted voxels is the structure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

import numpy as np

from napari_medssl.interactive.server import _client

_client()  # without torch
from nnInteractive.inference.remote.serialization import pack_array, unpack_array  # noqa: E402

LICENSE = "CC BY-NC-SA 4.0"
TOLERANCE = 0.1


class PromptHandler(BaseHTTPRequestHandler):
    """Answers one client; the server's state has its prompts, so that undo can leave the last one out."""

    def do_GET(self) -> None:
        self._answer({
            "supported_interactions": {}, "channel_mapping": {}, "num_interaction_channels": 7,
            "supports_initial_label": True, "supports_zero_shot_label_refinement": True,
            "preferred_scribble_thickness": 1, "interaction_decay": 0.9, "inference_session_version": "2",
            "license": LICENSE, "supports_undo": True,
        })  # fmt: skip

    def do_POST(self) -> None:
        server: Any = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path, state = self.path, server.state
        state.requests.append(path)
        state.answers.wait(20)
        if path == "/claim":
            state.prompts = []
            self._answer({"lease_token": "token"})
        elif path == "/set_image":
            state.image = unpack_array(body)[0]
            self._answer({"original_image_shape": [1, *state.image.shape]})
        elif path in ("/set_target_buffer", "/reset_interactions"):
            state.prompts, state.mask = [], np.zeros(state.image.shape, np.uint8)
            self._answer({})
        elif path == "/undo":
            self._propose(bool(state.prompts), state.prompts[:-1])
        elif path.startswith("/add_"):
            given = json.loads(self.headers.get("X-Meta") or body)
            self._propose(
                True, [*state.prompts, (self._voxels(path, given, body), given["include_interaction"])]
            )
        else:
            self._answer({})

    def _voxels(self, path: str, given: dict[str, Any], body: bytes) -> np.ndarray:
        image = self.server.state.image  # type: ignore[attr-defined]
        inside = np.zeros(image.shape, bool)
        if path == "/add_scribble_interaction":
            inside = unpack_array(body) > 0
        elif path == "/add_bbox_interaction":
            inside[tuple(slice(low, high) for low, high in given["bbox_coords"])] = True
        else:
            inside[tuple(given["coordinates"])] = True
        return inside

    def _propose(self, ran: bool, prompts: list[tuple[np.ndarray, bool]]) -> None:
        state = self.server.state  # type: ignore[attr-defined]
        state.prompts = prompts
        state.mask = np.zeros(state.image.shape, np.uint8)
        for voxels, include in prompts:
            near = np.abs(state.image - np.median(state.image[voxels])) < TOLERANCE
            state.mask[near] = include
        box = [[0, length] for length in state.mask.shape]
        self._answer(None, {"ran_prediction": ran, "bbox": box}, pack_array(state.mask))

    def _answer(
        self, content: dict[str, Any] | None, meta: dict[str, Any] | None = None, body: bytes = b""
    ) -> None:
        state = self.server.state  # type: ignore[attr-defined]
        refused = state.key and self.headers.get("Authorization") != f"Bearer {state.key}"
        self.send_response(401 if refused else state.status)
        if meta is not None:
            self.send_header("X-Meta", json.dumps(meta))
        body = json.dumps(content).encode() if content is not None else body
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *of: Any) -> None:
        """Be quiet."""


class State:
    """What the server knows, and how it behaves."""

    def __init__(self) -> None:
        self.image = np.zeros((1, 1, 1), np.float32)
        self.mask = np.zeros((1, 1, 1), np.uint8)
        self.prompts: list[tuple[np.ndarray, bool]] = []
        self.requests: list[str] = []
        self.key, self.status = "", 200
        self.answers = Event()
        """Cleared, the server keeps its clients waiting."""
        self.answers.set()
        self.address = ""


@contextmanager
def prompt_server() -> Iterator[State]:
    """Run a server on this machine."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), PromptHandler)
    server.state = state = State()
    state.address = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
