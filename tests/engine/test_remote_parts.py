"""Hosts of an ssh configuration, frames, and the store of an agent."""

from __future__ import annotations

import io
import json
import os
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from medssl.core import remote_hosts
from medssl.core.errors import UserError
from medssl.core.jobs import to_json
from medssl.core.project.elsewhere import Elsewhere, set_elsewhere
from medssl.core.project.project import LabelClass, Project
from medssl.core.project.removal import delete_run
from medssl.core.project.run_state import run_state
from medssl.core.project.runs import Run
from medssl.remote import frames
from medssl.remote.agent import Agent
from medssl.remote.incoming import Incoming
from medssl.remote.job_folders import JobFolder, checked
from medssl.remote.outgoing import OutgoingFile
from medssl.remote.preparation import prepare
from medssl.remote.store import Store, sha256_of_bytes
from small import SHAPE, job_of, make_project, noise, write_nifti

# --- hosts ---------------------------------------------------------------------------------------------

CONFIG = """
# Host commented
Host gpu1 gpu2
    HostName 10.0.0.1
  host = "gpu3"
HOST *.example.org !bad gpu? *
Host gpu1 user@gpu4
Match host other
Include more/*.conf
Include ~/.ssh/none
Include ~nobody-of-that-name/config
Include /
Host "unclosed
Host -oProxyCommand=x
"""


