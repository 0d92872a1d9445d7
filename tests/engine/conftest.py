"""What several files of these tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sshd
from medssl.core import remote_hosts
from medssl.remote import relay
from sshd import Server


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A real sshd on loopback, known as sshd.HOST."""
    folder = tmp_path / "server"
    folder.mkdir()
    made = sshd.make_server(folder)
    for name, value in sshd.environment(made).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(remote_hosts, "FILE", made.home / "config" / "medssl" / "hosts.json")
    monkeypatch.setattr(relay, "WAITS_S", (0.05,))
    made.start()
    yield made
    made.stop()
    for process in made.jobs():
        process.kill()
