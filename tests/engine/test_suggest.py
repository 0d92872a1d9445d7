"""Which slice to paint next: the doubtful one, one unlike the others, and never a finished one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from medssl.benchmarking.simulated_annotator import annotate
from medssl.cli import app
from medssl.core.active_learning import slices
from medssl.core.active_learning.coverage import choose, similarity
from medssl.core.active_learning.slices import ScoredSlices
from medssl.core.errors import UserError
from medssl.core.events import Notice, Started
from medssl.core.jobs import SuggestJob
from medssl.core.project.project import Annotation, LabelClass, Project
from medssl.tasks.active_learning import suggest
from medssl.tasks.active_learning.suggest import newest_weights, rank, why
from medssl.tasks.active_learning.uncertainty import adjacent_groups, rotate, uncertainty
from small import (
    CPU,
    Events,
    block_phantom,
    job_of,
    make_project,
    never,
    plan,
    run,
    stop_after,
    write_nifti,
)
from typer.testing import CliRunner

NAMES = {1: "Anterior", 2: "Posterior"}


def scored_slices(scan: str, vectors: Any, **changes: Any) -> ScoredSlices:
    """Slices 0, 1, ... of a scan, 10 mm apart, of which nothing is painted and nothing doubted."""
    vectors = np.asarray(vectors, np.float32).reshape(len(vectors), -1)
    number = len(vectors)
    fields: dict[str, Any] = {
        "scan": scan,
        "indices": np.arange(number),
        "position_mm": 10.0 * np.arange(number),
        "reach_mm": 1.0,
        "vectors": vectors,
        "expected_error_mm2": None,
        "between": np.zeros((number, 2), int),
        **{name: np.zeros(number, bool) for name in ("empty", "painted", "complete")},
    }
    return ScoredSlices(**{**fields, **{name: np.asarray(value) for name, value in changes.items()}})


def places(suggestions: Sequence[Any]) -> list[tuple[str, int]]:
    return [(each.scan, each.index) for each in suggestions]


def suggested(project: Project, **changes: Any) -> list[tuple[str, int, int]]:
    job = SuggestJob(**{"project": str(project.root), "device": "cpu", "count": 5, **changes})
    return [(each["scan"], each["axis"], each["index"]) for each in run(job)["suggestions"]]


# --- ranking -----------------------------------------------------------------------------------------


def test_a_slice_where_the_model_is_unsure_outranks_one_where_it_is_sure() -> None:
    other = np.eye(4)
    suggestions = rank([scored_slices("a", other, expected_error_mm2=[1.0, 9, 3, 1])], 0, NAMES, 4)
    assert [each.index for each in suggestions][:2] == [1, 2]
    assert suggestions[0].expected_error_mm2 == 9


def test_near_duplicates_of_painted_slices_rank_low() -> None:
    vectors = [[0, 0], [0.01, 0], [5, 0], [0, 5], [5, 5]]
    part = scored_slices(
        "a", vectors, expected_error_mm2=[0, 5.0, 5, 5, 5], painted=[1, 0, 0, 0, 0], complete=[1, 0, 0, 0, 0]
    )
    part = ScoredSlices(**{**vars(part), "painted": part.painted == 1, "complete": part.complete == 1})
    assert places(rank([part], 0, NAMES, 4))[-1] == ("a", 1)


def test_the_neighbour_of_a_painted_slice_ranks_low_whatever_it_looks_like() -> None:
    painted = np.arange(20) == 10
    part = scored_slices(
        "a",
        np.eye(20),
        expected_error_mm2=np.ones(20),
        painted=painted,
        complete=painted,
        reach_mm=np.float64(20),
    )
    assert {9, 11}.isdisjoint(each.index for each in rank([part], 0, NAMES, 5))


def test_ten_suggestions_are_no_ten_neighbours() -> None:
    """All doubt lies in ten neighbouring slices of one scan; five scans look alike slice by slice."""
    looks = np.arange(40)[:, None] / 4.0
    doubt = np.where(np.arange(40) // 10 == 1, 10.0, 8.0)
    parts = [
        scored_slices(name, looks, expected_error_mm2=doubt, reach_mm=np.float64(15)) for name in "abcde"
    ]
    suggestions = places(rank(parts, 0, NAMES, 10))
    depths = sorted({index // 5 for _, index in suggestions})
    assert len(depths) >= 6, suggestions
    gaps = [abs(i - j) for s, i in suggestions for t, j in suggestions if (s, i) < (t, j) and s == t]
    assert min(gaps, default=9) > 2


def test_an_odd_slice_teaches_less_than_one_of_many() -> None:
    vectors = [[9.0, 9.0], *([0.1 * n, 0.0] for n in range(8))]
    assert rank([scored_slices("a", vectors)], 0, {}, 1)[0].index != 0


@pytest.mark.parametrize("asked", [True, False])
def test_complete_and_empty_slices_are_never_suggested(asked: bool) -> None:
    closed = np.array([True, False, True, False])
    doubt = [9.0, 1, 9, 1] if asked else None
    for name in ("complete", "empty"):
        known = {"expected_error_mm2": doubt} if asked else {}
        part = scored_slices("a", np.eye(4), **known, **{name: closed})
        assert {each.index for each in rank([part], 0, NAMES, 4)} == {1, 3}


def test_a_slice_with_strokes_may_be_finished_but_is_not_new() -> None:
    strokes = np.arange(4) == 0
    suggestions = rank([scored_slices("a", np.eye(4), painted=strokes)], 0, {}, 4)
    assert places(suggestions)[-1] == ("a", 0) and suggestions[-1].novelty == 0


def test_taking_the_best_one_each_time_covers_most_of_what_the_best_set_would() -> None:
    vectors, doubt = np.random.default_rng(0).normal(size=(9, 2)), np.ones(9)
    table = similarity(vectors, ["a"] * 9, 100.0 * np.arange(9), np.ones(9))

    def value(chosen: Sequence[int]) -> float:
        return float(doubt @ table[:, list(chosen)].max(1))

    greedy = [each.number for each in choose(table, doubt, np.zeros(9, bool), np.ones(9, bool), 3)]
    best = max(value(three) for three in [(i, j, k) for i in range(9) for j in range(i) for k in range(j)])
    assert value(greedy) >= (1 - 1 / np.e) * best


def test_another_scan_comes_before_one_that_is_painted_already_where_slices_are_as_new() -> None:
    """Ten slices of ten people teach more than ten of one."""
    first = np.arange(3) == 0
    parts = [
        scored_slices("a", np.eye(6)[:3], painted=first, complete=first),
        scored_slices("b", np.eye(6)[3:]),
    ]
    assert [scan for scan, _ in places(rank(parts, 0, {}, 2))] == ["b", "a"]


# --- sentences ---------------------------------------------------------------------------------------

MODEL = "On this slice the model is"


@pytest.mark.parametrize(
    ("doubt", "novelty", "between", "anything", "said"),
    [
        (1.0, 0.2, ["Left", "Right"], True, f"{MODEL} most uncertain between Left and Right."),
        (0.7, 0.2, ["", "Posterior"], True, f"{MODEL} uncertain at the border of Posterior."),
        (0.1, 0.2, ["", "Liver"], True, f"{MODEL} slightly uncertain at the border of Liver."),
        (
            1.0, 0.9, ["", "Liver"], True,
            f"{MODEL} most uncertain at the border of Liver, and no similar slice is annotated yet.",
        ),
        (0.1, 0.9, ["", "Liver"], True, "No similar slice is annotated yet."),
        (0.0, 0.9, [], True, "No similar slice is annotated yet."),
        (0.0, 0.9, [], False, "Many slices are similar to this one: a good slice to start with."),
        (0.0, 0.1, [], True, "This slice differs most from the annotated ones."),
    ],
)  # fmt: skip
def test_why_is_one_plain_sentence(
    doubt: float, novelty: float, between: list[str], anything: bool, said: str
) -> None:
    assert why(doubt, novelty, between, anything) == said


# --- what is looked at -------------------------------------------------------------------------------


def test_strokes_of_another_side_paint_no_slice() -> None:
    labels = np.zeros((6, 7, 8), np.uint8)
    labels[:, 3] = 1
    labels[2, 5, 5] = 1
    annotation = Annotation(labels, ((1, 3), (0, 4)))
    assert np.flatnonzero(slices.painted_slices(annotation, 0)).tolist() == [2, 4]
    assert labels[0, 3].all(), "the annotation itself has changed"


def test_few_slices_are_all_looked_at_and_of_many_some_of_each_scan(tmp_path: Path) -> None:
    project = make_project(tmp_path, seeds=range(3), shape=(40, 8, 8), annotated=1)
    few = dict(slices.sample(project, list(project.scans), 0, 10**6, np.random.default_rng(0)))
    assert [len(few[scan]) for scan in project.scans] == [40] * 3
    many = dict(slices.sample(project, list(project.scans), 0, 64, np.random.default_rng(0)))
    assert len(many) >= 2 and max(map(len, many.values())) < 30
    painted = {index for _, index in project.annotation("block-0").complete}  # type: ignore[union-attr]
    assert painted <= set(many["block-0"].tolist())


@pytest.mark.parametrize("length", [1, 5, 12, 40])
def test_a_thumbnail_keeps_means(length: int) -> None:
    line = np.arange(length, dtype=np.float32)
    assert (slices.averaging_matrix(length, 12) @ line).mean() == pytest.approx(line.mean(), abs=1e-4)


def test_neighbours_are_looked_at_together() -> None:
    assert list(adjacent_groups([1, 2, 3, 7, 9, 10])) == [[1, 2, 3], [7], [9, 10]]
    assert [len(group) for group in adjacent_groups(range(40))] == [16, 16, 8]


def test_turning_back_and_forth_changes_little_in_the_middle() -> None:
    rows, columns = torch.meshgrid(torch.arange(40.0), torch.arange(24.0), indexing="ij")
    image = (torch.sin(rows / 4) + torch.cos(columns / 5))[None, None]
    back = rotate(rotate(image, 0.2), -0.2)
    middle = (..., slice(10, 30), slice(8, 16))
    assert (back - image)[middle].abs().max() < 0.1
    assert (rotate(image, 0.2) - image)[middle].abs().max() > 0.2


class Edge(torch.nn.Module):
    """Is sure of bright and of dark, and doubts what lies between."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        middle = image[:, image.shape[1] // 2]
        return torch.stack([torch.full_like(middle, -99), -8 * middle, 8 * middle], 1)


