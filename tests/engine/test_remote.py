"""Jobs on another computer, end to end: a real sshd on loopback, real trainings of a few steps."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from loopback_sshd import HOST, Server
from medssl.core import events
from medssl.core.errors import UserError
from medssl.core.events import Event, from_line, to_line
from medssl.core.jobs import Job, PredictJob, write_job
from medssl.core.project.elsewhere import elsewhere
from medssl.core.project.project import Project
from medssl.core.project.run_state import run_state
from medssl.nn.models import checkpoint
from medssl.remote import relay
from medssl.remote.connection import Connection
from medssl.remote.watch import Watch
from small import FINETUNE, SHAPE, Events, job_of, make_project, never, noise, write_nifti
from small import run as run_here

pytestmark = pytest.mark.slow

END_S = 240


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path / "here", shape=SHAPE)


def run_there(
    job: Job,
    emit: Callable[[Event], object] | None = None,
    should_stop: Callable[[], bool] = never,
    **watch: Any,
) -> dict[str, Any]:
    said: Any = emit if emit is not None else Events()
    return relay.run(job, HOST, said, Watch(should_stop, **watch))


def copy_of(project: Project, name: str) -> Project:
    root = project.root.parents[1] / name / "project"
    shutil.copytree(project.root, root)
    return Project.open(root)


def assert_same_weights(one: Project, run_one: str, two: Project, run_two: str) -> None:
    """Networks, averages, optimizer and generator are the same, bit by bit."""
    first = checkpoint.load(one.run(run_one).checkpoint)[0]
    second = checkpoint.load(two.run(run_two).checkpoint)[0]
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def assert_same_predictions(one: Project, two: Project, run: str) -> None:
    for scan in one.scans:
        first, second = one.prediction(run, scan), two.prediction(run, scan)
        assert first is not None and second is not None
        assert (first == second).all()


class Puts:
    """Which pieces of files were sent, in order: (SHA-256, offset)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, act: Callable[[int], object] = lambda number: None):
        self.pieces: list[tuple[str, int]] = []
        say = Connection.say

        def noting(connection: Connection, do: str, content: bytes = b"", **fields: Any) -> None:
            if do == "put":
                self.pieces.append((fields["sha256"], fields["offset"]))
                act(len(self.pieces))
            say(connection, do, content, **fields)

        monkeypatch.setattr(Connection, "say", noting)


def images_of(project: Project) -> set[str]:
    return {scan.image_sha256 for scan in project.scans.values()}


# --- the same as here ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["finetune", "pgl"])
def test_a_training_there_gives_the_weights_of_here(server: Server, project: Project, kind: str) -> None:
    here = copy_of(project, "copy")
    changes: dict[str, Any] = {"predict_scans": tuple(project.scans)} if kind == "finetune" else {}
    said = Events()
    result = run_there(job_of(kind, project, **changes), said)
    same = run_here(job_of(kind, here, **changes))
    assert {**result, "seconds": 0} == {**same, "seconds": 0}
    assert_same_weights(project, result["run"], here, same["run"])
    run = project.run(result["run"])
    assert run.card["step"] == 10
    assert run_state(project, run).text == "finished"
    assert elsewhere(run) is None
    if kind == "finetune":
        assert_same_predictions(project, here, result["run"])
        for preview in said.of(events.Preview):
            assert Path(preview.path) == project.prediction_file(result["run"], preview.scan)
    for point in said.of(events.Checkpoint):
        assert Path(point.path) == run.checkpoint
    wait_for(lambda: not list((server.agents / "jobs").iterdir()))


