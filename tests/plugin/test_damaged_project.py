"""A project with damaged files opens: they are named, and the other scans and runs can be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from medssl.core.project.project import Annotation, Project

from napari_medssl.model.run_history import curves_of
from napari_medssl.model.scan_summaries import summarise_scans
from napari_medssl.model.session import Session

METRIC = b'{"event":"metric","step":1,"values":{"loss":0.5}}'


def test_a_damaged_annotation_and_run_are_named_and_the_next_scan_is_shown(
    small_project: Project, second_file: Path
) -> None:
    first, second = next(iter(small_project.scans)), small_project.add_scan(second_file).id
    shape = small_project.scans[second].geometry.shape_zyx
    small_project.save_annotation(second, Annotation(np.ones(shape, np.uint8)))
    small_project.annotation_file(first).write_bytes(b"PK")
    run = small_project.new_run("finetune", {"job": "finetune"}, "from-random")
    (run.folder / "job.json").write_bytes(b"\xff")
    session, said = Session(), []
    session.message.connect(lambda severity, text: said.append((severity, text)))
    assert session.open(small_project.root) == second
    assert session.annotated == {second} and session.scan == second
    assert [severity for severity, _ in said] == ["warning"] * 2
    assert f"{first}.npz is damaged" in said[0][1] and "job.json" in said[1][1]
    assert session.damaged == {first}
    assert [scan for scan, _ in summarise_scans(small_project, {}, session.damaged)] == [second]


def test_damage_inside_an_annotation_is_named_by_the_thread_that_reads_it_once(
    small_project: Project,
) -> None:
    scan = next(iter(small_project.scans))
    random = np.random.default_rng(0).integers(0, 3, small_project.scans[scan].geometry.shape_zyx)
    small_project.save_annotation(scan, Annotation(random.astype(np.uint8)))
    path = small_project.annotation_file(scan)
    content = bytearray(path.read_bytes())
    content[content.index(b"labels.npy") + 400] ^= 0xFF
    path.write_bytes(content)
    session, said = Session(), []
    session.message.connect(lambda severity, text: said.append(text))
    session.open(small_project.root, show=False)
    assert session.annotated == {scan} and not said, "no labels were read"
    cache: dict = {}
    (error,) = summarise_scans(small_project, cache)
    assert f"{path.name} is damaged" in str(error)
    assert not list(summarise_scans(small_project, cache))


def test_curves_are_drawn_from_a_log_with_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_bytes(b"\xff\n" + METRIC + b'\n{"event":"metric","loss":\n')
    assert curves_of(tmp_path, "loss") == [[(1, 0.5)]]
