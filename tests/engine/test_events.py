"""Events: one line each, and the same on the other side."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from medssl.core.errors import UserError
from medssl.core.events import (
    Checkpoint,
    Done,
    Event,
    Failed,
    Metric,
    Notice,
    Preview,
    Progress,
    SliceInView,
    SlicePreview,
    Started,
    from_line,
    to_line,
)

EVENTS: list[Event] = [
    Started("0001-pretrain-pgl", {"dims": 2}, ["thick slices"]),
    Progress("train", 0.5, 100, 12.5),
    Progress("train", 0.0),
    Metric(3, {"loss": 0.7, "dice": 0.8}),
    Preview("scan", "/tmp/with space.npz"),
    SlicePreview.of(SliceInView("scan", 0, 4), np.eye(3, 5, dtype=np.uint8)),
    Checkpoint(100, "runs/0001-pretrain-pgl/checkpoint.safetensors"),
    Notice("Zwei Zeilen:\nund \u2028 Ümläute"),
    Done(True, {"run": "0001-pretrain-pgl"}),
    Failed("disk-full", "The disk is full."),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_comes_back_from_its_line(event: Event) -> None:
    assert from_line(to_line(event)) == event


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_is_one_line_of_ascii(event: Event) -> None:
    assert to_line(event).isascii()
    assert to_line(event).splitlines() == [to_line(event)]


def test_a_line_says_which_event_it_is() -> None:
    assert json.loads(to_line(Notice("text"))) == {"event": "notice", "text": "text"}


def test_a_loss_that_is_no_number_is_told_all_the_same() -> None:
    event = from_line(to_line(Metric(3, {"loss": math.nan})))
    assert isinstance(event, Metric) and math.isnan(event.values["loss"])


@pytest.mark.parametrize(
    "line",
    [
        "",
        "Epoch 1/10",
        "[]",
        "3",
        "null",
        "{}",
        '{"event": "unknown"}',
        '{"event": []}',
        '{"event": "notice"}',
        '{"event": "notice", "text": "a", "more": 1}',
        '{"event": "notice", "text": 3}',
        '{"event": "progress", "phase": "train", "fraction": "half"}',
        '{"event": "metric", "step": 1, "values": {"loss": "low"}}',
        '{"event": "notice", "text": "cut o',
        "[" * 100_000,
    ],
    ids=range(15),
)
def test_anything_else_is_refused(line: str) -> None:
    with pytest.raises(UserError) as error:
        from_line(line)
    assert error.value.code == "bad-event"
    assert len(str(error.value)) < 300


def test_the_labels_of_a_slice_preview_come_back() -> None:
    labels = np.random.default_rng(0).integers(0, 255, (7, 11)).astype(np.uint8)
    event = from_line(to_line(SlicePreview.of(SliceInView("scan", 2, 4), labels)))
    assert isinstance(event, SlicePreview)
    assert (event.scan, event.axis, event.index) == ("scan", 2, 4)
    assert np.array_equal(event.labels(), labels)


def test_a_slice_preview_of_a_large_scan_is_a_short_line() -> None:
    rows, columns = np.ogrid[:512, :512]
    disc = ((rows - 256) ** 2 + (columns - 256) ** 2 < 90**2).astype(np.uint8)
    assert len(to_line(SlicePreview.of(SliceInView("scan", 0, 4), disc))) < 8_000


@pytest.mark.parametrize("packed", ["", "????", "AAAA", "abc"])
def test_a_damaged_slice_preview_is_refused_when_it_is_looked_at(packed: str) -> None:
    with pytest.raises(UserError, match="damaged"):
        SlicePreview("scan", 0, 4, (3, 5), packed).labels()


def test_the_slice_on_the_screen_is_a_line() -> None:
    place = SliceInView("a scan, ü", 1, 12)
    assert place.to_line().isascii()
    assert SliceInView.from_line(place.to_line() + "\n") == place