def test_the_doubt_is_the_expected_wrong_area_and_names_the_classes() -> None:
    work = np.zeros((9, 16, 16), np.float32)
    work[:] = -1
    work[4, :8], work[4, 8:] = 1, 0
    spacing = (1.0, 2.0, 2.0)
    small = plan(2, spacing_mm=(0.0, 2.0, 2.0))
    confidence_threshold, unsure = uncertainty(Edge(), small, [work], spacing, [1, 4], CPU)  # type: ignore[arg-type]
    assert confidence_threshold.area_mm2 < 0.01
    assert unsure.area_mm2 == pytest.approx(0.5 * 128 * 4, rel=0.35)  # smoothed along slices and turned
    assert unsure.between == (1, 2)


# --- the job -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Three scans, one painted, one held out, with a fine-tuning."""
    made = make_project(tmp_path_factory.mktemp("made"), seeds=(0, 1, 2), shape=(16, 24, 24))
    made.hold_out("block-2")
    run(job_of("finetune-none", made, steps=6))
    return made


def test_the_newest_fine_tuning_is_asked_and_said(project: Project) -> None:
    events = Events()
    result = run(SuggestJob(str(project.root), device="cpu", count=3), events)
    newest = project.runs("finetune")[-1].id
    assert result["run"] == events.of(Started)[0].run == newest
    assert len(result["suggestions"]) == 3
    for each in result["suggestions"]:
        assert each["expected_error_mm2"] > 0 and ("the model" in each["reason"] or each["novelty"] >= 0.5)


