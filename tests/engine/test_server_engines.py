"""Engines of a served project: used again, crashed, stopped, closed; all with real processes."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import pytest
from medssl.core.errors import UserError
from medssl.core.jobs import PredictJob
from medssl.core.project.project import Project
from medssl.server.engines import EngineProcess, Engines
from medssl.server.errors import ENGINE
from served import COMMAND, NO_ENGINE, THRESHOLD_ENGINE, add_network, served_project, serving

CRASHES = (sys.executable, "-c", "import sys; sys.stdin.readline(); print('gibberish'); sys.exit(3)")
FAILS = (
    sys.executable,
    "-c",
    """import sys; sys.stdin.readline()
print('{"event":"failed","code":"memory","text":"The device does not have enough memory; do less."}')""",
)


def trained(folder: Path) -> Project:
    """A served project with a network."""
    project = served_project(folder)
    add_network(project)
    return project


@pytest.mark.parametrize(
    ("command", "status", "words"), [(CRASHES, 502, "exit code 3"), (FAILS, 503, "enough memory")]
)
def test_an_engine_that_fails_costs_its_own_request(
    tmp_path: Path, command: tuple[str, ...], status: int, words: str
) -> None:
    project = trained(tmp_path)
    with serving(project.root, command=command) as client:
        reply = client.infer("newest", "scan-0")
        assert reply.status == status and words in reply.json["detail"]
        assert client.get("/info/").status == 200
        assert client.call("POST", "/train/finetune", {"minutes": 1}).status == 200
        assert client.trained() == "ERROR"
        assert words in client.get("/train/").json["details"][-1]


def test_a_prediction_is_made_once_and_by_the_engine_that_was_waiting(tmp_path: Path) -> None:
    project = trained(tmp_path)
    with serving(project.root, command=COMMAND) as client:
        engines = client.server.engines
        waiting = engines.take()
        engines._waiting = waiting
        first = client.infer("newest", "scan-0").body
        assert waiting._process.wait(60) == 0  # it has run its job
        engines._command = NO_ENGINE
        assert len(client.infer("newest", "scan-0").body) == len(first)


def test_the_run_that_is_being_trained_is_no_model_yet(tmp_path: Path) -> None:
    project = trained(tmp_path)
    with serving(project.root, command=COMMAND) as client:
        client.call("POST", "/train/finetune", {"minutes": 600})
        client.wait_for_run()
        assert list(client.get("/info/").json["models"]) == ["newest", "0001-finetune-made"]
        client.call("DELETE", "/train/")
        assert client.trained() == "STOPPED"
        assert list(client.get("/info/").json["models"])[1] == "0002-finetune-made"


def test_a_second_request_to_stop_ends_a_training_at_once(tmp_path: Path) -> None:
    project = served_project(tmp_path)
    deaf = (sys.executable, "-c", "import sys, time; sys.stdin.readline() and time.sleep(600)")
    with serving(project.root, command=deaf) as client:
        client.call("POST", "/train/finetune", {})
        assert client.call("DELETE", "/train/").status == 200
        assert client.call("DELETE", "/train/").status == 200
        assert client.trained() == "STOPPED"


def test_a_server_that_ends_leaves_no_engine(tmp_path: Path) -> None:
    project = served_project(tmp_path)
    with serving(project.root, command=COMMAND) as client:
        client.call("POST", "/train/finetune", {"minutes": 600})
        training, waiting = client.server.training._engine, client.server.engines._waiting
        scratch = client.server.scratch
    assert training is not None and not training.alive
    assert waiting is None or not waiting.alive
    assert not scratch.exists()


def test_more_predictions_than_may_wait_are_refused(tmp_path: Path) -> None:
    project = trained(tmp_path)
    with serving(project.root, command=COMMAND) as client, ThreadPoolExecutor(12) as pool:
        turn = client.server.engines._turn
        turn.acquire()  # as a prediction that takes long
        try:
            replies = as_completed([pool.submit(client.infer, "newest", "scan-0") for _ in range(12)], 60)
            refused = [next(replies).result().status for _ in range(4)]
        finally:
            turn.release()
        assert refused == [503] * 4
        assert [reply.result().status for reply in replies] == [200] * 8


def test_output_that_is_no_event_is_passed_over(tmp_path: Path) -> None:
    project = trained(tmp_path)
    noisy = THRESHOLD_ENGINE.replace("project = Project", "print('a library speaks'); project = Project")
    engines = Engines(tmp_path / "engine.log", tmp_path, (sys.executable, "-u", "-c", noisy))
    job = PredictJob(str(project.root), weights="0001-finetune-made", scans=("scan-0",))
    assert engines.run(job)["scans"] == ["scan-0"]
    engines.close()
    assert b"a library speaks" in (tmp_path / "engine.log").read_bytes()


def test_an_engine_that_ends_without_a_word(tmp_path: Path) -> None:
    engine = EngineProcess(tmp_path / "log", NO_ENGINE)
    with pytest.raises(UserError) as caught:
        list(engine.events(tmp_path / "job.json"))
    engine.end()
    assert caught.value.code == ENGINE


def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        EngineProcess(tmp_path / "missing" / "log", NO_ENGINE)
    assert caught.value.code == "no-folder"
