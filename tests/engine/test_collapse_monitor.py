"""The health of a pre-training: collapse is recognised and has consequences, looking changes nothing."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from medssl.cli.selection import choose_run
from medssl.core.errors import UserError
from medssl.core.events import Event, Metric, Notice, Progress
from medssl.core.jobs import PretrainJob
from medssl.core.json_files import write_json
from medssl.core.project.project import Annotation, Project
from medssl.nn.methods.pgl import PGL
from medssl.nn.models import checkpoint
from medssl.tasks.pretrain import collapse_monitor
from medssl.tasks.pretrain.collapse_monitor import (
    Sample,
    curve_of,
    effective_rank,
    has_collapsed,
    in_words,
    outlook,
    settled,
)
from medssl.tasks.training import report
from small import SHAPE, Events, job_of, make_project, run, seeded, stop_after
from torch import nn

PLAIN = "No collapse: the features vary between locations."


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path, seeds=(0, 1), shape=SHAPE)


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look is taken, whatever it costs, and every step's numbers are heard, however fast they come."""
    monkeypatch.setattr(collapse_monitor, "TIME_FRACTION", math.inf)
    monkeypatch.setattr(report, "REPORT_EVERY_S", -1.0)


def looks(events: Events) -> list[tuple[int, dict[str, float]]]:
    return [(each.step, each.values) for each in events.of(Metric) if "rank" in each.values]


def card(project: Project, result: dict[str, Any]) -> dict[str, Any]:
    return project.run(result["run"]).card["collapse_report"]


# --- rank --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("directions", [1, 3, 8])
def test_the_rank_counts_directions(directions: int) -> None:
    """Vectors along both ends of some axes, as many along each."""
    vectors = torch.cat([torch.eye(8)[:directions], -torch.eye(8)[:directions]]).repeat(5, 1)
    features = vectors.T[None, :, :, None]
    assert effective_rank(features) == pytest.approx(directions)
    assert effective_rank(1e3 * features) == pytest.approx(directions)
    turn, _ = torch.linalg.qr(torch.randn(8, 8, generator=seeded()))
    assert effective_rank(torch.einsum("ij,bjhw->bihw", turn, features)) == pytest.approx(directions)


def test_directions_in_which_little_differs_count_little() -> None:
    features = torch.randn(4, 16, 10, 10, generator=seeded())
    assert effective_rank(features) > 15
    features[:, 4:] *= 0.05
    assert 3.5 < effective_rank(features) < 5


def test_the_rank_of_one_vector_everywhere_is_one() -> None:
    same = torch.randn(1, 16, 1, 1, generator=seeded()).expand(3, 16, 5, 5)
    assert effective_rank(same) == pytest.approx(1)
    assert effective_rank(torch.zeros(3, 16, 5, 5)) == 1


# --- what is said ------------------------------------------------------------------------------------


def test_the_card_and_the_last_notice_say_how_it_went(project: Project) -> None:
    events = Events()
    sample = card(project, run(job_of("pgl", project), events))
    assert not sample["collapsed"]
    assert sample["rank"] > 0.5 * sample["rank_at_start"] > 1
    assert 0 < sample["feature_std"] < 1.2 and 0.25 < sample["output_std"] < 1.2
    assert 0 <= sample["probe"] <= 1 and 0 <= sample["probe_at_start"] <= 1
    assert events.of(Notice)[-1].text == sample["words"]
    assert sample["words"].startswith(PLAIN)
    assert f"accuracy of {100 * sample['probe']:.0f} %" in sample["words"]
    (first, start), *_, (last, end) = looks(events)
    assert (first, start["rank"], start["probe"]) == (0, sample["rank_at_start"], sample["probe_at_start"])
    assert (last, end["rank"], end["probe"]) == (10, sample["rank"], sample["probe"])


