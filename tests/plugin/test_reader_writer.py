"""Reader, writer and samples: what napari gets from files and what files get from napari."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from medssl.core.io.labels import read_labels
from medssl.core.io.volume import read_scan
from napari.layers import Image, Labels
from napari.utils import notifications

from napari_medssl import layers
from napari_medssl.io import label_layers, reader, samples, writer

AFFINE = np.array([[-1.5, 0.1, 0, 20], [0.1, -1.5, 0.2, -30], [0, 0.2, 4, 7], [0, 0, 0, 1.0]])


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """Sentences that the user was shown."""
    sentences: list[str] = []
    monkeypatch.setattr(notifications, "show_error", sentences.append)
    return sentences


@pytest.fixture
def scan(tmp_path) -> Path:
    path = tmp_path / "head.nii.gz"
    values = np.random.default_rng(0).normal(size=(12, 10, 8)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, AFFINE), path)
    return path


def test_a_scan_becomes_an_image_in_mm(scan):
    ((data, kwargs, kind),) = reader.get_reader(str(scan))(str(scan))
    assert kind == "image" and data.shape == (8, 10, 12) and kwargs["name"] == "head"
    assert layers.file_of(Image(data, **kwargs)) == scan


def test_other_files_are_left_to_others(tmp_path):
    assert reader.get_reader(str(tmp_path / "a.gz")) is None
    assert reader.get_reader([str(tmp_path / "a.nii"), str(tmp_path / "a.png")]) is None


def test_a_bad_file_is_one_sentence_and_the_good_one_is_shown(scan, said, tmp_path):
    bad = tmp_path / "cut.nii.gz"
    bad.write_bytes(scan.read_bytes()[:500])
    shown = reader.read([str(bad), str(scan)])
    assert [kwargs["name"] for _, kwargs, _ in shown] == ["head"]
    assert len(said) == 1 and "cut.nii.gz" in said[0]


def test_only_bad_files_show_nothing_and_raise_nothing(said, tmp_path):
    bad = tmp_path / "flat.nii"
    nibabel.save(nibabel.Nifti1Image(np.zeros((5, 5), np.float32), np.eye(4)), bad)
    assert reader.read(str(bad)) == [(None,)] and len(said) == 1


def test_a_label_file_becomes_labels(scan, tmp_path):
    volume = read_scan(scan)
    labels = np.zeros(volume.array.shape, np.uint8)
    labels[3:5, 2:6, 4:8] = 2
    path = str(tmp_path / "out.nii.gz")
    attributes = {"metadata": layers.metadata("labels", volume.geometry)}
    assert writer.write_labels(path, labels, attributes) == [path]
    ((data, _, kind),) = reader.read(path)
    assert kind == "labels" and np.array_equal(data, labels)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_labels_are_written_on_the_grid_of_their_scan(scan, tmp_path, suffix):
    volume = read_scan(scan)
    labels = np.random.default_rng(0).integers(0, 3, volume.array.shape).astype(np.uint8)
    data, kwargs, _ = layers.labels_data(labels, volume.geometry, "labels")
    path = tmp_path / f"out{suffix}"
    writer.write_labels(str(path), *Labels(data, **kwargs).as_layer_data_tuple()[:2])
    back = read_labels(path)
    assert np.array_equal(back.array, labels)
    assert np.allclose(back.geometry.affine, volume.geometry.affine, atol=1e-4)


def test_sure_background_is_background_in_the_file(scan, tmp_path):
    volume = read_scan(scan)
    labels = np.zeros(volume.array.shape, np.uint8)
    labels[2, 3:6, 3:6], labels[4, 1:5, 1:5] = 1, 255
    layer = layers.annotation_layer(labels, volume.geometry, "s", ())
    writer.write_labels(str(tmp_path / "a.nii.gz"), *layer.as_layer_data_tuple()[:2])
    assert set(np.unique(read_labels(tmp_path / "a.nii.gz").array)) == {0, 1}


def test_the_phantom_comes_without_a_network():
    (data, kwargs, kind), (organs, _, _) = samples.phantom_with_labels()
    assert kind == "image" and data.shape == organs.shape and layers.KEY in kwargs["metadata"]
    assert len(samples.phantom()) == 1


@pytest.mark.data
def test_a_dicom_folder_is_one_layer(data):
    folder = str(data / "robustness" / "dicom_series_ct_head_small")
    assert len(reader.get_reader(folder)(folder)) == 1


def test_names_and_large_ids_of_a_label_file_stay_with_its_layer(scan, tmp_path):
    volume = read_scan(scan)
    labels = np.zeros(volume.geometry.shape, np.int16)
    labels[3:7, 3:7, 2:5], labels[7:9, 3:7, 2:5] = 500, 205
    nibabel.save(nibabel.Nifti1Image(labels, AFFINE), tmp_path / "heart.nii.gz")
    (tmp_path / "heart.tsv").write_text("index\tname\tcolor\n205\tmyocardium\t#ff0000\n500\tblood\t#0000ff\n")
    ((data, kwargs, kind),) = reader.read(str(tmp_path / "heart.nii.gz"))
    layer = Labels(data, **kwargs)
    assert kind == "labels" and layer.data.dtype == np.int32
    assert np.allclose(layer.get_color(205), (1, 0, 0, 1))
    again = label_layers.label_volume(layer, volume.geometry)
    assert again.names == {205: "myocardium", 500: "blood"} and again.values() == [205, 500]
