"""What fine-tuning makes of unannotated voxels: choices, rounds, pseudo-labels, and what is refused."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from medssl.core import recipes
from medssl.core.errors import UserError
from medssl.core.events import Metric, Notice
from medssl.core.jobs import FinetuneJob, read_job, to_json, write_job
from medssl.core.json_files import write_json
from medssl.core.project.project import Annotation, LabelClass, Project
from medssl.core.settings import FINETUNING
from medssl.nn.models import checkpoint
from medssl.tasks.segment import pseudo_contrast, semi_supervised
from medssl.tasks.segment.annotated_crops import AnnotatedVoxels, StepBatch
from medssl.tasks.segment.pseudo_labels import largest_components
from medssl.tasks.training.loop_settings import settings_for
from small import SHAPE, Events, job_of, make_project, plan, run, seeded
from torch import Generator, Tensor, nn
from tuning import IGNORE, half_painted, tuning

CONTRAST = ("pseudo_contrast", "both")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path, seeds=(0, 1), shape=SHAPE)


# --- choices ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "curves"),
    [
        ("none", {"loss"}),
        ("self_training", {"loss", "pseudo_labels"}),
        ("pseudo_contrast", {"loss", "contrast"}),
        ("both", {"loss", "pseudo_labels", "contrast"}),
    ],
)
def test_every_choice_says_the_terms_it_adds(project: Project, choice: str, curves: set[str]) -> None:
    events = Events()
    run(job_of(f"finetune-{choice}", project), events)
    said = [set(metric.values) for metric in events.of(Metric)]
    assert said[0] == {"loss"}
    assert set().union(*said) == curves
    labelled = [notice for notice in events.of(Notice) if "pseudo-labels" in notice.text]
    assert len(labelled) == (0 if choice == "none" else 2)


def test_both_is_the_sum_of_self_training_and_contrast() -> None:
    parts = {choice: tuning(choice).loss(seeded(), 0.5) for choice in ("none", "self_training", *CONTRAST)}
    loss, numbers = parts["both"]
    alone = parts["none"][0]
    added = [parts[choice][0] - alone for choice in ("self_training", "pseudo_contrast")]
    assert loss.item() == pytest.approx((alone + added[0] + added[1]).item(), rel=1e-5)
    assert numbers["loss"].item() == pytest.approx(alone.item(), rel=1e-5)


def test_a_job_without_the_choice_is_self_training(tmp_path: Path, project: Project) -> None:
    path = tmp_path / "job.json"
    for choice in FINETUNING:
        job = FinetuneJob(str(project.root), semi_supervised=choice)  # type: ignore[arg-type]
        write_job(path, job)
        assert read_job(path) == job
    before = {
        name: value for name, value in to_json(FinetuneJob("project")).items() if name != "semi_supervised"
    }
    write_json(path, before)
    assert read_job(path) == FinetuneJob("project", semi_supervised="self_training")


def test_a_run_from_before_there_was_a_choice_can_be_resumed(project: Project) -> None:
    made = run(job_of("finetune", project, steps=2))["run"]
    path = project.run(made).folder / "job.json"
    write_json(
        path, {name: value for name, value in project.run(made).job.items() if name != "semi_supervised"}
    )
    tensors, card = checkpoint.load(project.run(made).checkpoint)
    del tensors["modules.rounds.steps"]  # version abb8153 counted none
    checkpoint.save(project.run(made).checkpoint, tensors, card)
    assert run(FinetuneJob(str(project.root), resume=made, steps=4))["step"] == 4


@pytest.mark.parametrize("choice", FINETUNING)
def test_every_choice_has_a_quick_recipe_and_its_settings(choice: str) -> None:
    name, kind = semi_supervised.find(choice)
    for recipe in ("quick", "paper") if choice in CONTRAST else ("quick",):
        read = recipes.read(f"{name}-{recipe}")
        kind(**read.method)
        assert len(read.purpose) <= 100


def test_the_published_recipe_leaves_out_what_is_ours() -> None:
    """All that adds something of ours to a fine-tuning is off; a new one must be decided on here."""
    _, settings = settings_for("pseudo_contrast-paper", {}, pseudo_contrast.Settings, plan())
    ours = dict.fromkeys(("location_prior", "posterior_smoothing", "first_head", "validation_slice"), False)
    ours |= dict.fromkeys(("copy_paste_prob", "interpolated_weight", "confidence_threshold"), 0.0)
    ours |= {"multiplanar": False}
    assert {name: getattr(settings, name) for name in ours} == ours
    published = {
        "zoom",
        "rotation",
        "rounds",
        "clean_up",
        "contrast_weight",
        "temperature",
        "anchors",
        "mode",
    }
    published |= {"mode", "hidden", "dimension", "start_below_loss", "background", "detach"}
    sampling = {"foreground", "displacement", "reach", "multiplanar_prob", "ema_decay", "pretrained_rate"}
    sampling |= {"max_round_share", "pseudo_label_weight"}  # the latter of self-training alone
    assert {*ours, *published, *sampling} == {each.name for each in fields(settings)}


def test_the_card_records_how_guesses_were_made(project: Project) -> None:
    job = job_of("finetune-pseudo_contrast", project, steps=1)
    made = run(replace(job, settings={**job.settings, "clean_up": "largest", "confidence_threshold": 0.5}))[
        "run"
    ]
    card = project.run(made).card
    assert card["job"]["semi_supervised"] == "pseudo_contrast"
    assert (card["settings"]["clean_up"], card["settings"]["confidence_threshold"]) == ("largest", 0.5)


# --- rounds and pseudo-labels ---------------------------------------------------------------------------


def test_true_labels_always_win_over_guesses() -> None:
    scans = half_painted()
    task = tuning("self_training", scans)
    task.loss(seeded(), 0.5)
    assert task.rounds is not None
    made = task.rounds.pseudo_labels.dataset
    for name, target in zip(made.ids, made.targets, strict=True):
        true = scans.targets[scans.ids.index(name)]
        assert torch.equal(target[true != IGNORE], true[true != IGNORE])
        assert (target != IGNORE).all()


def test_targets_of_the_training_are_not_written_to() -> None:
    scans = half_painted()
    before = [each.clone() for each in scans.targets]
    tuning("both", scans).loss(seeded(), 0.5)
    assert all(torch.equal(one, two) for one, two in zip(before, scans.targets, strict=True))


def test_a_network_that_does_not_fit_the_true_labels_is_not_trusted() -> None:
    task = tuning("self_training", start_below_loss=0.35)
    assert task.rounds is not None
    task.rounds.remember(torch.tensor(100.0))
    assert task.loss(seeded(), 0.9)[1] == {}
    for _ in range(200):
        task.rounds.remember(torch.tensor(0.1))
    assert "pseudo_labels" in task.loss(seeded(), 0.9)[1]


def test_guesses_are_those_of_the_average_and_not_of_the_network() -> None:
    events = Events()
    task = tuning("self_training", events=events)
    with torch.no_grad():
        task.network.head.conv.conv.bias.copy_(torch.tensor([0.0, 0.0, 1e3]))
        task.modules["average"].head.conv.conv.bias.copy_(torch.tensor([0.0, 1e3, 0.0]))
    task.loss(seeded(), 0.5)
    assert "none yet of second" in events[0].text


def test_guesses_that_are_not_sure_enough_stay_unlabelled() -> None:
    task = tuning("self_training", confidence_threshold=0.4)
    task.loss(seeded(), 0.5)
    assert task.rounds is not None
    unknown = [(target == IGNORE).float().mean() for target in task.rounds.pseudo_labels.dataset.targets]
    assert all(0 < share < 1 for share in unknown)


def test_the_largest_part_is_found_in_three_dimensions_and_for_every_class_by_itself() -> None:
    labels = torch.zeros(8, 10, 10, dtype=torch.uint8)
    labels[0:6, 4, 4] = 1
    labels[0, 0:3, 0:3] = 2
    labels[7, 8:10, 8:10] = 1
    labels[7, 0, 9] = 2
    cleaned = largest_components(labels)
    assert (cleaned[0:6, 4, 4] == 1).all()
    assert (cleaned[0, 0:3, 0:3] == 2).all()
    assert (cleaned == IGNORE).sum() == 5
    assert (cleaned == 0).sum() == (labels == 0).sum()
    assert torch.equal(largest_components(cleaned), cleaned)


def test_a_labelled_volume_without_any_class_stays_as_it_is() -> None:
    empty = torch.zeros(3, 4, 5, dtype=torch.uint8)
    assert torch.equal(largest_components(empty), empty)


def test_the_contrast_head_is_trained_and_saved(project: Project) -> None:
    job = job_of("finetune-pseudo_contrast", project)
    before, after = (
        checkpoint.load(project.run(run(replace(job, steps=steps))["run"]).checkpoint)[0] for steps in (1, 10)
    )
    name = "modules.terms.contrast.head.0.weight"
    assert before.keys() <= after.keys()
    assert not torch.equal(before[name], after[name])


# --- what is refused -------------------------------------------------------------------------------------


def assert_refused(job: Any, code: str, *words: str) -> None:
    events = Events()
    with pytest.raises(UserError) as caught:
        run(job, events)
    assert caught.value.code == code, caught.value
    assert all(word in str(caught.value) for word in words), caught.value
    assert not events.of(Metric)


@pytest.mark.parametrize("choice", CONTRAST)
def test_a_contrast_without_any_annotation_is_refused(project: Project, choice: str) -> None:
    for scan in project.annotated():
        project.save_annotation(scan, Annotation(np.zeros(SHAPE, np.uint8)))
    assert_refused(job_of(f"finetune-{choice}", project), "no-annotation")


@pytest.mark.parametrize("choice", CONTRAST)
def test_a_contrast_of_background_alone_is_refused(project: Project, choice: str) -> None:
    for scan in project.annotated():
        project.save_annotation(scan, Annotation(np.zeros(SHAPE, np.uint8), ((0, 3),)))
    assert_refused(job_of(f"finetune-{choice}", project), "one-class")


def test_one_class_without_the_background_is_refused_before_the_first_step(project: Project) -> None:
    job = job_of("finetune-pseudo_contrast", project)
    alone = replace(job, settings={**job.settings, "background": False})
    assert_refused(alone, "one-class", "Only one class", "background")


def test_a_contrast_without_rounds_is_refused(project: Project) -> None:
    job = job_of("finetune-pseudo_contrast", project)
    assert_refused(replace(job, settings={**job.settings, "rounds": []}), "bad-job", "rounds")


def test_a_choice_that_nobody_knows_is_named(project: Project) -> None:
    assert_refused(
        job_of("finetune", project, semi_supervised="mean_teacher"), "bad-job", "mean_teacher", "both"
    )


def test_a_setting_of_another_choice_is_named(project: Project) -> None:
    job = job_of("finetune-none", project)
    assert_refused(
        replace(job, settings={**job.settings, "pseudo_label_weight": 2.0}), "bad-job", "pseudo_label_weight"
    )
    job = job_of("finetune", project)
    assert_refused(replace(job, settings={**job.settings, "temperature": 0.2}), "bad-job", "temperature")


def test_classes_that_nobody_painted_do_not_count(project: Project) -> None:
    """Two classes in the project, one on the scans: the background takes part."""
    voxels = AnnotatedVoxels.of(half_painted(1))
    settings = semi_supervised.find("pseudo_contrast")[1]()
    events = Events()
    terms = semi_supervised.terms(
        FinetuneJob("nowhere", semi_supervised="pseudo_contrast"), plan(), settings, voxels, 3, events
    )
    assert terms["contrast"].background
    assert "one class is annotated" in events[0].text


def test_one_good_step_is_no_trust() -> None:
    """What counts is the loss of some twenty steps: a batch may be easy."""
    task = tuning("self_training", start_below_loss=0.35)
    assert task.rounds is not None
    for _ in range(200):
        task.rounds.remember(torch.tensor(1.0))
    task.rounds.remember(torch.tensor(0.0))
    assert task.loss(seeded(), 0.9)[1] == {}
    task.rounds.recent_loss.fill_(0.1)
    task.rounds.remember(torch.tensor(3.0))
    assert "pseudo_labels" in task.loss(seeded(), 0.9)[1]


# --- the step --------------------------------------------------------------------------------------------


class Looking(nn.Module):
    """A term without weight that keeps the targets it was shown."""

    weight = 0.0

    def forward(self, batch: StepBatch, generator: Generator) -> Tensor:
        self.painted, self.pseudo_labelled = (
            batch.target[: batch.n_labelled],
            batch.target[batch.n_labelled :],
        )
        return batch.features.sum()


def test_boxes_of_painted_patches_are_pasted_into_some_patches_around_guesses() -> None:
    looks = []
    for own in ({}, {"copy_paste_prob": 0.0}):
        task = tuning("self_training", small=plan(batch=16), **own)
        task.terms["looking"] = look = Looking()
        task.loss(seeded(), 0.5)
        looks.append(look)
    pasted, plain = looks
    changed = pasted.pseudo_labelled != plain.pseudo_labelled
    assert torch.equal(pasted.pseudo_labelled[changed], pasted.painted[changed])
    assert 4 <= changed.flatten(1).any(1).sum() <= 12


def test_at_the_start_the_average_follows_closely_and_later_slowly() -> None:
    task = tuning("none")
    with torch.no_grad():
        for each in task.average.parameters():
            each.fill_(1.0)  # the random weights, to be forgotten
        for each in task.network.parameters():
            each.fill_(0.0)
    left = next(task.average.parameters())
    for _ in range(10):
        task.after_step(0.0)
    assert left.max() < 1e-3
    left.data.fill_(1.0)
    task.steps = 100_000
    task.after_step(0.5)
    assert left.max() == pytest.approx(task.settings.ema_decay)


# --- a step ----------------------------------------------------------------------------------------------


def test_the_moving_average_follows_fast_at_first() -> None:
    task = tuning("none")
    for average, weight in zip(task.average.parameters(), task.network.parameters(), strict=True):
        average.data.zero_()
        weight.data.fill_(1.0)
    task.after_step(0.0)
    assert all(torch.allclose(each, torch.tensor(9 / 11)) for each in task.average.parameters())


def test_patches_reach_as_far_from_an_annotated_voxel_as_the_setting_says() -> None:
    shares = []
    for reach in (0.0, 1.0):
        settings = {"reach": reach, "foreground": 1.0, "zoom": (1.0, 1.0), "rotation": 0.0}
        task = tuning("none", small=plan(patch_vox=(3, 8, 8), batch=200), displacement=0.0, **settings)
        _, target = task.patches(task.dataset, task.voxels, seeded())
        shares.append(((target[:, 3:5, 3:5] > 0) & (target[:, 3:5, 3:5] != IGNORE)).float().mean().item())
    assert shares[0] > 0.9 > 0.8 > shares[1]


def test_a_smaller_patch_keeps_the_round_of_pseudo_labels() -> None:
    task = tuning("self_training")
    task.loss(seeded(), 0.5)
    assert task.rounds is not None
    current_round = task.rounds.current_round
    assert current_round is not None and task.shrink() is not None
    assert task.rounds.current_round == current_round


def test_the_head_is_kept_for_the_same_classes_only(project: Project) -> None:
    first = run(job_of("finetune-none", project, steps=2))["run"]
    trained, _ = checkpoint.load(project.run(first).checkpoint, "modules.average.head.")
    kept = run(job_of("finetune-none", project, steps=0, weights=first))["run"]
    head, _ = checkpoint.load(project.run(kept).checkpoint, "modules.average.head.")
    assert head and all(torch.equal(head[name], trained[name]) for name in head)
    project.change_classes(lambda known: [*known, LabelClass(9, "another", "#00ff00")])
    new = run(job_of("finetune-none", project, steps=0, weights=first))["run"]
    other, _ = checkpoint.load(project.run(new).checkpoint, "modules.average.head.")
    assert [len(tensor) for tensor in other.values()] != [len(tensor) for tensor in head.values()]
