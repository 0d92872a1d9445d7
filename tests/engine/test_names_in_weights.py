"""What leaves the project with the weights: no path and no name of a scan, unless asked."""

from __future__ import annotations

import json

import pytest
from medssl.core.jobs import FinetuneJob, PretrainJob, TrainingJob
from medssl.core.project.project import Project
from medssl.nn.models import checkpoint
from small import job_of, make_project, run


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("jane"), seeds=(0, 1), shape=(12, 24, 24), slices=6)


def texts(project: Project, job: TrainingJob) -> tuple[str, dict]:
    """All text of the weights and of the card beside them, and that card."""
    trained = project.run(run(job)["run"])
    header = json.dumps(checkpoint.load(trained.checkpoint)[1])
    card = (trained.folder / "card.json").read_text()
    assert json.loads(card).items() <= json.loads(header).items()
    return header + card, json.loads(card)


@pytest.mark.parametrize("with_names", [False, True])
def test_cards_of_weights_hold_names_and_paths_only_if_asked(project: Project, with_names: bool) -> None:
    tuning = job_of("finetune-none", project, steps=2)
    root = str(project.root)
    jobs: list[TrainingJob] = [
        PretrainJob(root, device="cpu", steps=2, settings={**job_of("pgl", project).settings},
                    with_names=with_names),
        FinetuneJob(root, device="cpu", steps=2, settings={**tuning.settings, "validation_slice": True},
                    predict_scans=("block-1",), with_names=with_names),
    ]  # fmt: skip
    for job in jobs:
        text, card = texts(project, job)
        assert [name in text for name in (root, "block-")] == [with_names] * 2
        known = {scan.id if with_names else scan.sha256 for scan in project.scans.values()}
        assert set(card["scans"]) <= known and card["scans"]
    assert card["validation_slice"]["scan"] in known
    assert card["job"]["recipe"] == "quick", "the settings stay"
