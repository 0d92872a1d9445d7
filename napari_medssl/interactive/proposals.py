"""Points, boxes and scribbles on the slice become prompts; the server's answer is a proposal to accept."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum
from threading import Thread
from typing import Any

import numpy as np
from medssl.core.errors import UserError
from medssl.core.labels.rasterize import line_voxels
from napari.components import ViewerModel
from napari.layers import Labels
from napari.utils import DirectLabelColormap
from psygnal import Signal

from napari_medssl import layers, navigation
from napari_medssl.annotate.edits import Edits
from napari_medssl.error_handling import catch_errors
from napari_medssl.interactive.server import PromptServer
from napari_medssl.latest_only_worker import LatestOnlyWorker
from napari_medssl.workspace import Workspace

PROPOSAL = "proposal"
INCLUDED, EXCLUDED = 2, 3
"""Labels of prompts that wait for an answer, beside 1 for the proposed mask."""
NOTHING = (0, 0, 0, 0)
COLORS: dict[int | None, Any] = {
    None: NOTHING,
    0: NOTHING,
    1: "#ffd54a",
    INCLUDED: "#2ee6a6",
    EXCLUDED: "#ff5470",
}
EXCLUDE_KEY = "Control"
"""Modifier of a prompt that says what does not belong to the structure."""
Voxel = tuple[int, int, int]
Prompt = Callable[[PromptServer], object]


class Tool(Enum):
    """What the left mouse button draws."""

    POINT = "Point"
    BOX = "Box"
    SCRIBBLE = "Scribble"


class Proposals:
    """The prompts and the proposal of the scan on the screen, while it is on."""

    changed = Signal()

    def __init__(self, workspace: Workspace, edits: Edits) -> None:
        self.workspace, self.session, self._edits = workspace, workspace.session, edits
        self.on = False
        self.tool = Tool.POINT
        self.prompts = 0
        """Number of prompts of this proposal."""
        self.server: PromptServer | None = None
        self._address, self._key = "", ""
        self._queue: deque[Prompt] = deque()
        """Prompts of this proposal that wait. Another proposal has another queue: the thread may still be
        asking for an earlier one, whose answers are dropped."""
        self._scan, self._prompted = "", self._queue
        """Fingerprint of the image that the server has, and the queue whose prompts it got."""
        self._image = ("", np.zeros((0, 0, 0)))
        """Fingerprint and grey values of the image that is prompted on."""
        self._worker = LatestOnlyWorker(self.session)
        self.session.scan_leaving.connect(self.discard)
        self.session.project_changed.connect(self.discard)

    @property
    def layer(self) -> Labels | None:
        """The layer of the proposal; None before the first prompt."""
        return layers.find(self.workspace.viewer.layers, PROPOSAL)

    @property
    def waiting(self) -> bool:
        """Whether the server has not answered all prompts."""
        return self._worker.busy

    def switch(self, on: bool, address: str = "", key: str = "") -> None:
        """Take prompts by mouse, or stop doing so, which ends the session on the server.

        Args:
            on: Whether to take prompts.
            address: Address of the server.
            key: The key that it asks for; empty for none.

        Raises:
            UserError: "no-scan", "no-class", "read-only".
        """
        if on:
            self.session.need_project().need_writable()
            self.session.need_scan()
            self.session.need_class()
            self._address, self._key = address, key
        viewer = self.workspace.viewer
        if self._on_mouse in viewer.mouse_drag_callbacks:
            viewer.mouse_drag_callbacks.remove(self._on_mouse)
        self.on = on
        self.session.messages.end(self._worker)
        if on:
            viewer.layers.selection.active = self.workspace.scan_layer
            viewer.mouse_drag_callbacks.append(self._on_mouse)
        else:
            self.discard()
            self._disconnect()
        self.changed.emit()

    def prompt(self, voxels: list[Voxel], include: bool) -> None:
        """Send a prompt in the shape of the tool.

        Args:
            voxels: Voxels (z, y, x) under the mouse from press to release, all on one slice.
            include: Whether they belong to the structure.
        """
        layer, marked = self._need_layer(), tuple(_marked(self.tool, voxels).T)
        layer.data[marked] = INCLUDED if include else EXCLUDED
        layer.refresh()
        match self.tool:
            case Tool.POINT:
                self._ask(lambda server: server.point(voxels[-1], include))
            case Tool.BOX:
                ends = np.sort(np.array([voxels[0], voxels[-1]]), axis=0)
                box = [(int(low), int(high) + 1) for low, high in ends.T]
                self._ask(lambda server: server.box(box, include))
            case Tool.SCRIBBLE:
                scribble = np.zeros(layer.data.shape, np.uint8)
                scribble[marked] = 1
                self._ask(lambda server: server.scribble(scribble, include))
        self.prompts += 1
        self.changed.emit()

    def undo(self) -> None:
        """Take the last prompt back."""
        if self.prompts:
            self.prompts -= 1
            self._ask(_undo)
            self.changed.emit()

    def accept(self, label: int) -> int:
        """Copy the proposal into the annotation, as one step of undo; what is annotated already stays.

        Args:
            label: Class id of the structure.

        Returns:
            Number of voxels that were annotated.

        Raises:
            UserError: "no-proposal", "read-only".
        """
        answered = self.layer is not None and not self.waiting and self._prompted is self._queue
        if not answered or self.server is None or not self.server.mask.any():
            raise UserError("There is no proposal yet; prompt and wait for the answer.", code="no-proposal")
        if self.workspace.annotation_layer is None:
            self.workspace.new_annotation()
            self.workspace.viewer.layers.selection.active = self.workspace.scan_layer
        annotated = np.asarray(self.workspace.need_annotation().data)
        voxels = np.flatnonzero((self.server.mask.reshape(-1) > 0) & (annotated.reshape(-1) == 0))
        self._edits.apply(voxels, np.full(len(voxels), label, np.uint8))
        self.discard()
        return len(voxels)

    def discard(self) -> None:
        """Remove the proposal; the next prompt begins another one."""
        self._queue, self.prompts = deque(), 0
        layers.remove(self.workspace.viewer, self.layer)
        self.changed.emit()

    def close(self) -> None:
        """Disconnect from viewer and server."""
        if self.on:
            self.switch(False)

    # --- asking --------------------------------------------------------------------------------------

    def _ask(self, prompt: Prompt) -> None:
        """Send a prompt after those before it, in a thread."""
        self._queue.append(prompt)
        if not self._worker.busy:
            self._start()

    def _start(self) -> None:
        scan, front, queue = self.session.need_scan(), self.workspace.channels.front, self._queue
        if front is None:
            return
        if self._prompted is not queue:  # later prompts of a proposal are about the channel of its first
            part, layer = front
            self._image = f"{scan.sha256} {part.channel}", np.asarray(layer.data)
        (fingerprint, image), spacing = self._image, scan.geometry.spacing_mm

        def answers() -> Iterator[np.ndarray]:
            try:
                server = self._connected()
                if queue is not self._queue:  # taken back, or meant for another server
                    return
                if self._scan != fingerprint:
                    server.set_image(image, spacing)
                elif self._prompted is not queue:
                    server.reset()
                self._scan, self._prompted = fingerprint, queue
                while queue and queue is self._queue:
                    queue.popleft()(server)
                    yield server.mask.copy()
            except Exception as error:
                if isinstance(error, UserError) and error.code == "server-session":
                    self._disconnect()
                if queue is self._queue:  # otherwise nobody waits for it
                    queue.clear()
                    raise

        self._worker.submit(answers, lambda mask: self._show(queue, mask), self._on_finished)

    def _connected(self) -> PromptServer:
        """The server at the address, which may have changed while the thread connected to another."""
        address, key = self._address.strip(), self._key
        if not address:
            raise UserError(
                "Enter the address of your nnInteractive server, such as http://host:1527.", code="no-server"
            )
        if self.server is not None and (self.server.address, self.server.key) != (address, key):
            self._disconnect()
        if self.server is None:
            self.server, self._scan = PromptServer(address, key), ""
        return self.server

    def _disconnect(self) -> None:
        server, self.server, self._scan = self.server, None, ""
        if server is not None:
            Thread(target=server.close, daemon=True).start()  # it says goodbye, which may take seconds

    def _on_finished(self) -> None:
        if not self.on:  # switched off while the thread connected
            self._disconnect()
        elif self._queue:
            self._start()
        self.changed.emit()

    # --- the layer -----------------------------------------------------------------------------------

    def _show(self, queue: deque[Prompt], mask: np.ndarray) -> None:
        layer = self.layer
        if layer is not None and queue is self._queue:
            layer.data[:] = mask
            layer.refresh()
        self.changed.emit()

    def _need_layer(self) -> Labels:
        layer = self.layer
        if layer is None:
            scan = self.session.need_scan()
            layer = Labels(
                np.zeros(scan.geometry.shape_zyx, np.uint8),
                name=PROPOSAL,
                metadata=layers.metadata(PROPOSAL, scan.geometry, scan=scan.id),
                opacity=0.6,
                colormap=DirectLabelColormap(color_dict=COLORS),
                **layers.placement(scan.geometry),
            )
            layer.editable = False
            layer.locked = True
            layers.add(self.workspace.viewer, layer)
        return layer

    def _on_mouse(self, viewer: ViewerModel, event: Any) -> Iterator[None]:
        """A press, what is drawn, and the release; the view does not move meanwhile."""
        layer, include = self.workspace.scan_layer, EXCLUDE_KEY not in event.modifiers
        if layer is None or viewer.dims.ndisplay != 2 or event.button != 1:
            return
        voxels = [navigation.voxel_at(layer, event.position)]
        pans, layer.mouse_pan = layer.mouse_pan, self.tool is Tool.POINT
        yield
        while event.type == "mouse_move":
            voxels.append(navigation.voxel_at(layer, event.position))
            yield
        layer.mouse_pan = pans
        inside = [voxel for voxel in voxels if voxel is not None]
        is_click = len(set(inside)) <= 1
        if inside and (is_click or self.tool is not Tool.POINT):
            self.session.messages.attempt()
            catch_errors(self.session, lambda: self.prompt(inside, include), self)


def _marked(tool: Tool, voxels: list[Voxel]) -> np.ndarray:
    """The voxels (N, 3) that a prompt covers; of a box, its border."""
    match tool:
        case Tool.POINT:
            return np.array(voxels[-1:])
        case Tool.SCRIBBLE:
            return line_voxels(np.array(voxels))
    first, last = voxels[0], voxels[-1]
    _, row, column = sorted(range(3), key=lambda axis: first[axis] != last[axis])
    corners = [list(first) for _ in range(4)]
    corners[1][row] = corners[2][row] = last[row]
    corners[2][column] = corners[3][column] = last[column]
    return line_voxels(np.array([*corners, corners[0]]))


def _undo(server: PromptServer) -> None:
    if not server.undo():
        raise UserError(
            f"{server.address} cannot take prompts back; discard the proposal.", code="server-version"
        )
