"""Where the features say "the same": exact cosines, the right cells, and no stale features."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from medssl.core.errors import UserError
from medssl.core.features.similarity import (
    FORMAT,
    FeatureCache,
    combine,
    open_features,
    query_at,
    similarity,
    similarity_slice,
    write_features,
)
from medssl.core.files import write_array
from medssl.core.json_files import write_json
from medssl.core.project.project import Project

STEP = (1, 2, 2)


@pytest.fixture
def cache(small_project: Project) -> FeatureCache:
    """Random unit vectors for the small project's scan, cached and opened again."""
    scan, run = next(iter(small_project.scans)), small_project.new_run("pretrain", {}, "pgl").id
    write_features(small_project, scan, run, unit_vectors(small_project), STEP)
    return open_features(small_project, scan, run)


def unit_vectors(project: Project, numbers: int = 8) -> np.ndarray:
    """(Z', Y', X', F) float16 on the grid of the first scan with STEP."""
    scan = next(iter(project.scans.values()))
    cells = [-(-length // step) for length, step in zip(scan.geometry.shape_zyx, STEP, strict=True)]
    vectors = np.random.default_rng(0).standard_normal((*cells, numbers))
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float16)


def test_a_voxel_is_most_like_itself(cache: FeatureCache) -> None:
    cosines = similarity(cache, query_at(cache, (3, 5, 6)))
    assert np.unravel_index(cosines.argmax(), cosines.shape) == cache.cell_of((3, 5, 6))
    assert cosines.max() == pytest.approx(1, abs=1e-3)


def test_several_places_that_are_meant_count_alike() -> None:
    one, other = np.eye(3)[:2]
    assert combine([one, other]) == pytest.approx(np.array([1, 1, 0]) / np.sqrt(2), abs=1e-6)


def test_what_is_not_meant_has_nothing_left_of_it() -> None:
    like, unlike = np.array([0.8, 0.6, 0]), np.array([[0.6, 0.8, 0], [0.6, 0, 0.8]])
    query = combine([like], list(unlike))
    assert unlike @ query == pytest.approx([0, 0], abs=1e-6)
    assert like @ query > 0 and np.linalg.norm(query) == pytest.approx(1, abs=1e-6)


def test_what_is_unlike_anyway_changes_nothing() -> None:
    like = np.array([1.0, 0, 0])
    assert combine([like], [np.array([-0.6, 0.8, 0])]) == pytest.approx(like, abs=1e-6)


@pytest.mark.parametrize(
    ("like", "unlike", "code"), [([], [(1, 0)], "no-points"), ([(1, 0)], [(1, 0)], "same")]
)
def test_clicks_that_cancel_out_are_one_sentence(like: list, unlike: list, code: str) -> None:
    with pytest.raises(UserError) as error:
        combine([np.array(each, float) for each in like], [np.array(each, float) for each in unlike])
    assert error.value.code == code


def test_cosines_are_those_of_float64(cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "medssl.core.features.similarity.CELLS_AT_ONCE", 7
    )  # several chunks, the last one not full
    query = query_at(cache, (0, 0, 0))
    exact = cache.array.astype(np.float64) @ query.astype(np.float64)
    assert similarity(cache, query) == pytest.approx(exact, abs=1e-5)


def test_the_length_of_a_query_does_not_matter(cache: FeatureCache) -> None:
    query = query_at(cache, (1, 2, 3))
    assert similarity(cache, 5 * query) == pytest.approx(similarity(cache, query), abs=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_is_that_of_the_whole(cache: FeatureCache, axis: int) -> None:
    query = query_at(cache, (2, 3, 4))
    whole = np.take(similarity(cache, query), 5 // STEP[axis], axis=axis)
    assert similarity_slice(cache, query, axis, 5) == pytest.approx(whole, abs=1e-6)


def test_every_voxel_lies_in_the_cell_with_the_nearest_centre(cache: FeatureCache) -> None:
    for axis, length in enumerate(cache.shape_zyx):
        centres = (np.arange(cache.array.shape[axis]) + 0.5) * STEP[axis] - 0.5
        for at in range(length):
            voxel = [at if other == axis else 0 for other in range(3)]
            assert abs(centres[cache.cell_of(voxel)[axis]] - at) == pytest.approx(abs(centres - at).min())


def test_every_cell_holds_the_voxel_that_stands_for_it(cache: FeatureCache) -> None:
    for cell in np.ndindex(*cache.array.shape[:3]):
        assert cache.cell_of(cache.voxel_of(cell)) == cell


@pytest.mark.parametrize("voxel", [(-1, 0, 0), (0, 0, 99)])
def test_a_voxel_outside_is_refused(cache: FeatureCache, voxel: tuple[int, int, int]) -> None:
    with pytest.raises(UserError) as error:
        query_at(cache, voxel)
    assert error.value.code == "outside"


def test_features_stay_on_disk(cache: FeatureCache) -> None:
    assert isinstance(cache.array, np.memmap)


def refused(project: Project, cache: FeatureCache) -> str:
    """What opening says after something was changed."""
    with pytest.raises(UserError) as error:
        open_features(project, cache.scan, cache.run)
    assert error.value.code == "no-features"
    return str(error.value)


def test_features_that_were_never_computed_are_refused(small_project: Project) -> None:
    run = small_project.new_run("pretrain", {}, "pgl")
    with pytest.raises(UserError, match="no features"):
        open_features(small_project, next(iter(small_project.scans)), run.id)


def test_features_of_earlier_weights_are_refused(small_project: Project, cache: FeatureCache) -> None:
    small_project.run(cache.run).checkpoint.write_bytes(b"trained further")
    assert "outdated" in refused(small_project, cache)


def test_features_of_another_image_are_refused(small_project: Project, cache: FeatureCache) -> None:
    about = feature_files(small_project, cache)[1]
    about.write_text(about.read_text().replace(small_project.scans[cache.scan].sha256, "0" * 64))
    assert "outdated" in refused(small_project, cache)


def test_features_made_in_another_way_are_refused(small_project: Project, cache: FeatureCache) -> None:
    """Those of versions before knew no format; smoothed and sharp ones do not go together."""
    about = feature_files(small_project, cache)[1]
    known = json.loads(about.read_text())
    assert known.pop("format") == FORMAT
    about.write_text(json.dumps(known))
    assert "outdated" in refused(small_project, cache)


def test_features_on_another_grid_are_refused(small_project: Project, cache: FeatureCache) -> None:
    write_array(feature_files(small_project, cache)[0], np.asarray(cache.array[1:]))
    assert "outdated" in refused(small_project, cache)


@pytest.mark.parametrize("which", [0, 1], ids=["array", "about"])
def test_damaged_features_are_refused(small_project: Project, cache: FeatureCache, which: int) -> None:
    path = feature_files(small_project, cache)[which]
    path.write_bytes(path.read_bytes()[:40])
    assert "damaged" in refused(small_project, cache)


def test_a_changed_cell_is_found_and_then_known_to_those_who_cannot_wait(
    small_project: Project, cache: FeatureCache
) -> None:
    changed = np.array(cache.array)
    changed[0, 0, 0, 0] += 1
    np.save(feature_files(small_project, cache)[0], changed)
    open_features(small_project, cache.scan, cache.run, verify=False)
    assert "damaged" in refused(small_project, cache)
    with pytest.raises(UserError, match="damaged"):
        open_features(small_project, cache.scan, cache.run, verify=False)


def test_features_of_a_version_that_stored_no_hash_are_read(
    small_project: Project, cache: FeatureCache
) -> None:
    about = feature_files(small_project, cache)[1]
    known = json.loads(about.read_text())
    del known["sha256"]
    about.write_text(json.dumps(known))
    assert open_features(small_project, cache.scan, cache.run).step_vox == cache.step_vox


@pytest.mark.parametrize("about", [[], {}, {"step_vox": [0, 0, 0]}, {"step_vox": "abc"}])
def test_an_about_file_that_says_nonsense_is_refused(
    small_project: Project, cache: FeatureCache, about: object
) -> None:
    write_json(feature_files(small_project, cache)[1], about)
    assert "damaged" in refused(small_project, cache)


def feature_files(project: Project, cache: FeatureCache) -> tuple[Path, Path]:
    """The array and the JSON beside it."""
    path = project.root / "features" / f"{cache.scan}-{cache.run}.npy"
    return path, path.with_suffix(".json")
