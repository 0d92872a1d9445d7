"""The properties of the pre-training on made-up volumes: its pairs, its loss, its run. One a test."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from medssl.core import recipes
from medssl.core.errors import UserError
from medssl.core.events import Checkpoint, Metric, Notice, Started
from medssl.core.jobs import Plan, PretrainJob
from medssl.core.methods import METHODS, needs_scans
from medssl.core.project.project import Project
from medssl.nn.data.device_dataset import DeviceDataset
from medssl.nn.methods import find
from medssl.nn.methods.prototypes import symmetric_prototype_loss
from medssl.nn.methods.shapes import Shapes, ShapesSettings
from medssl.nn.models import checkpoint
from medssl.nn.models.network_weights import load_network
from medssl.nn.models.unet import build
from medssl.nn.shapes.volumes import LABELS
from medssl.tasks.plan import patch_size, planner
from medssl.tasks.training.loop_settings import settings_for
from small import CPU, Events, plan, run, seeded, stop_after
from torch import Tensor

NO_SCANS = DeviceDataset((), (), (), works_on=CPU)
SMALL = ShapesSettings(sizes=(32,), hidden=16, dimension=8)


def method(settings: ShapesSettings = SMALL, small: Plan | None = None, seed: int = 0) -> Shapes:
    small = small or plan(patch_vox=(3, 32, 32), batch=8)
    torch.manual_seed(seed)
    return Shapes(build(small, 3, seed), small, settings)


def mean_grey(image: Tensor, labels: Tensor) -> Tensor:
    """(LABELS,) mean grey value of each label in an image's middle slice; NaN where it is not there."""
    middle = image[1]
    return torch.stack([middle[labels == label].mean() for label in range(LABELS)])


# Pairs.


def test_the_same_seed_gives_the_same_pairs_and_another_seed_others() -> None:
    shapes = method()
    one, two, three = (shapes.pairs(seeded(seed)) for seed in (0, 0, 1))
    assert all(torch.equal(*each) for each in zip(one, two, strict=True))
    assert not torch.equal(one[0], three[0])
    assert not torch.equal(one[1], three[1])


def test_the_global_generator_is_neither_read_nor_moved() -> None:
    shapes = method()
    losses = []
    for seed in (7, 8):
        torch.manual_seed(seed)
        before = torch.random.get_rng_state()
        losses.append(shapes.loss(NO_SCANS, seeded(), 0.0)[0])
        assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(*losses)