def wait_for(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_prediction_there_is_that_of_here_and_sends_no_scan_again(
    server: Server, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = Puts(monkeypatch)
    run = run_there(job_of("finetune", project))["run"]
    assert images_of(project) <= {sha256 for sha256, _ in sent.pieces}
    sent.pieces.clear()
    here = copy_of(project, "copy")
    result = run_there(PredictJob(str(project.root), device="cpu", weights=run, probabilities=True))
    assert result == {"run": run, "scans": list(project.scans), "stopped": False}
    run_here(PredictJob(str(here.root), device="cpu", weights=run, probabilities=True))
    assert_same_predictions(project, here, run)
    for path in (here.run(run).folder / "predictions").glob("*.npy"):
        assert (project.run(run).folder / "predictions" / path.name).read_bytes() == path.read_bytes()
    known = {*images_of(project), project.run(run).weights_sha256}
    assert not known & {sha256 for sha256, _ in sent.pieces}
    missing = PredictJob(str(project.root), device="cpu", weights=run, only_missing=True)
    assert run_there(missing)["scans"] == []


def test_a_run_goes_on_there_and_here_by_turns(server: Server, project: Project) -> None:
    whole = copy_of(project, "copy")
    expected = run_here(job_of("finetune", whole))["run"]

    def stop_soon(asked: Iterator[int]) -> Callable[[], bool]:
        return lambda: next(asked) >= 3

    part = run_here(job_of("finetune", project), should_stop=stop_soon(iter(range(1000))))
    job = job_of("finetune", project)
    result = run_there(type(job)(project=job.project, resume=part["run"]))
    assert (result["run"], result["step"], result["stopped"]) == (part["run"], 10, False)
    assert_same_weights(project, part["run"], whole, expected)
    log = (project.run(part["run"]).folder / "events.jsonl").read_text().splitlines()
    assert sum('"event":"started"' in line for line in log) == 2


def test_the_command_line_trains_there_and_segments_files_outside_of_the_project(
    server: Server, project: Project, tmp_path: Path
) -> None:
    def medssl(*arguments: object) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "medssl", *map(str, arguments), "--device", "cpu", "--on", HOST],
            capture_output=True,
            text=True,
            timeout=END_S,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run = medssl("finetune", project.root, "--steps", 2, "--set", "threads=1", "--predict", "all").strip()
    assert project.run(run).card["step"] == 2
    assert all(project.has_prediction(run, scan) for scan in project.scans)
    outside = write_nifti(tmp_path / "outside.nii", noise(SHAPE, seed=9).numpy())
    written = medssl("predict", project.root, outside, "--out", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir())
    assert Path(written.splitlines()[0]).exists()


# --- the connection breaks ----------------------------------------------------------------------------


def from_engine(said: list[Event]) -> list[str]:
    """Lines of what the engine has said: what the relay adds names the host, or is about files."""
    own = ("comparing", "sending", "receiving")
    return [
        to_line(event)
        for event in said
        if not (isinstance(event, events.Progress) and event.phase in own)
        and not (isinstance(event, events.Notice) and HOST in event.text)
    ]


def logged(project: Project, run: str) -> list[str]:
    """Lines of the run's log, with the paths of here."""
    lines = (project.run(run).folder / "events.jsonl").read_text().splitlines()
    here = []
    for line in lines:
        event = from_line(line)
        if isinstance(event, events.Checkpoint | events.Preview):
            there, _, name = event.path.partition("/project/")
            assert "/jobs/" in there
            line = line.replace(event.path, str(project.root / name))
        here.append(line)
    return here


def test_a_cut_connection_is_taken_up_without_losing_or_doubling_an_event(
    server: Server, project: Project
) -> None:
    here = copy_of(project, "copy")
    changes: dict[str, Any] = {"steps": 60, "predict_scans": tuple(project.scans)}
    same = run_here(job_of("finetune", here, **changes))["run"]
    said, cut = Events(), []

    def emit(event: Event) -> None:
        said(event)
        while_training = isinstance(event, events.Metric) and len(cut) < 2
        if (while_training or isinstance(event, events.Preview)) and server.connections()[-1] not in cut:
            cut.append(server.cut())

    result = run_there(job_of("finetune", project, **changes), emit)
    assert len(cut) >= 2
    assert server.connections()[:-1] == cut
    assert from_engine(said) == logged(project, result["run"])
    assert sum("broke" in notice.text for notice in said.of(events.Notice)) == len(cut)
    assert_same_weights(project, result["run"], here, same)
    assert_same_predictions(project, here, same)


def test_an_interrupted_transfer_goes_on_where_it_was(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(tmp_path / "large", shape=SHAPE)
    large = project.add_scan(write_nifti(tmp_path / "noise.nii", noise((48, 256, 256)).numpy()))
    shape = large.geometry.shape_zyx
    assert 2 * shape[0] * shape[1] * shape[2] > 5 * 2**20
    of_large: list[int] = []

    def cut(number: int) -> None:
        if sent.pieces[-1][0] == large.image_sha256:
            of_large.append(number)
        if len(of_large) == 4:
            server.cut()

    sent = Puts(monkeypatch, cut)
    result = run_there(job_of("finetune", project, steps=1))
    assert result["step"] == 1
    offsets = [offset for sha256, offset in sent.pieces if sha256 == large.image_sha256]
    again = next(number for number in range(1, len(offsets)) if offsets[number] <= offsets[number - 1])
    assert offsets[again] > 0
    assert (server.agents / "store" / large.image_sha256).exists()


def test_a_host_that_stays_away_is_given_up_and_the_same_job_takes_the_training_up(
    server: Server, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "RETRY_S", 0.5)
    job = job_of("finetune", project, steps=60, predict_scans=tuple(project.scans))

    def emit(event: Event) -> None:
        if isinstance(event, events.Metric) and server.process is not None:
            server.stop()

    with pytest.raises(UserError) as error:
        run_there(job, emit)
    run = project.runs("finetune")[-1]
    assert error.value.code == "connection"
    assert f"--resume {run.id} --on {HOST}" in str(error.value)
    assert run_state(project, run).text == f"on {HOST}"
    with pytest.raises(UserError) as refused:
        run_here(type(job)(project=job.project, resume=run.id))
    assert refused.value.code == "elsewhere"
    server.start()
    said = Events()
    result = run_there(job, said)
    assert (result["run"], result["step"]) == (run.id, 60)
    assert [each.id for each in project.runs("finetune")] == [run.id]
    assert from_engine(said) == logged(project, run.id)
    assert any("Taking up" in notice.text for notice in said.of(events.Notice))
    assert elsewhere(run) is None


class Starts:
    """Answers of the other computer to the first attempts to start a job there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *codes: str) -> None:
        codes_left, ask = list(codes), Connection.ask

        def answering(connection: Connection, do: str, content: bytes = b"", **fields: Any) -> Any:
            if do == "start" and codes_left:
                raise UserError("On server: no.", code=codes_left.pop(0))
            return ask(connection, do, content, **fields)

        monkeypatch.setattr(Connection, "ask", answering)


def test_a_job_that_is_refused_there_leaves_no_run(
    server: Server, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    Starts(monkeypatch, "disk-full")
    with pytest.raises(UserError) as error:
        run_there(job_of("finetune", project, steps=1))
    assert error.value.code == "disk-full" and project.runs() == []


def test_what_another_job_has_used_up_meanwhile_is_sent_again(
    server: Server, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    Starts(monkeypatch, "missing", "missing")
    assert run_there(job_of("finetune", project, steps=1))["step"] == 1


def test_a_file_that_somebody_else_sends_at_the_same_time_arrives_all_the_same(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(tmp_path / "large", shape=SHAPE)
    large = project.add_scan(write_nifti(tmp_path / "noise.nii", noise((48, 256, 256)).numpy()))
    part = server.agents / "store" / f"{large.image_sha256}.part"

    def interfere(number: int) -> None:
        if sent.pieces.count((large.image_sha256, 2 << 20)) == 1 and part.exists():
            with part.open("ab") as file:
                file.write(b"other bytes")

    sent = Puts(monkeypatch, interfere)
    assert run_there(job_of("finetune", project, steps=1))["step"] == 1
    assert sent.pieces.count((large.image_sha256, 0)) == 2


# --- whoever has started it stops it, or goes ---------------------------------------------------------


def start_relay(job: Job) -> subprocess.Popen[str]:
    """`medssl run --on server`, as the viewer starts it."""
    path = Path(job.project) / "job.json"
    write_job(path, job)
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "medssl", "run", "--on", HOST, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def read_to(child: subprocess.Popen[str], kind: type[Event]) -> Event:
    assert child.stdout is not None
    for line in child.stdout:
        event = from_line(line)
        if isinstance(event, kind):
            return event
    raise AssertionError("the relay has ended")


LONG: dict[str, Any] = {"steps": 100_000}
OFTEN = {**FINETUNE, "checkpoint_every_s": 0.5}


def test_a_stop_line_stops_the_training_there(server: Server, project: Project) -> None:
    with start_relay(job_of("finetune", project, **LONG, predict_scans=tuple(project.scans))) as child:
        read_to(child, events.Metric)
        assert child.stdin is not None
        child.stdin.write("stop\n")
        child.stdin.flush()
        done = read_to(child, events.Done)
        assert isinstance(done, events.Done)
        assert done.stopped
        assert child.wait(END_S) == 0
    run = project.run(done.result["run"])
    assert run.card["step"] == done.result["step"] < 100_000
    assert all(project.has_prediction(run.id, scan) for scan in project.scans)
    wait_for(lambda: not server.jobs())


@pytest.mark.parametrize("way", ["killed", "input ends"])
def test_a_relay_that_goes_leaves_the_training_going(server: Server, project: Project, way: str) -> None:
    job = job_of("finetune", project, **LONG)
    with start_relay(job) as child:
        read_to(child, events.Metric)
        if way == "killed":
            child.kill()
            child.wait(END_S)
        else:
            assert child.stdin is not None
            child.stdin.close()
            assert child.wait(END_S) == 0
    assert len(server.jobs()) == 2  # supervisor and engine
    run = project.runs("finetune")[-1]
    stopped, said = iter(range(1000)), Events()
    longer = type(job)(project=job.project, resume=run.id, steps=10**6)
    result = run_there(longer, said, lambda: next(stopped) > 5)
    assert any("keeps the length and the device" in notice.text for notice in said.of(events.Notice))
    assert result["run"] == run.id
    assert result["stopped"]
    assert run.checkpoint.exists()


def test_one_relay_at_a_time_is_at_a_run(server: Server, project: Project) -> None:
    job = job_of("finetune", project, **LONG)
    with start_relay(job) as child:
        read_to(child, events.Metric)
        run = project.runs("finetune")[-1]
        with pytest.raises(UserError) as error:
            run_there(type(job)(project=job.project, resume=run.id))
        child.kill()
    assert error.value.code == "locked"
    assert run.folder.exists()


def test_a_stop_before_the_job_begins_leaves_nothing(server: Server, project: Project) -> None:
    said = Events()
    assert run_there(job_of("finetune", project), said, lambda: True) == {"stopped": True}
    assert said[-1] == events.Done(stopped=True, result={"stopped": True})
    assert project.runs() == []


def test_the_slice_on_the_screen_is_previewed(server: Server, project: Project) -> None:
    said = Events()
    scan = next(iter(project.scans))
    view = events.SliceInView(scan, 0, 4)
    run_there(
        job_of("finetune", project, **LONG),
        said,
        lambda: bool(said.of(events.SlicePreview)),
        in_view=lambda: view,
    )
    preview = said.of(events.SlicePreview)[0]
    assert (preview.scan, preview.axis, preview.index) == (scan, 0, 4)


# --- what goes wrong there ----------------------------------------------------------------------------


def test_damage_in_the_store_is_found_and_sent_again(
    server: Server, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_there(job_of("finetune", project, steps=1))
    damaged = next(iter(images_of(project)))
    path = server.agents / "store" / damaged
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    sent = Puts(monkeypatch)
    run_there(job_of("finetune", project, steps=1, seed=5))
    assert images_of(project) & {sha256 for sha256, _ in sent.pieces} == {damaged}


@pytest.mark.parametrize("who", ["engine", "both"])
def test_a_job_that_is_killed_there_ends_in_a_sentence_and_its_weights_are_here(
    server: Server, project: Project, who: str
) -> None:
    said = Events()

    def kill(event: Event) -> None:
        said(event)
        if isinstance(event, events.Metric) and len(said.of(events.Metric)) == 1:
            # The supervisor first: it would report the end of the engine.
            there = sorted(server.jobs(), key=lambda process: "agent" not in process.cmdline())
            for process in there if who == "both" else there[1:]:
                process.kill()

    with pytest.raises(UserError) as error:
        run_there(job_of("finetune", project, **LONG), kill)
    assert error.value.code == "ended"
    assert "memory" in str(error.value) if who == "engine" else "restarted" in str(error.value)
    run = project.runs("finetune")[-1]
    assert run.checkpoint.exists()
    assert elsewhere(run) is None
    result = run_there(replace(job_of("finetune", project), resume=run.id, steps=run.card["step"] + 2))
    assert result["run"] == run.id


def test_a_refusal_there_leaves_no_run_here(server: Server, project: Project) -> None:
    with pytest.raises(UserError) as error:
        run_there(job_of("finetune", project, device="cuda:77"))
    assert error.value.code == "no-device"
    assert project.runs() == []


def test_a_project_that_vanishes_meanwhile_gets_its_results_when_it_is_back(
    server: Server, project: Project
) -> None:
    job = job_of("finetune", project, predict_scans=tuple(project.scans))
    away = project.root.with_name("away")

    def move(event: Event) -> None:
        if isinstance(event, events.Metric) and not away.exists():
            project.root.rename(away)

    with pytest.raises(UserError) as error:
        run_there(job, move)
    assert error.value.code == "project-gone"
    assert "The job goes on there" in str(error.value)
    assert not project.root.exists()
    away.rename(project.root)
    run = project.runs("finetune")[-1]
    assert run_there(job)["run"] == run.id
    assert run.card["step"] == 10


def test_a_run_that_is_deleted_here_is_stopped_there(server: Server, project: Project) -> None:
    def delete(event: Event) -> None:
        if isinstance(event, events.Metric):
            for run in project.runs("finetune"):
                shutil.rmtree(run.folder)

    with pytest.raises(UserError) as error:
        run_there(job_of("finetune", project, **LONG, settings=OFTEN), delete)
    assert error.value.code == "no-run"
    assert project.runs() == []
    wait_for(lambda: not server.jobs())


def test_a_prediction_with_weights_that_are_still_trained_there_leaves_the_training_there(
    server: Server, project: Project
) -> None:
    job = job_of("finetune", project, **LONG)
    with start_relay(job) as child:
        read_to(child, events.Metric)
        child.kill()
    run = project.runs("finetune")[-1]
    assert run.checkpoint.exists()
    run_there(PredictJob(str(project.root), device="cpu", weights=run.id))
    assert elsewhere(run) is not None
    wait_for(lambda: len(server.jobs()) == 2)  # those of the prediction end, those of the training do not


def test_a_scan_that_was_removed_meanwhile_gets_no_prediction(server: Server, project: Project) -> None:
    first, second = project.scans
    job = job_of("finetune", project, predict_scans=(first, second))

    def remove(event: Event) -> None:
        if isinstance(event, events.Metric) and second in project.scans:
            project.drop_scan(second)

    run = run_there(job, remove)["run"]
    assert [path.name for path in (project.run(run).folder / "predictions").iterdir()] == [f"{first}.npz"]


# --- what goes there ----------------------------------------------------------------------------------


def test_no_name_and_no_path_of_here_goes_there(server: Server, project: Project) -> None:
    scan = next(iter(project.scans))
    project.rename_scan(scan, "Mrs Secret")
    project.set_reference(scan, project.root / "reference-of-secret.nii")
    project.hold_out(list(project.scans)[1])

    def stay(event: Event) -> None:
        if isinstance(event, events.Metric):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_there(job_of("finetune", project, **LONG), stay)
    found = [path for path in server.agents.rglob("*") if path.is_file() and path.suffix != ".safetensors"]
    assert len(found) > 5
    assert server.agents.stat().st_mode & 0o077 == 0
    for secret in (b"Secret", b"secret", str(project.root.parent).encode()):
        assert [path for path in found if secret in path.read_bytes()] == []
    sent = json.loads(next(server.agents.glob("jobs/*/sent.json")).read_text())
    assert [name for name in sent if name.startswith("scans/")] == [f"scans/{scan}.npy"]
