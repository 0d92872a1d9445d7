"""Step 2: paint a few slices and say which of them are complete."""

from __future__ import annotations

from collections.abc import Callable

from medssl.core.project.project import SURE_BACKGROUND
from qtpy.QtWidgets import QButtonGroup, QLabel, QPushButton, QWidget

from napari_medssl.annotate.crash_recovery import Restore
from napari_medssl.annotate.edits import Edits
from napari_medssl.annotate.interpolation import Fills
from napari_medssl.annotate.volumes import Volumes
from napari_medssl.engine.child_process import Jobs
from napari_medssl.error_handling import guarded
from napari_medssl.model.session import Session
from napari_medssl.widgets.classes import ClassTable
from napari_medssl.widgets.masks import ImportMask
from napari_medssl.widgets.next_slice import NextSlice
from napari_medssl.widgets.parts import button, column, hint, row
from napari_medssl.widgets.removal import Removal
from napari_medssl.widgets.strip import SliceStrip
from napari_medssl.widgets.style import LINK
from napari_medssl.workspace import Workspace

PLANES = ("Axial", "Coronal", "Sagittal")
FILL_TIP = (
    "Guess what lies between the complete slices around this one. A guess is drawn as outlines, vanishes "
    "where you paint, weighs less in training and is never exported"
)
STATES = {
    "saved": "All strokes are saved.",
    "saving": "Saving…",
    "NOT SAVED": "The last strokes are NOT SAVED yet; this is tried again with the next stroke.",
}


