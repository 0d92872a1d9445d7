"""The engine as a child: small scripts that speak its protocol, well and badly."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import psutil
import pytest
from medssl.core.events import Done, Notice, Progress, Started

from napari_medssl.engine import child_process

HEAD = """
import json, sys, time
def say(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)
"""


@pytest.fixture
def child(qtbot, tmp_path):
    """Starts a script as the engine; gives (child, what it said, how it ended)."""
    made = []

    def start(body: str):
        script = tmp_path / "engine.py"
        script.write_text(HEAD + body)
        (tmp_path / "runs" / "0001").mkdir(parents=True)
        process, event_received, ended = child_process.EngineProcess(), [], []
        process.event_received.connect(event_received.append)
        process.ended.connect(lambda outcome, text: ended.append((outcome, text)))
        process.run(tmp_path, tmp_path / "job.json", (sys.executable, "-u", str(script)))
        made.append(process)
        return process, event_received, ended

    yield start
    for process in made:
        if process in child_process._running:
            process.shutdown()


def wait_for(qtbot, ended: list, seconds: float = 20) -> tuple[str, str]:
    qtbot.waitUntil(lambda: bool(ended), timeout=int(seconds * 1000))
    return ended[0]


def test_events_arrive_in_order_and_the_end_is_told_once(qtbot, child):
    _, event_received, ended = child(
        'say("started", run="0001"); say("progress", phase="train", fraction=0.5); say("done")'
    )
    assert wait_for(qtbot, ended) == ("done", "")
    assert event_received == [Started("0001"), Progress("train", 0.5), Done()]
    assert len(ended) == 1


def test_a_line_that_comes_in_pieces_is_one_event(qtbot, child):
    _, event_received, ended = child("""
sys.stdout.write('{"event":"not'); sys.stdout.flush(); time.sleep(0.3)
sys.stdout.write('ice","text":"hello"}'); sys.stdout.flush(); time.sleep(0.3)
sys.stdout.write("\\n"); say("done")
""")
    wait_for(qtbot, ended)
    assert event_received[0] == Notice("hello")


def test_a_last_line_without_newline_is_heard(qtbot, child):
    _, _, ended = child("""sys.stdout.write('{"event":"done","stopped":true}')""")
    assert wait_for(qtbot, ended)[0] == "stopped"


def test_failed_carries_its_sentence(qtbot, child):
    _, _, ended = child('say("failed", code="no-scan", text="There is no scan."); sys.exit(1)')
    assert wait_for(qtbot, ended) == ("failed", "There is no scan.")


def test_death_before_started_is_told_and_its_words_are_kept(qtbot, child, tmp_path):
    _, _, ended = child('raise RuntimeError("no such luck")')
    outcome, text = wait_for(qtbot, ended)
    assert outcome == "failed" and "exit code 1" in text and "engine.log" in text
    assert "no such luck" in (tmp_path / "engine.log").read_text()


def test_what_it_prints_on_standard_error_goes_to_the_runs_log(qtbot, child, tmp_path):
    _, _, ended = child(
        'print("early", file=sys.stderr); time.sleep(0.3); say("started", run="0001");'
        'time.sleep(0.3); print("late", file=sys.stderr); say("done")'
    )
    wait_for(qtbot, ended)
    assert (tmp_path / "runs" / "0001" / "run.log").read_text().split() == ["early", "late"]


def test_a_flood_on_both_pipes_blocks_nothing(qtbot, child):
    _, event_received, ended = child("""
for n in range(2000):
    say("notice", text="x" * 500)
    print("y" * 500, file=sys.stderr)
say("done")
""")
    wait_for(qtbot, ended)
    assert len(event_received) == 2001


def test_something_printed_between_the_events_is_no_event(qtbot, child):
    _, event_received, ended = child('print("hello from a library"); say("done")')
    assert wait_for(qtbot, ended)[0] == "done"
    assert event_received == [Done()]


@pytest.mark.parametrize(
    ("last", "end"),
    [('say("done")', ("done", "")), ('say("failed", code="disk_full", text="why")', ("failed", "why"))],
)
def test_a_child_that_reports_its_end_and_goes_on_is_ended(qtbot, child, monkeypatch, last, end):
    monkeypatch.setattr(child_process, "EXIT_MS", 300)
    process, event_received, ended = child(f"{last}\nwhile True: print('still here'); time.sleep(0.01)")
    qtbot.waitUntil(lambda: bool(event_received))
    engine = psutil.Process(process.process_id())
    assert wait_for(qtbot, ended, seconds=5) == end
    assert not engine.is_running()


def test_a_line_without_an_end_freezes_nothing_and_is_not_kept(qtbot, child):
    longest, now = 0.0, time.monotonic()
    process, event_received, ended = child("""
