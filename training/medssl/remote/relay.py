"""Here: runs a job on another computer, as `medssl.engine.run` runs it on this one. Does not load torch."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from medssl.core import events
from medssl.core.errors import UserError
from medssl.core.events import Emit
from medssl.core.jobs import Job, TrainingJob
from medssl.core.project.elsewhere import Elsewhere, is_elsewhere, set_elsewhere
from medssl.core.project.locks import training_lock
from medssl.core.project.project import Project
from medssl.core.project.runs import CHECKPOINT
from medssl.core.shell import command
from medssl.remote.connection import Broken, Connection
from medssl.remote.incoming import Incoming
from medssl.remote.outgoing import Outgoing
from medssl.remote.places import as_here
from medssl.remote.preparation import Prepared, check, prepare
from medssl.remote.sending import send
from medssl.remote.watch import Left, Stopped, Watch

RETRY_S = 600.0
"""How long a connection that has broken is tried to be made anew."""
WAITS_S = (1.0, 2.0, 5.0, 10.0, 20.0)
"""Waiting times between attempts; the last one repeats."""
FETCHING_SHARE = 0.1
"""Weights come at checkpoints for at most this share of the time."""
RECEIVING = "receiving"


def run(job: Job, host: str, emit: Emit, watch: Watch) -> dict[str, Any]:
    """Run a training or a prediction on another computer to its end, or take it up there.

    Args:
        job: The job.
        host: A host of the ssh configuration, or user@computer.
        emit: Receives every event; the progress of what is sent comes before Started.
        watch: What whoever has started it wants.

    Returns:
        The result of the job, as from `medssl.engine.run`; {"stopped": True} if it was stopped before it
        began.

    Raises:
        Left: Nobody listens any more.
        UserError: Those of `medssl.engine.run`, of `Connection` and of `Incoming.fetch`; "connection" if a
            broken connection could not be made anew.
    """
    check(job, host)
    project = Project.open(Path(job.project))
    project.need_writable()
    project.remove_unfinished()
    project.on_notice = lambda text: emit(events.Notice(text))
    with ExitStack() as stack:
        relay = _Relay(project, host, emit, watch)
        stack.callback(relay.close)
        try:
            relay.connect()
            relay.take(prepare(project, job, host))
            stack.callback(relay.take_back)
            if isinstance(job, TrainingJob):
                stack.enter_context(training_lock(relay.run.folder))
            return relay.finish()
        except Stopped:
            result = {"stopped": True}
            emit(events.Done(stopped=True, result=result))
            return result


class _Relay:
    """One job from its beginning to its end, over as many connections as it takes."""

    def __init__(self, project: Project, host: str, emit: Emit, watch: Watch) -> None:
        self._project, self._host, self._emit, self._watch = project, host, emit, watch
        self._connection: Connection | None = None
        self._incoming: Incoming | None = None
        self._offset = 0
        """Bytes of the job's events that have been passed on."""
        self._is_there = False
        """Whether the job is known to have begun there."""
        self._may_be_there = True
        """Whether it may have been asked to begin."""
        self._told: list[str] = []
        """Lines that this connection has passed on to the engine."""
        self._fetched_at, self._fetching_s = 0.0, 0.0

    def connect(self) -> None:
        """Connect; raises the errors of `Connection`."""
        self._connection = Connection(self._host, idle=self._check)
        self._told = []

    def take(self, prepared: Prepared) -> None:
        """Take a job."""
        self._job, self.run, self._may_be_there = prepared, prepared.run, prepared.is_there
        self._incoming = Incoming(self._project, prepared.run.id)

    def close(self) -> None:
        """End the connection, and delete what is incomplete."""
        if self._incoming is not None:
            self._incoming.close()
        if self._connection is not None:
            self._connection.close()

    def take_back(self) -> None:
        """Delete a run that was made for nothing: the job never began there, or ended without weights."""
        run = self.run
        over = not self._may_be_there or not self._is_elsewhere
        if self._job.is_new and over and not run.checkpoint.exists():
            shutil.rmtree(run.folder, ignore_errors=True)

    def finish(self) -> dict[str, Any]:
        """Run or take up the job, and return its result."""
        while True:
            try:
                self._begin()
                return self._follow()
            except Broken as error:
                self._reconnect(str(error))

    # --- the connection

    @property
    def _there(self) -> Connection:
        assert self._connection is not None
        return self._connection

    def _check(self) -> None:
        """Give up where nobody listens, or where the job is stopped before it has begun."""
        if self._watch.has_left():
            raise Left
        if not self._may_be_there and self._watch.should_stop():
            raise Stopped

    def _reconnect(self, reason: str) -> None:
        """Make a broken connection anew; raises UserError ("connection") when that takes too long."""
        goes_on = "the job goes on there" if self._is_there else "what has been sent is kept there"
        self._notice(f"The connection to {self._host} broke ({reason}) and is made anew; {goes_on}.")
        self._there.close()
        deadline = time.monotonic() + RETRY_S
        for wait_s in chain(WAITS_S, repeat(WAITS_S[-1])):
            until = time.monotonic() + wait_s
            while time.monotonic() < until:
                self._check()
                time.sleep(0.05)
            try:
                self.connect()
            except UserError as error:
                if error.code != "no-host" or time.monotonic() > deadline or self._watch.should_stop():
                    raise UserError(f"{error} {self._way_back()}", code="connection") from error
                continue
            self._notice(f"{self._host} is connected again.")
            return

    @property
    def _is_elsewhere(self) -> bool:
        """Whether this is a training whose run is still one of the other computer."""
        return self._job.trains and is_elsewhere(self.run)

    def _way_back(self) -> str:
        if not self._is_there:
            return "The job had not begun there; start it again."
        if not self._is_elsewhere:
            return "The job goes on there; start it again to take it up."
        run = self.run
        again = command(run.kind, self._project.root, "--resume", run.id, "--on", self._host)
        return f"The training goes on there; Continue takes it up, or {again}."

    # --- the job

    def _begin(self) -> None:
        """Send and start the job, unless it is there."""
        is_missing = self._is_missing()
        if is_missing and self._is_there:
            raise UserError(
                f"The job is no longer on {self._host}; somebody has deleted it there. Start it again.",
                code="gone",
            )
        if is_missing:
            self._send_and_start(self._job.outgoing())
        elif not self._is_there:
            kept = " It keeps the length and the device that it began with." if self._job.is_resumed else ""
            self._notice(f"Taking up what {self._host} has done of {self.run.id}.{kept}")
        self._is_there = self._may_be_there = True

    def _send_and_start(self, out: Outgoing) -> None:
        prepared, host = self._job, self._there
        files = {file.name: file.sha256 for file in out.files}
        for last in (False, False, True):
            send(host, out, self._emit, self._check)
            if prepared.trains:
                set_elsewhere(prepared.run, Elsewhere(self._host, prepared.id))
            self._may_be_there = True
            try:
                host.ask("start", id=prepared.id, job=out.job, files=files)
                return
            except UserError as error:
                if self._is_missing():
                    self._may_be_there = False
                    if prepared.trains:
                        set_elsewhere(prepared.run, None)
                if error.code != "missing" or last:  # a file that another job has used up meanwhile
                    raise

    def _follow(self) -> dict[str, Any]:
        """Pass events on until the last one."""
        there = self._there.ask("follow", id=self._job.id, offset=self._offset)[0]["project"]
        while True:
            self._check()
            self._tell()
            frame = self._there.next_event()
            if frame is None:
                continue
            if frame[0]["is"] == "end":
                self._end()
                raise UserError(
                    f"The job has ended on {self._host} without a result, as when that computer is "
                    "restarted; what it had saved is here, so resume it.",
                    code="ended",
                )
            for line in frame[1].splitlines(keepends=True):
                result = self._take(line, there) if line.strip() else None
                self._offset += len(line)
                if result is not None:
                    return result

    def _tell(self) -> None:
        """Pass on that the job is to stop, or that another slice is on the screen."""
        view = self._watch.in_view()
        lines = ["stop"] if self._watch.should_stop() else [view.to_line()] if view is not None else []
        for line in lines:
            if self._told[-1:] != [line]:
                self._there.say("tell", id=self._job.id, line=line)
                self._told = [line]

    def _take(self, line: bytes, there: str) -> dict[str, Any] | None:
        """Pass an event on, after what it is about is here; returns the result with the last one."""
        try:
            event = as_here(events.from_line(line), there, str(self._project.root), self._host)
        except UserError:  # the engine was killed while it wrote
            return None
        match event:
            case events.Started():
                self._emit(event)
                for text in self._job.left_out.values():
                    self._notice(text)
                return None
            case events.Checkpoint() if self._is_time_to_fetch():
                self._fetch([self._name(CHECKPOINT), self._name("card.json")])
            case events.Preview():
                base = event.scan
                found = [f"{base}.npz", f"{base}.probabilities.npy", f"{base}.probabilities.json"]
                names = [CHECKPOINT, "card.json", *(f"predictions/{name}" for name in found)]
                self._fetch([self._name(name) for name in names])
            case events.Done():
                self._end()
                self._need_predictions(event.result.get("scans", ()))
                left_out = {**event.result.get("left_out", {}), **self._job.left_out}
                result = {**event.result, **({"left_out": left_out} if left_out else {})}
                self._emit(events.Done(event.stopped, result))
                return result
            case events.Failed():
                self._end()
                raise UserError(event.text, code=event.code)
        self._emit(event)
        return None

    def _name(self, name: str) -> str:
        return f"runs/{self.run.id}/{name}"

    def _is_time_to_fetch(self) -> bool:
        return time.monotonic() - self._fetched_at >= self._fetching_s * (1 / FETCHING_SHARE - 1)

    def _fetch(self, names: list[str] | None = None) -> None:
        assert self._incoming is not None
        begin = said = time.monotonic()

        def tell(fraction: float) -> None:
            nonlocal said
            if time.monotonic() - said > 1.0:
                said = time.monotonic()
                self._emit(events.Progress(RECEIVING, min(1.0, fraction)))

        try:
            self._incoming.fetch(self._there, self._job.id, names, tell)
        except UserError as error:
            if not self._job.trains and self._is_missing():
                return  # fetched by another process, which has followed the same prediction
            if error.code == "no-run":
                self._there.say("tell", id=self._job.id, line="stop")
                with suppress(Broken, UserError):  # an answer: the line has come before the connection ends
                    self._is_missing()
                raise
            raise UserError(f"{error} {self._way_back()}", code=error.code) from error
        self._fetched_at = time.monotonic()
        self._fetching_s = self._fetched_at - begin

    def _end(self) -> None:
        """Fetch all results and the log; the job is then forgotten there, and its run is one of here."""
        self._fetch()
        _, log = self._there.ask("log", id=self._job.id)
        self._watch.on_log(log.decode("utf-8", "replace"))
        if self._job.trains:
            set_elsewhere(self.run, None)
        with suppress(Broken, UserError):
            self._there.ask("forget", id=self._job.id)

    def _is_missing(self) -> bool:
        """Whether the other computer has no such job: not yet, or no longer."""
        return bool(self._there.ask("state", id=self._job.id)[0]["state"] == "none")

    def _need_predictions(self, scans: Iterable[str]) -> None:
        """Require the results of a prediction."""
        if not self._job.trains and not all(
            self._project.has_prediction(self.run.id, scan) for scan in scans
        ):
            raise UserError(
                f"The job was deleted on {self._host} before its predictions were here; start it again.",
                code="gone",
            )

    def _notice(self, text: str) -> None:
        self._emit(events.Notice(text))