def test_hosts_are_names_without_patterns_also_of_included_files(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    more = tmp_path / ".ssh" / "more"
    more.mkdir(parents=True)
    (tmp_path / ".ssh" / "config").write_text(CONFIG)
    (more / "a.conf").write_text("Host included\nInclude more/a.conf\n")  # which includes itself
    (more / "b.other").write_text("Host not-included\n")
    config = tmp_path / ".ssh" / "config"
    assert remote_hosts.ssh_hosts(config) == ("gpu1", "gpu2", "gpu3", "user@gpu4", "included")
    assert remote_hosts.ssh_hosts(tmp_path / "none") == ()


def test_there_are_no_hosts_where_there_is_no_ssh(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").write_text("Host gpu1\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert remote_hosts.ssh_hosts() == ()
    (tmp_path / "ssh").write_text("#!/bin/sh\n")
    (tmp_path / "ssh").chmod(0o755)
    assert remote_hosts.ssh_hosts() == ("gpu1",)


def test_the_python_of_a_host_is_kept_and_a_damaged_file_has_none(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(remote_hosts, "FILE", tmp_path / "medssl" / "hosts.json")
    assert remote_hosts.python_of("gpu1") == "python3"
    remote_hosts.set_python("gpu1", "/opt/x/bin/python")
    remote_hosts.set_python("gpu2", "~/y/bin/python")
    assert [remote_hosts.python_of(host) for host in ("gpu1", "gpu2")] == [
        "/opt/x/bin/python",
        "~/y/bin/python",
    ]
    remote_hosts.FILE.write_text('{"gpu1": 7}')
    assert remote_hosts.python_of("gpu1") == "python3"


@pytest.mark.parametrize(
    ("python", "command"),
    [
        ("python3", "python3"),
        ("~/my venv/bin/python", "\"$HOME\"/'my venv/bin/python'"),
        ("/opt/it's/python", "'/opt/it'\"'\"'s/python'"),
        ("x; rm -rf ~", "'x; rm -rf ~'"),
    ],
)
def test_a_python_is_one_word_for_the_shell_there(python: str, command: str) -> None:
    assert remote_hosts.remote_command(python) == f"{command} -u -m medssl agent"


# --- frames --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"x", bytes(100_000), os.urandom(frames.CHUNK)])
def test_a_frame_comes_as_it_was_written(content: bytes) -> None:
    stream = io.BytesIO()
    frames.Writer(stream).write({"do": "put", "name": "ü\n"}, content)
    written = len(stream.getvalue())
    assert written < 2000 if len(set(content)) == 1 else written >= len(content)
    stream.seek(0)
    assert frames.read(stream) == ({"do": "put", "name": "ü\n"}, content)
    with pytest.raises(frames.Closed):
        frames.read(stream)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\x00",
        struct.pack(">II", 5, 0) + b"{}",
        struct.pack(">II", 2, 0) + b"{]",
        struct.pack(">II", 2, 0) + b"[]",
        struct.pack(">II", 1 << 31, 0),
        struct.pack(">II", 15, 3) + b'{"packed":true}' + b"abc",
    ],
)
def test_what_is_no_frame_ends_the_connection(content: bytes) -> None:
    with pytest.raises(frames.Closed):
        frames.read(io.BytesIO(content))


def test_the_greeting_may_come_after_what_a_shell_prints() -> None:
    stream = io.BytesIO(b"Welcome\nmedssl agen" + frames.GREETING + b"rest")
    frames.skip_to_greeting(stream)
    assert stream.read() == b"rest"
    for text in (b"Welcome", b"x" * (frames.MAX_NOISE + 100)):
        with pytest.raises(frames.Closed):
            frames.skip_to_greeting(io.BytesIO(text))


# --- the store -----------------------------------------------------------------------------------------


def test_a_file_comes_in_pieces_and_is_there_when_it_has_its_hash(tmp_path: Path) -> None:
    store, content = Store(tmp_path / "store"), os.urandom(1000)
    sha256 = sha256_of_bytes(content)
    assert store.add(sha256, 0, 1000, content[:600]) is None
    assert not store.has(sha256) and store.received(sha256) == 600
    del store  # its process ends
    store = Store(tmp_path / "store")
    assert store.received(sha256) == 600
    assert store.add(sha256, 600, 1000, content[600:]) is True
    assert store.has(sha256)
    assert [path.name for path in store.folder.iterdir()] == [sha256]


def test_a_file_that_was_complete_when_its_agent_was_killed_is_finished_by_the_next(tmp_path: Path) -> None:
    content, source = os.urandom(100), tmp_path / "file"
    source.write_bytes(content)
    sha256 = sha256_of_bytes(content)
    Store(tmp_path / "store")
    (tmp_path / "store" / f"{sha256}.part").write_bytes(content)
    store = Store(tmp_path / "store")
    for kept in (source, content):
        pieces = list(OutgoingFile("scans/a.npy", sha256, 100, kept).read(store.received(sha256), 40))
        assert pieces == [b""]
    assert store.add(sha256, 100, 100, pieces[0]) is True and store.has(sha256)


def test_two_agents_receive_the_same_file_at_once_and_neither_disturbs_the_other(tmp_path: Path) -> None:
    content = os.urandom(300)
    sha256, stores = sha256_of_bytes(content), [Store(tmp_path), Store(tmp_path)]
    stores[0].add(sha256, 0, 300, content[:100])
    assert [store.received(sha256) for store in stores] == [100, 0]
    for offset in (0, 100):
        assert stores[1].add(sha256, offset, 300, content[offset : offset + 100]) is None
    for store in stores:
        offset = store.received(sha256)
        assert store.add(sha256, offset, 300, content[offset:]) is True
    assert [path.name for path in tmp_path.iterdir()] == [sha256] and stores[0].has(sha256)


def test_a_file_that_was_deleted_while_it_came_is_asked_for_again(tmp_path: Path) -> None:
    store, sha256 = Store(tmp_path), sha256_of_bytes(b"right")
    store.add(sha256, 0, 5, b"ri")
    assert Store(tmp_path).clear() == 2
    assert store.add(sha256, 2, 5, b"ght") is False
    assert store.add(sha256, 0, 5, b"right") is True


def test_an_event_of_any_length_is_passed_on(tmp_path: Path) -> None:
    written = io.BytesIO()
    agent = Agent(tmp_path, frames.Writer(written))
    folder = JobFolder(tmp_path / "jobs", "0" * 16)
    folder.path.mkdir(parents=True)
    lines = [b'{"event": "notice"}\n', b"x" * (2 * frames.CHUNK) + b"\n"]
    folder.events.write_bytes(b"".join(lines))
    agent.attempt(lambda: agent._answer({"do": "follow", "id": "0" * 16, "offset": 0}, b""))
    for _ in range(3):
        agent._pass_events_on()
    written.seek(0)
    said = [frames.read(written) for _ in range(4)]
    assert [message["is"] for message, _ in said] == ["following", "events", "events", "end"]
    assert [content for _, content in said[1:3]] == lines


def test_a_header_that_is_nested_too_deeply_is_no_frame() -> None:
    header = b"[" * 1_000_000
    with pytest.raises(frames.Closed):
        frames.read(io.BytesIO(struct.pack(">II", len(header), 0) + header))


def test_other_bytes_and_another_offset_are_refused_and_deleted(tmp_path: Path) -> None:
    store, sha256 = Store(tmp_path), sha256_of_bytes(b"right")
    assert store.add(sha256, 0, 5, b"wrong") is False
    assert store.add(sha256, 0, 5, b"ri") is None
    assert store.add(sha256, 3, 5, b"ht") is False
    assert list(tmp_path.iterdir()) == []
    assert store.add(sha256, 0, 5, b"right") is True


def test_a_job_is_made_whole_or_not_at_all(tmp_path: Path) -> None:
    store, jobs = Store(tmp_path / "store"), tmp_path / "jobs"
    scan, label = sha256_of_bytes(b"scan"), sha256_of_bytes(b"label")
    files = {"scans/a.npy": scan, "annotations/a.npz": label, "annotations/b.npz": label}
    store.add(scan, 0, 4, b"scan")
    folder = JobFolder(jobs, "0" * 16)
    with pytest.raises(UserError) as error:
        folder.make(store, {"job": "predict"}, files)
    assert error.value.code == "missing"
    assert list(jobs.iterdir()) == []
    store.add(label, 0, 5, b"label")
    folder.make(store, {"job": "predict"}, files)
    assert (folder.project / "scans" / "a.npy").read_bytes() == b"scan"
    assert json.loads((folder.path / "job.json").read_text()) == {
        "job": "predict",
        "project": str(folder.project),
    }
    assert (folder.project / "annotations" / "b.npz").read_bytes() == b"label"
    assert (store.has(scan), store.has(label)) == (True, False)
    assert not folder.running


@pytest.mark.parametrize("name", ["", "..", "a/../b", "/a", "a//b", "./a", "a\\b", "C:x", "a\x00"])
def test_a_name_outside_the_project_is_refused_on_both_sides(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError):
        checked(name)
    project = Project.create(tmp_path / "project", (LabelClass(1, "one", "#ff0000"),))
    with pytest.raises(UserError):
        Incoming(project, "0001-finetune-x")._target(name)


def test_a_result_of_another_run_is_refused(tmp_path: Path) -> None:
    project = Project.create(tmp_path / "project", (LabelClass(1, "one", "#ff0000"),))
    for name in ("project.json", "runs/0002-finetune-x/card.json", "annotations/a.npz"):
        with pytest.raises(UserError) as error:
            Incoming(project, "0001-finetune-x")._target(name)
        assert error.value.code == "bad-request"


# --- what a relay has to do with ----------------------------------------------------------------------


def test_a_damaged_record_of_a_run_blocks_that_run_alone(tmp_path: Path) -> None:
    project = make_project(tmp_path / "here", shape=SHAPE)
    job = job_of("finetune", project)
    run = project.new_run("finetune", to_json(job), "from-shapes")
    for damaged in ("{", '{"host": 3}', "[]", "\x00"):
        (run.folder / "remote.json").write_text(damaged)
        assert run_state(project, run).text == "damaged"
        assert prepare(project, job, "gpu1").run.id != run.id
        with pytest.raises(UserError) as error:
            prepare(project, replace(job, resume=run.id), "gpu1")
        assert error.value.code == "unreadable"


def test_the_same_job_takes_up_a_run_of_that_host_and_resuming_one_of_another_host_is_refused(
    tmp_path: Path,
) -> None:
    project = make_project(tmp_path / "here", shape=SHAPE)
    job = job_of("finetune", project)
    run = prepare(project, job, "gpu1").run
    set_elsewhere(run, Elsewhere("gpu1", "0" * 32))
    resumed = prepare(project, replace(job, resume=run.id, steps=500, device="cuda:1"), "gpu1")
    sent = resumed.outgoing().job  # where the job is no longer there
    assert (sent["steps"], sent["device"], sent["resume"]) == (500, "cuda:1", run.id)
    again = prepare(project, job, "gpu1")
    assert (again.run.id, again.id, again.is_there, again.is_new) == (run.id, "0" * 32, True, False)
    with pytest.raises(UserError) as kept:
        delete_run(project, run.id)
    assert kept.value.code == "elsewhere"
    assert prepare(project, replace(job, seed=1), "gpu1").run.id != run.id
    assert prepare(project, job, "gpu2").run.id != run.id
    with pytest.raises(UserError) as error:
        prepare(project, replace(job, resume=run.id), "gpu2")
    assert error.value.code == "elsewhere"


def test_a_damaged_scan_is_left_out_and_named(tmp_path: Path) -> None:
    project = make_project(tmp_path / "here", seeds=(0, 1, 2), shape=SHAPE)
    damaged = list(project.scans)[2]
    (tmp_path / "here" / "block-2.nii").unlink()
    project.image_file(damaged, "").write_bytes(b"damaged")
    prepared = prepare(project, job_of("finetune", project, predict_scans=(damaged,)), "gpu1")
    assert list(prepared.left_out) == [damaged]
    out = prepared.outgoing()
    assert [file.name for file in out.files if file.name.startswith("scans/")] == [
        f"scans/{scan}.npy" for scan in list(project.scans)
    ]
    assert damaged not in str(out.job)
    assert isinstance(prepared.run, Run)


def test_the_reduced_project_opens_with_all_channels_and_without_hashes_of_former_versions(
    tmp_path: Path,
) -> None:
    project = make_project(tmp_path / "here", seeds=(0, 1), shape=SHAPE)
    first, second = project.scans
    project.add_channel(first, write_nifti(tmp_path / "secret-t2.nii", noise(SHAPE).numpy()), "t2")
    project._change_scan(second, lambda scan: replace(scan, image_sha256=""))
    prepared = prepare(project, job_of("finetune", project), "gpu1")
    root = tmp_path / "there"
    for file in prepared.outgoing().files:
        (root / file.name).parent.mkdir(parents=True, exist_ok=True)
        (root / file.name).write_bytes(b"".join(file.read(0, 1000)))
        assert b"secret" not in (root / file.name).read_bytes()
    there = Project.open(root)
    assert list(there.scans) == [first, second]
    for scan, channel in ((first, ""), (first, "t2"), (second, "")):
        assert (there.image(scan, channel) == project.image(scan, channel)).all()
    assert there.annotated() == project.annotated()
    assert there.run(prepared.run.id).job["project"] == "."
