"""What every request passes before its body is read: key, size, and how many there are at once.

The key is the first part of the path, http://host:8000/KEY/, because that is what all clients can send: 3D
Slicer downloads images, and OHIF does everything, without any header of their own.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from dataclasses import dataclass
from urllib.parse import urlsplit

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "::1")
KEY = re.compile(r"[A-Za-z0-9_-]{16,128}")
"""What a key may be."""
JSON_BYTES = 1 << 20
"""Largest body that is no file."""
UPLOADS = (("PUT", "datastore"), ("PUT", "session"), ("POST", "infer"))
"""Methods and first folders of the calls that receive files; the others would read any body into memory."""


@dataclass(frozen=True)
class Limits:
    """What a client may ask of this machine.

    Attributes:
        upload_bytes: Largest body with files.
        at_once: Requests that are worked on.
        waiting: Requests that wait for these; further ones are refused.
        silence_s: Seconds without a part of a body after which its request ends, and in which a client has to
            read a part of its answer.
    """

    upload_bytes: int = 2 << 30
    at_once: int = 16
    waiting: int = 512
    silence_s: float = 60.0


class Gate:
    """ASGI middleware in front of the application.

    Args:
        app: The application.
        key: First part of every path; empty for none, then only this machine's own pages are answered.
        limits: Sizes and numbers.
    """

    def __init__(self, app: ASGIApp, key: str, limits: Limits) -> None:
        self._app, self._key, self._limits = app, key, limits
        self._slots = asyncio.Semaphore(limits.at_once)
        self._waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        most = self._most(scope, headers)
        refusal = self._refusal(scope["path"], headers, most)
        if refusal is not None:
            status, text = refusal
            await JSONResponse({"detail": text}, status)(scope, receive, send)
            return
        if self._key:
            scope = {**scope, "root_path": f"{scope.get('root_path', '')}/{self._key}"}
        self._waiting += 1
        try:
            async with self._slots:
                await self._app(scope, self._limited(receive, most), self._patient(send))
        finally:
            self._waiting -= 1

    def _refusal(self, path: str, headers: dict[bytes, str], most: int) -> tuple[int, str] | None:
        """Status and sentence for a request that is not let through."""
        if self._key:
            given = path.removeprefix("/").partition("/")[0]
            if not secrets.compare_digest(given.encode(), self._key.encode()):
                return (
                    401,
                    "The address lacks the key, or has a wrong one; use the one that medssl serve prints.",
                )
        elif not (
            _is_own(f"//{headers.get(b'host', '')}") and _is_own(headers.get(b"origin", "//localhost"))
        ):
            return 403, "Without a key, only pages and programs of this machine are answered."
        if self._waiting >= self._limits.at_once + self._limits.waiting:
            return 503, "The server has too many requests; try again later."
        length = headers.get(b"content-length", "0")
        if not length.isdecimal():
            return 400, "The length of the body is no number."
        return _too_large(most) if int(length) > most else None

    def _most(self, scope: Scope, headers: dict[bytes, str]) -> int:
        """Largest body of a request, in bytes."""
        has_files = headers.get(b"content-type", "").lower().startswith("multipart/")
        folder = scope["path"].removeprefix(f"/{self._key}" if self._key else "").strip("/").partition("/")[0]
        return self._limits.upload_bytes if has_files and (scope["method"], folder) in UPLOADS else JSON_BYTES

    def _patient(self, send: Send) -> Send:
        """`send` that gives up a client which has stopped to read, so that others get its place."""

        async def patient(message: Message) -> None:
            try:
                await asyncio.wait_for(send(message), self._limits.silence_s)
            except TimeoutError:
                raise ClientDisconnect from None

        return patient

    def _limited(self, receive: Receive, most: int) -> Receive:
        """`receive` for a body that may not be longer than `most`, nor stop coming."""
        received, ended = 0, False

        async def limited() -> Message:
            nonlocal received, ended
            if ended:
                return await receive()  # waits for the end of the connection
            try:
                message = await asyncio.wait_for(receive(), self._limits.silence_s)
            except TimeoutError:
                raise HTTPException(408, "The body did not come; send the request again.") from None
            ended = message["type"] != "http.request" or not message.get("more_body", False)
            received += len(message.get("body", b""))
            if received > most:
                raise HTTPException(*_too_large(most))
            return message

        return limited


def _too_large(most: int) -> tuple[int, str]:
    return 413, f"The request is larger than {most >> 20} MiB, which is the most that is accepted."


def _is_own(url: str) -> bool:
    """Whether an origin, or //host:port, is this machine."""
    try:
        return urlsplit(url).hostname in LOOPBACK
    except ValueError:
        return False
