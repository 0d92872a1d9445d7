"""What the server holds while it runs: the project, locks, engines, sessions, the training."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from medssl.core.errors import UserError
from medssl.core.project.project import Project
from medssl.core.temporary_files import private_folder
from medssl.server.engines import COMMAND, LOG, Engines
from medssl.server.errors import BUSY
from medssl.server.sessions import Sessions
from medssl.server.training import Training

Result = TypeVar("Result")
WAIT_S = 120.0
"""How long a request waits for others that need volumes in memory."""


class Server:
    """The project and everything that several requests share. Close it at the end.

    Args:
        root: The project folder.
        device: Device of predictions and trainings: "auto", "cpu", "cuda", ...
        command: Program and arguments of an engine that waits for its job.

    Raises:
        UserError: Those of `Project.open`, and of `EngineProcess`.
    """

    def __init__(self, root: Path, device: str = "auto", command: Sequence[str] = COMMAND) -> None:
        self.project = Project.open(root.resolve())
        self.device = device
        self._scratch = Path(tempfile.mkdtemp(prefix="medssl-serve-"))
        self.engines = Engines(self.project.root / LOG, self._scratch, command)
        self.training = Training(self.project.root, self.engines, device)
        self.sessions = Sessions(self.scratch / "sessions")
        self.uploaded: dict[str, str] = {}
        """{name that a client gave to a scan it has sent: id of the scan}."""
        self._volumes = ThreadPoolExecutor(1, "volumes")
        try:
            self.engines.warm_up()
        except UserError:
            self.close()
            raise

    @property
    def scratch(self) -> Path:
        """Folder of temporary files, which goes with the server; made anew if something has deleted it."""
        return private_folder(self._scratch)

    def close(self) -> None:
        """End what runs, and delete what was temporary."""
        self.engines.close()
        self.training.close()
        self._volumes.shutdown(cancel_futures=True)
        shutil.rmtree(self._scratch, ignore_errors=True)

    def with_volumes(self, work: Callable[[], Result]) -> Result:
        """Do what needs volumes in memory, in the one thread that may.

        One thread, not a lock: what a volume has taken stays with the thread's part of the heap, and with 16
        threads that would be three times the memory of the whole server (benchmarks/serve.py).

        Args:
            work: What is to be done; it must not call this again.

        Raises:
            UserError: BUSY if others keep the thread for two minutes, and those of `work`.
        """
        waiting = self._volumes.submit(work)
        try:
            return waiting.result(WAIT_S)
        except TimeoutError:
            if waiting.cancel():
                raise UserError(
                    "The server is busy with other requests; try again in a minute.", code=BUSY
                ) from None
            return waiting.result()  # it has begun
