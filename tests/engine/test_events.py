"""Events: one line each, and the same on the other side."""

from __future__ import annotations

import json
import math

import pytest
from medssl.errors import UserError
from medssl.events import (
    Checkpoint,
    Done,
    Event,
    Failed,
    Metric,
    Notice,
    Preview,
    Progress,
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
