"""Several channels of a scan: stored, resampled, trained on together, and missed in one sentence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from medssl.core.errors import UserError
from medssl.core.events import Notice
from medssl.core.features.similarity import open_features
from medssl.core.jobs import FeaturesJob, PredictJob
from medssl.core.project.annotation import Annotation
from medssl.core.project.channels import channel_names, left_out
from medssl.core.project.project import LabelClass, Project
from medssl.nn.data.augment import Intensity, change_intensity
from medssl.nn.data.crops import cut, shown
from medssl.nn.data.device_dataset import load_device_dataset
from medssl.nn.models.network_weights import copied_over_channels, of_channels
from medssl.nn.models.unet import build
from medssl.tasks.inference.slabs import neighbouring_slices
from project_parts import code_of
from small import CPU, SHAPE, Events, box, dataset, job_of, noise, plan, run, seeded, write_nifti

TWO = ("t1", "t2")


def pair(folder: Path, name: str = "p", shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> list[Path]:
    """Files of two images on one grid."""
    arrays = [np.random.default_rng(2 * seed + number).normal(size=shape) for number in range(2)]
    return [
        write_nifti(folder / f"{name}_{channel}.nii", array.astype(np.float32))
        for channel, array in zip(TWO, arrays, strict=True)
    ]


def made(folder: Path, scans: int = 2, lacking: bool = False) -> Project:
    """A project of scans with two channels, the first one annotated; of the last one t2 may be lacking."""
    project = Project.create(folder / "project", (LabelClass(1, "block", "#ff0000"),))
    for seed in range(scans):
        first, second = pair(folder, f"p{seed}", seed=seed)
        scan = project.add_scan(first, channel="t1", name=f"p{seed}")
        if not (lacking and seed == scans - 1):
            project.add_channel(scan.id, second, "t2")
    labels = np.zeros(SHAPE, np.uint8)
    labels[4:8, 6:14, 6:14] = 1
    complete = {(0, index) for index in (5, 6)}
    project.save_annotation("p0", Annotation(labels, frozenset(complete)))
    return project


# --- the project


def test_channels_are_kept_and_opened_again(tmp_path: Path) -> None:
    project = Project.open(made(tmp_path).root)
    scan = project.scans["p0"]
    assert scan.channel_names == TWO and channel_names(project.scans.values()) == TWO
    first, second = project.images("p0", TWO)
    assert first.shape == second.shape == SHAPE and not np.array_equal(first, second)
    assert np.array_equal(project.images("p0", ())[0], first)
    assert np.array_equal(project.image("p0", "t2"), second)


def test_a_project_without_channels_is_written_as_before(tmp_path: Path) -> None:
    project = Project.create(tmp_path / "project")
    project.add_scan(pair(tmp_path)[0])
    text = (project.root / "project.json").read_text()
    assert '"version": 1' in text and '"channel' not in text and '"volume' not in text
    project.add_channel("p_t1", pair(tmp_path)[1], "t2")
    assert '"version": 2' in (project.root / "project.json").read_text()  # earlier programs refuse it


@pytest.mark.parametrize("name", ["", "T2", "../x", "t1", 3])
def test_a_project_with_a_damaged_channel_is_refused(tmp_path: Path, name: object) -> None:
    path = made(tmp_path, scans=1).root / "project.json"
    value = json.loads(path.read_text())
    value["scans"][0]["channels"][0]["channel"] = name
    path.write_text(json.dumps(value))
    with pytest.raises(UserError) as error:
        Project.open(path.parent)
    assert code_of(error) == "unreadable"


def test_a_damaged_channel_is_made_again(tmp_path: Path) -> None:
    project = made(tmp_path, scans=1)
    path = project.root / "scans" / "p0.t2.npy"
    before = np.array(project.image("p0", "t2"))
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content)
    said: list[str] = []
    again = Project.open(project.root)
    again.on_notice = said.append
    assert np.array_equal(again.image("p0", "t2"), before) and "made again" in said[0]
    path.unlink()
    (tmp_path / "p0_t2.nii").unlink()
    with pytest.raises(UserError) as error:
        Project.open(project.root).image("p0", "t2")
    assert code_of(error) == "unreadable"


def test_another_grid_is_resampled_and_said(tmp_path: Path) -> None:
    """A ramp in mm stays one on a grid of other spacing, and what lies beyond is filled and said."""
    z, y, x = np.meshgrid(np.arange(20), np.arange(30), np.arange(30), indexing="ij")
    ramp = (z + 2.0 * y + 3.0 * x).astype(np.float32)
    fine = write_nifti(tmp_path / "a.nii", np.random.default_rng(0).normal(size=(30, 40, 40)), (0.5,) * 3)
    project = Project.create(tmp_path / "project")
    scan = project.add_scan(fine, modality="mr")
    added = project.add_channel(scan.id, write_nifti(tmp_path / "b.nii", ramp), "b", "mr")
    image = project.image(scan.id, "b").astype(np.float32)
    step = np.diff(image[:, 20, 20])
    assert image.shape == (30, 40, 40) and np.allclose(step, step[0], atol=2e-2) and step[0] > 0
    assert "resampled" in added.channels[0].notes[0]
    elsewhere = np.eye(4)
    elsewhere[0, 3] = 500
    nib.save(nib.Nifti1Image(ramp.T, elsewhere), tmp_path / "c.nii")
    with pytest.raises(UserError) as error:
        project.add_channel(scan.id, tmp_path / "c.nii", "c")
    assert code_of(error) == "no-overlap"


def test_each_channel_has_its_own_modality(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    ct = write_nifti(tmp_path / "ct.nii", random.normal(40, 300, SHAPE).clip(-1024, 2000).astype(np.float32))
    pet = write_nifti(tmp_path / "pet.nii", random.gamma(1, 2, SHAPE).astype(np.float32))
    project = Project.create(tmp_path / "project")
    scan = project.add_scan(ct, channel="CT")
    scan = project.add_channel(scan.id, pet, "PET")
    assert (scan.modality, scan.channels[0].modality) == ("ct", "pt")
    assert abs(float(project.image(scan.id, "pet").astype(np.float32).mean())) < 0.01  # standardised


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    project = made(tmp_path, scans=1)
    files = [tmp_path / f"p0_{name}.nii" for name in TWO]
    for path, name, code in (
        (files[0], "x", "same-image"),
        (pair(tmp_path, "q", seed=5)[0], "t2", "exists"),
        (files[1], "..", "bad-channel"),
    ):
        with pytest.raises(UserError) as error:
            project.add_channel("p0", path, name)
        assert code_of(error) == code
    with pytest.raises(UserError) as error:
        project.remove_channel("p0", "t1")
    assert code_of(error) == "first-channel"
    assert project.add_channel("p0", files[1], "t2") == project.scans["p0"]  # again
    assert project.add_scan(files[1]).id == "p0"  # a channel is no scan of its own
    project.remove_channel("p0", "t2")
    assert project.scans["p0"].channel_names == ("t1",)
    assert not (project.root / "scans" / "p0.t2.npy").exists()


def test_a_volume_of_a_4d_file_is_chosen(tmp_path: Path) -> None:
    volumes = np.random.default_rng(0).normal(size=(24, 24, 12, 3)).astype(np.float32)
    path = tmp_path / "four.nii.gz"
    nib.save(nib.Nifti1Image(volumes, np.eye(4)), path)
    project = Project.create(tmp_path / "project")
    with pytest.raises(UserError, match="--volumes"):
        project.add_scan(path)
    scan = project.add_scan(path, volume=2)
    scan = project.add_channel(scan.id, path, "other", volume=0)
    assert (scan.volume, scan.channels[0].volume) == (2, 0)
    (project.root / "scans" / "four.other.npy").unlink()
    assert Project.open(project.root).image("four", "other").shape == (12, 24, 24)
    with pytest.raises(UserError) as error:
        project.add_channel(scan.id, path, "third", volume=3)
    assert code_of(error) == "no-volume"


def test_origins_tell_channels_apart(tmp_path: Path) -> None:
    """A prediction from two channels is outdated without one of them."""
    project = made(tmp_path, scans=1)
    before = project.scans["p0"]
    project.remove_channel("p0", "t2")
    assert before.image_fingerprint != project.scans["p0"].image_fingerprint


# --- the network's input


def test_crops_of_channels_lie_side_by_side() -> None:
    one, two = noise((8, 20, 20)), noise((8, 20, 20), 1)
    both = replace(dataset(one), further=((two,),))
    views = box((4.0, 9.5, 9.5), (3, 16, 16), angle=0.3)
    channels = plan(2, channel_names=TWO)
    expected = torch.cat([shown(cut(dataset(image), views, plan(2))) for image in (one, two)], 1)
    assert torch.equal(shown(cut(both, views, channels)), expected)
    deep = box((4.0, 9.5, 9.5), (8, 16, 16))
    assert shown(cut(both, deep, plan(3, channel_names=TWO))).shape == (1, 2, 8, 16, 16)
    slices = neighbouring_slices([one, two], 2, 4, 3, CPU)
    assert torch.equal(slices[0], torch.cat([one[1:4], two[1:4]]))


def test_channels_are_augmented_independently() -> None:
    image = torch.zeros(40, 6, 4, 4)
    shift = Intensity(*[(0.0, 0.0, 0.0)] * 4, shift=(1.0, -1.0, 1.0))
    changed = change_intensity(image, shift, seeded(), channels=2)
    assert torch.equal(changed[:, 0], changed[:, 2]) and not torch.allclose(changed[:, 0], changed[:, 3])


@pytest.mark.parametrize("dims", [2, 3])
def test_weights_of_one_channel_see_the_mean_of_several(dims: int) -> None:
    one, two = plan(dims), plan(dims, channel_names=TWO)
    network = build(one, 2, 0).eval()
    wide = of_channels(network, two)
    image = torch.randn(1, two.in_channels, *one.patch_vox[3 - dims :], generator=seeded())
    mean = image.unflatten(1, (2, -1)).mean(1)
    with torch.no_grad():
        assert torch.allclose(wide(image), network(mean), atol=1e-5)
    assert copied_over_channels(network.state_dict(), network, 1).keys() == network.state_dict().keys()


def test_a_dataset_has_the_channels_of_its_plan(tmp_path: Path) -> None:
    project = made(tmp_path)
    loaded = load_device_dataset(project, ["p0", "p1"], plan(2, channel_names=("t2", "t1")), CPU)
    assert torch.equal(loaded.images[1], torch.from_numpy(np.array(project.image("p1", "t2"))).float())
    assert torch.equal(loaded.further[0][1], torch.from_numpy(np.array(project.image("p1", "t1"))).float())


# --- trainings


@pytest.mark.parametrize("kind", ["finetune", "finetune-3d", "mae", "sal", "lrc", "supervoxels", "alice"])
def test_trainings_take_all_channels_and_say_what_is_missing(tmp_path: Path, kind: str) -> None:
    project, events = made(tmp_path, scans=3, lacking=True), Events()
    result = run(job_of(kind, project, steps=4), events)
    card = project.run(result["run"]).card
    assert card["plan"]["channel_names"] == list(TWO)
    assert "p2 has no t2 and is left out; the network takes t1, t2." in [
        each.text for each in events.of(Notice)
    ]
    job = FeaturesJob(project=str(project.root), weights=result["run"], scans=("p0",), device="cpu")
    assert run(job)["scans"] == ["p0"]
    features = np.array(open_features(project, "p0", result["run"]).array)
    project.remove_channel("p0", "t2")
    project.add_channel("p0", pair(tmp_path, "other", seed=9)[1], "t2")
    run(job)
    assert not np.allclose(open_features(project, "p0", result["run"]).array, features, atol=1e-2)


def test_predictions_leave_out_what_lacks_a_channel(tmp_path: Path) -> None:
    project = made(tmp_path, scans=3, lacking=True)
    trained = run(job_of("finetune", project, steps=4, weights="shapes", predict_scans=("p2",)))["run"]
    assert "copied for each of 2" in project.run(trained).card["first_convolution"]
    job = PredictJob(project=str(project.root), weights=trained, device="cpu")
    result = run(job)
    assert result["scans"] == ["p0", "p1"] and "p2 has no t2" in result["left_out"]["p2"]
    with pytest.raises(UserError) as error:
        run(replace(job, scans=("p2",)))
    assert code_of(error) == "no-channel"


def test_the_shipped_weights_describe_scans_with_and_without_a_channel(tmp_path: Path) -> None:
    project = made(tmp_path, scans=2, lacking=True)
    job = FeaturesJob(project=str(project.root), weights="shapes", device="cpu")
    assert run(job)["scans"] == ["p0", "p1"]
    both = np.array(open_features(project, "p0", "shapes").array)
    project.remove_channel("p0", "t2")
    assert run(job)["scans"] == ["p0"]  # outdated without the channel
    assert not np.array_equal(open_features(project, "p0", "shapes").array, both)


def test_a_training_may_take_some_of_the_channels(tmp_path: Path) -> None:
    project = made(tmp_path, scans=2, lacking=True)
    job = job_of("finetune", project, steps=2)
    chosen = replace(job, settings={**job.settings, "channel_names": ["t1"]})
    result = run(chosen)
    assert project.run(result["run"]).card["plan"]["channel_names"] == ["t1"]
    unknown = replace(job, settings={**job.settings, "channel_names": ["flair"]})
    with pytest.raises(UserError, match="flair"):
        run(unknown)
    assert left_out(project.scans.values(), ("t1",)) == ""
