"""A slice that fine-tuning does not learn from: which one, that nothing leaks, and what is said of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from medssl.core.events import Metric, Notice
from medssl.core.jobs import FinetuneJob
from medssl.core.project.annotation import IGNORE, Annotation
from medssl.core.project.project import Project
from medssl.nn.models.checkpoint import load
from medssl.nn.models.unet import build
from medssl.tasks.segment import validation_slice
from medssl.tasks.segment.validation_slice import ValidationSlice, choose, take_validation_slice
from small import FINETUNE, SHAPE, Events, dataset, job_of, make_project, noise, plan, run, seeded, stop_after

A, B = frozenset({1}), frozenset({2})
HOLD = {**FINETUNE, "validation_slice": True}


def scans(*complete: int) -> Any:
    """One scan with class 1 in the middle of these complete slices."""
    target = torch.full((10, 8, 8), IGNORE, dtype=torch.uint8)
    for index in complete:
        target[index] = 0
        target[index, 2:6, 2:6] = 1
    return dataset(noise((10, 8, 8)), targets=[target])


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path, seeds=(0, 1), shape=SHAPE, slices=9)


def dices(events: Events) -> list[float]:
    return [each.values["dice"] for each in events.of(Metric) if "dice" in each.values]


def test_the_middle_one_of_those_that_show_most_is_taken() -> None:
    assert choose([(0, n, A) for n in range(5)]) == (0, 2)
    assert choose([(0, 3, A), (0, 4, A | B), (1, 3, A), (1, 9, A | B), (1, 10, A)]) == (0, 4)


def test_three_slices_are_too_few_to_spare_one() -> None:
    assert choose([(0, n, A) for n in range(3)]) is None


def test_no_class_loses_its_only_slice() -> None:
    assert choose([(0, 1, A), (0, 2, A), (0, 3, A | B), (0, 4, A), (0, 5, A)]) in [(0, 2), (0, 4)]
    assert choose([(0, n, frozenset({n})) for n in range(1, 6)]) is None


def test_its_labels_leave_the_pool_and_no_others_do() -> None:
    before = scans(1, 3, 5, 7)
    after, held = take_validation_slice(before, plan(), None, Events())
    assert held is not None
    assert (held.scan, held.index) == ("scan-0", 3)
    changed = (after.targets[0] != before.targets[0]).any(2).any(1).nonzero()[:, 0].tolist()
    assert changed == [3]
    assert (after.targets[0][3] == IGNORE).all()
    assert torch.equal(held.target, before.targets[0][3])
    assert torch.equal(held.images[0, held.offset], before.images[0][3])


def test_too_few_slices_are_told_and_all_are_learned_from() -> None:
    events, before = Events(), scans(1, 3, 5)
    after, held = take_validation_slice(before, plan(), None, events)
    assert held is None
    assert after is before
    (notice,) = events.of(Notice)
    assert "No validation slice" in notice.text
    assert "there are 3" in notice.text


@pytest.mark.parametrize(
    ("card", "taken"),
    [({}, None), ({"validation_slice": {"scan": "scan-0", "index": 7}}, 7), ({"validation_slice": None},
    None),
     ({"validation_slice": {"scan": "gone", "index": 7}}, None),
     ({"validation_slice": {"scan": "scan-0", "index": 8}}, None)],
)  # fmt: skip
def test_what_the_weights_before_have_learned_from_is_no_test(
    card: dict[str, Any], taken: int | None
) -> None:
    _, held = take_validation_slice(scans(1, 3, 5, 7), plan(), card, Events())
    assert (held.index if held else None) == taken


def test_the_dice_is_that_of_whole_scan_prediction_on_the_slice() -> None:
    """Slices around it are enough: the network sees no more."""
    from medssl.tasks.inference.predict import segment_work

    small, volume = plan(), noise((10, 20, 24))
    network = build(small, 2, 0).eval()
    found = segment_work(network, small, [volume], (1.0, 1.0, 1.0), volume.device)[4]
    _, held = take_validation_slice(
        dataset(volume, targets=[torch.stack([found if n in (2, 3, 4, 5) else found * 0 for n in
        range(10)])]),
        small, None, Events(),
    )  # fmt: skip
    assert held is not None
    held = ValidationSlice(held.scan, 4, volume[None, 2:7], 2, found, held.spacing_mm)
    assert held.dice(network, small)[1] > 0.95, "but for the threshold, which is that of a few slices"
    worse = ValidationSlice(held.scan, 4, volume[None, 2:7], 2, 1 - found, held.spacing_mm)
    assert worse.dice(network, small)[1] < 0.5


@pytest.mark.parametrize("kind", ["finetune", "finetune-3d"])
def test_a_run_says_the_dice_while_it_goes_and_a_sentence_at_the_end(project: Project, kind: str) -> None:
    events = Events()
    job = job_of(kind, project)
    held = run(FinetuneJob(str(project.root), steps=6, settings={**job.settings, "validation_slice": True}),
               events)  # fmt: skip
    assert len(dices(events)) >= 2
    assert all(0 <= each <= 1 for each in dices(events))
    last = events.of(Notice)[-1].text
    assert "Dice" in last and "validation slice" in last
    card = project.run(held["run"]).card["validation_slice"]
    assert card["dice"] == pytest.approx(dices(events)[-1])


def test_without_being_asked_nothing_is_held_back(project: Project) -> None:
    events = Events()
    made = run(job_of("finetune", project), events)
    assert not dices(events)
    assert not any("alidation slice" in notice.text for notice in events.of(Notice))
    assert "validation_slice" not in project.run(made["run"]).card


def test_looking_changes_nothing_but_the_slice_that_is_missing(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights with looks equal those without: neither the generator nor the network is touched."""
    job = FinetuneJob(str(project.root), steps=6, settings=HOLD)
    one = load(project.run(run(job)["run"]).checkpoint)[0]
    monkeypatch.setattr(validation_slice.ValidationMonitor, "update_when_due", lambda *given: {})
    two = load(project.run(run(job)["run"]).checkpoint)[0]
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_first_step_is_looked_at_and_the_verdict_names_each_class(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, held = take_validation_slice(scans(1, 3, 5, 7), plan(), None, Events())
    assert held is not None
    events = Events()
    validation = validation_slice.ValidationMonitor(held, plan(), ["block", "ball"], events)
    monkeypatch.setattr(ValidationSlice, "dice", lambda *given: {1: 0.5, 2: 0.25})
    assert validation.update_when_due(build(plan(), 3, 0), 0.0)["dice"] == 0.375
    said = validation.report(build(plan(), 3, 0), plan(), 7)
    assert said == {"validation_slice": {"scan": held.scan, "index": held.index, "dice": 0.375}}
    assert events.of(Metric) == [Metric(7, {"dice": 0.375})]
    assert "block 0.50, ball 0.25" in events.of(Notice)[0].text


def test_looks_cost_a_small_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(validation_slice.time, "monotonic", lambda: clock[0])
    _, held = take_validation_slice(scans(1, 3, 5, 7), plan(), None, Events())
    assert held is not None
    validation = validation_slice.ValidationMonitor(held, plan(), ["block"], Events())
    network = build(plan(), 2, 0)

    def slow(*given: Any) -> dict[int, float]:
        clock[0] += 2.0
        return {1: 0.5}

    monkeypatch.setattr(ValidationSlice, "dice", slow)
    looks = 0
    for step in range(200):
        looks += bool(validation.update_when_due(network, step / 200))
        clock[0] += 1.0
    assert 2 <= looks <= 4  # 2 s each of 200 s


def test_a_resumed_run_holds_the_same_slice_back_though_more_is_painted(project: Project) -> None:
    part = run(FinetuneJob(str(project.root), steps=8, settings=HOLD), should_stop=stop_after(3))
    before = project.run(part["run"]).card["validation_slice"]
    scan = project.annotated()[0]
    annotation = project.annotation(scan)
    assert annotation is not None
    labels = annotation.labels.copy()
    labels[:, :4, :4] = 1
    everything = tuple((0, n) for n in range(SHAPE[0]))
    project.save_annotation(scan, Annotation(labels, everything))
    run(FinetuneJob(str(project.root), resume=part["run"]))
    after = project.run(part["run"]).card["validation_slice"]
    assert (after["scan"], after["index"]) == (before["scan"], before["index"])


def test_the_generator_is_not_asked() -> None:
    generator = seeded()
    state = generator.get_state()
    take_validation_slice(scans(1, 3, 5, 7), plan(), None, Events())
    assert torch.equal(generator.get_state(), state)
