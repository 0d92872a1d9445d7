"""The slice on the screen while a fine-tuning runs: which one, by which weights, how often, at what price."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from medssl import engine
from medssl.core.events import Metric, Progress, SliceInView, SlicePreview, read_log, to_line
from medssl.core.jobs import FinetuneJob, Plan
from medssl.core.project.project import LabelClass, Project
from medssl.nn.models.checkpoint import load
from medssl.nn.models.network_weights import load_network
from medssl.nn.models.unet import build
from medssl.tasks.inference.predict import segment
from medssl.tasks.segment import live_preview
from medssl.tasks.segment.live_preview import LivePreview
from small import CPU, SHAPE, Events, job_of, make_project, never, plan, run

MIDDLE = SHAPE[0] // 2


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path, seeds=(0, 1), shape=SHAPE, slices=9)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(live_preview.time, "monotonic", lambda: now[0])
    return now


def look_at(project: Project, place: list[Any], events: Events, ids: Any = (1,)) -> LivePreview:
    return LivePreview(project, ids, CPU, events, lambda: place[0])


def with_previews(
    project: Project, place: SliceInView, job: Any, should_stop: Any = never
) -> tuple[Events, dict[str, Any]]:
    events = Events()
    return events, engine.run(job, events, should_stop, lambda: place)


def whole(project: Project, network: Any, small: Plan, scan: str) -> np.ndarray:
    """The scan's prediction from the painted side, as the engine makes it."""
    own = replace(small, multiplanar=False)
    return segment(network, own, [project.image(scan)], project.scans[scan].geometry.spacing_mm, CPU)[0]


# --- which slice ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("index", [0, 5, 11])
def test_it_is_that_slice_of_the_whole_scan_s_prediction(project: Project, axis: int, index: int) -> None:
    """Few slices around it are enough: the network sees no more. Only thresholds are those of the slab."""
    scan, events, small = "block-0", Events(), plan(slice_axis=axis)
    network = build(small, 2, 0).eval()
    look_at(project, [SliceInView(scan, axis, index)], events).update_when_due(network, small)
    (event,) = events.of(SlicePreview)
    assert (event.scan, event.axis, event.index) == (scan, axis, index)
    expected = whole(project, network, small, scan).take(index, axis)
    assert event.labels().shape == expected.shape
    assert np.mean(event.labels() == expected) > 0.9


def test_the_labels_are_the_project_s_ids(project: Project) -> None:
    events, small = Events(), plan()
    network = build(small, 3, 0).eval()
    look_at(project, [SliceInView("block-0", 0, 5)], events, (7, 200)).update_when_due(network, small)
    (event,) = events.of(SlicePreview)
    expected = np.array([0, 7, 200])[whole(project, network, small, "block-0")[5]]
    assert set(np.unique(event.labels())) <= {0, 7, 200}
    assert np.mean(event.labels() == expected) > 0.9


@pytest.mark.parametrize(
    "place",
    [None, SliceInView("block-0", 1, 5), SliceInView("gone", 0, 5), SliceInView("block-0", 0, SHAPE[0]),
     SliceInView("block-0", 0, -1)],
)  # fmt: skip
def test_what_cannot_be_segmented_is_left_alone(project: Project, place: SliceInView | None) -> None:
    events = Events()
    look_at(project, [place], events).update_when_due(build(plan(), 2, 0), plan())
    assert not events


def test_a_scan_whose_image_is_gone_does_not_end_the_training(project: Project) -> None:
    events = Events()
    for path in project.root.rglob("*.npy"):
        if "block-1" in str(path):
            path.unlink()
    Path(project.scans["block-1"].source).unlink()
    look_at(project, [SliceInView("block-1", 0, 5)], events).update_when_due(build(plan(), 2, 0), plan())
    assert not events


def test_short_memory_costs_a_preview_and_nothing_else(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*given: Any) -> None:
        raise torch.OutOfMemoryError("out of memory")

    events = Events()
    monkeypatch.setattr(live_preview, "segment_work", short)
    look_at(project, [SliceInView("block-0", 0, 5)], events).update_when_due(build(plan(), 2, 0), plan())
    assert not events


# --- in a training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["finetune", "finetune-3d", "finetune-none"])
def test_a_training_begins_with_a_preview(project: Project, kind: str) -> None:
    events, _ = with_previews(project, SliceInView("block-1", 0, MIDDLE), job_of(kind, project))
    first = events.of(SlicePreview)[0]
    assert events.index(first) < min(events.index(each) for each in events.of(Metric) + events.of(Progress))
    assert first.labels().shape == SHAPE[1:]


