"""Jobs as JSON: what is written is read, and the first wrong thing is named."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from medssl.core.errors import UserError
from medssl.core.jobs import (
    ExportJob,
    FeaturesJob,
    FinetuneJob,
    Job,
    Plan,
    PredictJob,
    PretrainJob,
    from_json,
    kind_of,
    read_job,
    to_json,
    write_job,
)

PLAN = Plan(
    dims=2,
    slice_axis=1,
    spacing_mm=(0.0, 1.5, 1.5),
    patch_vox=(3, 96, 96),
    batch=8,
    channels=(16, 32),
    strides=((1, 1), (2, 2)),
    precision="bf16",
)
JOBS = [
    PretrainJob("project", seed=3, minutes=1.5, settings={"learning_rate": 1e-3}),
    FinetuneJob("project", steps=10, weights="0001-pretrain-pgl", predict_scans=("a", "b")),
    PredictJob("project", weights="0002-finetune-quick", scans=("a",)),
    FeaturesJob("project", device="cuda:1"),
    ExportJob("project", folder="out", ending=".dcm", scans=("a",)),
]


@pytest.mark.parametrize("job", JOBS, ids=kind_of)
def test_a_job_comes_back_from_its_file(tmp_path: Path, job: Job) -> None:
    write_job(tmp_path / "job.json", job)
    assert read_job(tmp_path / "job.json") == job


def test_a_plan_comes_back_from_json() -> None:
    assert from_json(Plan, json.loads(json.dumps(to_json(PLAN))), "here") == PLAN


def test_what_is_left_out_has_its_default(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text('{"job": "pretrain", "project": "p"}')
    assert read_job(tmp_path / "job.json") == PretrainJob("p")


def test_a_whole_number_is_a_number(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text('{"job": "pretrain", "project": "p", "minutes": 2}')
    job = read_job(tmp_path / "job.json")
    assert isinstance(job, PretrainJob) and job.minutes == 2


@pytest.mark.parametrize("axis, expected", [(0, (0, 1, 2)), (1, (1, 0, 2)), (2, (2, 0, 1))])
def test_work_axes_begin_with_the_slices(axis: int, expected: tuple[int, int, int]) -> None:
    assert from_json(Plan, {**to_json(PLAN), "slice_axis": axis}, "here").work_axes == expected


def refusal(path: Path, value: Any) -> str:
    """What reading a job file says that holds this value."""
    path.write_text(json.dumps(value))
    with pytest.raises(UserError) as error:
        read_job(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.code == "bad-job"
    return str(error.value)


@pytest.mark.parametrize(
    "value", [[], None, "pretrain", {}, {"job": "train"}, {"job": ["pretrain"]}, {"job": None}], ids=repr
)
def test_what_is_no_job_is_refused(tmp_path: Path, value: Any) -> None:
    assert "pretrain, finetune, predict, features" in refusal(tmp_path / "job.json", value)


@pytest.mark.parametrize(
    "field, value",
    [
        ("minutes", "10"),
        ("minutes", True),
        ("steps", 1.5),
        ("seed", None),
        ("seed", True),
        ("seed", -1),
        ("seed", 10**30),
        ("minutes", 0),
        ("steps", 0),
        ("project", 3),
        ("settings", []),
        ("resume", ["0001"]),
        ("surprise", 1),
    ],
)
def test_a_field_that_does_not_fit_is_named(tmp_path: Path, field: str, value: Any) -> None:
    job = {"job": "pretrain", "project": "p", field: value}
    assert repr(field) in refusal(tmp_path / "job.json", job)


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "9" * 5000])
def test_a_number_that_is_not_finite_is_refused(tmp_path: Path, number: str) -> None:
    (tmp_path / "job.json").write_text(f'{{"job": "pretrain", "project": "p", "minutes": {number}}}')
    with pytest.raises(UserError) as error:
        read_job(tmp_path / "job.json")
    assert error.value.code == "unreadable"


@pytest.mark.parametrize("text", ["\0", "a/\0b", "\ud800"])
def test_what_no_path_can_have_is_refused(tmp_path: Path, text: str) -> None:
    assert "'project'" in refusal(tmp_path / "job.json", {"job": "pretrain", "project": text})


def test_a_path_that_is_no_text_of_this_system_is_taken(tmp_path: Path) -> None:
    folder = os.fsdecode(b"caf\xe9")  # as the command line gives it
    write_job(tmp_path / "job.json", PretrainJob(folder))
    assert read_job(tmp_path / "job.json").project == folder


def test_an_editor_may_have_marked_the_beginning(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text('{"job": "pretrain", "project": "p"}', encoding="utf-8-sig")
    assert read_job(tmp_path / "job.json") == PretrainJob("p")


def test_a_folder_is_no_job_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is a folder|could not be read") as error:
        read_job(tmp_path)
    assert error.value.code == "not-readable"


def test_a_missing_field_is_named_in_plain_words(tmp_path: Path) -> None:
    message = refusal(tmp_path / "job.json", {"job": "pretrain"})
    assert "'project'" in message
    assert "__init__" not in message


@pytest.mark.parametrize(
    "field, value",
    [
        ("precision", "fp8"),
        ("spacing_mm", [1.0, 1.0]),
        ("spacing_mm", "abc"),
        ("patch_vox", [3, 96.5, 96]),
        ("strides", [[1, 1], 2]),
        ("channels", [[16]]),
    ],
)
def test_parts_of_a_plan_are_checked_too(field: str, value: Any) -> None:
    with pytest.raises(UserError, match=field):
        from_json(Plan, {**to_json(PLAN), field: value}, "the weights")


def test_fields_that_are_no_object_are_refused() -> None:
    with pytest.raises(UserError, match="the weights") as error:
        from_json(Plan, [1, 2], "the weights")  # type: ignore[arg-type]
    assert error.value.code == "bad-job"


@dataclass(frozen=True)
class Named:
    """For lists and dictionaries with a type inside."""

    names: list[str]
    values: dict[str, float]


@pytest.mark.parametrize(
    "fields, wrong",
    [
        ({"names": ["a"], "values": {"x": 1}}, None),
        ({"names": [1], "values": {}}, "names"),
        ({"names": "a", "values": {}}, "names"),
        ({"names": [], "values": {"x": "y"}}, "values"),
    ],
)
def test_lists_and_dictionaries_are_checked_inside(fields: dict[str, Any], wrong: str | None) -> None:
    if wrong is None:
        assert from_json(Named, fields, "here") == Named(**fields)
    else:
        with pytest.raises(UserError, match=wrong):
            from_json(Named, fields, "here")
