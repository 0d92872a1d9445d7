"""What is wrong with another computer is said in one sentence, and leaves nothing half-written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from loopback_sshd import HOST, Server
from medssl import __version__
from medssl.core.errors import UserError
from medssl.core.events import Progress
from medssl.core.jobs import ExportJob, Job, PredictJob
from medssl.core.project.project import Project
from medssl.remote import relay, sending
from medssl.remote.connection import Connection
from medssl.remote.store import sha256_of_bytes
from medssl.remote.watch import Watch
from small import SHAPE, Events, job_of, make_project, never, noise, write_nifti
from typer.testing import CliRunner

OLD = """#!/bin/sh
exec {python} -c "
import runpy, sys
import medssl
medssl.__version__ = '0.0.1'
sys.argv = ['medssl', 'agent']
runpy.run_module('medssl', run_name='__main__', alter_sys=True)"
"""
BEFORE = """#!/bin/sh
exec {python} -c "
import typer
app = typer.Typer(name='medssl')
app.command('run')(lambda: None)
app.command('doctor')(lambda: None)
app(['agent'])"
"""
NOISY = """#!/bin/sh
echo "Welcome to the server.  medssl agent is not here yet."
exec {python} "$@"
"""
WINDOWS = """#!/bin/sh
exec {python} -c "
import os, runpy, sys
del os.mkfifo
sys.argv = ['medssl', 'agent']
runpy.run_module('medssl', run_name='__main__', alter_sys=True)"
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path / "here", shape=SHAPE)


def code_of(error: pytest.ExceptionInfo[UserError]) -> str:
    """The code; the text is one line that ends a sentence."""
    assert "\n" not in str(error.value)
    assert str(error.value).endswith(".")
    return error.value.code


def refused(job: Job, host: str = HOST) -> pytest.ExceptionInfo[UserError]:
    said = Events()
    with pytest.raises(UserError) as error:
        relay.run(job, host, said, Watch(never))
    assert [event for event in said if not isinstance(event, Progress)] == []
    return error


def python_of(server: Server, text: str) -> str:
    """A program that takes the place of the server's Python."""
    path = server.folder / "python"
    path.write_text(text.format(python=sys.executable))
    path.chmod(0o755)
    return str(path)


# --- the host -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["down", "nobody.invalid"])
def test_a_host_that_does_not_answer(server: Server, project: Project, host: str) -> None:
    error = refused(job_of("finetune", project), host)
    assert code_of(error) == "no-host"
    assert f"`ssh {host}`" in str(error.value)
    assert project.runs() == []


def test_a_host_whose_key_is_unknown(server: Server, project: Project) -> None:
    (server.folder / "known").write_text("")
    error = refused(job_of("finetune", project))
    assert code_of(error) == "no-host"
    assert "Host key verification failed" in str(error.value)


def test_a_host_that_knows_no_key_of_ours(server: Server, project: Project) -> None:
    (server.folder / "key.pub").write_text("")
    error = refused(job_of("finetune", project))
    assert code_of(error) == "no-host"
    assert "Permission denied" in str(error.value)


def test_a_connection_that_breaks_while_it_is_made(server: Server) -> None:
    asleep = python_of(server, "#!/bin/sh\nexec sleep 60\n")
    with pytest.raises(UserError) as error:
        Connection(HOST, asleep, idle=lambda: server.connections() and server.cut())
    assert code_of(error) == "no-host"


def test_who_gives_up_while_a_connection_is_made_need_not_wait(server: Server) -> None:
    asleep = python_of(server, "#!/bin/sh\nexec sleep 60\n")

    def give_up() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Connection(HOST, asleep, idle=give_up)


@pytest.mark.parametrize("host", ["-oProxyCommand=touch /tmp/x", "a b", "", "a;b", "$(x)"])
def test_what_is_no_name_of_a_host_never_reaches_ssh(server: Server, project: Project, host: str) -> None:
    assert code_of(refused(job_of("finetune", project), host)) == "bad-host"
    assert server.connections() == []


