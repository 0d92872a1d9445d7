"""A real sshd on loopback, run by the current user, and an `ssh` that knows it as the host "server"."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

HOST = "server"
CONFIG = """
Host {host} *.pattern
  HostName 127.0.0.1
  Port {port}
  User {user}
  IdentityFile {folder}/key
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known
Host down
  HostName 127.0.0.1
  Port {closed}
"""
SERVER = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/key.pub
PidFile none
StrictModes no
PasswordAuthentication no
UsePAM no
SetEnv XDG_DATA_HOME={data} OMP_NUM_THREADS=1
"""
WRAPPER = """#!/bin/sh
echo $$ >> {folder}/connections
exec {ssh} -F {home}/.ssh/config "$@"
"""


@dataclass
class Server:
    """A running sshd.

    Attributes:
        folder: Keys, logs, and the process ids of connections.
        data: XDG_DATA_HOME of whoever logs in.
    """

    folder: Path
    data: Path
    home: Path
    port: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def agents(self) -> Path:
        """Where agents keep their files."""
        return self.data / "medssl" / "remote"

    def start(self) -> None:
        """Start sshd, on the port that it had before."""
        program = shutil.which("sshd", path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")
        assert program is not None
        if os.geteuid() == 0:  # the folder of a system's own sshd, which another one run by root wants, too
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        text = SERVER.format(port=self.port, folder=self.folder, data=self.data)
        (self.folder / "sshd_config").write_text(text)
        arguments = ["-D", "-e", "-f", str(self.folder / "sshd_config")]
        with (self.folder / "sshd.log").open("ab") as log:
            self.process = subprocess.Popen([program, *arguments], stderr=log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise RuntimeError((self.folder / "sshd.log").read_text())

    def stop(self) -> None:
        """Stop sshd and cut its connections; jobs go on."""
        if self.process is not None:
            if self.connections():
                self.cut()
            self.process.terminate()
            self.process.wait(10)
            self.process = None

    def end(self) -> None:
        """Stop sshd, cut its connections and kill its jobs."""
        self.stop()
        for process in self.jobs():
            process.kill()

    def cut(self) -> int:
        """Kill the newest connection; returns its process id."""
        process = self.connections()[-1]
        if psutil.pid_exists(process):
            psutil.Process(process).kill()
        return process

    def jobs(self) -> list[psutil.Process]:
        """Engines and supervisors."""
        mine, found = str(self.agents / "jobs"), []
        for process in psutil.process_iter(["cmdline"]):
            if any(mine in word for word in process.info["cmdline"] or ()):
                found.append(process)
        return found

    def connections(self) -> list[int]:
        """Process ids of all connections that were ever made, oldest first."""
        path = self.folder / "connections"
        return [int(line) for line in path.read_text().split()] if path.exists() else []


def missing() -> str:
    """Why there can be no sshd here; empty if there can."""
    if sys.platform != "linux":
        return "sshd is started on Linux alone"
    path = os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin"
    absent = [name for name in ("ssh", "ssh-keygen", "sshd") if shutil.which(name, path=path) is None]
    return f"there is no {' and no '.join(absent)} here" if absent else ""


def make_server(folder: Path, data: Path | None = None) -> Server:
    """A server with keys of its own, whose client configuration is in folder/home/.ssh/config.

    Args:
        folder: An empty folder.
        data: Where agents keep their files.
    """
    home, data = folder / "home", data or folder / "data"
    (home / ".ssh").mkdir(parents=True)
    data.mkdir(exist_ok=True)
    for name in ("host", "key"):
        arguments = ["-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(["ssh-keygen", *arguments], check=True)
    port, closed = _free_port(), _free_port()
    public = (folder / "host.pub").read_text().split()
    (folder / "known").write_text(f"[127.0.0.1]:{port} {public[0]} {public[1]}\n")
    values = {"host": HOST, "port": port, "user": getpass.getuser(), "folder": folder, "closed": closed}
    (home / ".ssh" / "config").write_text(CONFIG.format(**values))
    wrapper = folder / "bin" / "ssh"
    wrapper.parent.mkdir()
    wrapper.write_text(WRAPPER.format(folder=folder, ssh=shutil.which("ssh"), home=home))
    wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)
    hosts = home / "config" / "medssl" / "hosts.json"
    hosts.parent.mkdir(parents=True)
    hosts.write_text(f'{{"{HOST}": "{sys.executable}"}}')
    return Server(folder, data, home, port)


def environment(server: Server) -> dict[str, str]:
    """The environment of a user who knows the server."""
    return {
        "HOME": str(server.home),
        "XDG_CONFIG_HOME": str(server.home / "config"),
        "PATH": f"{server.folder / 'bin'}:{os.environ['PATH']}",
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
