"""Step 2: annotate a few slices and mark them complete."""

from __future__ import annotations

from collections.abc import Iterator

from medssl.core.labels.classes import add_structure
from medssl.core.project.project import LabelClass, Project
from medssl.core.ranges import ranges_of
from qtpy.QtWidgets import QLabel, QWidget

from napari_medssl.annotate.crash_recovery import CrashRecovery
from napari_medssl.annotate.edits import Edits
from napari_medssl.annotate.interpolation import Interpolation
from napari_medssl.annotate.volumes import ClassVolumes
from napari_medssl.engine.job_runner import JobRunner
from napari_medssl.error_handling import catch_errors
from napari_medssl.interactive import server
from napari_medssl.interactive.proposals import Proposals
from napari_medssl.latest_only_worker import LatestOnlyWorker
from napari_medssl.model.annotation_state import SaveState
from napari_medssl.model.reasons import NO_SCAN, no_change
from napari_medssl.model.session import Session
from napari_medssl.widgets.class_removal import ClassRemoval
from napari_medssl.widgets.class_table import ClassTable
from napari_medssl.widgets.components import StepContent, allow, button, column, row
from napari_medssl.widgets.fill_menu import NOT_BETWEEN, FillMenu
from napari_medssl.widgets.interactive import InteractivePanel
from napari_medssl.widgets.mask_import import MaskImportButton
from napari_medssl.widgets.next_slice import NextSlice
from napari_medssl.widgets.slice_bar import SliceBar
from napari_medssl.widgets.style import LINK
from napari_medssl.widgets.tool_row import ToolRow
from napari_medssl.workspace import Workspace

PLANES = ("Axial", "Coronal", "Sagittal")
NUMBERING = "Slices are numbered as at the slider, from 0: feet to head, back to front, left to right"
INTERPOLATE_TIP = (
    "Interpolate between the complete slices around this one, guided by the scan. Interpolated labels are "
    "drawn as outlines, vanish where you paint, weigh less in training and are never exported"
)
NO_SLICE = "No slice of the scan is on the screen; switch to 2D (Ctrl+Y), or move the slider into the scan."
INTERPOLATING = "The labels between the complete slices are being computed."
NOT_INTERPOLATED = "Nothing is interpolated in this scan."
STATES = {
    SaveState.EMPTY: "Nothing is annotated in this scan yet.",
    SaveState.SAVED: "All strokes are saved.",
    SaveState.SAVING: "Saving…",
    SaveState.FAILED: "The last strokes are NOT SAVED; saving is tried again every few seconds.",
}


