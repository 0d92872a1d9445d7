"""A disk that fails at a chosen moment: what the tests and soak scripts write through.

    with FaultyDisk(fail_at=3, error=errno.ENOSPC):
        project.save_annotation(...)

Counts the operations by which files change (opening to write, each write, fsync, rename, delete, truncate).
The chosen one fails, is cut short and then fails, takes long, or the process ends there as by kill -9.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

WRITING = set("wax+")
SLOW_S = 0.1


class FaultyDisk:
    """Context in which one operation fails.

    Args:
        fail_at: Number of the operation, from 0; None counts only.
        error: errno of the failure.
        how: "error"; "short": half of a write gets through before it fails; "kill": the process ends there;
            "slow": it works after a while.
        lasting: Every later operation of a kind that adds bytes fails, too, as on a disk that stays full.
    """

    def __init__(
        self, fail_at: int | None = None, error: int = errno.EIO, how: str = "error", lasting: bool = False
    ) -> None:
        self.fail_at, self.error, self.how, self.lasting = fail_at, error, how, lasting
        self.operations: list[str] = []
        """What was done, such as "fsync", in its order."""
        self._patches = [
            patch.object(Path, "open", self._opening(Path.open)),
            *(
                patch.object(os, name, self._counting(name))
                for name in ("fsync", "replace", "unlink", "truncate")
            ),
        ]

    def __enter__(self) -> FaultyDisk:
        for each in self._patches:
            each.start()
        return self

    def __exit__(self, *of: object) -> None:
        for each in self._patches:
            each.stop()

    def count(self, name: str, adds: bool = True) -> bool:
        """Count an operation; returns whether it is the one that fails."""
        number = len(self.operations)
        self.operations.append(name)
        if self.fail_at is None:
            return False
        return number == self.fail_at or (self.lasting and adds and number > self.fail_at)

    def fail(self) -> None:
        """The failure, or the delay."""
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "slow":
            time.sleep(SLOW_S)
            return
        raise OSError(self.error, os.strerror(self.error))

    def _counting(self, name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def counted(*of: Any, **more: Any) -> Any:
            if self.count(name, adds=name == "fsync"):
                self.fail()
            return real(*of, **more)

        return counted

    def _opening(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def opened(path: Path, mode: str = "r", buffering: int = -1, *of: Any, **more: Any) -> Any:
            if "b" not in mode or not WRITING & set(mode):
                return real(path, mode, buffering, *of, **more)
            if self.count("open"):
                self.fail()
            raw = _Raw(path, mode.replace("b", ""), self)
            return (
                raw
                if buffering == 0
                else io.BufferedWriter(raw)
                if "+" not in mode
                else io.BufferedRandom(raw)
            )

        return opened


class _Raw(io.FileIO):
    def __init__(self, path: Path, mode: str, disk: FaultyDisk) -> None:
        super().__init__(path, mode)
        self._disk = disk

    def write(self, content: Any) -> int:
        if self._disk.count("write"):
            if self._disk.how == "short":
                super().write(bytes(content)[: len(content) // 2])
            self._disk.fail()
        return super().write(content)
