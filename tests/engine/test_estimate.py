"""What is said of a training before it starts, how it is measured, and that it is not measured twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from medssl.cli import app, terminal
from medssl.core import estimate
from medssl.core.errors import UserError
from medssl.core.estimate import Estimate, describe
from medssl.core.events import Done
from medssl.core.jobs import EstimateJob, FinetuneJob, PretrainJob, SuggestJob, TrainingJob, to_json
from medssl.core.project.project import Project
from medssl.tasks import profiling
from medssl.tasks.training import loop
from small import SHAPE, Events, job_of, make_project, never, run
from typer.testing import CliRunner

MADE = Estimate(0.1, 0.2, 0.5, 0.0, int(1.1 * 2**30), 8 * 2**30, "cpu", 2, "bf16")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path, seeds=(0, 1, 2, 3), shape=SHAPE)


def estimated(project: Project, job: TrainingJob) -> Estimate:
    run(EstimateJob(str(project.root), training=to_json(job)))
    found = estimate.load(Project.open(project.root), job)
    assert found is not None
    return found


def test_it_says_steps_time_memory_device_and_precision() -> None:
    assert describe(MADE, 3) == "About 1,400 steps in 3 min, on CPU with 2 threads in bf16; needs 1.1 GB."


def test_few_steps_are_told_honestly() -> None:
    assert describe(MADE, 0.5).endswith("Fewer than 300 steps: expect little.")
    assert "expect little" not in describe(MADE, 3)


def test_time_beside_the_steps_is_taken_off() -> None:
    assert replace(MADE, aside_s=30.0).steps(60) == MADE.steps(30)
    assert replace(MADE, aside_s=90.0).steps(60) == 0


def test_time_beside_the_steps_is_a_limited_share_of_a_short_training() -> None:
    limited = replace(MADE, later_s=0.1, aside_s=30.0, aside_share=1 / 3)
    assert limited.steps(60) == 400
    assert limited.steps(120) == 900
    assert limited.seconds(400) == pytest.approx(60)
    assert limited.seconds(900) == pytest.approx(120)


def test_steps_that_were_asked_for_have_a_time_and_the_shorter_of_both_counts() -> None:
    assert describe(MADE, None, 1000).startswith("About 1,000 steps in 2.5 min")
    assert describe(MADE, 3, 1000).startswith("About 1,000 steps in 2.5 min")
    assert describe(MADE, 1, 1000).startswith("About 450 steps in 60 s")


def test_more_memory_than_there_is_is_told() -> None:
    assert "Only 1.0 GB are available" in describe(replace(MADE, memory_there=2**30), 3)


@pytest.mark.parametrize("kind", ["pgl", "lrc", "alice", "finetune", "finetune-3d", "finetune-none"])
def test_a_rehearsal_takes_real_steps_and_leaves_no_run(project: Project, kind: str) -> None:
    found = estimated(project, replace(job_of(kind, project), minutes=5.0, steps=None))
    assert found.first_s > 0
    assert found.later_s > 0
    assert found.memory > 50 * 2**20
    assert (found.threads, found.precision, found.device) == (1, "fp32", "cpu")
    assert (found.share < 1) == (kind in ("alice", "finetune", "finetune-3d"))
    assert not list((project.root / "runs").glob("*"))


def test_rounds_of_pseudo_labels_take_at_most_the_share_of_the_settings(project: Project) -> None:
    job = replace(job_of("finetune", project), minutes=5.0, steps=None)
    assert (
        estimated(project, replace(job, settings={**job.settings, "max_round_share": 0.5})).aside_share == 0.5
    )


def test_what_was_measured_is_not_measured_again(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    job = replace(job_of("pgl", project), minutes=5.0)
    first = estimated(project, job)
    monkeypatch.setattr(profiling, "measure", lambda *given: pytest.fail("it was measured before"))
    assert estimated(project, replace(job, minutes=60.0, seed=3)) == first


@pytest.mark.parametrize("changed", [{"method": "mae"}, {"recipe": "paper"}, {"settings": {"batch": 4}}])
def test_another_choice_is_another_estimate(project: Project, changed: dict[str, object]) -> None:
    job = PretrainJob(str(project.root))
    estimate.save(project, job, MADE)
    assert estimate.load(project, job) == MADE
    assert estimate.load(project, replace(job, **changed)) is None  # type: ignore[arg-type]


def test_with_other_scans_it_is_measured_anew(project: Project) -> None:
    job = PretrainJob(str(project.root))
    estimate.save(project, job, MADE)
    project.hold_out(next(iter(project.scans)))
    assert estimate.load(project, job) is None


def test_a_damaged_file_is_no_more_than_nothing_known(project: Project) -> None:
    job = PretrainJob(str(project.root))
    for text in ("{", "[]", '{"a": 1}'):
        (project.root / "estimates.json").write_text(text)
        assert estimate.load(project, job) is None
    estimate.save(project, job, MADE)
    assert estimate.load(project, job) == MADE


def test_what_the_training_would_refuse_the_estimate_refuses_too(tmp_path: Path) -> None:
    project = make_project(tmp_path, annotated=0)
    job = FinetuneJob(str(project.root))
    with pytest.raises(UserError) as caught:
        run(EstimateJob(str(project.root), training=to_json(job)))
    assert caught.value.code == "no-annotation"
    with pytest.raises(UserError, match="is not a training"):
        run(EstimateJob(str(project.root), training=to_json(SuggestJob(str(project.root)))))


def test_an_estimate_that_is_stopped_is_not_kept(project: Project) -> None:
    job, events = job_of("mae", project), Events()
    result = run(EstimateJob(str(project.root), training=to_json(job)), events, lambda: True)
    assert result == {"stopped": True}
    assert events.of(Done) == [Done(True, {"stopped": True})]
    assert estimate.load(project, job) is None


def test_a_rehearsal_with_little_memory_goes_on_with_less(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, plain = [2], loop.step

    def step(*given):  # type: ignore[no-untyped-def]
        if left[0]:
            left[0] -= 1
            raise MemoryError
        return plain(*given)

    monkeypatch.setattr(loop, "step", step)
    job = job_of("finetune-none", project)
    assert profiling.measure(project, replace(job, settings={**job.settings, "batch": 8}), never).first_s > 0


def test_the_command_line_says_it_before_the_run_begins(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = []

    def work(job, screen, should_stop, on=""):  # type: ignore[no-untyped-def]
        jobs.append(job)
        return {"run": "0001", "stopped": False, "estimate": to_json(MADE)}

    monkeypatch.setattr(terminal, "run_job", work)
    said = ""
    for length in (("--minutes", "3"), ("--steps", "20")):
        done = CliRunner().invoke(app, ["pretrain", str(project.root), *length])
        assert done.exit_code == 0, done.output
        said += done.stderr
    assert [type(job) for job in jobs] == [EstimateJob, PretrainJob, PretrainJob]
    assert said.count("About 1,400 steps in 3 min") == 1