class Annotate(QWidget):
    """Classes, brushes, and complete slices."""

    title = "Annotate"

    def __init__(self, session: Session, workspace: Workspace, jobs: Jobs) -> None:
        super().__init__()
        self.session, self.workspace = session, workspace
        self.edits = Edits(workspace)
        self.restore = Restore(workspace, self.edits)
        self.fills = Fills(workspace, self.edits)
        self.new = button(
            "New annotation", self.new_annotation, "Make a layer to paint on, on the scan's own grid", True
        )
        self.classes = ClassTable(session, Volumes(workspace))
        self.classes.picked.connect(self.use)
        self.removal = Removal(workspace, self)
        self.classes.removing.connect(self.removal.remove)
        self.add = button("Add class", self.add_class, "One more structure to segment")
        self.masks = ImportMask(workspace, self.edits)
        self.brush = self._tool("Paint", lambda: self.classes.current(), "Paint the chosen class (P)")
        self.sure = self._tool(
            "Sure background", lambda: SURE_BACKGROUND, "Paint what is certainly none of the classes (Q)"
        )
        self.eraser = self._tool("Erase", lambda: 0, "Take strokes back (E)")
        self.tools = QButtonGroup(self)
        for tool in (self.brush, self.sure, self.eraser):
            self.tools.addButton(tool)
        self.complete = button(
            "", self.toggle_complete, "All that is not painted in a complete slice is background (K)"
        )
        self.complete.setCheckable(True)
        self.fill = button("Fill between", self.fill_between, FILL_TIP)
        self.unfill = button("Remove fill", self.remove_fill, "Take all guesses of this scan away")
        self.strip = SliceStrip()
        self.strip.picked.connect(self._on_picked)
        self.list = QLabel()
        self.list.setWordWrap(True)
        self.list.setToolTip("Click a number to go to that slice")
        self.list.linkActivated.connect(self._on_link)
        self.state = hint()
        self.next = NextSlice(session, workspace, jobs, self.new_annotation)
        column(
            self, self.new, self.classes, row(self.add, self.masks), row(self.brush, self.sure, self.eraser),
            self.complete, self.strip, row(self.fill, self.unfill), self.list, self.next, self.state,
        )  # fmt: skip
        for signal in (session.classes_changed, session.scan_changed, session.annotation_changed):
            signal.connect(self.refresh)
        session.view_changed.connect(self.refresh)
        self.fills.changed.connect(self.refresh)
        self.refresh()

    def summary(self) -> str:
        """For the step's header."""
        number = len(self.session.complete)
        return f"{number} slices complete" if number > 1 else "1 slice complete" if number else ""

    # --- what the buttons do -------------------------------------------------------------------------

    def new_annotation(self) -> None:
        """Make the annotation layer and take the brush."""
        guarded(self.session, self.workspace.new_annotation)
        self.use(self.classes.current())

    def add_class(self) -> None:
        """Add a class and take its brush."""
        item = guarded(self.session, self.session.add_class)
        if item is not None:
            self.classes.choose(item.id)

    def use(self, label: int) -> None:
        """Take the brush for a class id, for sure background (255), or the eraser (0)."""
        {SURE_BACKGROUND: self.sure, 0: self.eraser}.get(label, self.brush).setChecked(True)
        guarded(self.session, lambda: self.workspace.paint(label))

    def toggle_complete(self) -> None:
        """Mark the slice on the screen complete, with what is guessed there, or take that back."""
        place = self.workspace.slice_on_screen()
        if place not in self.session.complete and self.fills.here(place):
            guarded(self.session, lambda: self.fills.accept(*place))
        else:
            guarded(self.session, self.workspace.toggle_complete)
        self.refresh()

    def fill_between(self) -> None:
        """Guess what lies between the complete slices around the one on the screen."""
        guarded(self.session, self.fills.fill)

    def remove_fill(self) -> None:
        """Take the guesses away."""
        guarded(self.session, self.fills.remove)

    def _tool(self, text: str, label: Callable[[], int], tip: str) -> QPushButton:
        made = button(text, lambda: self.use(label()), tip)
        made.setCheckable(True)
        return made

    def _on_picked(self, index: int) -> None:
        place = self.workspace.slice_on_screen()
        if place is not None:
            self.workspace.go_to(place[0], index)

    def _on_link(self, link: str) -> None:
        axis, index = (int(part) for part in link.split(":"))
        self.workspace.go_to(axis, index)

    # --- what it shows -------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Show the slice on the screen and which ones are complete."""
        painting = self.workspace.annotation_layer is not None
        place = self.workspace.slice_on_screen()
        done = place in self.session.complete
        self.new.setVisible(not painting)
        self.new.setEnabled(self.session.scan is not None)
        self.masks.setEnabled(self.session.scan is not None)
        for widget in (self.classes, self.add, self.brush, self.sure, self.eraser, self.complete):
            widget.setVisible(painting)
        self.complete.setEnabled(place is not None)
        self.complete.setChecked(done)
        words = f"{PLANES[place[0]]} slice {place[1]}" if place else "Slice"
        mark = "Accept fill, mark" if self.fills.here(place) else "Mark"
        self.complete.setText(f"✓  {words} is complete" if done else f"{mark} {words.lower()} complete")
        self.fill.setVisible(painting and self.fills.possible(place))
        self.unfill.setVisible(painting and self.fills.some)
        scan = self.workspace.scan_layer
        self.strip.setVisible(painting and place is not None and bool(self.session.complete))
        if place is not None and scan is not None:
            marks = [index for axis, index in self.session.complete if axis == place[0]]
            self.strip.show_slices(scan.data.shape[place[0]], place[1], marks, PLANES[place[0]].lower())
        self.list.setText(_links(self.session.complete, place))
        self.list.setVisible(bool(self.session.complete))
        self.state.setText(STATES.get(self.session.saved, ""))
        self.state.setVisible(painting and bool(self.state.text()))


def _links(complete: tuple[tuple[int, int], ...], here: tuple[int, int] | None) -> str:
    """The complete slices by plane, each a link that goes there."""
    lines = []
    for axis, plane in enumerate(PLANES):
        numbers = [index for other, index in complete if other == axis]
        links = "&nbsp;&nbsp; ".join(_link(axis, index, (axis, index) == here) for index in numbers)
        if numbers:
            lines.append(f"Complete {plane.lower()}:&nbsp; {links}")
    return "<br>".join(lines)


def _link(axis: int, index: int, here: bool) -> str:
    if here:
        return f"<b>{index}</b>"
    return f'<a href="{axis}:{index}" style="color:{LINK}; text-decoration:none">{index}</a>'