def test_held_out_scans_and_complete_slices_are_not_suggested(project: Project) -> None:
    complete = {("block-0", *place) for place in project.annotation("block-0").complete}  # type: ignore[union-attr]
    every = suggested(project, count=1000)
    assert {scan for scan, _, _ in every} == {"block-0", "block-1"}
    assert complete.isdisjoint(every) and len(every) == 2 * 16 - len(complete)


def test_the_same_project_and_seed_give_the_same_list(project: Project) -> None:
    assert suggested(project) == suggested(project)


@pytest.mark.parametrize("count", [1, 4])
def test_before_any_training_grey_values_are_compared(tmp_path: Path, count: int) -> None:
    fresh = make_project(tmp_path, shape=(16, 24, 24), annotated=0)
    events = Events()
    result = run(SuggestJob(str(fresh.root), count=count), events)
    assert result["run"] is None and events.of(Started)[0].run == ""
    assert len(result["suggestions"]) == count
    assert "good slice to start with" in result["suggestions"][0]["reason"]


def test_slices_are_suggested_along_the_side_that_is_painted(tmp_path: Path) -> None:
    coronal = make_project(tmp_path, shape=(24, 16, 24), axis=1)
    assert {axis for _, axis, _ in suggested(coronal)} == {1}


def test_slices_of_air_are_left_out(tmp_path: Path) -> None:
    image, _ = block_phantom(0, (16, 24, 24))
    image[:6] = 0
    air = Project.create(tmp_path / "air", (LabelClass(1, "block", "#ff0000"),))
    air.add_scan(write_nifti(tmp_path / "air.nii", image))
    assert {index for _, _, index in suggested(air, count=99)} == set(range(6, 16))


