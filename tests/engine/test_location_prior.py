"""Where structures lie among each other: what painted scans tell of it, and what it does to a prediction."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from medssl.benchmarking.simulated_annotator import annotate
from medssl.core.project.project import IGNORE, LabelClass, Project
from medssl.nn.data.device_dataset import DeviceDataset
from medssl.nn.models import checkpoint
from medssl.tasks.inference.location_prior import FAR_FACTOR, LocationPrior
from medssl.tasks.inference.predict import predict_scans
from medssl.tasks.inference.stored_location_prior import read_location_prior, tensors_of
from medssl.tasks.inference.threshold import DiceOptimalLabels
from medssl.tasks.segment import fit_location_prior as fitting
from medssl.tasks.segment.fit_location_prior import fit_location_prior
from small import CPU, Events, dataset, job_of, never, run, write_nifti
from torch import Tensor

Place = tuple[int, int, int]
SHAPE: Place = (40, 48, 44)
SIZES = {1: (8, 8, 8), 2: (10, 6, 12), 3: (6, 6, 6)}
PLACES: dict[int, Place] = {1: (6, 10, 8), 2: (16, 20, 24), 3: (26, 8, 30)}
"""First corner of each class's box."""


def boxes(places: dict[int, Place], shape: Place = SHAPE, move: Place = (0, 0, 0)) -> Tensor:
    """Labels (Z, Y, X) with a box of each class, all of them moved."""
    labels = torch.zeros(shape, dtype=torch.uint8)
    for label, corner in places.items():
        low = [at + step for at, step in zip(corner, move, strict=True)]
        box = (slice(max(0, at), at + size) for at, size in zip(low, SIZES[label], strict=True))
        labels[tuple(box)] = label
    return labels


def painted(labels: Tensor, every: int = 4, first: int = 0) -> Tensor:
    """Targets in which only some slices are complete."""
    target = torch.full_like(labels, IGNORE)
    target[first::every] = labels[first::every]
    return target


def scans(*targets: Tensor) -> DeviceDataset:
    return dataset(*(torch.zeros(target.shape) for target in targets), targets=targets)


def layout_of(*targets: Tensor) -> LocationPrior:
    found = fit_location_prior(scans(*targets), 3)
    assert found is not None
    return found


TWO = (painted(boxes(PLACES)), painted(boxes(PLACES, move=(3, 2, -4)), first=1))


def predicted(labels: Tensor, level: int = 200) -> tuple[Tensor, Tensor]:
    """A network's most probable classes, and how probable: `level` on the labels, little elsewhere."""
    best = torch.where(labels > 0, labels, 1)
    return best, torch.where(labels > 0, level, 2).to(torch.uint8)


@pytest.mark.parametrize("move", [(0, 0, 0), (7, -5, 6), (-6, 9, 3)])
def test_what_lies_in_its_place_stays_and_what_lies_elsewhere_loses(move: Place) -> None:
    labels = boxes(PLACES, move=move)
    decoy = (slice(30, 38), slice(38, 46), slice(0, 8))
    there = labels > 0
    labels[decoy] = 1
    apply = layout_of(*TWO).apply(*predicted(labels), (1.0, 1.0, 1.0))
    assert (apply[there] == 200).all()
    assert (apply[decoy].float() < 0.5 * 200).all()


def test_a_scan_of_other_size_and_spacing_is_measured_in_mm() -> None:
    fine = boxes(PLACES).repeat_interleave(2, 1).repeat_interleave(2, 2)
    there = fine > 0
    fine[30:38, 76:92, 0:16] = 1
    apply = layout_of(*TWO).apply(*predicted(fine), (1.0, 0.5, 0.5))
    assert (apply[there] == 200).all()
    assert (apply[32:36, 80:90, 2:12].float() < 0.5 * 200).all()


def test_a_scan_of_few_slices_is_compared_too() -> None:
    best, level = predicted(boxes(PLACES))
    assert layout_of(*TWO).apply(best[20:21], level[20:21], (1.0, 1.0, 1.0)).shape == best[20:21].shape


def test_factors_lie_between_far_off_and_one() -> None:
    factors = layout_of(*TWO).aligned_factors(*predicted(boxes(PLACES)), (1.0, 1.0, 1.0))
    assert factors.shape[0] == 3
    assert factors.max() == 1
    assert factors.min() >= FAR_FACTOR
    assert factors.min() < FAR_FACTOR + 0.05


def test_a_class_that_keeps_no_place_may_lie_anywhere() -> None:
    elsewhere = {**PLACES, 3: (0, 40, 0)}
    location_prior = layout_of(painted(boxes(PLACES)), painted(boxes(elsewhere)))
    assert location_prior.reach_mm.isinf().tolist() == [False, False, True]
    assert (location_prior.aligned_factors(*predicted(boxes(PLACES)), (1.0, 1.0, 1.0))[2] == 1).all()


def test_a_structure_may_go_on_beyond_the_outermost_painted_slice() -> None:
    # A column, painted in the middle of the scan only, and a box beside it.
    labels = boxes({1: PLACES[1], 2: PLACES[2]})
    labels[:, 30:36, 4:10] = 3
    few = torch.full_like(labels, IGNORE)
    few[8:24:4] = labels[8:24:4]
    location_prior = layout_of(few, few)
    best, level = predicted(labels)
    apply = location_prior.apply(best, level, (1.0, 1.0, 1.0))
    assert (apply[labels == 3] == 200).all()


