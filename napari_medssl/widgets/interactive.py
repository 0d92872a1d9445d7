"""Part of step 2: prompts for an nnInteractive server, and its proposals."""

from __future__ import annotations

from collections.abc import Callable

from qtpy.QtWidgets import QButtonGroup, QLineEdit, QPushButton, QWidget

from napari_medssl.error_handling import catch_errors
from napari_medssl.interactive.proposals import Proposals, Tool
from napari_medssl.model.reasons import no_change
from napari_medssl.widgets.components import allow, button, column, hint, row

TIPS = {
    Tool.POINT: "Click the structure; Ctrl + click what does not belong to it",
    Tool.BOX: "Drag a box around the structure on this slice",
    Tool.SCRIBBLE: "Drag a line through the structure; Ctrl + drag through what does not belong to it",
}
PRIVACY = "The scan on the screen is sent to this server."
NO_PROPOSAL = "There is no proposal yet; place a point, box or scribble and wait for the server's answer."
NO_PROMPT = "There is no prompt yet; place a point, box or scribble in the scan."


class InteractivePanel(QWidget):
    """Address of the server, kinds of prompts, and what to do with the proposal."""

    def __init__(self, proposals: Proposals, label: Callable[[], int]) -> None:
        """Make the panel.

        Args:
            proposals: What it steers.
            label: Returns the class id that a proposal is accepted as.
        """
        super().__init__()
        self.proposals, self._label = proposals, label
        self.switch = button(
            "nnInteractive…", self._switch, "Let an nnInteractive server of yours propose the structure in 3D"
        )
        self.switch.setCheckable(True)
        self.address, self.key = QLineEdit(), QLineEdit()
        self.address.setPlaceholderText("http://host:1527")
        self.address.setToolTip("Address of your nnInteractive server")
        self.key.setPlaceholderText("key, if the server asks for one")
        self.key.setEchoMode(QLineEdit.EchoMode.Password)
        self.tools = QButtonGroup(self)
        tools = [self._tool(tool) for tool in Tool]
        self.accept = button("Accept", self._accept, "Copy the proposal into the annotation", primary=True)
        self.undo = button("Undo prompt", self._undo, "Take the last prompt back")
        self.discard = button("Discard", proposals.discard, "Remove the proposal")
        self.state = hint()
        self.state.setMinimumHeight(2 * self.state.fontMetrics().lineSpacing())
        self._content = QWidget()
        column(
            self._content,
            self.address,
            self.key,
            row(*tools),
            row(self.accept, self.undo, self.discard),
            self.state,
        ).setContentsMargins(0, 0, 0, 0)
        column(self, self.switch, self._content).setContentsMargins(0, 0, 0, 0)
        for edit in (self.address, self.key):
            edit.editingFinished.connect(self._reconnect)
        session = proposals.session
        for signal in (proposals.changed, session.lock_changed, session.scan_changed):
            signal.connect(self.refresh)
        self.refresh()

    def _tool(self, tool: Tool) -> QPushButton:
        made = button(tool.value, lambda: setattr(self.proposals, "tool", tool), TIPS[tool])
        made.setCheckable(True)
        made.setChecked(tool is self.proposals.tool)
        self.tools.addButton(made)
        return made

    def _switch(self) -> None:
        on = self.switch.isChecked()
        catch_errors(
            self.proposals.session, lambda: self.proposals.switch(on, self.address.text(), self.key.text())
        )
        self.refresh()

    def _reconnect(self) -> None:
        """Another address or key: the next prompt goes there."""
        if self.proposals.on:
            self.proposals.switch(False)
            self.switch.setChecked(True)
            self._switch()

    def _accept(self) -> None:
        catch_errors(self.proposals.session, lambda: self.proposals.accept(self._label()))

    def _undo(self) -> None:
        catch_errors(self.proposals.session, self.proposals.undo)

    def refresh(self) -> None:
        """Show what can be done now."""
        proposals, session = self.proposals, self.proposals.session
        self.switch.setChecked(proposals.on)
        allow(self.switch, "" if proposals.on else no_change(session))
        self._content.setVisible(proposals.on)
        answered = proposals.layer is not None and not proposals.waiting
        allow(self.accept, session.read_only or ("" if answered else NO_PROPOSAL))
        allow(self.undo, "" if proposals.prompts else NO_PROMPT)
        allow(self.discard, "" if proposals.layer is not None else NO_PROPOSAL)
        server = proposals.server
        weights = (
            f" License of its weights: {server.license or 'not stated by the server'}." if server else ""
        )
        self.state.setText("Waiting for the server…" if proposals.waiting else PRIVACY + weights)