class Annotate(StepContent):
    """Classes, brushes, complete slices."""

    title = "Annotate"
    kinds = (NextSlice.kind,)

    def __init__(self, session: Session, workspace: Workspace, jobs: JobRunner) -> None:
        super().__init__()
        self.session, self.workspace = session, workspace
        self.edits = Edits(workspace)
        self.crash_recovery = CrashRecovery(workspace, self.edits)
        self.interpolation = Interpolation(workspace, self.edits)
        self.new = button(
            "New annotation", self.new_annotation, "Create a label layer on the voxel grid of the scan", True
        )
        self.classes = ClassTable(session, ClassVolumes(workspace))
        self.classes.picked.connect(self.use)
        self.removal = ClassRemoval(workspace, self)
        self.classes.removing.connect(self.removal.remove)
        self._adding = LatestOnlyWorker(session)
        self.add = button("Add class", self.add_class, "Add a structure to segment")
        self.mask_import = MaskImportButton(workspace, self.edits)
        self.fill = FillMenu(workspace, self.edits, self.interpolation, self.classes.current)
        self.tools = ToolRow(workspace, self.use)
        self.complete = button(
            "",
            self.toggle_complete,
            f"In a complete slice all unpainted voxels are background (K). {NUMBERING}",
        )
        self.complete.setCheckable(True)
        self.interpolate_button = button("Interpolate", self.interpolate, INTERPOLATE_TIP)
        self.remove_button = button(
            "Remove interpolation", self.remove_interpolation, "Remove all interpolated labels of this scan"
        )
        self.slice_bar = SliceBar()
        self.slice_bar.picked.connect(self._on_picked)
        self.list = QLabel()
        self.list.setWordWrap(True)
        self.list.setToolTip(f"Click a slice number to go there. {NUMBERING}")
        self.list.linkActivated.connect(self._on_link)
        self.next = NextSlice(session, workspace, jobs, self.new_annotation)
        # The list grows, so it comes last: nothing that is clicked moves from slice to slice.
        self._layout = column(
            self, self.new, self.classes, row(self.add, self.mask_import, self.fill),
            self.tools, self.fill.range_row, self.complete, self.slice_bar,
            row(self.interpolate_button, self.remove_button), self.next, self.list,
        )  # fmt: skip
        self.proposals = Proposals(workspace, self.edits) if server.is_installed() else None
        if self.proposals is not None:
            self.interactive = InteractivePanel(self.proposals, self.classes.current)
            self.insert(self.interactive)
        for signal in (session.classes_changed, session.scan_changed, session.annotation.changed):
            signal.connect(self.refresh)
        session.view_changed.connect(self.refresh)
        session.lock_changed.connect(self.refresh)
        self.interpolation.changed.connect(self.refresh)
        workspace.tools.changed.connect(self._show_class)
        self.refresh()

    def insert(self, *widgets: QWidget) -> None:
        """Add widgets above the list of complete slices."""
        for widget in widgets:
            self._layout.insertWidget(self._layout.indexOf(self.list), widget)

    def summary(self) -> str:
        """How many slices are complete."""
        number = len(self.session.annotation.complete)
        return f"{number} slices complete" if number > 1 else "1 slice complete" if number else ""

    # --- what the buttons do -------------------------------------------------------------------------

    def new_annotation(self) -> None:
        """Create the annotation layer and select the brush."""
        catch_errors(self.session, self.workspace.new_annotation)

    def add_class(self) -> None:
        """Add a class, in a thread, which reads all annotations for ids in use; then select its brush."""
        catch_errors(self.session, self._add_class)

    def _add_class(self) -> None:
        project = self.session.need_project()
        project.need_writable()

        def added() -> Iterator[LabelClass]:
            yield add_structure(project)

        self._adding.submit(added, lambda item: self._on_added(project, item))

    def _on_added(self, project: Project, item: LabelClass) -> None:
        if project is self.session.project:
            self.session.classes_changed.emit()
            self.classes.choose(item.id)
            self.classes.rename()

    def use(self, label: int) -> None:
        """Select the brush for a class id, for sure background (255), or the eraser (0)."""
        catch_errors(self.session, lambda: self.workspace.paint(label))
        self.tools.refresh()  # a button that was pressed in vain is not lit
        if self.workspace.annotation_layer is not None and self.workspace.slice_on_screen() is None:
            self.session.notify("warning", NO_SLICE)  # by a key: its buttons are grey
        self._show_class()

    def paint_class(self) -> None:
        """Select the brush for the class that was painted last."""
        self.use(self.workspace.tools.class_id)

    def toggle_complete(self) -> None:
        """Mark the slice on the screen complete, with its interpolated labels, or take that back."""
        position = self.workspace.slice_on_screen()
        if (
            position is not None
            and position not in self.session.annotation.complete
            and self.interpolation.covers(position)
        ):
            catch_errors(self.session, lambda: self.interpolation.accept(*position))
        else:
            catch_errors(self.session, self.workspace.toggle_complete)
        self.refresh()

    def interpolate(self) -> None:
        """Interpolate between the complete slices around the one on the screen."""
        catch_errors(self.session, self.interpolation.interpolate)

    def remove_interpolation(self) -> None:
        """Remove all interpolated labels of the scan."""
        catch_errors(self.session, self.interpolation.remove)

    def _on_picked(self, index: int) -> None:
        position = self.workspace.slice_on_screen()
        if position is not None:
            self.workspace.go_to(position[0], index)

    def _on_link(self, link: str) -> None:
        axis, index = (int(part) for part in link.split(":"))
        self.workspace.go_to(axis, index)

    # --- what it shows -------------------------------------------------------------------------------

    def _show_class(self) -> None:
        self.classes.show_current(self.workspace.tools.class_id)

    def refresh(self) -> None:
        """Show the state of the slice on the screen and the complete slices."""
        painting = self.workspace.annotation_layer is not None
        if self.proposals is not None:
            self.interactive.setVisible(painting)
        position = self.workspace.slice_on_screen()
        is_complete = position in self.session.annotation.complete
        self.new.setVisible(not painting)
        for entry in (self.new, self.mask_import):
            allow(entry, no_change(self.session))
        for control in (self.classes, self.add, self.fill):
            allow(control, self.session.read_only)
        for widget in (self.classes, self.add, self.fill, self.tools, self.complete, self.slice_bar,
                       self.interpolate_button, self.remove_button):  # fmt: skip
            widget.setVisible(painting)
        for control in (self.tools.brush, self.tools.sure, self.tools.eraser, self.complete):
            allow(control, self.session.read_only or ("" if position is not None else NO_SLICE))
        self.complete.setChecked(is_complete)
        label = f"{PLANES[position[0]]} slice {position[1]}" if position else "Slice"
        action = "Accept, mark" if self.interpolation.covers(position) else "Mark"
        self.complete.setText(
            f"✓  {label} is complete" if is_complete else f"{action} {label.lower()} complete"
        )
        self._refresh_interpolation(position)
        scan = self.workspace.scan_layer
        if position is not None and scan is not None:
            complete = [index for axis, index in self.session.annotation.complete if axis == position[0]]
            self.slice_bar.show_slices(
                scan.data.shape[position[0]], position[1], complete, PLANES[position[0]].lower()
            )
        self.list.setText(_links(self.session.annotation.complete, position))
        self.list.setVisible(bool(self.session.annotation.complete))
        state = STATES.get(self.session.annotation.save_state, "") if self.session.scan else NO_SCAN
        self.next.status.say(state=state)

    def _refresh_interpolation(self, position: tuple[int, int] | None) -> None:
        """Grey buttons keep their places from slice to slice."""
        read_only, busy = self.session.read_only, self.interpolation.busy
        why_not = "" if self.interpolation.possible(position) else NOT_BETWEEN
        allow(self.interpolate_button, read_only or (INTERPOLATING if busy else why_not))
        self.interpolate_button.setText("Interpolating…" if busy else "Interpolate")
        allow(self.remove_button, read_only or ("" if self.interpolation.available else NOT_INTERPOLATED))


def _links(complete: tuple[tuple[int, int], ...], here: tuple[int, int] | None) -> str:
    """The complete slices by plane, each a link that goes there."""
    lines = []
    for axis, plane in enumerate(PLANES):
        numbers = [index for other, index in complete if other == axis]
        index_here = here[1] if here is not None and here[0] == axis else None
        links = "&nbsp;&nbsp; ".join(_link(axis, *ends, index_here) for ends in ranges_of(numbers))
        if numbers:
            lines.append(f"Complete {plane.lower()}:&nbsp; {links}")
    return "<br>".join(lines)


def _link(axis: int, first: int, last: int, here: int | None) -> str:
    """A range of complete slices; each end is a link unless it is on the screen."""
    ends = [
        f"<b>{index}</b>"
        if index == here
        else f'<a href="{axis}:{index}" style="color:{LINK}; text-decoration:none">{index}</a>'
        for index in dict.fromkeys((first, last))
    ]
    return "-".join(ends)