def test_numbers_are_said_at_the_quarters(project: Project, often: None, monkeypatch: Any) -> None:
    monkeypatch.setattr("medssl.tasks.training.report.REPORT_EVERY_S", 0)
    events = Events()
    run(job_of("pgl", project, steps=8), events)
    assert [step for step, _ in looks(events)] == [0, 3, 5, 7, 8]
    assert all({"encoder_std", "rank", "probe"} <= set(values) for _, values in looks(events))


def test_looks_that_cost_too_much_are_left_out_but_for_the_last(project: Project, monkeypatch: Any) -> None:
    monkeypatch.setattr(collapse_monitor, "TIME_FRACTION", 0)
    events = Events()
    run(job_of("mae", project, steps=8), events)
    assert [step for step, _ in looks(events)] == [0, 8]


def test_without_painted_slices_there_is_no_probe_and_no_word_of_it(project: Project) -> None:
    (scan,) = project.annotated()
    annotation = project.annotation(scan)
    assert annotation is not None
    project.save_annotation(scan, Annotation(annotation.labels * 0))
    sample = card(project, run(job_of("mae", project, steps=2)))
    assert sample["probe"] is None and sample["probe_at_start"] is None
    assert sample["words"] == PLAIN


def test_a_stopped_training_is_judged_too(project: Project) -> None:
    result = run(job_of("mae", project), should_stop=stop_after(3))
    assert card(project, result)["words"].startswith(PLAIN)


def test_the_card_inside_the_checkpoint_says_the_same(project: Project) -> None:
    result = run(job_of("mae", project, steps=1))
    _, inside = checkpoint.load(project.run(result["run"]).checkpoint)
    assert inside["collapse_report"] == card(project, result)


# --- looking changes nothing -------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["pgl", "mae"])
def test_looking_changes_no_weight(project: Project, method: str, monkeypatch: Any) -> None:
    tensors = []
    for share in (0, math.inf):
        monkeypatch.setattr(collapse_monitor, "TIME_FRACTION", share)
        result = run(job_of(method, project, steps=4))
        tensors.append(checkpoint.load(project.run(result["run"]).checkpoint)[0])
    assert all(torch.equal(tensor, tensors[1][name]) for name, tensor in tensors[0].items())


def test_a_resumed_training_is_judged_as_the_uninterrupted_one(project: Project, often: None) -> None:
    whole = card(project, run(job_of("pgl", project)))
    part = run(job_of("pgl", project), should_stop=stop_after(4))
    run(PretrainJob(project=str(project.root), resume=part["run"]))
    after = card(project, part)
    # Curves hold means over half a second each: what is read from them follows the clock a little.
    looked = ("collapsed", "feature_std", "rank", "rank_at_start", "probe", "probe_at_start")
    assert [after[name] for name in looked] == [whole[name] for name in looked]


def test_a_look_takes_no_more_patches_at_once_than_a_step(project: Project, monkeypatch: Any) -> None:
    sizes: list[int] = []
    plain = collapse_monitor._deepest
    monkeypatch.setattr(
        collapse_monitor,
        "_deepest",
        lambda network, images: (sizes.append(len(images)), plain(network, images))[1],
    )
    run(job_of("mae", project, steps=1))
    assert max(sizes) == 2
    assert sum(sizes) == 2 * collapse_monitor.PATCHES


def test_the_first_look_takes_nothing_of_the_training_s_time(project: Project, monkeypatch: Any) -> None:
    plain = collapse_monitor.CollapseMonitor.evaluate

    def slow(self: collapse_monitor.CollapseMonitor, network: Any) -> Sample:
        time.sleep(1)
        return plain(self, network)

    monkeypatch.setattr(collapse_monitor.CollapseMonitor, "evaluate", slow)
    assert run(job_of("mae", project, steps=None, minutes=0.5 / 60))["step"] > 0


# --- collapse ----------------------------------------------------------------------------------------


