"""Prompts for an nnInteractive server: real requests to a small server of its protocol."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
from medssl.core.errors import UserError
from medssl.core.project.project import Project
from napari.components import ViewerModel
from user_simulation import open_and_wait

from napari_medssl.annotate.edits import Edits
from napari_medssl.interactive import proposals, server
from napari_medssl.interactive.proposals import PROPOSAL, Proposals, Tool
from napari_medssl.interactive.server import PromptServer
from napari_medssl.layers import find
from napari_medssl.model.session import Session
from napari_medssl.widgets import Dock
from napari_medssl.widgets.interactive import PRIVACY, InteractivePanel
from napari_medssl.workspace import Workspace

if not server.is_installed():
    pytest.skip("needs the extra interactive", allow_module_level=True)
from prompt_server import LICENSE, State, prompt_server

SHAPE = (6, 10, 12)


def blocks() -> np.ndarray:
    """Two structures, of brightness 1 and 2, float32 (Z, Y, X)."""
    image = np.zeros(SHAPE, np.float32)
    image[1:5, 2:5, 2:6], image[1:5, 6:9, 7:11] = 1, 2
    return image


@pytest.fixture
def remote():
    with prompt_server() as state:
        yield state


@pytest.fixture
def client(remote: State):
    made = PromptServer(remote.address)
    made.set_image(blocks(), (3, 1, 1))
    yield made
    made.close()


def test_a_point_a_box_and_a_scribble_propose_the_structure(client: PromptServer) -> None:
    scribble = np.zeros(SHAPE, np.uint8)
    scribble[2, 3, 2:6] = 1
    for prompt in (
        lambda: client.point((2, 3, 3), True),
        lambda: client.box([(2, 3), (2, 5), (2, 6)], True),
        lambda: client.scribble(scribble, True),
    ):
        prompt()
        assert np.array_equal(client.mask, blocks() == 1)
        client.reset()
        assert not client.mask.any()
    assert client.license == LICENSE


def test_an_excluding_prompt_and_undo(client: PromptServer) -> None:
    client.point((2, 3, 3), True)
    client.point((2, 7, 8), True)
    client.point((2, 3, 3), False)
    assert np.array_equal(client.mask, blocks() == 2)
    assert client.undo()
    assert np.array_equal(client.mask, blocks() > 0)


@pytest.mark.parametrize(
    "status, code",
    [(401, "server-key"), (403, "server-key"), (503, "server-busy"), (410, "server-session"),
     (404, "server-version"), (422, "server-version"), (500, "server-version")],
)  # fmt: skip
def test_what_a_server_refuses_is_one_sentence(
    client: PromptServer, remote: State, status: int, code: str
) -> None:
    remote.status = status
    with pytest.raises(UserError) as error:
        client.point((2, 3, 3), True)
    assert error.value.code == code and remote.address in str(error.value)


def test_a_key(remote: State) -> None:
    remote.key = "secret"
    with pytest.raises(UserError) as error:
        PromptServer(remote.address)
    assert error.value.code == "server-key"
    PromptServer(remote.address, "secret").close()


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:9", "host", "http://", "ftp://host", "http://[", ":::"]
)
def test_no_server_at_an_address(address: str) -> None:
    with pytest.raises(UserError) as error:
        PromptServer(address)
    assert error.value.code in ("no-server", "server-version")


def test_another_program_at_the_address(remote: State) -> None:
    with pytest.raises(UserError) as error:
        PromptServer(remote.address + "/elsewhere")
    assert error.value.code == "server-version"


def test_the_client_loads_no_torch() -> None:
    check = (
        "import sys; from napari_medssl.interactive.server import _client; _client(); "
        "assert 'torch' not in sys.modules; import torch"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", check], check=True)


# --- in the viewer -----------------------------------------------------------------------------------


@pytest.fixture
def workspace(qtbot, tmp_path, remote: State) -> Workspace:
    """The blocks on the screen, axial slice 2, with the tool switched on."""
    path = tmp_path / "blocks.nii"
    nibabel.save(nibabel.Nifti1Image(blocks().transpose(2, 1, 0), np.diag([1.0, 1, 3, 1])), path)
    made = Workspace(ViewerModel(), Session())
    made.proposals = Proposals(made, Edits(made))
    made.session.open(tmp_path / "project")
    made.session.select(made.session.project.add_scan(path).id)
    made.new_annotation()
    made.go_to(0, 2)
    made.proposals.switch(True, remote.address)
    yield made
    made.proposals.close()
    made.close()


def drag(workspace: Workspace, voxels: list[tuple[int, int, int]], *keys: str) -> None:
    """Press at the first voxel, move over the others, release; as napari calls its mouse callbacks."""
    positions = [workspace.scan_layer.data_to_world(voxel) for voxel in voxels]
    event = SimpleNamespace(type="mouse_press", button=1, modifiers=keys, position=positions[0])
    assert workspace.proposals._on_mouse in workspace.viewer.mouse_drag_callbacks
    steps = workspace.proposals._on_mouse(workspace.viewer, event)
    next(steps)
    event.type = "mouse_move"
    for event.position in positions[1:]:
        next(steps)
    event.type = "mouse_release"
    assert next(steps, None) is None


def answered(qtbot, workspace: Workspace) -> np.ndarray:
    """The proposal on the screen, when the server has answered all prompts; bool (Z, Y, X)."""
    qtbot.waitUntil(lambda: not workspace.proposals.waiting, timeout=20_000)
    return np.asarray(find(workspace.viewer.layers, PROPOSAL).data) == 1


def test_the_panel_shows_the_license_of_the_weights_and_where_the_scan_goes(qtbot, workspace, remote) -> None:
    workspace.proposals.switch(False)
    panel = InteractivePanel(workspace.proposals, lambda: 1)
    qtbot.addWidget(panel)
    panel.show()
    assert panel.switch.isEnabled() and not panel.state.isVisible()
    panel.address.setText(remote.address)
    panel.switch.click()
    assert panel.state.isVisible() and panel.state.text() == PRIVACY
    drag(workspace, [(2, 7, 8)])
    assert panel.state.text() == "Waiting for the server…" and not panel.accept.isEnabled()
    answered(qtbot, workspace)
    qtbot.waitUntil(panel.accept.isEnabled, timeout=5_000)
    assert panel.state.text() == f"{PRIVACY} License of its weights: {LICENSE}."
    panel.accept.click()
    assert np.array_equal(workspace.annotation_layer.data == 1, blocks() == 2)


def test_a_click_becomes_a_proposal_and_accept_one_step_of_undo(qtbot, workspace) -> None:
    one = workspace.annotation_layer.data.copy()
    workspace.annotation_layer.paint((2, 3, 3), 1)
    drag(workspace, [(2, 7, 8)])
    structure = answered(qtbot, workspace)
    assert np.array_equal(structure, blocks() == 2)
    assert workspace.proposals.accept(1) == structure.sum()
    painted = workspace.annotation_layer.data == 1
    assert painted[structure].all() and find(workspace.viewer.layers, PROPOSAL) is None
    workspace.annotation_layer.undo()
    assert (
        not workspace.annotation_layer.data[structure].any()
        and (workspace.annotation_layer.data != one).any()
    )
    assert workspace.session.annotation.journal.size > 0


@pytest.mark.parametrize("tool", [Tool.BOX, Tool.SCRIBBLE])
def test_a_drag_is_a_box_or_a_scribble_and_does_not_move_the_view(qtbot, workspace, tool: Tool) -> None:
    workspace.proposals.tool = tool
    drag(workspace, [(2, 2, 2), (2, 3, 4), (2, 4, 5)])
    assert np.array_equal(answered(qtbot, workspace), blocks() == 1)
    assert workspace.scan_layer.mouse_pan


def test_control_excludes_and_undo_takes_it_back(qtbot, workspace) -> None:
    for voxel, keys in (((2, 3, 3), ()), ((2, 7, 8), ()), ((2, 3, 3), ("Control",))):
        drag(workspace, [voxel], *keys)
    assert np.array_equal(answered(qtbot, workspace), blocks() == 2)
    workspace.proposals.undo()
    assert np.array_equal(answered(qtbot, workspace), blocks() > 0)


def test_strokes_stay_under_an_accepted_proposal(qtbot, workspace) -> None:
    workspace.annotation_layer.data_setitem(tuple(np.array([value]) for value in (2, 3, 3)), 255)
    drag(workspace, [(2, 3, 4)])
    answered(qtbot, workspace)
    workspace.proposals.accept(1)
    assert workspace.annotation_layer.data[2, 3, 3] == 255 and workspace.annotation_layer.data[2, 3, 4] == 1


def test_another_scan_takes_the_proposal_away_and_is_sent_itself(qtbot, workspace, remote, tmp_path) -> None:
    drag(workspace, [(2, 3, 3)])
    answered(qtbot, workspace)
    path = tmp_path / "other.nii"
    nibabel.save(nibabel.Nifti1Image(blocks()[::-1].transpose(2, 1, 0) * 5, np.diag([1.0, 1, 3, 1])), path)
    workspace.session.select(workspace.session.project.add_scan(path).id)
    assert find(workspace.viewer.layers, PROPOSAL) is None
    drag(workspace, [(2, 3, 3)])
    assert np.array_equal(answered(qtbot, workspace), blocks() == 1)
    assert remote.requests.count("/set_image") == 2 and remote.requests.count("/claim") == 1


def test_after_a_pause_the_next_prompt_begins_anew(qtbot, workspace, remote) -> None:
    said: list[str] = []
    workspace.session.message.connect(lambda severity, text: said.append(text))
    drag(workspace, [(2, 3, 3)])
    answered(qtbot, workspace)
    remote.status = 410
    drag(workspace, [(2, 7, 8)])
    answered(qtbot, workspace)
    assert "ended the session" in said[-1]
    remote.status = 200
    workspace.proposals.discard()
    drag(workspace, [(2, 7, 8)])
    assert np.array_equal(answered(qtbot, workspace), blocks() == 2) and remote.requests.count("/claim") == 2


def test_a_scan_opened_during_a_request_gets_its_own_prompts(qtbot, workspace, remote, tmp_path) -> None:
    path = tmp_path / "other.nii"
    nibabel.save(nibabel.Nifti1Image(blocks()[:, ::-1].transpose(2, 1, 0) * 5, np.diag([1.0, 1, 3, 1])), path)
    other = workspace.session.project.add_scan(path).id
    remote.answers.clear()
    drag(workspace, [(2, 3, 3)])
    qtbot.waitUntil(lambda: len(remote.requests) > 0)
    workspace.session.select(other)
    drag(workspace, [(2, 3, 8)])
    remote.answers.set()
    assert np.array_equal(answered(qtbot, workspace), blocks()[:, ::-1] == 2)
    assert remote.image.max() == 10


def test_prompts_are_about_the_channel_on_the_screen_when_the_proposal_began(
    qtbot, workspace, remote, tmp_path
) -> None:
    path = tmp_path / "second.nii"
    nibabel.save(nibabel.Nifti1Image(blocks()[:, ::-1].transpose(2, 1, 0) * 7, np.diag([1.0, 1, 3, 1])), path)
    session, channels = workspace.session, workspace.channels
    session.project.add_channel(session.scan, path, "second", "mr")
    session.scans_changed.emit()
    qtbot.waitUntil(lambda: len(channels.parts) == 2)
    channels.step()
    drag(workspace, [(2, 7, 3)])
    assert np.array_equal(answered(qtbot, workspace), blocks()[:, ::-1] == 1) and remote.image.max() == 14
    channels.step()  # both: the first is in front
    drag(workspace, [(2, 3, 8)])
    assert np.array_equal(answered(qtbot, workspace), blocks()[:, ::-1] > 0) and remote.image.max() == 14
    workspace.proposals.discard()
    drag(workspace, [(2, 7, 8)])
    assert np.array_equal(answered(qtbot, workspace), blocks() == 2) and remote.image.max() == 2


def test_another_address_during_a_request_gets_the_next_prompt(qtbot, workspace, remote) -> None:
    remote.answers.clear()
    drag(workspace, [(2, 3, 3)])
    qtbot.waitUntil(lambda: "/claim" in remote.requests)
    with prompt_server() as new:
        workspace.proposals.switch(False)
        workspace.proposals.switch(True, new.address)
        drag(workspace, [(2, 7, 8)])
        remote.answers.set()
        assert np.array_equal(answered(qtbot, workspace), blocks() == 2)
        assert "/set_image" in new.requests and "/set_image" not in remote.requests
        qtbot.waitUntil(lambda: "/release" in remote.requests, timeout=10_000)
        workspace.proposals.switch(False)
        qtbot.waitUntil(lambda: "/release" in new.requests, timeout=10_000)


def test_a_defect_in_the_thread_is_reported_once(qtbot, workspace, monkeypatch) -> None:
    said: list[str] = []
    workspace.session.message.connect(lambda severity, text: said.append(text))
    monkeypatch.setattr(proposals, "PromptServer", lambda *address: {}["defect"])
    drag(workspace, [(2, 3, 3)])
    answered(qtbot, workspace)
    assert len(said) == 1 and "KeyError" in said[0]


def test_a_silent_server_is_named_in_the_dock_until_the_next_prompt(
    qtbot, said, tmp_path, remote, monkeypatch
) -> None:
    path = tmp_path / "blocks.nii"
    nibabel.save(nibabel.Nifti1Image(blocks().transpose(2, 1, 0), np.diag([1.0, 1, 3, 1])), path)
    Project.create(tmp_path / "project").add_scan(path)
    monkeypatch.setitem(server.TIMEOUTS_S, "read_timeout", 0.3)
    dock = Dock(ViewerModel())
    qtbot.addWidget(dock)
    open_and_wait(dock, tmp_path / "project")
    dock.steps[1].expand()
    dock.workspace.new_annotation()
    dock.workspace.go_to(0, 2)
    panel, shown = dock.annotate.interactive, dock.feedback.messages
    panel.address.setText(remote.address)
    panel.switch.click()
    dock.workspace.proposals = panel.proposals
    drag(dock.workspace, [(2, 7, 8)])
    assert np.array_equal(answered(qtbot, dock.workspace), blocks() == 2)
    remote.answers.clear()
    drag(dock.workspace, [(2, 3, 3)])
    qtbot.waitUntil(lambda: bool(shown.shown), timeout=20_000)
    (sentence,) = shown.shown
    assert f"{remote.address} takes too long to answer" in sentence and said == [("error", sentence)]
    dock.steps[0].expand()
    dock.steps[1].expand()
    assert shown.shown == [sentence]
    remote.answers.set()
    drag(dock.workspace, [(2, 3, 3)])
    assert not shown.shown
    answered(qtbot, dock.workspace)
    assert not shown.shown and len(said) == 1
    dock._leave()


def test_without_an_answer_there_is_nothing_to_accept(workspace) -> None:
    with pytest.raises(UserError) as error:
        workspace.proposals.accept(1)
    assert error.value.code == "no-proposal"


def test_switching_off_removes_the_proposal_and_releases_the_server(qtbot, workspace, remote) -> None:
    drag(workspace, [(2, 3, 3)])
    answered(qtbot, workspace)
    workspace.proposals.switch(False)
    assert find(workspace.viewer.layers, PROPOSAL) is None
    assert workspace.proposals._on_mouse not in workspace.viewer.mouse_drag_callbacks
    qtbot.waitUntil(lambda: "/release" in remote.requests, timeout=10_000)
