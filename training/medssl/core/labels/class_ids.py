"""Which class of a project each value of a label file is.

A label with a name is the class of that name, whatever its value: files number their labels differently.
Without names, a value is the class that an earlier import made of it (`LabelClass.values`), otherwise the
class with this id.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from medssl.core.errors import UserError
from medssl.core.io.label_names import LabelTable
from medssl.core.labels.classes import MAX_CLASSES
from medssl.core.palette import class_color
from medssl.core.project.contents import LabelClass
from medssl.core.project.names import valid_class_name

MASK_VALUE = 255
"""Foreground of 8-bit masks, whose class no id can name."""
NEW_CLASS = 0
"""Stands for a new class among ids."""
DEFAULT_NAME = re.compile(r"(Structure|Label|Class)( \d+)?", re.ASCII)
"""Names that the program gives; a name from a file replaces them."""


@dataclass(frozen=True)
class ClassIds:
    """The classes of the values of a label file.

    Attributes:
        ids: {value: class id}.
        classes: Classes that the project does not have yet, or has with another name or without this value.
    """

    ids: dict[int, int]
    classes: tuple[LabelClass, ...] = ()


def known_ids(values: Sequence[int], table: LabelTable, classes: Sequence[LabelClass]) -> dict[int, int]:
    """Class ids of those values of a label file that are classes of the project.

    Args:
        values: Values that occur, without 0.
        table: What the file says of them.
        classes: Classes of the project.
    """
    by_name = {_key(item.name): item.id for item in reversed(classes)}
    by_id = {item.id: item for item in classes}
    ids = {
        value: by_name[_key(name)]
        for value in values
        if (name := table.names.get(value)) is not None and _key(name) in by_name
    }
    remembered = {value: item.id for item in classes for value in item.values}
    # Also the classes of projects from before values were remembered.
    labelled = {value: by_name.get(_key(f"Label {value}")) for value in values}
    for candidates in (remembered, labelled, {item.id: item.id for item in classes}):
        taken = set(ids.values())
        for value in values:
            class_id = candidates.get(value)
            if value in ids or class_id is None or class_id in taken:
                continue
            if value not in table.names or _may_be(value, by_id[class_id]):
                ids[value] = class_id
    if list(values) == [MASK_VALUE] and not ids and not table.names and len(classes) == 1:
        ids[MASK_VALUE] = classes[0].id
    return ids


def assign_ids(
    name: str,
    values: Sequence[int],
    table: LabelTable,
    classes: Sequence[LabelClass],
    reserved: Collection[int] = (),
    used: Collection[int] = (),
) -> ClassIds:
    """Class ids of all values of a label file; unknown values become new classes.

    A new class has the value as its id, or the lowest free id and remembers the value.

    Args:
        name: Name of the file for the message.
        values: Values that occur, without 0.
        table: What the file says of them.
        classes: Classes of the project.
        reserved: Values of other files, which are not taken as ids of other classes.
        used: Ids that no new class may have (`classes.used_ids`).

    Raises:
        UserError: "too-many".
    """
    names = {value: valid_class_name(each) for value, each in table.names.items()}
    table = replace(table, names={value: each for value, each in names.items() if each})
    ids = known_ids(values, table, classes)
    now = {item.id: item for item in classes}
    for value, class_id in ids.items():
        item = now[class_id]
        if value in table.names and DEFAULT_NAME.fullmatch(item.name):
            item = replace(item, name=table.names[value], color=table.colors.get(value, item.color))
        if value == MASK_VALUE and value not in item.values and value not in table.names:
            item = replace(item, values=(*item.values, value))
        now[class_id] = item
    for value in values:
        if value not in ids:
            ids[value] = _free_id(name, value, {*now, *used}, {*values, *reserved})
            now[ids[value]] = _new_class(ids[value], value, table)
    return ClassIds(ids, tuple(item for item in now.values() if item not in classes))


def with_choices(
    name: str,
    proposed: ClassIds,
    choices: Mapping[int, int],
    table: LabelTable,
    classes: Sequence[LabelClass],
    used: Collection[int] = (),
) -> ClassIds:
    """Class ids as somebody has chosen them.

    Args:
        name: Name of the file for the message.
        proposed: Result of `assign_ids`.
        choices: {value: id of a class, or `NEW_CLASS`}; other values are left out.
        table: What the file says of its labels.
        classes: Classes of the project.
        used: Ids that no new class may have (`classes.used_ids`).

    Returns:
        The ids, and of the proposed changes of classes those that are still due, with the new classes.

    Raises:
        UserError: "too-many".
    """
    ids = dict(choices)
    kept = {class_id for value, class_id in choices.items() if class_id == proposed.ids[value]}
    changed = {item.id: item for item in proposed.classes if item.id in kept}
    taken = {*used, *changed, *(item.id for item in classes), *ids.values()}
    for value in (value for value, class_id in choices.items() if class_id == NEW_CLASS):
        ids[value] = _free_id(name, value, {*taken, *ids.values()}, ())
        new = _new_class(ids[value], value, table)
        names = {item.name for item in (*classes, *changed.values())}
        others = (f"{new.name} {number}" for number in itertools.count(2))
        unique = next(text for text in itertools.chain([new.name], others) if text not in names)
        changed[new.id] = replace(new, name=unique)
    return ClassIds(ids, tuple(changed.values()))


def map_values(labels: np.ndarray, ids: Mapping[int, int]) -> np.ndarray:
    """Class ids of labels.

    Args:
        labels: Values of a label file, any integer type (any shape).
        ids: {value: class id}; other values become 0.

    Returns:
        Class ids, uint8 (same shape).
    """
    if labels.dtype in (np.uint8, np.uint16):
        table = np.zeros(np.iinfo(labels.dtype).max + 1, np.uint8)
        table[list(ids)] = list(ids.values())
        return table[labels]
    result = np.zeros(labels.shape, np.uint8)
    for value, class_id in ids.items():
        result[labels == value] = class_id
    return result


def _new_class(class_id: int, value: int, table: LabelTable) -> LabelClass:
    name, color = table.names.get(value, f"Label {value}"), table.colors.get(value, class_color(class_id))
    return LabelClass(class_id, name, color, () if class_id == value else (value,))


def _key(name: str) -> str:
    """A name without case, and with every separator alike: "Left_Kidney" is "left kidney"."""
    return " ".join(re.split(r"[\s_.-]+", name.strip().casefold()))


def _may_be(value: int, item: LabelClass) -> bool:
    """Whether a class may be a label of another name: it has no name of its own, only this number."""
    default = DEFAULT_NAME.fullmatch(item.name)
    return default is not None and (value in item.values or int(default[2] or item.id) == value)


def _free_id(name: str, value: int, taken: set[int], reserved: Collection[int]) -> int:
    if 1 <= value <= MAX_CLASSES and value not in taken:
        return value
    free = [number for number in range(1, MAX_CLASSES + 1) if number not in taken]
    unreserved = [number for number in free if number not in reserved]
    if not free:
        raise UserError(
            f"{name} has more labels than a project has classes, which are at most {MAX_CLASSES}; choose a "
            "mask with fewer.",
            code="too-many",
        )
    return (unreserved or free)[0]