def test_between_a_slice_that_shows_it_and_one_that_does_not_it_may_end_anywhere() -> None:
    sparse = painted(boxes(PLACES), every=12, first=8)
    location_prior = layout_of(sparse, sparse)
    labels = boxes(PLACES)
    apply = location_prior.apply(*predicted(labels), (1.0, 1.0, 1.0))
    assert (apply[labels == 1] == 200).all()


@pytest.mark.parametrize(
    ("targets", "classes"),
    [
        ((TWO[0],), 3),
        ((TWO[0], torch.full(SHAPE, IGNORE, dtype=torch.uint8)), 3),
        ((painted(boxes({1: PLACES[1]})), painted(boxes({1: PLACES[1]}))), 1),
        ((painted(boxes({1: PLACES[1]})), painted(boxes({2: PLACES[2]}))), 2),
    ],
    ids=["one scan", "one painted scan", "one class", "no class in both"],
)
def test_where_nothing_confirms_it_there_is_none(targets: tuple[Tensor, ...], classes: int) -> None:
    assert fit_location_prior(scans(*targets), classes) is None


def test_strokes_and_partly_painted_slices_tell_nothing() -> None:
    partly = TWO[0].clone()
    partly[partly == 0] = IGNORE
    assert fit_location_prior(scans(partly, partly), 3) is None


def test_a_decision_leaves_out_what_does_not_belong() -> None:
    labels = boxes(PLACES)
    there = labels > 0
    decoy = (slice(30, 38), slice(38, 46), slice(0, 8))
    labels[decoy] = 1
    confidence_threshold = torch.nn.functional.one_hot(labels.long(), 4).movedim(-1, 1).float()
    scores = torch.where(confidence_threshold > 0, 0.6, 0.01)
    scores[:, 0] = 1 - scores[:, 1:].sum(1)
    plain, apply = DiceOptimalLabels(len(scores)), DiceOptimalLabels(len(scores))
    for part in scores.split(7):
        plain.add(part)
        apply.add(part)
    apply.apply_prior(layout_of(*TWO), (1.0, 1.0, 1.0))
    assert (plain.labels()[decoy] == 1).all()
    found = apply.labels()
    assert (found[decoy] == 0).all()
    assert torch.equal(found[there], labels[there])


def test_a_checkpoint_keeps_it(tmp_path: Path) -> None:
    location_prior = layout_of(*TWO)
    checkpoint.save(tmp_path / "checkpoint.safetensors", tensors_of(location_prior), {"kind": "finetune"})
    again = read_location_prior(tmp_path / "checkpoint.safetensors", CPU)
    assert again is not None
    for name, tensor in tensors_of(location_prior).items():
        assert torch.equal(tensor, tensors_of(again)[name])
    checkpoint.save(tmp_path / "none.safetensors", {"one": torch.ones(1)}, {"kind": "finetune"})
    assert read_location_prior(tmp_path / "none.safetensors", CPU) is None


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Three scans whose brightness is their class; two of them are painted."""
    classes = tuple(LabelClass(label, f"box {label}", "#ff0000") for label in SIZES)
    made = Project.create(tmp_path / "project", classes)
    for number, move in enumerate([(0, 0, 0), (3, 2, -4), (2, -3, 1)]):
        labels = boxes(PLACES, move=move).numpy()
        noise = np.random.default_rng(number).normal(0, 0.1, SHAPE)
        image = (labels + noise).astype(np.float32)
        scan = made.add_scan(write_nifti(tmp_path / f"scan{number}.nii", image))
        if number < 2:
            made.save_annotation(scan.id, annotate(labels, list(range(2, 40, 4)), 0))
    return made


@pytest.mark.parametrize("kind", ["finetune", "finetune-none"])
def test_a_fine_tuning_says_learns_and_keeps_it_and_a_prediction_asks_it(
    project: Project, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = Events()
    result = run(job_of(kind, project), said)
    assert any("relative position" in each.text for each in said if hasattr(each, "text"))
    made = project.run(result["run"])
    location_prior = read_location_prior(made.checkpoint, CPU)
    assert location_prior is not None
    assert location_prior.reach_mm.isfinite().all()
    asked: list[tuple[int, ...]] = []

    def apply(
        self: LocationPrior, best: Tensor, level: Tensor, spacing_mm: object, out: Tensor | None = None
    ) -> Tensor:
        asked.append(tuple(best.shape))
        return torch.zeros_like(level)

    monkeypatch.setattr(LocationPrior, "apply", apply)
    predict_scans(project, made, ["scan2"], "cpu", Events(), never)
    assert asked == [SHAPE]
    labels = project.prediction(made.id, "scan2")
    assert labels is not None
    assert not labels.any()


def test_it_can_be_left_out(project: Project) -> None:
    job = job_of("finetune", project)
    said = Events()
    result = run(replace(job, settings={**job.settings, "location_prior": False}), said)
    assert read_location_prior(project.run(result["run"]).checkpoint, CPU) is None
    assert not any("relative position" in each.text for each in said if hasattr(each, "text"))


def test_factors_fall_off_within_a_quarter_of_the_reach() -> None:
    """Measured along a line from one voxel: 1 up to the reach of 8 mm, then less by e every 2 mm."""
    there = torch.zeros(1, 1, 40, dtype=torch.bool)
    there[..., 0] = True
    factors = fitting._factors(there, reach=8.0, cell=0.5)[0, 0]
    assert (factors[:17] == 1).all()
    away = torch.arange(40)[17:] * 0.5 - 8
    assert torch.allclose(factors[17:], FAR_FACTOR + (1 - FAR_FACTOR) * torch.exp(-away / 2))
