"""Here: one connection to an agent, by the system's ssh."""

from __future__ import annotations

import queue
import shutil
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any, BinaryIO, cast

from medssl import __version__
from medssl.core.errors import UserError
from medssl.core.remote_hosts import check_host, python_of, remote_command
from medssl.core.shell import command
from medssl.remote import frames
from medssl.remote.frames import PROTOCOL, Closed, Message, Writer

OPTIONS = (
    "-T",
    *("-o", "BatchMode=yes"),  # it must not ask: nobody sees the question
    *("-o", "ConnectTimeout=15"),
    *("-o", "ServerAliveInterval=10"),
    *("-o", "ServerAliveCountMax=3"),
)
GREETING_S = 90.0
"""A Python that is loaded from a slow network drive takes that long."""
WAIT_S = 0.1
CLOSE_S = 3.0
"""Another process may keep ssh's error output open: that of a connection which others share."""
PING_S = 20.0
NOT_FOUND = (126, 127)
"""Exit codes of shells for a program that is not there, or cannot be run."""


class Broken(Exception):
    """The connection has ended; the text is ssh's reason."""


class Connection:
    """A connection to the agent of a host that has the same version of medssl."""

    def __init__(self, host: str, python: str = "", idle: Callable[[], object] = lambda: None) -> None:
        """Connect.

        Args:
            host: A host of the ssh configuration, or user@computer.
            python: Its Python; by default the one that is kept for this host.
            idle: Called several times a second while an answer is awaited; may raise an exception to give up.

        Raises:
            UserError: "no-ssh", "bad-host", "no-host", "no-agent", "other-version".
        """
        ssh = shutil.which("ssh")
        if ssh is None:
            raise UserError(
                "There is no program ssh on this computer; install OpenSSH, or train here.", code="no-ssh"
            )
        self.host, self.python = check_host(host), python or python_of(host)
        self.events: deque[tuple[Message, bytes]] = deque()
        """Frames of a followed job that have come between answers."""
        self._idle = idle
        self._process = subprocess.Popen(
            [ssh, *OPTIONS, host, remote_command(self.python)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in a terminal stops the job, and not ssh
        )
        assert self._process.stdin and self._process.stdout and self._process.stderr
        self._writer = Writer(cast(BinaryIO, self._process.stdin))
        self._received: queue.Queue[tuple[Message, bytes] | str] = queue.Queue(maxsize=64)
        self._errors: deque[str] = deque(maxlen=20)
        self._listener = threading.Thread(
            target=self._listen_to_errors, args=(self._process.stderr,), daemon=True
        )
        self._listener.start()
        frames_in = cast(BinaryIO, self._process.stdout)
        self._reader = threading.Thread(target=self._listen, args=(frames_in,), daemon=True)
        self._reader.start()
        self._pinged = time.monotonic()
        try:
            self.hello = self._handshake()
        except BaseException:
            self.close()
            raise

    def ask(self, do: str, content: bytes = b"", **fields: Any) -> tuple[Message, bytes]:
        """Send a message and wait for its answer; events that come before it are kept.

        Raises:
            Broken: The connection has ended.
            UserError: The agent answers with an error; its text says on which host.
        """
        self.say(do, content, **fields)
        return self.answer()

    def say(self, do: str, content: bytes = b"", **fields: Any) -> None:
        """Send a message; raises Broken."""
        try:
            self._writer.write({"do": do, **fields}, content)
        except Closed:
            raise Broken(self._reason()) from None

    def answer(self) -> tuple[Message, bytes]:
        """Wait for the next answer; raises what `ask` raises."""
        while True:
            frame = self.receive()
            if frame is None:
                self._idle()
            elif frame[0].get("is") in ("events", "end"):
                self.events.append(frame)
            else:
                return self._checked(frame)

    def next_event(self) -> tuple[Message, bytes] | None:
        """The next frame of the followed job; None if none has come within a tenth of a second."""
        return self.events.popleft() if self.events else self.receive()

    def receive(self, wait_s: float = WAIT_S) -> tuple[Message, bytes] | None:
        """The next frame; None if none has come in time. Raises Broken."""
        if time.monotonic() - self._pinged > PING_S:
            self._pinged = time.monotonic()
            self.say("ping")
        try:
            frame = self._received.get(timeout=wait_s) if wait_s else self._received.get_nowait()
        except queue.Empty:
            return None
        if isinstance(frame, str):
            self._received.put(frame)  # it stays broken
            raise Broken(self._reason() or frame)
        return frame

    def has_answer(self) -> bool:
        """Whether an answer has come, which is dropped; raises what `ask` raises."""
        frame = self.receive(0.0)
        return frame is not None and bool(self._checked(frame))

    def skip_answers(self) -> None:
        """Drop the answers to all that was sent; raises what `ask` raises."""
        self.say("sync")
        while self.answer()[0]["is"] != "synced":
            pass

    def close(self) -> None:
        """End the connection; what runs there goes on."""
        process = self._process
        process.kill()
        process.wait()
        deadline = time.monotonic() + CLOSE_S
        while self._reader.is_alive() and time.monotonic() < deadline:
            with suppress(queue.Empty):  # it may wait for room in the queue
                self._received.get_nowait()
            self._reader.join(WAIT_S)
        self._listener.join(CLOSE_S)
        ended = (None, self._reader, self._listener)
        for stream, thread in zip((process.stdin, process.stdout, process.stderr), ended, strict=True):
            if stream is not None and not (thread and thread.is_alive()):
                with suppress(OSError):
                    stream.close()

    def _checked(self, frame: tuple[Message, bytes]) -> tuple[Message, bytes]:
        message = frame[0]
        if message.get("is") == "error":
            raise UserError(f"On {self.host}: {message.get('text')}", code=str(message.get("code")))
        return frame

    def _handshake(self) -> Message:
        deadline = time.monotonic() + GREETING_S
        while time.monotonic() < deadline:
            try:
                frame = self.receive()
            except Broken as error:
                raise self._refusal(str(error)) from None
            if frame is None:
                self._idle()
                continue
            hello, _ = self._checked(frame)
            if hello.get("protocol") != PROTOCOL or hello.get("version") != __version__:
                raise self._other_version(str(hello.get("version")))
            if not hello.get("can_run"):
                raise UserError(
                    f"{self.host} runs Windows, where jobs of other computers cannot run.", code="no-agent"
                )
            return hello
        raise UserError(
            f"{self.host} did not answer within {GREETING_S:.0f} s; try `ssh {self.host}` in a terminal.",
            code="no-host",
        )

    def _refusal(self, reason: str) -> UserError:
        """Why there was no greeting, from what ssh and the other shell have said."""
        code, said = self._process.wait(), "\n".join(self._errors)
        if "No such command" in said:
            return self._other_version("an older version")
        if code in NOT_FOUND or "No module named" in said:
            other = command("hosts", self.host, "--python", "PATH")
            return UserError(
                f"{self.python} on {self.host} has no medssl ({reason}); install napari-medssl "
                f"{__version__} there, or say which Python has it: {other}.",
                code="no-agent",
            )
        return UserError(
            f"{self.host} cannot be reached ({reason}); connect once with `ssh {self.host}` in a "
            "terminal, until it asks for nothing, and try again.",
            code="no-host",
        )

    def _other_version(self, version: str) -> UserError:
        return UserError(
            f"{self.host} has medssl {version}, and this computer {__version__}; install the same there: "
            f"{self.python} -m pip install napari-medssl=={__version__}.",
            code="other-version",
        )

    def _reason(self) -> str:
        """The last line of ssh's errors."""
        self._listener.join(1.0)
        return self._errors[-1] if self._errors else "the connection has ended"

    def _listen(self, stream: BinaryIO) -> None:
        try:
            frames.skip_to_greeting(stream)
            while True:
                self._received.put(frames.read(stream))
        except Closed as error:
            self._received.put(str(error))

    def _listen_to_errors(self, stream: IO[bytes]) -> None:
        with suppress(ValueError, OSError):
            for line in stream:
                if text := line.decode("utf-8", "replace").strip():
                    self._errors.append(text)
