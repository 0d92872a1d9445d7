"""There: answers one connection, `python -m medssl agent` on standard input and output.

Messages have "do" and get one answer, whose "is" says what it is; "put" is answered after the last bytes of a
file. While a job is followed, frames with its events come between the answers. An error is an answer, too.
"""

from __future__ import annotations

import hashlib
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import BinaryIO

from platformdirs import user_data_path

from medssl import __version__
from medssl.core.errors import UserError
from medssl.core.files import make_folder
from medssl.core.temporary_files import remove_unfinished
from medssl.remote import frames
from medssl.remote.frames import CHUNK, GREETING, MAX_BYTES, PROTOCOL, Closed, Message, Writer
from medssl.remote.job_folders import JobFolder, all_jobs
from medssl.remote.store import Store

POLL_S = 0.1
"""How often the events of a followed job are looked at."""
SILENCE_S = 120.0
"""A relay says something every few seconds; one that is silent has gone, even if nobody has noticed."""
GPU_QUERY = ("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")


def folder() -> Path:
    """Where agents keep their files; it may be a link to another disk."""
    return user_data_path("medssl", appauthor=False) / "remote"


def serve() -> int:
    """Answer on standard input and output until the connection ends; returns the exit code."""
    os.umask(0o077)  # scans are nobody else's
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not come between the frames
    channel.write(GREETING)
    agent = Agent(folder(), Writer(channel))
    received: queue.Queue[tuple[Message, bytes] | None] = queue.Queue(maxsize=8)
    threading.Thread(target=_receive, args=(sys.stdin.buffer, received), daemon=True).start()
    with suppress(Closed):
        agent.attempt(agent.greet)
        agent.run(received)
    os._exit(0)  # the thread may wait in the buffer of standard input, which would hang the interpreter


def _receive(stream: BinaryIO, received: queue.Queue[tuple[Message, bytes] | None]) -> None:
    try:
        while True:
            received.put(frames.read(stream))
    except Closed:
        received.put(None)


class Agent:
    """Answers messages."""

    def __init__(self, root: Path, writer: Writer) -> None:
        self._root, self._writer = root, writer
        self._followed: JobFolder | None = None
        self._offset = 0

    def greet(self) -> None:
        """Say who answers."""
        remove_unfinished(make_folder(self._root / "jobs"))
        jobs = all_jobs(self._root / "jobs")
        for job in jobs:
            job.delete_forgotten()
        self._say(
            "hello",
            version=__version__,
            protocol=PROTOCOL,
            python=sys.executable,
            gpu=_gpu(),
            folder=str(self._root),
            free=shutil.disk_usage(self._store.folder).free,
            jobs=sum(job.path.exists() for job in jobs),
            can_run=hasattr(os, "mkfifo"),
        )

    def run(self, received: queue.Queue[tuple[Message, bytes] | None]) -> None:
        """Answer until the connection ends.

        Raises:
            Closed: Nobody reads the answers.
        """
        silent_s = 0.0
        while silent_s < SILENCE_S:
            try:
                frame = received.get(timeout=POLL_S)
            except queue.Empty:
                silent_s += POLL_S
                self._pass_events_on()
                continue
            silent_s = 0.0
            if frame is None:
                return
            self.attempt(partial(self._answer, *frame))
            self._pass_events_on()

    def attempt(self, action: Callable[[], object]) -> None:
        """Do something; an error is the answer."""
        try:
            action()
        except UserError as error:
            self._say("error", code=error.code, text=str(error))
        except (OSError, KeyError, TypeError, ValueError) as error:
            text = f"The agent has failed ({type(error).__name__}: {error}); please report it."
            self._say("error", code="defect", text=text)

    def _answer(self, message: Message, content: bytes) -> None:
        match message["do"]:
            case "state":
                job = self._job(message)
                state = "running" if job.running else "ended" if job.events.exists() else "none"
                self._say("state", state=state)
            case "need":
                self._need(message["files"])
            case "put":
                self._put(message, content)
            case "start":
                job = self._job(message)
                job.make(self._store, message["job"], message["files"])
                job.start()
                self._say("started", project=str(job.project))
            case "follow":
                self._followed, self._offset = self._job(message), int(message["offset"])
                self._say("following", project=str(self._followed.project))
            case "tell":
                self._job(message).tell(str(message["line"]))
            case "results":
                self._say("results", files=self._job(message).results(message.get("names")))
            case "get":
                self._get(self._job(message).file(message["name"]), int(message["offset"]))
            case "log":
                self._writer.write({"is": "log"}, self._job(message).log_tail())
            case "forget":
                self._job(message).forget(self._store)
                self._say("forgotten")
            case "clear":
                self._say("cleared", size=self._store.clear())
            case "sync":
                self._say("synced")
            case "ping":
                pass
            case other:
                raise UserError(f"The agent does not know {other!r}; update medssl.", code="bad-request")

    def _say(self, what: str, **fields: object) -> None:
        self._writer.write({"is": what, **fields})

    def _job(self, message: Message) -> JobFolder:
        return JobFolder(make_folder(self._root / "jobs"), str(message["id"]))

    @cached_property
    def _store(self) -> Store:
        return Store(self._root / "store")

    def _need(self, files: dict[str, int]) -> None:
        """Say which of the files {SHA-256: size} are missing, how much of each is here, and what is free."""
        store = self._store
        received = {sha256: store.received(sha256) for sha256 in files if not store.has(sha256)}
        missing = sum(files[sha256] - size for sha256, size in received.items())
        self._say("needed", received=received, free=store.make_room(missing, files))

    def _put(self, message: Message, content: bytes) -> None:
        sha256, offset, size = str(message["sha256"]), int(message["offset"]), int(message["size"])
        whole = self._store.add(sha256, offset, size, content)
        if whole is not None:
            self._say("put", sha256=sha256, whole=whole)

    def _get(self, path: Path, offset: int) -> None:
        """Send a file from an offset on, and its hash: of one version, even if it is replaced meanwhile."""
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
            file.seek(min(offset, size))
            while content := file.read(CHUNK):
                self._writer.write({"is": "bytes", "last": False}, content)
        self._say("bytes", last=True, sha256=sha256)

    def _pass_events_on(self) -> None:
        """Send new lines of the followed job, and its end."""
        job = self._followed
        if job is None:
            return
        running = job.running  # asked first: what it has said before its end is then in the file
        try:
            with job.events.open("rb") as file:
                file.seek(self._offset)
                content = file.read(CHUNK)
                if b"\n" not in content:  # a result names all scans
                    content += file.readline(MAX_BYTES - CHUNK)
        except OSError:
            content = b""
        lines = content[: content.rfind(b"\n") + 1]
        if lines:
            self._offset += len(lines)
            self._writer.write({"is": "events", "next": self._offset}, lines)
        elif not running:
            self._followed = None
            self._say("end")


def _gpu() -> str:
    """Names of the GPUs; empty if there is none."""
    try:
        said = subprocess.run(GPU_QUERY, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return ", ".join(said.splitlines())