def test_a_training_on_the_command_line_makes_none(project: Project) -> None:
    events = Events()
    run(job_of("finetune", project), events)
    assert not events.of(SlicePreview)


def test_previews_become_the_prediction(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_preview, "EVERY_S", 0.0)
    monkeypatch.setattr(LivePreview, "_due", lambda *given: True)
    project.set_classes((LabelClass(5, "block", "#ff0000"),))
    for scan in project.annotated():
        annotation = project.annotation(scan)
        assert annotation is not None
        labels = np.where(annotation.labels == 1, 5, annotation.labels).astype(np.uint8)
        project.save_annotation(scan, replace(annotation, labels=labels))
    job = job_of("finetune-none", project, steps=60)
    events, result = with_previews(project, SliceInView("block-0", 0, MIDDLE), job)
    last = events.of(SlicePreview)[-1].labels()
    network, small, _ = load_network(project.run(result["run"]).checkpoint)
    final = 5 * whole(project, network, small, "block-0")[MIDDLE]
    assert 5 in last
    assert np.mean(last == final) > 0.9


def test_previews_are_not_kept_in_the_log(project: Project) -> None:
    events, result = with_previews(project, SliceInView("block-0", 0, 5), job_of("finetune", project))
    kept = read_log(project.run(result["run"]).folder / "events.jsonl")
    said = [to_line(event) for event in events if not isinstance(event, SlicePreview)]
    assert 0 < len(said) < len(events)
    assert [to_line(event) for event in kept] == said


def test_looking_changes_nothing(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights with previews equal those without: neither the generator nor the network is touched."""
    job = FinetuneJob(**{**vars(job_of("finetune", project)), "steps": 6})
    one = load(project.run(run(job)["run"]).checkpoint)[0]
    monkeypatch.setattr(LivePreview, "_due", lambda *given: True)
    events, result = with_previews(project, SliceInView("block-0", 0, 5), job)
    two = load(project.run(result["run"]).checkpoint)[0]
    assert len(events.of(SlicePreview)) == 6
    assert all(torch.equal(one[name], two[name]) for name in one)


# --- how often -----------------------------------------------------------------------------------------


def looked(
    project: Project, clock: list[float], monkeypatch: pytest.MonkeyPatch, costs_s: float, indices: Any
) -> list[tuple[float, int]]:
    """(time, slice) of the previews in a training of a step a second; `indices` is what is on the screen."""
    events, place, found = Events(), [None], []
    live = look_at(project, place, events)

    def slow(*given: Any) -> np.ndarray:
        clock[0] += costs_s
        return np.zeros((2, 2), np.uint8)

    monkeypatch.setattr(LivePreview, "_segment", slow)
    network, begin = build(plan(), 2, 0), clock[0]
    for index in indices:
        place[0] = SliceInView("block-0", 0, index)
        before = len(events)
        live.update_when_due(network, plan())
        found += [(clock[0] - begin, each.index) for each in events[before:]]
        clock[0] += 1.0
    return found


def test_a_slice_that_costs_little_is_renewed_every_few_seconds(project, clock, monkeypatch) -> None:
    found = looked(project, clock, monkeypatch, 0.02, [5] * 31)
    gaps = np.diff([at for at, _ in found])
    assert found[0][0] < 1
    assert len(gaps) >= 10
    assert max(gaps) <= 3


def test_a_slice_that_costs_much_takes_a_small_share_of_the_time(project, clock, monkeypatch) -> None:
    found = looked(project, clock, monkeypatch, 2.0, [5] * 300)
    assert 1.0 <= 2.0 * (len(found) - 1) <= 0.03 * 300 + 2.0


def test_another_slice_is_looked_at_at_once(project, clock, monkeypatch) -> None:
    found = looked(project, clock, monkeypatch, 0.02, [5, 5, 6, 7, 8, 8, 9])
    assert [index for _, index in found] == [5, 6, 7, 8, 9]


def test_scrolling_without_end_takes_a_small_share_of_the_time(project, clock, monkeypatch) -> None:
    found = looked(project, clock, monkeypatch, 0.5, [n % SHAPE[0] for n in range(300)])
    assert 0.04 * 300 <= 0.5 * (len(found) - 1) <= 0.06 * 300 + 0.5 + 2 * 0.06 * len(found)


def test_a_new_slice_is_not_kept_waiting_by_renewals_of_the_last(project, clock, monkeypatch) -> None:
    found = looked(project, clock, monkeypatch, 1.0, [5] * 200 + [6])
    assert found[-1][1] == 6
