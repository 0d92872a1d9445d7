"""The protocol of the engine as a child process, with stand-ins for the job itself."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from medssl import engine
from medssl.core.events import Done, Event, Failed, Progress, SliceInView, Started, from_line
from medssl.core.jobs import PretrainJob, write_job
from medssl.core.ranks import SCHEDULED

HARNESS = """
import os, sys, time, types
from pathlib import Path
from medssl import worker
from medssl.core.errors import UserError
from medssl.core.events import Done, Notice, Progress, Started

{body}

def given(job, emit, should_stop, in_view):
    names = run.__code__.co_varnames[: run.__code__.co_argcount]
    return run(job, emit, should_stop, *[in_view] * (len(names) - 3))

sys.modules["medssl.engine"] = stand_in = types.ModuleType("medssl.engine")
stand_in.run = given
stand_in.load = lambda has_job: print("loaded")
import medssl
medssl.engine = stand_in
sys.exit(worker.run(Path(sys.argv[1])))
"""


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    write_job(tmp_path / "job.json", PretrainJob(project=str(tmp_path)))
    return tmp_path / "job.json"


def start(body: str, job_file: Path | str) -> subprocess.Popen[str]:
    """A child whose engine is `body`, which defines run(job, emit, should_stop) or run(..., in_view)."""
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


# --- the slice on the screen -------------------------------------------------------------------------

SHOWING = """
def run(job, emit, should_stop, in_view):
    emit(Started(run="0001-finetune-random"))
    said = None
    while not should_stop():
        if in_view() != said:
            said = in_view()
            emit(Notice(said.to_line()))
        time.sleep(0.01)
    return {"shown": in_view().to_line() if in_view() else ""}
"""


def test_a_show_line_says_which_slice_is_on_the_screen(job_file: Path) -> None:
    child = start(SHOWING, job_file)
    assert child.stdin is not None and child.stdout is not None
    for index in (3, 40):
        child.stdin.write(SliceInView("a scan, ü", 0, index).to_line() + "\n")
        child.stdin.flush()
        while f'\\"index\\": {index}' not in child.stdout.readline():
            pass
    events, _, code = finish(child, "stop\n")
    assert events[-1] == Done(stopped=True, result={"shown": SliceInView("a scan, ü", 0, 40).to_line()})
    assert code == 0


@pytest.mark.parametrize(
    "line",
    [
        "show",
        "show {",
        "show null",
        'show {"scan": "a", "axis": 0}',
        'show {"scan": "a", "axis": 0, "index": "4"}',
        'show {"scan": "a", "axis": 0, "index": 4, "more": 1}',
        "show " + "[" * 100_000,
        "halt",
        "stop now",
        "\x00\xff" * 10,
        "",
    ],
)
def test_damaged_and_unknown_lines_are_ignored(job_file: Path, line: str) -> None:
    good = SliceInView("a", 1, 7)
    events, log, code = finish(start(SHOWING, job_file), f"{good.to_line()}\n{line}\nstop\n")
    assert events[-1] == Done(stopped=True, result={"shown": good.to_line()})
    assert "Traceback" not in log
    assert code == 0


# --- a child that waits for its job --------------------------------------------------------------------


def test_a_child_that_was_started_ahead_loads_the_engine_and_is_given_its_job(
    job_file: Path,
) -> None:
    child = start(SHOWING, "-")
    assert child.stdin is not None and child.stdout is not None and child.stderr is not None
    assert child.stderr.readline() == "loaded\n"
    assert child.poll() is None
    child.stdin.write(f"job {job_file}\n{SliceInView('a', 0, 1).to_line()}\n")
    child.stdin.flush()
    assert "started" in child.stdout.readline()
    assert "show" in child.stdout.readline()
    events, _, code = finish(child, "stop\n")
    assert events == [Done(stopped=True, result={"shown": SliceInView("a", 0, 1).to_line()})]
    assert code == 0


def test_a_job_that_comes_early_does_not_wait_for_what_it_does_not_need(monkeypatch) -> None:
    imported: list[str] = []
    monkeypatch.setattr(engine, "import_module", imported.append)
    engine.load(lambda: len(imported) == 2)
    assert imported == ["torch", "medssl.tasks.inference.predict"]


def test_what_a_training_imports_late_is_there_ahead_of_it() -> None:
    """MONAI no longer brings it along."""
    program = "import sys, medssl.engine as e; e.load(); print({*e.IMPORTED_LATE} <= set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"]


@pytest.mark.parametrize("said", [None, "stop\n", "show {}\nstop\n"])
def test_a_child_that_gets_no_job_ends_in_silence(said: str | None) -> None:
    events, log, code = finish(start(WAITING, "-"), said)
    assert (events, log, code) == ([], "loaded\n", 0)


def test_a_job_file_that_is_missing_fails_though_the_child_waited_for_it(tmp_path: Path) -> None:
    events, _, code = finish(start(WAITING, "-"), f"job {tmp_path / 'none.json'}\n")
    assert isinstance(events[-1], Failed)
    assert "none.json does not exist" in events[-1].text
    assert code == 1


def test_a_job_for_another_computer_comes_on_standard_input_too(job_file: Path) -> None:
    program = """
    import sys
    from pathlib import Path
    from medssl import worker
    from medssl.core.events import Done
    from medssl.remote import relay

    relay.run = lambda job, host, emit, watch: emit(Done(result={"project": job.project, "host": host}))
    sys.exit(worker.run(Path("-"), "gpu1"))
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    for said, result in (
        (f"job {job_file}\n", {"project": str(job_file.parent), "host": "gpu1"}),
        ("", None),
    ):
        done = subprocess.run(command, input=said, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        events = [from_line(line) for line in done.stdout.splitlines()]
        assert events == ([Done(result=result)] if result else [])


@pytest.mark.parametrize("name", SCHEDULED)
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM there")
def test_under_a_scheduler_the_end_of_input_means_nothing_and_a_signal_stops(
    name: str, job_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "7")
    child = start(WAITING, job_file)
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.close()
    assert "started" in child.stdout.readline()
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(timeout=0.5)
    child.terminate()
    last = from_line(child.stdout.read().splitlines()[-1])
    assert isinstance(last, Done)
    assert last.stopped
    assert child.wait(timeout=60) == 0
    child.stdout.close()
    assert child.stderr is not None
    child.stderr.close()


def test_what_waits_for_its_job_has_somebody_at_the_other_end_under_a_scheduler_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    child = start(WAITING, "-")
    events, _, code = finish(child)
    assert (events, code) == ([], 0)


def test_of_several_processes_the_first_alone_speaks(job_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    body = """
    def run(job, emit, should_stop):
        emit(Started(run="0001-pretrain-pgl"))
        raise UserError("Nobody can read this disk.", code="x")
    """
    events, log, code = finish(start(body, job_file))
    assert (events, code) == ([], 1)
    assert "Rank 1: Nobody can read this disk." in log
