"""An nnInteractive server: it gets a scan and prompts, and answers with the mask of a structure.

The client library reaches it by HTTP. Model and weights are on the server; neither is part of this package.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from medssl.core.errors import UserError

PACKAGE = "nninteractive-client"
UNKNOWN_LICENSE = "!!MISSING!!"
"""What the server says where it does not know the license of its weights."""
TIMEOUTS_S = {"connect_timeout": 5.0, "read_timeout": 60.0, "set_image_read_timeout": 300.0}
"""Until the connection, an answer to a prompt, and an answer to a scan."""
REFUSED_KEY, BUSY, SESSION_OVER = (401, 403), 503, 410
"""HTTP statuses of the server."""

Box = Sequence[tuple[int, int]]
"""(first, last + 1) voxel along z, y, x."""


def is_installed() -> bool:
    """Whether the client library is there; it is not imported."""
    try:
        version(PACKAGE)
    except PackageNotFoundError:
        return False
    return True


class PromptServer:
    """A session on a server, for one scan at a time. Each call waits for the server.

    Raises:
        UserError: From each call: "no-server", "server-key", "server-busy", "server-timeout",
            "server-version"; "server-session" if the server has ended the session, which is then closed.
    """

    mask: np.ndarray
    """The proposal: uint8 (Z, Y, X), 1 inside."""

    def __init__(self, address: str, key: str = "") -> None:
        """Connect to a server.

        Args:
            address: Its address, such as "http://gpu-server:1527".
            key: The key that it asks for; empty for none.
        """
        self.address, self.key = address.strip(), key
        with self._errors():
            self._session = _client()(self.address, api_key=key or None, **TIMEOUTS_S)
        self.mask = np.zeros((0, 0, 0), np.uint8)

    @property
    def license(self) -> str:
        """License of the server's weights; empty if it does not say."""
        text = str(self._session.license or "")
        return "" if text == UNKNOWN_LICENSE else text

    def set_image(self, image: np.ndarray, spacing_mm: Sequence[float]) -> None:
        """Send a scan; it takes the place of the one before.

        Args:
            image: The scan, (Z, Y, X).
            spacing_mm: Size of a voxel in mm along z, y, x.
        """
        with self._errors():
            values = np.ascontiguousarray(image, dtype=np.float32)[None]
            self._session.set_image(values, {"spacing": [float(along) for along in spacing_mm]})
            self.mask = np.zeros(image.shape, np.uint8)
            self._session.set_target_buffer(self.mask)

    def point(self, voxel_zyx: Sequence[int], include: bool) -> None:
        """Say that a voxel belongs to the structure, or does not."""
        with self._errors():
            self._session.add_point_interaction([int(along) for along in voxel_zyx], include)

    def box(self, box_zyx: Box, include: bool) -> None:
        """Enclose the structure, or what does not belong to it, by a box of one slice."""
        with self._errors():
            self._session.add_bbox_interaction(box_zyx, include)

    def scribble(self, scribble: np.ndarray, include: bool) -> None:
        """Draw through the structure, or through what does not belong to it.

        Args:
            scribble: uint8 (Z, Y, X), 1 on the line.
            include: Whether it lies in the structure.
        """
        with self._errors():
            self._session.add_scribble_interaction(scribble, include)

    def undo(self) -> bool:
        """Take the last prompt back; returns False if the server cannot."""
        with self._errors():
            return bool(self._session.undo())

    def reset(self) -> None:
        """Begin another structure in the same scan."""
        with self._errors():
            self._session.reset_interactions()

    def close(self) -> None:
        """End the session, so that the server has room for others."""
        self._session.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Say what the server did in one sentence."""
        import httpx

        try:
            yield
        except Exception as error:
            status = error.response.status_code if isinstance(error, httpx.HTTPStatusError) else 0
            kind = type(error).__name__  # the client's own errors, which must not be imported with torch
            if isinstance(error, httpx.UnsupportedProtocol | httpx.InvalidURL):
                raise self._error("no-server", "is no address; write it as http://host:1527") from error
            if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
                raise self._error(
                    "no-server", "does not answer; start the server, or correct the address"
                ) from error
            if isinstance(error, httpx.TimeoutException):
                raise self._error("server-timeout", "takes too long to answer; try again") from error
            if status in REFUSED_KEY:
                raise self._error(
                    "server-key", "asks for a key; enter the one it was started with"
                ) from error
            if status == BUSY or kind == "ServerAtCapacityError":
                raise self._error(
                    "server-busy", "is used by others; try again when they have finished"
                ) from error
            if status == SESSION_OVER or kind == "SessionExpiredError":
                raise self._error(
                    "server-session", "has ended the session; prompt once more to begin anew"
                ) from error
            if isinstance(error, httpx.HTTPError | ValueError | KeyError | TypeError | RuntimeError):
                reason = f"HTTP status {status}" if status else kind
                raise self._error(
                    "server-version",
                    f"is no nnInteractive server for {PACKAGE} {version(PACKAGE)} ({reason}); correct the "
                    "address, or update both",
                ) from error
            raise

    def _error(self, code: str, what: str) -> UserError:
        return UserError(f"{self.address} {what}.", code=code)


def _client() -> Any:
    """The client's class. It loads torch where torch is installed; the viewer's process must not."""
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        from nnInteractive.inference.remote import nnInteractiveRemoteInferenceSession
    finally:
        if hidden:
            del sys.modules["torch"]
    return nnInteractiveRemoteInferenceSession