@pytest.fixture
def collapsed(project: Project, monkeypatch: pytest.MonkeyPatch, often: None) -> tuple[str, Events]:
    """PGL without a predictor, its teacher equal to the student: one vector for all is the best answer.

    The run, and what it said.
    """
    plain = PGL.__init__

    def without_predictor(self: PGL, *given: Any) -> None:
        plain(self, *given)
        self.modules["predictor"] = nn.Identity()

    events = Events()
    settings = {**job_of("pgl", project).settings, "momentum": 0.0, "learning_rate": 1e-2, "batch": 4}
    with monkeypatch.context() as patch:
        patch.setattr(PGL, "__init__", without_predictor)
        result = run(job_of("pgl", project, steps=40, settings=settings), events)
    return result["run"], events


def test_a_collapse_is_recognised_said_and_refused(project: Project, collapsed: tuple[str, Events]) -> None:
    name, events = collapsed
    assert project.run(name).collapsed
    said = [each.text for each in events.of(Notice)]
    assert any("are collapsing" in each for each in said) and "has collapsed" in said[-1]
    assert len([text for text in said if "collaps" in text]) == 2
    runs = len(project.runs())
    with pytest.raises(UserError) as caught:
        run(job_of("finetune", project, weights=name))
    assert caught.value.code == "collapsed"
    assert name in str(caught.value) and "pre-train again" in str(caught.value)
    assert len(project.runs()) == runs, "refused before anything is made"
    with pytest.raises(UserError, match=name):
        choose_run(project, "last", ("pretrain",))


def test_last_passes_over_what_has_collapsed(project: Project) -> None:
    good, bad = (run(job_of("mae", project, steps=1))["run"] for _ in range(2))
    path = project.run(bad).folder / "card.json"
    write_json(path, {**project.run(bad).card, "collapse_report": {"collapsed": True}})
    assert choose_run(project, "last", ("pretrain",)).id == good
    assert choose_run(project, bad, ("pretrain",)).id == bad, "to go on with it, or to look at it"


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"collapse_report": null}', '{"collapse_report": {"collapsed": "who knows"}}']
)
def test_a_card_that_says_nothing_of_it_is_no_collapse(project: Project, text: str) -> None:
    made = project.new_run("pretrain", {"job": "pretrain"}, "pgl")
    assert not made.collapsed
    (made.folder / "card.json").write_text(text)
    assert not made.collapsed


GOOD = Sample(feature_std=0.8, rank=90)
OUTPUT = {1: 0.8, 50: 0.7, 100: 0.75}


@pytest.mark.parametrize(
    ("sample", "output"),
    [
        (Sample(feature_std=0.8, rank=5), OUTPUT),
        (Sample(feature_std=0.3, rank=60), OUTPUT),
        (Sample(feature_std=0.3, rank=60), {}),
        (Sample(feature_std=0.8, rank=60), {1: 0.8, 50: 0.3, 100: 0.1}),
        (Sample(feature_std=0.8, rank=60), {1: 0.15, 50: 0.6, 100: 0.15}),
    ],
    ids=["rank", "spread", "spread, and nothing of its own", "its own", "its own, which had risen"],
)
def test_any_of_three_numbers_shows_a_collapse(sample: Sample, output: dict[int, float]) -> None:
    assert has_collapsed(GOOD, sample, output)


@pytest.mark.parametrize(
    ("sample", "output"),
    [
        (GOOD, {}),
        (Sample(feature_std=0.78, rank=28), OUTPUT),
        (Sample(feature_std=0.8, rank=88), {1: 0.15, 10: 0.14}),
        (Sample(feature_std=0.8, rank=88), {1: 0.15}),
    ],
    ids=["nothing of its own", "a long training", "pooled features are alike at first", "one step"],
)
def test_what_healthy_trainings_say_is_no_collapse(sample: Sample, output: dict[int, float]) -> None:
    assert not has_collapsed(GOOD, sample, output)


# --- do more steps help ------------------------------------------------------------------------------


