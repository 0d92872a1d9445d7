"""Classes that come with an edit of the annotation, as with an imported mask, and go when it is undone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medssl.core.project.contents import LabelClass

from napari_medssl.model.session import Session


@dataclass(frozen=True)
class ClassChange:
    """A class before and after an edit; `before` is None for a new one."""

    before: LabelClass | None
    after: LabelClass


def set_classes(session: Session, classes: Sequence[LabelClass]) -> tuple[ClassChange, ...]:
    """Add classes to the project, or replace those with the same id; returns what was changed."""
    known = {item.id: item for item in session.need_project().classes}
    changes = tuple(ClassChange(known.get(item.id), item) for item in classes)
    repeat(session, changes)
    return changes


def repeat(session: Session, changes: Sequence[ClassChange]) -> None:
    """Make changes, also after they were taken back."""
    if changes:
        after = {change.after.id: change.after for change in changes}
        session.need_project().change_classes(
            lambda known: [*{**{item.id: item for item in known}, **after}.values()]
        )
        session.classes_changed.emit()


def take_back(session: Session, changes: Sequence[ClassChange]) -> None:
    """Undo changes, except of classes that were changed again, and of new ones that are painted anyway."""
    if not changes:
        return
    before = {change.after: change.before for change in changes}
    labels = session.annotation.labels

    def goes(item: LabelClass) -> bool:
        is_new = before.get(item, item) is None
        return is_new and labels is not None and not bool((labels == item.id).any())

    session.need_project().change_classes(
        lambda known: [before.get(item) or item for item in known if not goes(item)] or known
    )
    session.classes_changed.emit()
