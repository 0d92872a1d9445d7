"""Here: sends what a job needs, as far as it is not there."""

from __future__ import annotations

import time
from collections.abc import Callable

from medssl.core.errors import UserError
from medssl.core.events import Emit, Notice, Progress
from medssl.core.project.disk_usage import size_text
from medssl.remote.connection import Connection
from medssl.remote.frames import CHUNK
from medssl.remote.incoming import ATTEMPTS
from medssl.remote.outgoing import Outgoing, OutgoingFile
from medssl.remote.store import MARGIN_BYTES

COMPARING, SENDING = "comparing", "sending"
REPORT_S = 0.5


def send(connection: Connection, out: Outgoing, emit: Emit, check: Callable[[], object]) -> None:
    """Send the files that the agent lacks, the rest of those that it has in part.

    Args:
        connection: To the agent.
        out: What the job needs.
        emit: Receives the progress, and how much was sent.
        check: Called between the pieces; may raise an exception to give up.

    Raises:
        Broken: The connection has ended.
        UserError: "disk-full" there; "damaged" if a file changes while it is sent, or does not arrive as it
            was sent.
    """
    emit(Progress(COMPARING, 0.0))
    by_hash = {file.sha256: file for file in out.files}
    sizes = {sha256: file.size for sha256, file in by_hash.items()}
    answer = connection.ask("need", files=sizes)[0]
    received: dict[str, int] = answer["received"]
    missing = sum(sizes[sha256] - offset for sha256, offset in received.items())
    if missing + MARGIN_BYTES > answer["free"]:
        raise UserError(
            f"The disk of {connection.host} is full: {size_text(missing)} have to go there, and "
            f"{size_text(answer['free'])} are free in {connection.hello['folder']}; free some space there.",
            code="disk-full",
        )
    progress = _Progress(emit, missing)
    for sha256, offset in received.items():
        _send_file(connection, by_hash[sha256], offset, progress, check)
    sent, there = size_text(progress.done), size_text(sum(sizes.values()) - missing)
    emit(Notice(f"{sent} were sent to {connection.host}; {there} were there already."))


def _send_file(
    connection: Connection,
    file: OutgoingFile,
    offset: int,
    progress: _Progress,
    check: Callable[[], object],
) -> None:
    for _ in range(ATTEMPTS):
        refused = False
        for piece in file.read(offset, CHUNK):
            check()
            if refused := connection.has_answer():  # before the end: somebody else has sent the same file
                break
            connection.say("put", piece, sha256=file.sha256, offset=offset, size=file.size)
            offset += len(piece)
            progress.add(len(piece))
        if not refused and offset == file.size and connection.answer()[0]["whole"]:
            return
        connection.skip_answers()
        offset = 0
    raise UserError(
        f"{file.name} did not arrive on {connection.host} as it is here; start the job again.", code="damaged"
    )


class _Progress:
    """Emits the progress of what is sent, twice a second."""

    def __init__(self, emit: Emit, total: int) -> None:
        self._emit, self._total = emit, total
        self._begin = self._said = time.monotonic()
        self.done = 0

    def add(self, size: int) -> None:
        self.done += size
        now = time.monotonic()
        if now - self._said > REPORT_S or self.done == self._total:
            self._said = now
            fraction = min(1.0, self.done / max(1, self._total))
            self._emit(Progress(SENDING, fraction, eta_s=(now - self._begin) * (1 - fraction) / fraction))
