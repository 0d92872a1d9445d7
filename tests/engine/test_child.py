"""The protocol of the engine as a child process, with stand-ins for the job itself."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from medssl.config import PretrainJob, write_job
from medssl.events import Done, Event, Failed, Progress, Started, from_line

HARNESS = """
import os, sys, time, types
from pathlib import Path
from medssl import child
from medssl.errors import UserError
from medssl.events import Done, Progress, Started

{body}

sys.modules["medssl.engine"] = stand_in = types.ModuleType("medssl.engine")
stand_in.run = run
import medssl
medssl.engine = stand_in
sys.exit(child.run(Path(sys.argv[1])))
"""


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    write_job(tmp_path / "job.json", PretrainJob(project=str(tmp_path)))
    return tmp_path / "job.json"


def start(body: str, job_file: Path) -> subprocess.Popen[str]:
    """A child whose engine is `body`, which defines run(job, emit, should_stop)."""
    program = HARNESS.format(body=textwrap.dedent(body))
    return subprocess.Popen(
        [sys.executable, "-u", "-c", program, str(job_file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(child: subprocess.Popen[str], said: str | None = None) -> tuple[list[Event], str, int]:
    """All events, standard error and the exit code, after `said` went down."""
    if said is not None:
        assert child.stdin is not None
        child.stdin.write(said)
        child.stdin.flush()
        child.wait(timeout=60)
    out, log = child.communicate(timeout=60)
    return [from_line(line) for line in out.splitlines()], log, child.returncode


WAITING = """
def run(job, emit, should_stop):
    emit(Started(run="0001-pretrain-pgl"))
    while not should_stop():
        time.sleep(0.01)
    return {"run": "0001-pretrain-pgl"}
"""


@pytest.mark.skipif(not hasattr(os, "nice"), reason="there is no niceness here")
def test_the_engine_steps_back_for_whoever_paints(job_file: Path) -> None:
    child = start(WAITING, job_file)
    assert child.stdout is not None
    assert "started" in child.stdout.readline()
    here, there = (os.getpriority(os.PRIO_PROCESS, each) for each in (0, child.pid))
    finish(child, "stop\n")
    assert there == min(19, here + 10)


def test_events_come_from_started_to_done_with_exit_code_0(job_file: Path) -> None:
    body = """
    def run(job, emit, should_stop):
        emit(Started(run="0001-pretrain-pgl"))
        emit(Progress(phase="training", fraction=0.5))
        return {"run": "0001-pretrain-pgl"}
    """
    events, _, code = finish(start(body, job_file), said="\n")
    assert [type(event) for event in events] == [Started, Progress, Done]
    assert events[-1] == Done(result={"run": "0001-pretrain-pgl"})
    assert code == 0


def test_nobody_elses_print_reaches_the_stream(job_file: Path) -> None:
    body = """
    def run(job, emit, should_stop):
        print("from python")
        os.write(1, b"from C\\n")
        os.system("echo from a program")
        return {}
    """
    events, log, _ = finish(start(body, job_file), said="\n")
    assert [type(event) for event in events] == [Done]
    assert all(text in log for text in ("from python", "from C", "from a program"))


def test_a_stop_line_stops(job_file: Path) -> None:
    events, _, code = finish(start(WAITING, job_file), said="stop\n")
    assert events[-1] == Done(stopped=True, result={"run": "0001-pretrain-pgl"})
    assert code == 0


def test_the_end_of_standard_input_stops(job_file: Path) -> None:
    events, _, code = finish(start(WAITING, job_file))
    assert events[-1] == Done(stopped=True, result={"run": "0001-pretrain-pgl"})
    assert code == 0


def test_a_user_error_fails_with_its_code_and_sentence(job_file: Path) -> None:
    body = """
    def run(job, emit, should_stop):
        raise UserError("Paint a slice first.", code="no-annotation")
    """
    events, log, code = finish(start(body, job_file), said="\n")
    assert events == [Failed(code="no-annotation", text="Paint a slice first.")]
    assert "Traceback" not in log
    assert code == 1


def test_a_defect_fails_in_one_sentence_and_leaves_its_traceback_on_standard_error(job_file: Path) -> None:
    body = """
    def run(job, emit, should_stop):
        emit(Started(run="0001-pretrain-pgl"))
        return 1 / 0
    """
    events, log, code = finish(start(body, job_file), said="\n")
    run_log = job_file.parent / "runs" / "0001-pretrain-pgl" / "run.log"
    assert isinstance(events[-1], Failed)
    assert events[-1].code == "defect"
    assert str(run_log) in events[-1].text
    assert "Traceback" not in events[-1].text
    assert "ZeroDivisionError" in log
    assert code == 1


def test_a_library_that_is_missing_fails_before_anything_started(job_file: Path) -> None:
    body = """
    def run(job, emit, should_stop):
        import no_such_library
    """
    events, log, code = finish(start(body, job_file), said="\n")
    assert isinstance(events[0], Failed)
    assert len(events) == 1
    assert "its error output" in events[0].text
    assert "no_such_library" in log
    assert code == 1


def test_a_job_file_that_is_missing_fails(tmp_path: Path) -> None:
    events, _, code = finish(start(WAITING, tmp_path / "job.json"), said="\n")
    assert isinstance(events[-1], Failed)
    assert "job.json does not exist" in events[-1].text
    assert code == 1


def test_a_parent_that_is_gone_stops_the_job_without_a_defect(job_file: Path) -> None:
    body = """
    def run(job, emit, should_stop):
        while not should_stop():
            emit(Progress(phase="training", fraction=0.0))
            time.sleep(0.01)
        Path(job.project, "checkpoint").touch()
        return {}
    """
    child = start(body, job_file)
    assert child.stdout is not None
    child.stdout.readline()
    child.stdout.close()
    child.wait(timeout=60)
    assert (job_file.parent / "checkpoint").exists()
    assert child.returncode == 0