@pytest.mark.parametrize("side", ShapesSettings().sizes)
def test_every_size_of_the_view_fits_the_network_s_strides(project: Project, side: int) -> None:
    usual, _ = planner.choose_without_scans(project, CPU, {"precision": "fp32", "threads": 1})
    small = replace(usual, channels=(4, 4, 4, 4), batch=2)
    shapes = method(ShapesSettings(sizes=(side,)), small)
    images, labels = shapes.pairs(seeded())
    assert images.shape == (4, 3, side, side)
    assert labels.shape == (4, side, side)
    levels = shapes.modules["network"].encode(images)
    assert [each.shape[-1] for each in levels] == [side, side // 2, side // 4, side // 8]
    assert shapes.modules["network"].decode(levels).shape == (4, 4, side, side)


@pytest.mark.parametrize("sizes", [(), (63,), (4,), (64, 0)])
def test_sides_that_do_not_fit_the_network_are_refused_with_a_way_out(sizes: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="sizes") as refused:
        method(replace(SMALL, sizes=sizes))
    assert refused.value.code == "bad-job"


def test_views_of_all_sizes_hold_about_as_many_pixels() -> None:
    shapes = method(ShapesSettings(sizes=(16, 32, 48)), plan(patch_vox=(3, 32, 32), batch=18))
    seen = {}
    for seed in range(10):
        images, _ = shapes.pairs(seeded(seed))
        seen[images.shape[-1]] = len(images)
    assert seen == {16: 72, 32: 18, 48: 8}


def test_there_are_at_least_two_pairs() -> None:
    assert len(method(small=plan(patch_vox=(3, 32, 32), batch=1)).pairs(seeded())[0]) == 4


def test_labels_are_those_of_the_middle_slice() -> None:
    """Rendered without a difference between the slices' positions, they explain the middle slice best."""
    shapes = method(replace(SMALL, thickness_px=(5.0, 5.0)), plan(patch_vox=(3, 32, 32), batch=32))
    images, labels = shapes.pairs(seeded())
    left = torch.zeros(3)
    for image, each in zip(images, labels, strict=True):
        for number, values in enumerate(image):
            within = [
                values[each == label].var(correction=0) * (each == label).sum() for label in each.unique()
            ]
            left[number] += sum(within) / (values.var(correction=0) * each.numel())
    assert left[1] < 0.9 * left[0]
    assert left[1] < 0.9 * left[2]


def test_the_second_half_of_the_images_belongs_to_the_first() -> None:
    settings = replace(SMALL, person=0.0, apart=0.0)
    _, labels = method(settings, plan(patch_vox=(3, 32, 32), batch=32)).pairs(seeded())
    first, second = labels.chunk(2)
    own = (first == second).float().mean()
    others = torch.stack([(first == second.roll(shift, 0)).float().mean() for shift in range(1, 16)])
    assert own > 0.4
    assert own > 2 * others.max()


def test_another_person_and_a_distance_make_pairs_less_alike() -> None:
    """The same views but for these: their numbers are drawn in the same order."""
    small = plan(patch_vox=(3, 32, 32), batch=64)
    positive_mask = []
    for person, apart in ((0.0, 0.0), (1.0, 0.0), (0.0, 6.0)):
        first, second = method(replace(SMALL, person=person, apart=apart), small).pairs(seeded())[1].chunk(2)
        positive_mask.append((first == second).float().mean())
    assert positive_mask[1] < positive_mask[0] - 0.05
    assert positive_mask[2] < positive_mask[0] - 0.05


def test_pairs_that_are_rendered_anew_have_grey_values_of_their_own() -> None:
    correlations = []
    for share in (0.0, 1.0):
        settings = replace(SMALL, person=0.0, apart=0.0, rendered_anew=share)
        images, labels = method(settings, plan(patch_vox=(3, 32, 32), batch=32)).pairs(seeded())
        half = len(images) // 2
        found = []
        for number in range(half):
            one = mean_grey(images[number], labels[number])
            two = mean_grey(images[half + number], labels[half + number])
            both = one.isfinite() & two.isfinite()
            if both.sum() > 3:
                found.append(torch.stack([one[both], two[both]]).corrcoef()[0, 1])
        correlations.append(torch.stack(found).mean())
    assert correlations[0] > 0.8
    assert correlations[1] < 0.5


# The loss.


def test_each_half_is_classified_by_the_prototypes_of_the_other() -> None:
    """Features that only the two views of a pair have in common are all right; in another order none are."""
    labels = torch.randint(4, (6, 8, 8), generator=seeded()).repeat(2, 1, 1)
    codes = torch.eye(LABELS)[
        torch.stack([torch.randperm(LABELS, generator=seeded(each)) for each in range(6)])
    ]
    features = torch.stack([codes[number % 6][labels[number]] for number in range(12)]).movedim(-1, 1)
    loss, right = symmetric_prototype_loss(features, labels, LABELS, ShapesSettings().temperature)
    assert loss < 0.01
    assert right == 1
    mixed = torch.cat([features[:6], features[6:].roll(1, 0)])
    assert symmetric_prototype_loss(mixed, labels, LABELS, ShapesSettings().temperature)[1] < 0.5


def test_a_step_trains_encoder_decoder_and_heads_and_nothing_else() -> None:
    shapes = method()
    loss, numbers = shapes.loss(NO_SCANS, seeded(), 0.0)
    loss.backward()
    network = shapes.modules["network"]
    trained = [network.encoder, network.decoder, shapes.modules["fine"], shapes.modules["coarse"]]
    for each in (parameter for part in trained for parameter in part.parameters()):
        assert each.grad is not None
        assert each.grad.isfinite().all()
    assert all(part[0].weight.grad.abs().sum() > 0 for part in trained[2:])
    assert network.encoder[0].conv1.conv.weight.grad.abs().sum() > 0
    kept = [*network.head.parameters(), *shapes.modules["average"].parameters()]
    assert all(each.grad is None for each in kept)
    assert 0 <= numbers["right"] <= 1
    assert 0 <= numbers["right_coarse"] <= 1


def test_the_loss_is_that_of_the_finest_map_and_a_share_of_the_coarse_one() -> None:
    values = []
    for weight in (0.0, 0.5, 2.0):
        loss, numbers = method(replace(SMALL, level_weight=weight)).loss(NO_SCANS, seeded(), 0.0)
        values.append((loss - numbers["fine"]).item())
    assert values[0] == 0
    assert values[1] > 0.1
    assert values[2] == pytest.approx(4 * values[1], rel=1e-5)


def test_the_coarse_term_trains_the_encoder_too() -> None:
    gradients = []
    for weight in (0.0, 2.0):
        shapes = method(replace(SMALL, level_weight=weight))
        shapes.loss(NO_SCANS, seeded(), 0.0)[0].backward()
        gradients.append(shapes.modules["network"].encoder[-2].conv1.conv.weight.grad)
    assert (gradients[1] - gradients[0]).norm() > 0.1 * gradients[0].norm()


def test_random_weights_are_right_little_more_often_than_chance() -> None:
    _, numbers = method().loss(NO_SCANS, seeded(), 0.0)
    assert numbers["right"] < 0.7


def test_a_few_steps_lower_the_loss_on_pairs_that_were_not_seen() -> None:
    shapes = method(seed=3)

    def unseen() -> tuple[float, float]:
        with torch.no_grad():
            found = [shapes.loss(NO_SCANS, seeded(1000 + each), 0.0) for each in range(4)]
        return sum(float(loss) for loss, _ in found) / 4, sum(float(each["right"]) for _, each in found) / 4

    before = unseen()
    optimizer = torch.optim.AdamW(
        [each for each in shapes.modules.parameters() if each.requires_grad], lr=3e-3
    )
    for step in range(20):
        loss, _ = shapes.loss(NO_SCANS, seeded(step), step / 20)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        shapes.after_step(step / 20)
    after = unseen()
    assert after[0] < 0.9 * before[0]
    assert after[1] > before[1] + 0.03


# The moving average.


def test_the_average_starts_as_a_copy_and_not_as_the_same_tensors() -> None:
    modules = method().modules
    average, network = modules["average"].state_dict(), modules["network"].state_dict()
    assert average.keys() == network.keys()
    for name, tensor in average.items():
        assert torch.equal(tensor, network[name])
        assert tensor.data_ptr() != network[name].data_ptr()
    assert not any(each.requires_grad for each in modules["average"].parameters())


def test_the_average_follows_by_its_momentum_exactly() -> None:
    shapes = method(replace(SMALL, ema_decay=0.75))
    average, network = (shapes.modules[name].encoder[0].conv1.conv.weight for name in ("average", "network"))
    before = average.detach().clone()
    with torch.no_grad():
        network += 1
    shapes.after_step(0.5)
    assert torch.allclose(average, before + 0.25, atol=1e-6)
    assert torch.allclose(network, before + 1, atol=1e-6)


def test_nothing_of_the_network_stays_behind_the_average() -> None:
    """Buffers (running statistics) would: only parameters follow."""
    assert not list(method().modules["network"].buffers())


# As a method of the engine.


def test_it_is_found_by_its_name_and_not_offered_for_a_user_s_scans() -> None:
    assert find("shapes") is Shapes
    assert "shapes" not in METHODS
    assert not needs_scans("shapes")
    assert "shapes" not in {name for name, _, _ in recipes.pretrainings()}


def test_the_recipe_s_settings_are_those_of_the_method() -> None:
    loop, own = settings_for("shapes-quick", {}, ShapesSettings, plan())
    recipe = recipes.read("shapes-quick")
    assert {name: getattr(loop, name) for name in recipe.loop} == recipe.loop
    assert set(recipe.method) <= {field.name for field in fields(own)}


def test_what_others_start_from_is_all_of_the_network_but_its_head() -> None:
    names = method().modules["network"].state_dict()
    rest = {name for name in names if not name.startswith(Shapes.TRANSFERS)}
    assert rest == {name for name in names if name.startswith("head.")}


def test_short_memory_halves_what_a_step_sees() -> None:
    shapes = method(small=plan(patch_vox=(3, 32, 32), batch=16))
    whole = len(shapes.pairs(seeded())[0])
    less = patch_size.smaller(shapes.plan, least_batch=2)
    assert less is not None
    shapes.plan = less
    assert len(shapes.pairs(seeded())[0]) == whole // 2


JOB: dict[str, Any] = {
    "precision": "fp32",
    "threads": 1,
    "patch": [3, 32, 32],
    "batch": 8,
    "sizes": [16, 32],
    "ema_decay": 0.9,
}
STEPS = 6


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project without any scan."""
    return Project.create(tmp_path / "project")


def job(project: Project, **changes: Any) -> PretrainJob:
    common = {
        "project": str(project.root),
        "method": "shapes",
        "steps": STEPS,
        "device": "cpu",
        "settings": JOB,
    }
    return PretrainJob(**{**common, **changes})


def weights(project: Project, made: dict[str, Any]) -> dict[str, Tensor]:
    return checkpoint.load(project.run(made["run"]).checkpoint)[0]


def test_a_run_without_any_scan_trains_and_leaves_checkpoint_and_card(project: Project) -> None:
    events = Events()
    made = run(job(project), events)
    assert made == {**made, "step": STEPS, "stopped": False}
    assert isinstance(events[0], Started)
    assert [each.step for each in events.of(Checkpoint)] == [0, STEPS]
    assert {"loss", "fine", "right", "right_coarse"} <= events.of(Metric)[-1].values.keys()
    tensors, card = checkpoint.load(project.run(made["run"]).checkpoint)
    assert {name: card[name] for name in ("kind", "method", "scans", "step")} == {
        "kind": "pretrain",
        "method": "shapes",
        "scans": [],
        "step": STEPS,
    }
    assert card["plan"]["patch_vox"] == [3, 32, 32]
    start = build(load_network(project.run(made["run"]).checkpoint)[1], 3, 0).state_dict()
    moved = [name for name in start if not torch.equal(tensors[f"modules.network.{name}"], start[name])]
    assert {name.split(".")[0] for name in moved} == {"encoder", "decoder"}


def test_what_is_loaded_of_a_run_is_its_average(project: Project) -> None:
    made = run(job(project, steps=2))
    tensors = weights(project, made)
    network, _, _ = load_network(project.run(made["run"]).checkpoint)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, tensors[f"modules.average.{name}"])
    name = "encoder.0.conv1.conv.weight"
    assert not torch.equal(tensors[f"modules.average.{name}"], tensors[f"modules.network.{name}"])


def test_the_same_job_gives_bit_identical_weights_and_another_seed_others(project: Project) -> None:
    runs = []
    for torch_seed, seed in ((1, 0), (2, 0), (1, 1)):
        torch.manual_seed(torch_seed)
        runs.append(weights(project, run(job(project, steps=2, seed=seed))))
    one, two, three = runs
    assert not [name for name in one if not torch.equal(one[name], two[name])]
    name = "modules.network.encoder.0.conv1.conv.weight"
    assert not torch.equal(one[name], three[name])


@pytest.mark.parametrize("stopped_at", [1, 4])
def test_a_stopped_and_resumed_run_equals_the_uninterrupted_one(project: Project, stopped_at: int) -> None:
    whole = run(job(project))
    part = run(job(project), should_stop=stop_after(stopped_at))
    assert (part["stopped"], part["step"]) == (True, stopped_at)
    events = Events()
    resumed = run(PretrainJob(project=str(project.root), resume=part["run"]), events)
    assert resumed == {**resumed, "run": part["run"], "step": STEPS, "stopped": False}
    assert any(f"step {stopped_at}" in notice.text for notice in events.of(Notice))
    one, two = weights(project, whole), weights(project, part)
    assert one.keys() == two.keys()
    assert not [name for name in one if not torch.equal(one[name], two[name])]
