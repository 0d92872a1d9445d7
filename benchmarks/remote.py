"""A training on another computer, cut and taken up: python benchmarks/remote.py

The other computer is a real sshd on loopback, started for this. A project of synthetic CT scans is trained
there from the command line. The connection is killed during the training, and later the relay, too; the same
job takes the training up. Then all scans are predicted there. Printed is what the relay has said, with
seconds, and whether weights and predictions are those of the same job here.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import loopback_sshd
import numpy as np
from loopback_sshd import HOST, Server
from medssl.benchmarking.simulated_annotator import annotate, choose_slices
from medssl.core import events
from medssl.core.io.labels import read_labels
from medssl.core.jobs import FinetuneJob, Job, PredictJob, write_job
from medssl.core.phantom import write_dataset
from medssl.core.project.project import LabelClass, Project

SCANS, ANNOTATED, SLICES = 4, 2, 5
Act = Callable[[events.Event, subprocess.Popen[str]], None]


def main() -> None:
    """Train, cut, take up, predict; print the log."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200, help="steps of the training")
    options = parser.parse_args()
    if reason := loopback_sshd.missing():
        sys.exit(reason)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        project = make_project(root)
        here = Project.open(shutil.copytree(project.root, root / "copy"))
        (root / "server").mkdir()
        server = loopback_sshd.make_server(root / "server")
        os.environ.update(loopback_sshd.environment(server))
        server.start()
        try:
            run = report(project, server, options.steps)
        finally:
            server.end()
        compare(project, here, run, options.steps)


def make_project(folder: Path) -> Project:
    """Synthetic CT scans, of which some have annotated slices."""
    data = write_dataset(folder / "data", range(SCANS))
    project = Project.create(folder / "project", (LabelClass(1, "liver", "#e41a1c"),))
    for number, path in enumerate(sorted((data / "imagesTr").glob("*.nii.gz"))):
        scan = project.add_scan(path)
        if number < ANNOTATED:
            labels = (read_labels(data / "labelsTr" / path.name).array == 1).astype(np.uint8)
            project.save_annotation(scan.id, annotate(labels, choose_slices(labels, SLICES)))
    return project


def report(project: Project, server: Server, steps: int) -> str:
    """Train, cut, take up, predict; returns the run."""
    images = sum(path.stat().st_size for path in (project.root / "scans").glob("*.npy"))
    print(f"{SCANS} scans, {images / 1e6:.1f} MB as normalised images")
    job = training(project, steps)

    def cut_at_a_quarter(event: events.Event, relay: subprocess.Popen[str]) -> None:
        if fraction_of(event) > 0.25 and len(server.connections()) == 1:
            say(begin, "-- the connection is killed")
            server.cut()
        if fraction_of(event) > 0.5 and len(server.connections()) == 2:
            say(begin, "-- the relay is killed")
            relay.kill()

    begin = time.monotonic()
    say(begin, "-- train")
    passed_on(job, project, begin, cut_at_a_quarter)
    say(begin, "-- the same job again")
    done = passed_on(job, project, begin)
    assert done is not None
    run = str(done.result["run"])
    say(begin, "-- predict all scans")
    passed_on(PredictJob(str(project.root), device="cpu", weights=run), project, begin)
    return run


def training(project: Project, steps: int) -> FinetuneJob:
    """The training; one thread, so that its weights are the same each time."""
    settings = {"threads": 1, "precision": "fp32"}
    return FinetuneJob(str(project.root), device="cpu", steps=steps, settings=settings)


def fraction_of(event: events.Event) -> float:
    """Completed share of the training; 0 for any other event."""
    is_training = isinstance(event, events.Progress) and event.phase == "fine-tuning"
    return event.fraction if isinstance(event, events.Progress) and is_training else 0.0


def passed_on(
    job: Job, project: Project, begin: float, act: Act = lambda event, relay: None
) -> events.Done | None:
    """Run a job by `medssl run --on server` and print what it says; returns its last event."""
    path = project.root / "job.json"
    write_job(path, job)
    command = [sys.executable, "-u", "-m", "medssl", "run", "--on", HOST, str(path)]
    done, shown = None, -1.0
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as relay:
        assert relay.stdout is not None
        for line in relay.stdout:
            event = events.from_line(line)
            if isinstance(event, events.Progress) and 0 <= event.fraction - shown < 0.1:
                continue
            if isinstance(event, events.Progress):
                shown = event.fraction
            if text := described(event):
                say(begin, text)
            if isinstance(event, events.Done):
                done = event
            act(event, relay)
    return done


def described(event: events.Event) -> str:
    """An event as a line; empty for metrics."""
    match event:
        case events.Started():
            return f"started: {event.run}"
        case events.Progress():
            return f"{event.phase} {event.fraction:.0%}"
        case events.Notice() | events.Failed():
            return event.text
        case events.Checkpoint():
            return f"checkpoint of step {event.step}"
        case events.Preview():
            return f"prediction of {event.scan}"
        case events.Done():
            return f"done: {event.result}"
    return ""


def say(begin: float, text: str) -> None:
    """Print a line with its seconds."""
    print(f"{time.monotonic() - begin:7.1f} s  {text}", flush=True)


def compare(project: Project, here: Project, run: str, steps: int) -> None:
    """Run the same jobs here, and print whether they give the same."""
    from medssl import engine
    from medssl.nn.models import checkpoint

    job = replace(training(project, steps), project=str(here.root))
    engine.run(job, lambda event: None, lambda: False)
    engine.run(PredictJob(str(here.root), device="cpu", weights=run), lambda event: None, lambda: False)
    there, same = (checkpoint.load(each.run(run).checkpoint)[0] for each in (project, here))
    equal = sum(bool((there[name] == same[name]).all()) for name in there)
    print(f"Weights: {equal} of {len(same)} tensors are bit by bit those of the same training here")
    differing = 0
    for scan in project.scans:
        one, two = project.prediction(run, scan), here.prediction(run, scan)
        assert one is not None and two is not None
        differing += int((one != two).sum())
    print(f"Predictions: {differing} voxels differ")


if __name__ == "__main__":
    main()