def losses(fall: float, count: int = 90, noise: float = 0.1) -> list[float]:
    """From 1 down by `fall` in all, with noise."""
    stray = torch.randn(count, generator=seeded()).tolist()
    return [1 - fall * at / count + noise * each for at, each in enumerate(stray)]


def test_a_loss_still_falls_where_it_fell_by_more_than_its_noise() -> None:
    assert settled(losses(0.5)) is False
    assert settled(losses(0.05, noise=0.001)) is False
    assert settled(losses(0.05)) is not False


def test_a_loss_that_rose_tells_nothing() -> None:
    """Moco's does while its queue fills, and may fall a little afterwards."""
    rising = [8 - 5 * 0.9**at for at in range(60)]
    assert settled([*rising, *(8 - 0.01 * at for at in range(30))]) is None


def test_a_loss_that_fell_early_and_lies_flat_has_settled() -> None:
    early = [3 * 0.7**at for at in range(60)]
    assert settled([one + two for one, two in zip(early, losses(0.0, count=60, noise=0.02), strict=True)])
    loud = losses(0.0, count=60, noise=0.5)
    assert settled([one + two for one, two in zip(early, loud, strict=True)]) is None, "too loud to tell"


def test_a_few_numbers_are_too_few_to_tell() -> None:
    assert settled(losses(0.0, count=20)) is None
    assert settled([]) is None
    assert outlook({}, {}) == ""


def by_step(values: list[float], last: int) -> dict[int, float]:
    return {last * (at + 1) // len(values): each for at, each in enumerate(values)}


def test_the_probe_decides_where_there_is_one() -> None:
    falling = by_step(losses(0.5), 1000)
    assert "hardly" in outlook(falling, {0: 0.5, 500: 0.8, 750: 0.8, 1000: 0.8})
    assert "may help" in outlook(falling, {0: 0.5, 500: 0.7, 750: 0.8, 1000: 0.8})
    assert "hardly" in outlook(falling, {0: 0.5, 500: 0.7, 600: 0.8, 1000: 0.75}), "it got worse"
    assert "loss" in outlook(falling, {0: 0.5, 1000: 0.8}), "no look between start and end"
    assert outlook(falling, {}) == "The loss was still falling: more steps may help."


def test_few_steps_are_never_called_enough() -> None:
    flat = [3 * 0.8**at for at in range(90)]
    assert "hardly" in outlook(by_step(flat, 1000), {})
    assert outlook(by_step(flat, 90), {}) == ""
    assert outlook({}, {0: 0.5, 50: 0.8, 100: 0.8}) == ""
    assert "may help" in outlook({}, {0: 0.5, 50: 0.7, 100: 0.8})


def test_a_curve_takes_what_was_said_last_of_a_step() -> None:
    heard: list[Event] = [
        Metric(2, {"loss": 3.0}),
        Progress("x", 0.5),
        Metric(3, {"loss": 2.0}),
        Metric(2, {"loss": 1.0}),
        Metric(2, {"probe": 0.5}),
    ]
    assert list(curve_of(heard, "loss").items()) == [(2, 1.0), (3, 2.0)]


def sample_of(probe: float) -> Sample:
    """Ten slices, all alike."""
    return Sample(feature_std=0.8, rank=90, slices=torch.full((10,), probe / 10))


@pytest.mark.parametrize(
    ("end", "words"),
    [(0.8, "80 %, better than"), (0.6, "60 %, no better than"), (0.4, "worse than with")],
)
def test_the_words_set_the_probe_beside_random_weights(end: float, words: str) -> None:
    said = in_words(sample_of(0.6), sample_of(end), False, "The loss was still falling.")
    assert words in said and "initial weights (60 %)." in said
    assert said.startswith(PLAIN) and said.endswith("still falling.")


def test_collapsed_words_say_what_to_do_and_nothing_of_quality() -> None:
    said = in_words(sample_of(0.6), sample_of(0.4), True, "The loss was still falling.")
    assert "smaller learning rate" in said and "MAE" in said
    assert "voxels" not in said and "falling" not in said