def test_grey_values_of_all_channels_are_compared(tmp_path: Path) -> None:
    """What only the second channel shows is not empty, and differs from what looks the same in the first."""
    shape = (8, 24, 24)
    images = np.zeros((2, *shape), np.float32)
    images[0, :3, 4:12, 4:12] = images[1, 2:5, 12:20, 12:20] = 1
    project = Project.create(tmp_path / "project", (LabelClass(1, "block", "#ff0000"),))
    project.add_scan(write_nifti(tmp_path / "p.nii", images[0]), channel="t1", name="p")
    assert {index for _, _, index in suggested(project, count=99)} == {0, 1, 2}
    project.add_channel("p", write_nifti(tmp_path / "q.nii", images[1]), "t2")
    assert {index for _, _, index in suggested(project, count=99)} == {0, 1, 2, 3, 4}
    scorer = suggest._slice_scorer(project, None, ["p"], "cpu")
    vectors = scorer.score("p", np.arange(3)).vectors
    assert np.array_equal(vectors[0], vectors[1]) and not np.array_equal(vectors[1], vectors[2])
    assert vectors.shape == (3, 2 * slices.THUMBNAIL**2)


def test_without_a_network_a_scan_that_lacks_a_channel_is_left_out_and_named(tmp_path: Path) -> None:
    project = make_project(tmp_path, shape=(12, 24, 24), annotated=0)
    project.add_channel("block-0", write_nifti(tmp_path / "q.nii", block_phantom(7, (12, 24, 24))[0]), "t2")
    events = Events()
    result = run(SuggestJob(str(project.root), count=3), events)
    assert {each["scan"] for each in result["suggestions"]} == {"block-0"}
    assert "block-1 has no t2 and is left out" in events.of(Notice)[0].text


def test_a_run_that_learned_nothing_yet_is_not_asked(tmp_path: Path) -> None:
    fresh = make_project(tmp_path, shape=(12, 24, 24))
    run(job_of("finetune-none", fresh, steps=3), should_stop=stop_after(0))
    assert newest_weights(fresh) is None


def test_stopped_it_ranks_what_it_has_seen(project: Project) -> None:
    result = suggest.suggest(project, SuggestJob(str(project.root)), Events(), stop_after(1))
    assert result["stopped"] is True
    assert {each["scan"] for each in result["suggestions"]} == {"block-0"}  # type: ignore[attr-defined]


def test_the_command_prints_a_table_and_writes_json(project: Project, tmp_path: Path) -> None:
    path = tmp_path / "next.json"
    words = ["suggest", str(project.root), "--count", "2", "--device", "cpu", "--json", str(path)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    first, _ = json.loads(path.read_text())
    assert first["scan"] in result.output and f"axial {first['index']}" in result.output


# --- what cannot be ----------------------------------------------------------------------------------


def refused(project: Project, **changes: Any) -> UserError:
    with pytest.raises(UserError) as error:
        suggest.suggest(project, SuggestJob(str(project.root), **changes), Events(), never)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)
    return error.value


def test_no_scan_to_suggest_from_is_said(tmp_path: Path) -> None:
    assert refused(Project.create(tmp_path / "none")).code == "no-scans"
    held = make_project(tmp_path / "held", seeds=(0,), shape=(12, 24, 24), annotated=0)
    held.hold_out("block-0")
    error = refused(held)
    assert error.code == "no-scans" and "hold out fewer of them" in str(error)


def test_that_all_is_painted_is_said(tmp_path: Path) -> None:
    done = make_project(tmp_path, seeds=(0,), shape=(12, 24, 24), annotated=0)
    done.save_annotation("block-0", annotate(block_phantom(0, (12, 24, 24))[1], range(12)))
    error = refused(done)
    assert error.code == "nothing-left" and "fine-tune" in str(error)


def test_a_number_that_is_none_and_a_run_that_is_none_are_refused(project: Project) -> None:
    assert refused(project, count=0).code == "bad-job"
    assert refused(project, weights="0099-finetune-gone").code == "no-run"
