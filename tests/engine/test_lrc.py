"""The properties of LRC: its labels, its place on top of a global method, its refusals."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from medssl import engine
from medssl.core import recipes
from medssl.core.errors import UserError
from medssl.core.events import Notice, Progress
from medssl.core.jobs import PretrainJob
from medssl.nn.data.crops import CropBatch, cut_targets
from medssl.nn.data.device_dataset import DeviceDataset
from medssl.nn.data.superpixels import IGNORE, SuperPixels, draw_pixels, segment_dataset
from medssl.nn.methods import find
from medssl.nn.methods.lrc import LRC, LRCSettings, branch
from medssl.nn.methods.region_contrast import region_contrast
from medssl.nn.models import checkpoint
from medssl.nn.models.unet import build
from project_parts import code_of
from scipy.ndimage import gaussian_filter
from small import Events, box, dataset, job_of, make_project, noise, plan, run, seeded
from torch import Tensor

TINY = {"hidden": 16, "dimension": 8}
SMALL = LRCSettings(base_settings=TINY, regions=6, samples=4, dimension=8, slices=8, side=48, min_size=200)
BASES = {"simclr": TINY, "byol": TINY, "moco": {**TINY, "queue": 7}}
"""The global methods and what makes them small."""


def blobs(seed: int = 0, shape: tuple[int, int, int] = (6, 32, 28)) -> Tensor:
    """A scan with smooth structure, so that superpixels have something to follow."""
    smooth = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2)
    return torch.from_numpy((smooth / smooth.std()).astype(np.float32))


def method(settings: LRCSettings = SMALL, seed: int = 0, **changes: Any) -> LRC:
    torch.manual_seed(seed)
    small = plan(2, **changes)
    return LRC(build(small, small.patch_vox[0], seed), small, settings)


def ready(
    settings: LRCSettings = SMALL, scans: DeviceDataset | None = None, **changes: Any
) -> tuple[LRC, DeviceDataset]:
    scans = dataset(blobs(0), blobs(1)) if scans is None else scans
    lrc = method(settings, **changes)
    lrc.prepare(scans, Events())
    return lrc, scans


# Labels under views.


def cut_labels(views: CropBatch, scans: SuperPixels) -> Tensor:
    return cut_targets(scans.dataset, views, plan(2), fill_value=IGNORE)


def prepared() -> SuperPixels:
    found = segment_dataset(dataset(blobs()), SMALL.superpixel_params(), 6)
    assert found is not None
    return found


def test_warped_labels_are_original_ones_or_ignored_beyond_the_scan() -> None:
    found = prepared()
    original = set(found.dataset.targets[0][2].unique().tolist())
    turned = box((2, 16, 14), (3, 40, 40), step=(1, 0.7, 1.3), flip=(False, True, False), angle=0.4)
    labels = cut_labels(turned, found)
    assert set(labels.unique().tolist()) <= original | {IGNORE}
    assert len(labels.unique()) > 3
    corner = cut_labels(box((2, 0.5, 0.5), (3, 16, 16)), found)
    assert (corner[0, :7] == IGNORE).all()
    assert (corner[0, :, :7] == IGNORE).all()
    assert torch.equal(corner[0, 7:, 7:], found.dataset.targets[0][2][:9, :9].long())


def test_flipping_image_and_labels_together_leaves_the_loss_as_it_is() -> None:
    """The same pixels of a feature map that is flipped with its label map."""
    found = prepared()
    plain = cut_labels(box((2, 15.5, 13.5), (3, 16, 16)), found)
    flipped = cut_labels(box((2, 15.5, 13.5), (3, 16, 16), flip=(False, False, True)), found)
    assert torch.equal(flipped, plain.flip(-1))
    features = torch.randn(8, 16, 16, generator=seeded())
    at, valid = draw_pixels(plain, found.regions, 4, 4, seeded())
    mirrored = at // 16 * 16 + 15 - at % 16
    assert torch.equal(flipped.flatten()[mirrored], plain.flatten()[at])
    losses = [
        region_contrast(each.flatten(1).T[where], valid, 0.1)[0]
        for each, where in ((features, at), (features.flip(-1), mirrored))
    ]
    assert torch.equal(*losses)


def test_the_middle_channel_is_the_slice_of_the_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medssl.nn.methods.lrc.change_intensity", lambda image, *settings: image)
    lrc, _ = ready()
    number = dataset(*(torch.arange(6.0)[:, None, None].expand(6, 32, 28).contiguous() for _ in range(2)))
    found = lrc.superpixels
    assert found is not None
    slices = (torch.tensor([1, 3]), torch.tensor([0, 4, 5]))
    maps = [each.to(torch.int16)[:, None, None].expand(-1, 32, 28).contiguous() for each in slices]
    lrc.superpixels = replace(found, dataset=replace(number, targets=tuple(maps)), slices=slices)
    lrc.plan = plan(2, batch=50)
    images, labels = lrc.views(seeded())
    for image, numbers in zip(images, labels, strict=True):
        (expected,) = set(numbers.unique().tolist()) - {IGNORE}
        assert torch.allclose(image[1], torch.tensor(float(expected)))
    assert set(labels.unique().tolist()) - {IGNORE} == {0, 1, 3, 4, 5}


def test_super_pixels_are_cut_in_the_unchanged_slice() -> None:
    lrc, scans = ready()
    again = segment_dataset(scans, SMALL.superpixel_params(), SMALL.slices)
    assert again is not None
    assert lrc.superpixels is not None
    assert all(map(torch.equal, lrc.superpixels.dataset.targets, again.dataset.targets))
    lrc.loss(scans, seeded(), 0.0)
    assert all(map(torch.equal, lrc.superpixels.dataset.targets, again.dataset.targets))


# The method.


@pytest.mark.parametrize("base", BASES)
def test_without_weight_it_is_the_global_method_bit_for_bit(base: str) -> None:
    scans = dataset(blobs(0), blobs(1))
    kind = find(base)
    settings = replace(SMALL, base=base, base_settings=BASES[base], local_weight=0.0)  # type: ignore[arg-type]
    lrc = method(settings)
    torch.manual_seed(0)
    small = plan(2)
    quick = kind.Settings(**{**recipes.read(f"{base}-quick").method, **BASES[base]})
    alone = kind(build(small, small.patch_vox[0], 0), small, quick)
    histories = []
    for each in (lrc, alone):
        generator = seeded(3)
        each.prepare(scans, Events())
        trained = [every for every in each.modules.parameters() if every.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-3)
        losses = []
        for _ in range(4):
            loss, _ = each.loss(scans, generator, 0.2)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            each.after_step(0.2)
            losses.append(loss.item())
        histories.append((losses, generator.get_state(), each.modules.state_dict()))
    (one, state, weights), (two, other_state, others) = histories
    assert one == two
    assert torch.equal(state, other_state)
    assert all(torch.equal(weights[name], each) for name, each in others.items())


@pytest.mark.parametrize("base", BASES)
def test_the_local_loss_changes_nothing_that_the_global_method_draws(base: str) -> None:
    settings = replace(SMALL, base=base, base_settings=BASES[base])  # type: ignore[arg-type]
    with_local, scans = ready(settings)
    without, _ = ready(replace(settings, local_weight=0.0))
    generators = seeded(3), seeded(3)
    both, numbers = with_local.loss(scans, generators[0], 0.0)
    alone, _ = without.loss(scans, generators[1], 0.0)
    assert torch.equal(numbers["global"], alone.detach())
    assert torch.equal(generators[0].get_state(), generators[1].get_state())
    assert both.item() == pytest.approx(alone.item() + numbers["local"].item())
    assert numbers["local"] > 0


def test_a_branch_of_a_generator_leaves_it_as_it_was_and_differs_from_it_and_from_step_to_step() -> None:
    generator = seeded()
    state = generator.get_state()
    first, again = (torch.rand(8, generator=branch(generator)) for _ in range(2))
    assert torch.equal(generator.get_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(torch.rand(8, generator=generator), first)
    assert not torch.equal(torch.rand(8, generator=branch(generator)), first)


def test_the_weight_scales_the_local_gradient() -> None:
    gradients = []
    for weight in (1.0, 3.0):
        lrc, scans = ready(replace(SMALL, local_weight=weight))
        lrc.loss(scans, seeded(), 0.0)[0].backward()
        gradients.append(lrc.modules["local"][0].weight.grad)
    assert gradients[0].abs().max() > 0
    assert torch.allclose(3 * gradients[0], gradients[1], rtol=1e-4)


def test_the_local_loss_reaches_encoder_and_decoder() -> None:
    lrc, _ = ready()
    loss, skipped = lrc.local(seeded())
    loss.backward()
    network = lrc.modules["network"]
    assert skipped == 0
    for part in (network.encoder, network.decoder, lrc.modules["local"]):
        grads = [each.grad for each in part.parameters()]
        assert all(each is not None and each.isfinite().all() for each in grads)
        assert sum(each.abs().sum() for each in grads) > 0
    assert all(each.grad is None for each in network.head.parameters())


def test_projecting_the_drawn_pixels_is_projecting_all_and_then_drawing() -> None:
    lrc, _ = ready()
    features = torch.randn(2, 4, 8, 8, generator=seeded())
    first, _, last = lrc.modules["local"]
    convolved = torch.nn.functional.conv2d(features, first.weight[..., None, None], first.bias).relu()
    convolved = torch.nn.functional.conv2d(convolved, last.weight[..., None, None], last.bias)
    assert torch.allclose(lrc.modules["local"](features.movedim(1, -1)).movedim(-1, 1), convolved, atol=1e-6)


def test_a_halved_batch_reaches_the_global_method_and_the_local_views() -> None:
    lrc, scans = ready()
    lrc.plan = replace(lrc.plan, batch=2)
    assert lrc.base.plan.batch == 2
    assert len(lrc.views(seeded())[0]) == 2
    assert lrc.loss(scans, seeded(), 0.0)[0].isfinite()


@pytest.mark.parametrize("base", BASES)
def test_it_runs_on_each_global_method_and_its_parts_are_reported(base: str) -> None:
    settings = replace(SMALL, base=base, base_settings=BASES[base])  # type: ignore[arg-type]
    lrc, scans = ready(settings)
    assert type(lrc.base) is find(base)
    loss, numbers = lrc.loss(scans, seeded(), 0.0)
    assert loss.isfinite()
    assert {"global", "local", "skipped", "feature_std"} <= numbers.keys()


def test_mixed_precision_gives_a_finite_loss() -> None:
    lrc, scans = ready()
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = lrc.loss(scans, seeded(), 0.0)
    loss.backward()
    assert loss.isfinite()


def test_scans_of_different_sizes_and_spacings_make_one_batch() -> None:
    shapes = ((6, 32, 28), (3, 17, 40), (1, 50, 50))
    spacings = ((1.0, 1.0, 1.0), (3.0, 0.8, 0.8), (1.0, 1.5, 0.7))
    scans = replace(dataset(*map(blobs, range(3), shapes)), spacing_mm=spacings)
    lrc, _ = ready(scans=scans)
    assert lrc.loss(scans, seeded(), 0.0)[0].isfinite()


def test_views_with_one_region_are_skipped_and_said_so() -> None:
    lrc, _ = ready()
    assert lrc.superpixels is not None
    flat = tuple(torch.zeros_like(each) for each in lrc.superpixels.dataset.targets)
    lrc.superpixels = replace(lrc.superpixels, dataset=replace(lrc.superpixels.dataset, targets=flat))
    loss, skipped = lrc.local(seeded())
    loss.backward()
    assert (loss.item(), skipped.item()) == (0, 1)
    assert all((each.grad == 0).all() for each in lrc.modules["network"].decoder.parameters())


def test_training_brings_the_local_loss_down() -> None:
    """On one batch, again and again."""
    lrc, scans = ready()
    optimizer = torch.optim.AdamW([each for each in lrc.modules.parameters() if each.requires_grad], lr=1e-2)
    losses = []
    for _ in range(25):
        loss, numbers = lrc.loss(scans, seeded(), 0.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(numbers["local"].item())
    assert math.fsum(losses[-5:]) < 0.8 * math.fsum(losses[:5])


# Before the first step.


def test_preparing_says_how_many_slices_were_cut_and_how_far_it_is() -> None:
    events = Events()
    method(replace(SMALL, slices=8)).prepare(dataset(blobs(0), blobs(1)), events)
    assert events.of(Notice)[-1].text.startswith("8 of 12 slices")
    assert events.of(Progress)[-1].phase == "superpixels"
    assert events.of(Progress)[-1].fraction == 1


def test_stopped_while_slices_are_cut_it_leaves_a_checkpoint_to_go_on_from(tmp_path: Path) -> None:
    project, events = make_project(tmp_path, seeds=(0, 1, 2)), Events()
    job = job_of("lrc", project)
    stopped = engine.run(job, events, lambda: bool(events.of(Progress)))
    assert (stopped["stopped"], stopped["step"]) == (True, 0)
    assert not any("superpixels" in notice.text for notice in events.of(Notice))
    assert run(replace(job, resume=stopped["run"]))["step"] == job.steps


def test_without_weight_nothing_is_cut() -> None:
    events = Events()
    lrc = method(replace(SMALL, local_weight=0.0))
    lrc.prepare(dataset(blobs(0)), events)
    assert not events.of(Progress)
    assert lrc.superpixels is None


def test_scans_without_any_super_pixel_are_refused() -> None:
    with pytest.raises(UserError) as error:
        method().prepare(dataset(torch.zeros(5, 30, 30), torch.ones(5, 30, 30)), Events())
    assert code_of(error) == "no-regions"


def test_3d_is_refused() -> None:
    small = plan(3)
    lrc = LRC(build(small, 1, 0), small, SMALL)
    with pytest.raises(UserError) as error:
        lrc.prepare(dataset(noise((16, 32, 32))), Events())
    assert code_of(error) == "not-2d"
    assert "dims=2" in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("regions", 1), ("samples", 1), ("slices", 0), ("side", 0), ("scale", 0.0), ("temperature", 0)],
)
def test_settings_that_leave_nothing_to_contrast_are_refused(name: str, value: float) -> None:
    with pytest.raises(UserError) as error:
        method(replace(SMALL, **{name: value})).prepare(dataset(blobs()), Events())
    assert code_of(error) == "bad-job"
    assert name in str(error.value)


def test_settings_that_the_global_method_does_not_know_are_refused() -> None:
    with pytest.raises(UserError, match="base_settings") as error:
        method(replace(SMALL, base_settings={"depth": 3}))
    assert code_of(error) == "bad-job"


def test_a_refusal_of_the_global_method_is_one_of_ours() -> None:
    settings = replace(SMALL, base="simclr")
    with pytest.raises(UserError) as error:
        method(settings, batch=1).prepare(dataset(blobs()), Events())
    assert code_of(error) == "small-batch"


def test_a_job_without_weight_leaves_the_weights_of_the_global_methods_job(tmp_path: Path) -> None:
    """From the command down to the checkpoint, the quick recipes as they are but for smaller heads."""
    project = make_project(tmp_path, shape=(12, 24, 24))
    common = {"precision": "fp32", "threads": 1, "batch": 2}
    jobs = {
        "moco": {**common, **BASES["moco"]},
        "lrc": {**common, "local_weight": 0.0, "base_settings": BASES["moco"]},
    }
    stored = {}
    for name, settings in jobs.items():
        job = PretrainJob(project=str(project.root), steps=3, method=name, settings=settings)
        stored[name] = checkpoint.load(project.run(run(job)["run"]).checkpoint)[0]
    modules = [name for name in stored["moco"] if name.startswith(("modules.", "generator"))]
    assert modules
    assert all(torch.equal(stored["lrc"][name], stored["moco"][name]) for name in modules)