def test_a_computer_without_ssh(project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code_of(refused(job_of("finetune", project))) == "no-ssh"


# --- its medssl ---------------------------------------------------------------------------------------


def test_a_python_that_is_not_there(server: Server) -> None:
    with pytest.raises(UserError) as error:
        Connection(HOST, "/nowhere/bin/python")
    assert code_of(error) == "no-agent"
    assert "/nowhere/bin/python on server has no medssl" in str(error.value)
    assert "medssl hosts server --python" in str(error.value)


def test_a_python_without_medssl(server: Server) -> None:
    with pytest.raises(UserError) as error:
        Connection(HOST, python_of(server, '#!/bin/sh\nexec {python} -S "$@"\n'))
    assert code_of(error) == "no-agent"
    assert "No module named" in str(error.value)


@pytest.mark.parametrize(("text", "version"), [(OLD, "0.0.1"), (BEFORE, "an older version")])
def test_an_old_version_there(server: Server, text: str, version: str) -> None:
    with pytest.raises(UserError) as error:
        Connection(HOST, python_of(server, text))
    assert code_of(error) == "other-version"
    assert f"medssl {version}, and this computer {__version__}" in str(error.value)


def test_a_host_that_cannot_run_jobs(server: Server) -> None:
    with pytest.raises(UserError) as error:
        Connection(HOST, python_of(server, WINDOWS))
    assert code_of(error) == "no-agent"


def test_a_folder_there_that_cannot_be_written(server: Server) -> None:
    (server.data / "medssl").write_text("a file, not a folder")
    with pytest.raises(UserError) as error:
        Connection(HOST)
    assert code_of(error) == "not-writable"
    assert str(error.value).startswith("On server: ")


def test_what_a_shell_prints_is_no_greeting(server: Server) -> None:
    connection = Connection(HOST, python_of(server, NOISY))
    assert connection.hello["version"] == __version__
    assert connection.ask("state", id="0" * 16)[0]["state"] == "none"
    connection.close()


# --- its disk -----------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(server: Server) -> Iterator[Path]:
    """A disk of 18 MiB for the agent: 2 MiB more than it leaves free."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=18m", "tmpfs", server.data], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode().strip()}")
    yield server.agents
    subprocess.run(["umount", "-l", server.data], check=True)


@pytest.fixture
def large_project(tmp_path: Path) -> Project:
    """A project with an annotated scan, and one of 24 MiB that cannot be compressed."""
    project = make_project(tmp_path / "large", seeds=(0,), shape=SHAPE)
    project.add_scan(write_nifti(tmp_path / "noise.nii", noise((192, 256, 256)).numpy()))
    return project


def test_a_full_disk_there_is_said_before_anything_is_sent(small_disk: Path, large_project: Project) -> None:
    error = refused(job_of("finetune", large_project))
    assert code_of(error) == "disk-full"
    assert "The disk of server is full: 25 MB have to go there" in str(error.value)
    assert [path for path in small_disk.rglob("*") if path.is_file()] == []
    assert large_project.runs() == []


def test_a_disk_that_gets_full_there_meanwhile(
    small_disk: Path, large_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "MARGIN_BYTES", -(1 << 30))
    with pytest.raises(UserError) as error:
        relay.run(job_of("finetune", large_project), HOST, Events(), Watch(never))
    assert code_of(error) == "disk-full"
    assert str(error.value).startswith("On server: ")
    assert list(small_disk.rglob("*.part")) == []
    assert large_project.runs() == []


def test_what_no_job_uses_gives_way_and_what_this_one_needs_stays(small_disk: Path, server: Server) -> None:
    connection = Connection(HOST)
    sizes = {}
    for _ in range(3):
        content = os.urandom(1 << 19)
        sha256 = sha256_of_bytes(content)
        connection.say("put", content, sha256=sha256, offset=0, size=len(content))
        assert connection.answer()[0]["whole"]
        sizes[sha256] = len(content)
    oldest, *_ = sizes
    os.utime(small_disk / "store" / oldest, (1, 1))
    needed = {oldest: sizes[oldest], "f" * 64: 1 << 20}
    answer = connection.ask("need", files=needed)[0]
    connection.close()
    assert answer["received"] == {"f" * 64: 0}
    assert answer["free"] >= (1 << 20) + sending.MARGIN_BYTES
    left = {path.name for path in (small_disk / "store").iterdir()}
    assert oldest in left
    assert len(left) == 2


# --- the job ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job", "code"),
    [
        (lambda project: ExportJob(str(project.root), folder="x"), "bad-job"),
        (lambda project: job_of("finetune", project, with_names=True), "bad-job"),
        (lambda project: job_of("finetune", project, settings={"no_such": 1}), "bad-job"),
        (lambda project: job_of("finetune", project, resume="0007-finetune-x"), "no-run"),
        (lambda project: PredictJob(str(project.root), weights="0007-finetune-x"), "no-run"),
    ],
)
def test_a_job_that_cannot_run_is_refused_and_leaves_nothing(
    server: Server, project: Project, job: Callable[[Project], Job], code: str
) -> None:
    assert code_of(refused(job(project))) == code
    assert project.runs() == []
    assert [path for path in server.agents.rglob("*") if path.is_file()] == []


def test_a_project_that_is_read_only(server: Server, project: Project) -> None:
    runs = project.root / "runs"
    runs.write_text("a file, not a folder")
    assert code_of(refused(job_of("finetune", project))) == "not-writable"


@pytest.mark.parametrize(
    "message",
    [
        {"do": "no such thing"},
        {"do": "state", "id": "../../x"},
        {"do": "state"},
        {"do": "get", "id": "0" * 16, "name": "../../../etc/passwd", "offset": 0},
        {"do": "get", "id": "0" * 16, "name": "/etc/passwd", "offset": 0},
        {"do": "put", "sha256": "../x", "offset": 0, "size": 1},
        {"do": "start", "id": "0" * 16, "job": {}, "files": {"../x": "0" * 64}},
        {"do": "start", "id": "0" * 16, "job": {}, "files": {"x": "0" * 64}},
        {"do": "results", "id": "0" * 16},
    ],
)
def test_the_agent_answers_nonsense_with_an_error_and_goes_on(
    server: Server, message: dict[str, object]
) -> None:
    connection = Connection(HOST)
    fields = {name: value for name, value in message.items() if name != "do"}
    with pytest.raises(UserError):
        connection.ask(str(message["do"]), b"x", **fields)
    assert connection.ask("state", id="0" * 16)[0]["state"] == "none"
    connection.close()
    assert [path for path in server.agents.rglob("*") if path.is_file()] == []


# --- the command line ---------------------------------------------------------------------------------


def test_hosts_are_listed_and_their_python_is_kept(server: Server) -> None:
    from medssl.cli import app

    listed = CliRunner().invoke(app, ["hosts"])
    assert listed.exit_code == 0
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["Host", HOST, "down"]
    python = python_of(server, NOISY)
    connected = CliRunner().invoke(app, ["hosts", HOST, "--python", python])
    assert connected.exit_code == 0, connected.exception
    assert f"medssl {__version__}" in connected.stdout
    kept = json.loads((server.home / "config" / "medssl" / "hosts.json").read_text())
    assert kept == {HOST: python}
    failed = CliRunner().invoke(app, ["hosts", HOST, "--python", "/nowhere/python"])
    assert isinstance(failed.exception, UserError)
    assert json.loads((server.home / "config" / "medssl" / "hosts.json").read_text()) == kept


@pytest.mark.parametrize("options", [("--clear",), ("--python", "/opt/python")])
def test_an_option_for_one_host_needs_its_name(server: Server, options: tuple[str, ...]) -> None:
    from medssl.cli import app

    refused = CliRunner().invoke(app, ["hosts", *options])
    assert isinstance(refused.exception, UserError)
    assert f"medssl hosts gpu1 {options[0]}" in str(refused.exception)


def test_clearing_deletes_what_was_sent(server: Server) -> None:
    from medssl.cli import app

    store = server.agents / "store"
    store.mkdir(parents=True)
    (store / ("0" * 64)).write_bytes(bytes(1000))
    assert CliRunner().invoke(app, ["hosts", HOST, "--clear"]).exit_code == 0
    assert list(store.iterdir()) == []