for n in range(300): sys.stdout.write("x" * 1_000_000)
print()
say("done")
""")

    def beat():
        nonlocal longest, now
        longest, now = max(longest, time.monotonic() - now), time.monotonic()
        assert len(process._line) <= child_process.MAX_LINE_BYTES
        return bool(ended)

    qtbot.waitUntil(beat, timeout=60_000)
    assert ended[0] == ("done", "") and event_received == [Done()]
    assert longest < 2


def test_killed_by_the_system_reads_as_out_of_memory(qtbot, child):
    process, _, ended = child('say("started", run="0001"); time.sleep(60)')
    qtbot.waitUntil(lambda: process.process_id() > 0)
    psutil.Process(process.process_id()).kill()
    outcome, text = wait_for(qtbot, ended)
    assert outcome == "failed" and "memory" in text


def test_an_engine_that_dies_before_it_has_a_job_says_why_without_a_log(qtbot, tmp_path):
    process, ended = child_process.EngineProcess(), []
    process.ended.connect(lambda outcome, text: ended.append((outcome, text)))
    process.wait((sys.executable, "-c", "import sys; sys.exit('no torch')"))
    outcome, text = wait_for(qtbot, ended)
    assert outcome == "failed" and "exit code 1" in text and "see the end" not in text


def test_a_program_that_is_not_there(qtbot, tmp_path):
    process, ended = child_process.EngineProcess(), []
    process.ended.connect(lambda outcome, text: ended.append((outcome, text)))
    process.run(tmp_path, tmp_path / "job.json", (str(tmp_path / "nowhere"),))
    outcome, text = wait_for(qtbot, ended)
    assert outcome == "failed" and "nowhere" in text


def test_stop_is_a_line_on_standard_input(qtbot, child):
    process, event_received, ended = child("""
say("started", run="0001")
assert sys.stdin.readline() == "stop\\n"
say("done", stopped=True)
""")
    qtbot.waitUntil(lambda: bool(event_received))
    process.stop()
    assert wait_for(qtbot, ended)[0] == "stopped"


DEAF = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
say("started", run="0001")
while True: time.sleep(0.1)
"""


def test_who_does_not_listen_is_killed(qtbot, child, monkeypatch):
    monkeypatch.setattr(child_process, "TERMINATE_MS", 200)
    monkeypatch.setattr(child_process, "KILL_MS", 500)
    process, event_received, ended = child(DEAF)
    qtbot.waitUntil(lambda: bool(event_received))
    process.stop()
    assert wait_for(qtbot, ended, seconds=5)[0] == "stopped"


LIVELY = """
say("started", run="0001")
sys.stdin.readline()
for n in range(8):
    time.sleep(0.1); say("progress", phase="predict", fraction=n / 8)
say("done", stopped=True)
"""


def test_who_still_says_something_is_given_time(qtbot, child, monkeypatch):
    monkeypatch.setattr(child_process, "TERMINATE_MS", 400)
    monkeypatch.setattr(child_process, "KILL_MS", 500)
    process, event_received, ended = child(LIVELY)
    qtbot.waitUntil(lambda: bool(event_received))
    process.stop()
    wait_for(qtbot, ended)
    assert event_received[-1] == Done(stopped=True)


def test_a_second_stop_ends_at_once(qtbot, child):
    process, event_received, ended = child(DEAF)
    qtbot.waitUntil(lambda: bool(event_received))
    process.stop()
    process.stop()
    assert wait_for(qtbot, ended, seconds=2)[0] == "stopped"


def test_a_closing_viewer_leaves_no_child(qtbot, child, monkeypatch):
    monkeypatch.setattr(child_process, "SHUTDOWN_MS", (300, 300, 2000))
    process, event_received, _ = child(DEAF)
    qtbot.waitUntil(lambda: bool(event_received))
    engine = psutil.Process(process.process_id())
    process.shutdown()
    assert not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE


def test_the_waiting_times_leave_no_child_after_ten_seconds():
    assert child_process.TERMINATE_MS < child_process.KILL_MS < 10_000
    assert sum(child_process.SHUTDOWN_MS) < 10_000


def test_the_viewer_never_waits_for_the_child(qtbot, child):
    began = time.monotonic()
    child("time.sleep(3)")
    assert time.monotonic() - began < 2


def test_the_real_command_is_this_python(tmp_path: Path):
    assert (sys.executable, "-u", "-m", "medssl", "run") == child_process.COMMAND
