"""Numbers of the classes in the files that clients send and receive.

3D Slicer gives the first name in a list the value 1, the second the value 2, and so on, whatever it is told;
OHIF numbers its segments by a list, too. So the numbers here are places in the list of classes, sorted by id.
Where the ids are 1, 2, 3, ..., they are the ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medssl.core.errors import UserError
from medssl.core.project.contents import LabelClass
from medssl.core.project.names import valid_class_name
from medssl.core.typed import convert

MAX_INFO = 254
"""Entries in a client's list of labels."""


def numbers(classes: Sequence[LabelClass]) -> dict[int, int]:
    """{class id: number}."""
    return {class_id: number for number, class_id in enumerate(sorted(item.id for item in classes), 1)}


def names(classes: Sequence[LabelClass]) -> dict[str, int]:
    """{class name: number}, by number."""
    by_id = numbers(classes)
    return {item.name: by_id[item.id] for item in sorted(classes, key=lambda item: item.id)}


def names_by_value(label_info: Any, values: Sequence[int], classes: Sequence[LabelClass]) -> dict[int, str]:
    """Names of the values of a label file.

    Args:
        label_info: What the client says of them, [{"name": "liver", "idx": 1}, ...]; None or [] for nothing,
            then the values are numbers of the project's classes.
        values: Values that occur, without 0.
        classes: Classes of the project.

    Raises:
        UserError: "bad-label-info" if it is no such list, or leaves a value without a name.
    """
    named = _given(label_info) or {number: name for name, number in names(classes).items()}
    unnamed = [value for value in values if value not in named]
    if unnamed:
        raise UserError(
            f"The label file has the value {unnamed[0]}, which no class has and label_info does not name; "
            'remove a segment "background" if there is one, and submit again.',
            code="bad-label-info",
        )
    _check_gap(named, values)
    return {value: named[value] for value in values}


def _given(label_info: Any) -> dict[int, str]:
    entries = convert(list[dict[str, Any]], label_info or [], "label_info", "bad-label-info")
    if len(entries) > MAX_INFO:
        raise UserError(
            f"label_info has {len(entries)} labels; send at most {MAX_INFO}.", code="bad-label-info"
        )
    named: dict[int, str] = {}
    for entry in entries:
        value, name = entry.get("idx"), entry.get("name")
        valid = valid_class_name(name) if isinstance(name, str) else ""
        if type(value) is not int or value < 1 or not valid or value in named:
            raise UserError(
                "label_info has an entry without a name and a number of its own; send "
                '[{"name": "liver", "idx": 1}, ...].',
                code="bad-label-info",
            )
        named[value] = valid
    return named


def _check_gap(named: dict[int, str], values: Sequence[int]) -> None:
    """Refuse a list with a gap that may be 3D Slicer's.

    There a segment "background", which it leaves out, shifts the numbers in label_info, but not those in the
    file.
    """
    count = len(named)
    has_gap = sorted(named) != list(range(1, count + 1))
    if has_gap and max(values) <= count:
        raise UserError(
            "label_info leaves out a number, so it is unclear which names the values have; remove the "
            'segment "background" if there is one, and submit again.',
            code="bad-label-info",
        )
